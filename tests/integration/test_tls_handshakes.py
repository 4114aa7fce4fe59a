"""Handshakes with a listener's context through uvloop, by Python's ssl and by openssl s_client."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_certificates import RSA_KEY, der, make, put
from trackproxy import tickets as tickets_module
from trackproxy.certificates.index import Certificates
from trackproxy.certificates.sources import FileSource
from trackproxy.tickets import PERIOD_S, Tickets
from trackproxy.tls import listener_context, server_context, upstream_context

DEADLINE_S = 10
SECRET = b"of all the workers"

openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")

# uvloop (0.23) does not pass on OpenSSL's alert when a handshake has failed: the client sees an end
REFUSED = (ssl.SSLError, ConnectionError)


class Echo(asyncio.Protocol):
    """Answers with what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


class Server:
    """Listens on uvloop with contexts of the certificates in a folder; clients run in threads."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def open(self) -> Certificates:
        return Certificates([FileSource([], str(self.folder))])

    async def start(self, context: ssl.SSLContext | None = None) -> int:
        """Return the port of a listener with this context, or a plain one of the folder."""
        context = context or listener_context(self.open())
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=context)
        self._stack.callback(server.close)
        port: int = server.sockets[0].getsockname()[1]
        return port


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    put(tmp_path / "1default.pem", "default.org")
    put(tmp_path / "exact.pem", "a.example.com")
    put(tmp_path / "rsa.pem", "default.org", key=RSA_KEY)
    put(tmp_path / "wild.pem", "*.example.com")
    async with AsyncExitStack() as stack:
        yield Server(tmp_path, stack)


def client_context(version: ssl.TLSVersion | None = None, *alpn: str) -> ssl.SSLContext:
    """A client that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(list(alpn))
    return context


class Client:
    """One connection, made and used in a thread; `session` is what it can be resumed with."""

    def __init__(self, context: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None) -> None:
        self._context, self._name, self._begun = context, name, session

    def open(self, port: int) -> Client:
        sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self.sock = self._context.wrap_socket(sock, server_hostname=self._name, session=self._begun)
        assert self.echo(b"first") == b"first"  # TLS 1.3: the ticket comes before it
        self.session = self.sock.session
        return self

    def echo(self, data: bytes) -> bytes:
        self.sock.sendall(data)
        return self.sock.recv(100)

    @property
    def certificate(self) -> bytes:
        return self.sock.getpeercert(binary_form=True) or b""

    def close(self) -> None:
        self.sock.close()


async def connect(
    port: int,
    name: str | None = "default.org",
    context: ssl.SSLContext | None = None,
    session: ssl.SSLSession | None = None,
) -> Client:
    client = Client(context or client_context(), name, session)
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.to_thread(client.open, port)


async def s_client(port: int, *options: str) -> str:
    """What openssl s_client prints."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options]

    def run() -> str:
        done = subprocess.run(
            command, input=b"Q\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=DEADLINE_S
        )
        return done.stdout.decode(errors="replace")

    return await asyncio.to_thread(run)


# --- versions and ciphers ---


@openssl
@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_old_versions_are_refused(server: Server, version: str) -> None:
    shown = await s_client(await server.start(), version, "-cipher", "DEFAULT@SECLEVEL=0")
    if "unknown option" in shown.lower():
        pytest.skip(f"openssl has no {version}")
    assert "Cipher is (NONE)" in shown


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_new_versions_are_spoken(server: Server, version: ssl.TLSVersion) -> None:
    client = await connect(await server.start(), context=client_context(version))
    assert client.sock.version() == {771: "TLSv1.2", 772: "TLSv1.3"}[version]
    assert client.sock.compression() is None
    client.close()


async def test_a_listener_may_ask_for_the_newest_version(server: Server) -> None:
    port = await server.start(listener_context(server.open(), minimum="1.3"))
    with pytest.raises(REFUSED):
        await connect(port, context=client_context(ssl.TLSVersion.TLSv1_2))
    (await connect(port)).close()


@openssl
@pytest.mark.parametrize(
    "cipher",
    [
        *("ECDHE-ECDSA-AES128-SHA256", "ECDHE-RSA-AES256-SHA384", "ECDHE-RSA-AES128-SHA"),  # CBC
        *("AES128-GCM-SHA256", "AES256-SHA"),  # no forward secrecy
        *("DHE-RSA-AES128-GCM-SHA256", "DES-CBC3-SHA", "ECDHE-RSA-DES-CBC3-SHA"),
        *("NULL-SHA256", "ECDHE-RSA-NULL-SHA", "ADH-AES128-GCM-SHA256", "RC4-SHA"),
    ],
)
async def test_weak_ciphers_are_refused(server: Server, cipher: str) -> None:
    shown = await s_client(await server.start(), "-tls1_2", "-cipher", f"{cipher}@SECLEVEL=0")
    if "no cipher match" in shown:
        pytest.skip(f"openssl cannot ask for {cipher}")
    assert "Cipher is (NONE)" in shown


@openssl
@pytest.mark.parametrize(
    "cipher", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"]
)
async def test_good_ciphers_are_spoken_with_either_kind_of_key(server: Server, cipher: str) -> None:
    port = await server.start()
    shown = await s_client(port, "-tls1_2", "-cipher", cipher, "-servername", "default.org")
    assert f"Cipher is {cipher}" in shown


@openssl
async def test_nothing_is_negotiated_anew(server: Server) -> None:
    shown = await s_client(await server.start(), "-tls1_2")
    assert "Compression: NONE" in shown

    def ask() -> str:
        command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{port}"]
        done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=DEADLINE_S)
        return done.stderr.decode(errors="replace")

    port = await server.start()
    assert "no renegotiation" in await asyncio.to_thread(ask)


# --- names ---


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.example.com", "exact.pem"),
        ("A.EXAMPLE.com", "exact.pem"),
        ("b.example.com", "wild.pem"),
        ("c.b.example.com", "1default.pem"),
        ("unknown.org", "1default.pem"),
        (None, "1default.pem"),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_gets_the_certificate_of_its_name(
    server: Server, name: str | None, file: str, version: ssl.TLSVersion
) -> None:
    context = client_context(version)
    if version == ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    client = await connect(await server.start(), name, context)
    assert client.certificate == der(server.folder / file)
    client.close()


@pytest.mark.parametrize("name", ["a.example.com", "unknown.org", None])
@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)], ids=str
)
async def test_http_1_1_is_chosen_whatever_comes_first(
    server: Server, name: str | None, offered: list[str], chosen: str | None
) -> None:
    client = await connect(await server.start(), name, client_context(None, *offered))
    assert client.sock.selected_alpn_protocol() == chosen
    client.close()


class Broken:
    """A store with a fault in it."""

    def find(self, *_: object) -> ssl.SSLContext:
        raise RuntimeError("a fault")


@pytest.mark.parametrize("fault", [True, False], ids=["fault", "no certificates"])
async def test_a_handshake_that_finds_no_certificate_is_refused_and_said_once(
    server: Server, fault: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store: Any = Broken() if fault else Certificates([FileSource([("/no.pem", "")], "")])
    port = await server.start(listener_context(store))
    for _ in range(3):
        with pytest.raises(REFUSED):
            await connect(port)
    reason = "a fault" if fault else "there is no certificate that can be used"
    assert [record.getMessage() for record in caplog.records] == [f"TLS handshakes fail: {reason}"]


# --- changes ---


async def test_a_changed_file_is_for_new_clients_and_old_ones_go_on(server: Server) -> None:
    path = server.folder / "exact.pem"
    clock = iter(range(0, 1000, 2))
    certificates = Certificates([FileSource([], str(server.folder))], clock=lambda: next(clock))
    port = await server.start(listener_context(certificates))
    old = await connect(port, "a.example.com")
    before = der(path)
    put(path, "a.example.com")
    new = await connect(port, "a.example.com")
    assert (old.certificate, new.certificate) == (before, der(path))
    path.write_bytes(path.read_bytes()[:300])
    certificates.look()
    third = await connect(port, "a.example.com")
    assert third.certificate == new.certificate
    for number, client in enumerate((old, new, third)):
        data = b"still %d" % number
        assert await asyncio.to_thread(client.echo, data) == data
        client.close()


# --- resumption ---


async def is_resumed(first: int, second: int, name: str, version: ssl.TLSVersion) -> bool:
    """Whether the listener at the second port goes on with a session of the first."""
    context = client_context(version)
    begun = await connect(first, name, context)
    again = await connect(second, name, context, begun.session)
    first_time, then = begun.sock.session_reused, again.sock.session_reused
    begun.close()
    again.close()
    assert not first_time
    return bool(then)


both_versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@both_versions
@pytest.mark.parametrize("name", ["a.example.com", "default.org"])
@pytest.mark.parametrize(
    ("secrets", "resumed"),
    [
        ((SECRET, SECRET), True),
        ((SECRET, SECRET[::-1]), False),
        ((None, None), False),
        ((SECRET, None), False),
    ],
    ids=["same", "different", "none", "one"],
)
async def test_sessions_are_resumed_wherever_the_secret_is_the_same(
    server: Server, name: str, version: ssl.TLSVersion, secrets: tuple[bytes | None, ...], resumed: bool
) -> None:
    first, second = [
        await server.start(listener_context(server.open(), tickets=secret and Tickets(secret)))  # type: ignore[arg-type]
        for secret in secrets
    ]
    assert await is_resumed(first, second, name, version) is resumed
    assert await is_resumed(first, first, name, version)


@both_versions
async def test_new_keys_end_old_sessions_in_all_processes_at_once(
    server: Server, version: ssl.TLSVersion
) -> None:
    now_s = 1000.5 * PERIOD_S
    keys = [Tickets(SECRET), Tickets(SECRET)]
    contexts = [listener_context(server.open()) for _ in keys]
    first, second = [await server.start(context) for context in contexts]
    assert all(
        each.due(now_s) and each.apply(context, now_s) for each, context in zip(keys, contexts, strict=True)
    )
    assert not keys[0].due(now_s + 0.4 * PERIOD_S)
    assert await is_resumed(first, second, "default.org", version)
    assert keys[0].due(now_s + 0.6 * PERIOD_S)
    assert keys[0].apply(contexts[0], now_s + 0.6 * PERIOD_S)
    assert not await is_resumed(first, second, "default.org", version)
    assert keys[1].apply(contexts[1], now_s + 0.6 * PERIOD_S)
    assert await is_resumed(first, second, "default.org", version)


PROCESS = """
    import asyncio, sys, uvloop
    from tests.integration.test_tls_handshakes import Echo
    from trackproxy.certificates.index import Certificates
    from trackproxy.certificates.sources import FileSource
    from trackproxy.tickets import Tickets
    from trackproxy.tls import listener_context

    async def main():
        certificates = Certificates([FileSource([], sys.argv[1])])
        context = listener_context(certificates, tickets=Tickets(sys.argv[2].encode()))
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=context)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)

    uvloop.run(main())
"""


@openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_another_process_resumes_what_openssl_began_here(server: Server, version: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), str(server.folder), SECRET.decode()]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.getcwd()
    )
    assert process.stdin is not None
    assert process.stdout is not None
    here = await server.start(listener_context(server.open(), tickets=Tickets(SECRET)))
    session = str(server.folder.parent / "session")
    try:
        async with asyncio.timeout(DEADLINE_S):
            there = int(await process.stdout.readline())
        name = ("-servername", "a.example.com", version)
        assert "\nNew, TLS" in await shown_after_echo(here, *name, "-sess_out", session)
        assert "\nReused, TLS" in await shown_after_echo(there, *name, "-sess_in", session)
    finally:
        process.stdin.close()
        async with asyncio.timeout(DEADLINE_S):
            await process.wait()


async def shown_after_echo(port: int, *options: str) -> str:
    """Like `s_client`, once the server has answered: over TLS 1.3 the ticket has come by then."""
    command = ("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello there\n")
    async with asyncio.timeout(DEADLINE_S):
        shown = await process.stdout.readuntil(b"hello there\n")
        process.stdin.write(b"Q\n")
        shown += await process.stdout.read()
        await process.wait()
    return shown.decode(errors="replace")


@pytest.mark.parametrize("what", ["implementation", "version", "function", "memory", "options", "keys"])
def test_an_unknown_python_or_openssl_costs_shared_resumption_and_nothing_else(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tickets_module._library.cache_clear()
    tickets_module._say.cache_clear()
    if what == "implementation":
        monkeypatch.setattr(sys.implementation, "name", "other")
    elif what == "version":
        monkeypatch.setattr(ssl, "OPENSSL_VERSION_NUMBER", 1)
    elif what == "function":
        monkeypatch.setattr(ctypes, "CDLL", lambda _path: object())
    elif what == "memory":
        monkeypatch.setattr(tickets_module, "_is_ours", lambda _address: False)
    elif what == "options":
        monkeypatch.setattr(ssl.SSLContext, "verify_mode", ssl.CERT_REQUIRED)
    else:
        monkeypatch.setattr(tickets_module, "KEY_BYTES", 48)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tickets = Tickets(SECRET)
        assert [tickets.apply(context, 0), tickets.apply(context, PERIOD_S)] == [False, False]
        assert len(caplog.records) == 1
    finally:
        monkeypatch.undo()
        tickets_module._library.cache_clear()
        tickets_module._say.cache_clear()


def test_a_short_secret_is_none() -> None:
    with pytest.raises(ValueError, match="needs at least 16 bytes"):
        Tickets(b"short")


# --- towards nodes ---


@pytest.mark.parametrize(
    ("verify", "trusted", "name", "taken"),
    [
        (True, True, "node.org", True),
        (True, True, "other.org", False),
        (True, False, "node.org", False),
        (False, False, "other.org", True),
    ],
)
async def test_a_node_is_verified_against_the_given_authority_and_name(
    server: Server, verify: bool, trusted: bool, name: str, taken: bool
) -> None:
    node = server.folder / "node.pem"
    node.write_bytes(b"".join(make("node.org")))
    port = await server.start(server_context(str(node), ""))
    context = upstream_context(verify, str(node if trusted else server.folder / "exact.pem"))
    loop = asyncio.get_running_loop()
    connecting = loop.create_connection(
        asyncio.Protocol, "127.0.0.1", port, ssl=context, server_hostname=name
    )
    async with asyncio.timeout(DEADLINE_S):
        if taken:
            (await connecting)[0].close()
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connecting
