"""TLS of a trackproxy that runs: certificates that change, break, or are many; sessions; nodes with TLS."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.chaos.processes import fixed_ports
from tests.e2e.scripted_node import Node, until
from tests.e2e.test_cli import DEADLINE_S, run
from tests.e2e.test_commands import refused
from tests.e2e.test_sticky_sessions import ENDED, SessionStage, said
from tests.unit.test_certificates import make
from trackproxy import demo

CHANGED_S = 2.0  # within this time, a changed certificate is served
MANY = 500
KIB = 1024
PIECE, PIECES = 64 * KIB, 64  # of a download
TRIES = 100  # connections until both workers have had one

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


# --- the stage ---


class PouringNode(Node):
    """A node that begins a download, and ends it when it may go on."""

    async def start(self) -> None:
        """Take connections."""
        application = web.Application()
        application.add_routes([web.get("/download", self._pour), web.get("/{rest:.*}", self._page)])
        self._runner = web.AppRunner(application, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """End."""
        await self._runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=self.name)

    async def _pour(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(PIECE * PIECES)})
        await response.prepare(request)
        for number in range(PIECES):
            if number == 1:
                await self.go_on.wait()
            await response.write(bytes([number]) * PIECE)
        return response


class TlsNode(Node):
    """A node of the demo that speaks TLS with the certificate in a file."""

    def __init__(self, name: str, port: int, file: Path) -> None:
        super().__init__(name, port)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(file)

    async def start(self) -> None:
        """Take connections."""
        self._runner = web.AppRunner(demo.Node(self.name).application(), shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._context).start()

    async def stop(self) -> None:
        """End, once the proxy has: TLS takes its time to close, and the loop must not end before."""
        await until(lambda: not (self._runner.server and self._runner.server.connections))
        await self._runner.cleanup()


class TlsStage(SessionStage):
    """A stage whose port is for TLS. plain: the one without."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        [self.plain] = fixed_ports(1)
        self.wires_left: list[Wire] = []

    def write_tls(self, tls: str, more: str = "", *, plain: bool = True) -> None:
        """Write settings; TLS: of the service besides the listener, MORE: other keys of it."""
        self.write(service=f'tls = {{ listen = ["127.0.0.1:{self.port}"], {tls} }}\n{more}')
        listen = f'listen = ["127.0.0.1:{self.plain}"]' if plain else ""
        text = self.file.read_text().replace(f'\nlisten = ["127.0.0.1:{self.port}"]\n', f"\n{listen}\n")
        self.file.write_text(text)

    async def serve(self, tls: str, more: str = "", *, plain: bool = True) -> None:
        """Write settings, start, and wait until it serves."""
        self.write_tls(tls, more, plain=plain)
        self.launch()
        await self.expect("started: generation")

    async def wire(self, name: str = "a.test") -> Wire:
        """A connection."""
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=trusting(), server_hostname=name
            )
        self.wires_left.append(wire := Wire(reader, writer))
        return wire

    async def served(self, name: str = "a.test") -> bytes:
        """The certificate that a new connection gets, in PEM."""
        wire = await self.wire(name)
        await wire.close()
        return wire.certificate

    async def comes(self, certificate: bytes, name: str = "a.test") -> float:
        """Wait until a certificate is served; after how many seconds it was. It stays so at each worker."""
        begun = time.monotonic()
        row = 0
        while row < 20:
            row = row + 1 if await self.served(name) == certificate else 0
            took_s = time.monotonic() - begun
            assert row or took_s < CHANGED_S, f"it is not served after {took_s:.1f} s\n{self.log}"
            await asyncio.sleep(0 if row else 0.02)  # another process: it can only be asked again
        return took_s


class Wire:
    """A client's connection with TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.certificate = ssl.DER_cert_to_PEM_cert(der).encode()

    async def close(self) -> None:
        """Close it, and wait until that is done: the loop must not end before."""
        self.writer.close()
        with suppress(OSError):
            async with asyncio.timeout(DEADLINE_S):
                await self.writer.wait_closed()

    async def ask(self, target: str) -> int:
        """Ask, and read the head of the answer; the length of its body."""
        async with asyncio.timeout(DEADLINE_S):
            self.writer.write(f"GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200 "), head
        length = re.search(r"(?i)\r\ncontent-length: (\d+)", head)
        return int(length[1]) if length else 0

    async def get(self, target: str = "/") -> bytes:
        """The body of an answer."""
        length = await self.ask(target)
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(length)


def trusting() -> ssl.SSLContext:
    """A client's context that believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def certbot(folder: Path, name: str, number: int = 1) -> bytes:
    """A new certificate as certbot puts it: links in live/NAME to files in archive/NAME; its chain."""
    live, archive = folder / "live" / name, folder / "archive" / name
    for place in (live, archive):
        place.mkdir(parents=True, exist_ok=True)
    chain, key = make(name)
    for kind, content in (("fullchain", chain), ("privkey", key)):
        (archive / f"{kind}{number}.pem").write_bytes(content)
        link = live / f"{kind}.pem"
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../archive/{name}/{kind}{number}.pem")
    return chain


def replace(file: Path, content: bytes) -> None:
    """Put a file in the place of another, at once."""
    draft = file.with_suffix(".draft")
    draft.write_bytes(content)
    draft.replace(file)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[TlsStage]:
    """A node, and a trackproxy to be started before it."""
    stage = TlsStage(tmp_path)
    try:
        await stage.join(PouringNode, "node1")
        yield stage
    finally:
        for wire in stage.wires_left:
            wire.writer.transport.abort()
            await wire.close()
        await stage.close()


def those(*files: Path) -> str:
    """The setting for certificates with their keys in the same file."""
    return f"certificates = [{', '.join(f'{{ certificate = {str(file)!r} }}' for file in files)}]"


async def test_a_service_may_listen_with_tls_alone(stage: TlsStage, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(b"".join(make("a.test")))
    await stage.serve(those(tmp_path / "a.pem"), plain=False)
    assert await (await stage.wire()).get() == b"node1"
    assert refused(stage.plain)


# --- new certificates ---


async def test_a_changed_certificate_is_served_within_2_s_and_open_connections_go_on(
    stage: TlsStage, tmp_path: Path
) -> None:
    file = tmp_path / "a.pem"
    old, new = make("a.test"), make("a.test")
    file.write_bytes(b"".join(old))
    await stage.serve(those(file))
    kept, download = await stage.wire(), await stage.wire()
    assert (kept.certificate, await kept.get()) == (old[0], b"node1")
    length = await download.ask("/download")
    begin = await download.reader.readexactly(PIECE)
    replace(file, b"".join(new))
    await stage.comes(new[0])
    assert await kept.get() == b"node1"
    stage.nodes[0].go_on.set()
    async with asyncio.timeout(DEADLINE_S):
        body = begin + await download.reader.readexactly(length - PIECE)
    assert body == b"".join(bytes([number]) * PIECE for number in range(PIECES))
    assert await kept.get() == b"node1"
    await stage.expect(f"loaded again: {re.escape(str(file))} for a.test", times=2)  # by each worker
    await kept.close()
    await download.close()
    await stage.end()


async def test_a_file_that_is_broken_is_named_and_the_old_certificate_stays_until_it_is_mended(
    stage: TlsStage, tmp_path: Path
) -> None:
    names = ("nothing.test", "other.test", "half.test", "gone.test")
    files = {name: tmp_path / f"{name}.pem" for name in names}
    pairs = {name: make(name) for name in names}
    for name, file in files.items():
        file.write_bytes(b"".join(pairs[name]))
    await stage.serve(those(*files.values()))
    replace(files["nothing.test"], b"nothing")
    replace(files["other.test"], make("other.test")[0] + pairs["other.test"][1])
    replace(files["half.test"], pairs["half.test"][0][:300])
    files["gone.test"].unlink()
    for name, file in files.items():
        await stage.expect(
            rf"WARNING .*{re.escape(str(file))}.*; it is served as it was", times=2
        )  # by each worker
        assert {await stage.served(name) for _ in range(20)} == {pairs[name][0]}
    mended = {name: make(name) for name in names}
    for name, file in files.items():
        replace(file, b"".join(mended[name]))
    for name in names:
        await stage.comes(mended[name][0], name)
    await stage.end()


async def test_a_reload_with_a_broken_certificate_changes_nothing_and_names_it(
    stage: TlsStage, tmp_path: Path
) -> None:
    file = tmp_path / "a.pem"
    chain, key = make("a.test")
    file.write_bytes(chain + key)
    await stage.serve(those(file))
    stage.write_tls(those(tmp_path / "missing.pem"))
    code, text = await said(await stage.command("reload"))
    assert code == 1
    assert f"{tmp_path}/missing.pem cannot be read: No such file or directory" in text
    assert await stage.served() == chain


async def test_500_certificates_of_certbot_are_each_served_by_name_and_one_is_renewed(
    stage: TlsStage, tmp_path: Path
) -> None:
    names = [f"track{number}.example.com" for number in range(MANY)]
    chains = {name: certbot(tmp_path, name) for name in names}
    await stage.serve(f'folder = "{tmp_path}/live"')
    for name in names:
        assert await stage.served(name) == chains[name], name
    assert await stage.served("nobody.test") == chains["track0.example.com"]  # the first by name
    await stage.comes(certbot(tmp_path, names[7], number=2), names[7])
    await stage.comes(certbot(tmp_path, "new.example.com"), "new.example.com")
    await stage.end()


# --- sessions ---


@dataclass(frozen=True, slots=True)
class Shake:
    """A handshake that was made, and a request after it. worker: who has made it."""

    reused: bool
    session: ssl.SSLSession | None
    worker: int


async def shake(stage: TlsStage, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Shake:
    """Connect, with a session if that is given, and ask once: TLS 1.3 sends tickets after the handshake."""

    def connected() -> ssl.SSLSocket:
        sock = socket.create_connection(("127.0.0.1", stage.port), DEADLINE_S)
        tls = context.wrap_socket(sock, server_hostname="a.test", session=session)
        tls.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        said = b""
        while not said.endswith(b"\r\n\r\nnode1"):
            said += (piece := tls.recv(4096))
            assert piece, said
        return tls

    tls = await asyncio.to_thread(connected)
    try:
        return Shake(bool(tls.session_reused), tls.session, await stage.worker_of(tls.getsockname()[1]))
    finally:
        tls.close()


async def resumed_at_both(stage: TlsStage, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
    """Resume the session again and again, until both workers have done so."""
    workers: set[int] = set()
    for _ in range(TRIES):
        made = await shake(stage, context, session)
        assert made.reused, f"not by worker {made.worker}, but by {workers}\n{stage.log}"
        workers.add(made.worker)
        if len(workers) == 2:
            return
    raise AssertionError(f"only one worker has had any of {TRIES} connections")


async def test_a_session_is_resumed_by_every_worker_and_after_a_reload_and_an_upgrade(
    stage: TlsStage, tmp_path: Path
) -> None:
    (tmp_path / "a.pem").write_bytes(b"".join(make("a.test")))
    await stage.serve(those(tmp_path / "a.pem"))
    firsts = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting()
        context.minimum_version = context.maximum_version = version
        first = await shake(stage, context)
        assert (first.reused, first.session is not None) == (False, True)
        firsts.append((context, first.session))
        await resumed_at_both(stage, *firsts[-1])
    await stage.reload()
    await stage.expect(ENDED)
    for context, session in firsts:
        await resumed_at_both(stage, context, session)
    await stage.upgrade()
    for context, session in firsts:
        await resumed_at_both(stage, context, session)


# --- check ---


def checked(folder: Path, tls: str) -> str:
    """What `trackproxy check` says is wrong."""
    file = folder / "t.toml"
    file.write_text(
        '[nodes]\na = { address = "127.0.0.1:1" }\n'
        f'[services.web]\nprotocol = "http"\ntls = {{ listen = ["127.0.0.1:1"], {tls} }}\n'
    )
    done = run("check", "-c", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_check_names_a_key_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(make("a.test")[0])
    pair = f'{{ certificate = "{tmp_path}/a.pem", private_key = "{tmp_path}/a.key" }}'
    text = checked(tmp_path, f"certificates = [{pair}]")
    assert f"services.web.tls.certificates[0]: {tmp_path}/a.key cannot be read: No such file" in text
    assert f"{tmp_path}/a.pem holds no PEM key" in checked(tmp_path, those(tmp_path / "a.pem"))


def test_check_names_a_key_that_does_not_belong(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(make("a.test")[0])
    (tmp_path / "a.key").write_bytes(make("a.test")[1])
    pair = f'{{ certificate = "{tmp_path}/a.pem", private_key = "{tmp_path}/a.key" }}'
    text = checked(tmp_path, f"certificates = [{pair}]")
    assert f"the key in {tmp_path}/a.key does not belong to the certificate in {tmp_path}/a.pem" in text


def test_check_names_a_folder_without_certificates(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    assert f"{tmp_path}/live holds no certificates" in checked(tmp_path, f'folder = "{tmp_path}/live"')
    assert f"{tmp_path}/none cannot be read: " in checked(tmp_path, f'folder = "{tmp_path}/none"')


# --- towards nodes ---


class Authority:
    """A certificate authority of our own. file: PEM, whom to believe."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.ca.pem"
        basic = x509.BasicConstraints(ca=True, path_length=0)
        mine = self._signed(self._name, self._key, basic)
        self.file.write_bytes(mine.public_bytes(serialization.Encoding.PEM))

    def certify(self, host: str) -> Path:
        """A file with a certificate for HOST and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        leaf = self._signed(subject, key, x509.SubjectAlternativeName([x509.DNSName(host)]))
        file = self._folder / f"{host}.pem"
        none = serialization.NoEncryption()
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)
        file.write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + secret)
        return file

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=True)
            .sign(self._key, hashes.SHA256())
        )


async def test_nodes_are_reached_with_tls_if_our_authority_has_certified_them_and_are_down_otherwise(
    stage: TlsStage, tmp_path: Path
) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    files = {
        "good": ours.certify("node.test"),
        "stranger": theirs.certify("node.test.stranger"),
        "namesake": ours.certify("other.test"),
    }
    await stage.nodes.pop().stop()
    for (name, file), port in zip(files.items(), fixed_ports(3), strict=True):
        stage.nodes.append(TlsNode(name, port, file))
        await stage.nodes[-1].start()
    await asyncio.to_thread((tmp_path / "a.pem").write_bytes, b"".join(make("a.test")))
    upstream = f'upstream_tls = {{ enabled = true, ca_file = "{ours.file}", server_name = "node.test" }}'
    await stage.serve(those(tmp_path / "a.pem"), upstream + "\npanic_threshold = 0")
    seen = await stage.see(lambda seen: [one["health"] for one in seen.values()] == ["up", "down", "down"])
    assert all(one["probe"]["passed"] is (name == "good") for name, one in seen.items())
    client = await stage.wire()
    assert b"to good" in await client.get()
    assert all([b"to good" in await (await stage.wire()).get() for _ in range(8)])
    code, text = await said(await stage.command("nodes"))
    assert code == 0
    rows = {line.split()[0]: line for line in text.splitlines()[1:]}
    for name in ("stranger", "namesake"):
        assert re.search(r"(?i)down .*failed: .*certificate", rows[name]), rows[name]


# --- what is spoken, as OpenSSL itself sees it ---


def s_client(port: int, *options: str) -> str:
    """What openssl says of a handshake."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "a.test", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.stdout + done.stderr


def refusal(text: str) -> bool:
    """Has openssl asked for a handshake, and got none?"""
    asked = re.search(r"SSL handshake has read \d+ bytes and written [1-9]", text)
    return bool(asked) and "Cipher is (NONE)" in text and "no peer certificate available" in text


def weak_ciphers() -> Sequence[str]:
    """All that this OpenSSL can speak up to TLS 1.2 but those that are forward secret and AEAD."""
    words = ["openssl", "ciphers", "-s", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"]
    every = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip().split(":")
    return [name for name in every if not re.match(r"ECDHE-(ECDSA|RSA)-(AES\d+-GCM|CHACHA20)", name)]


@needs_openssl
async def test_openssl_finds_no_old_version_no_weak_cipher_and_http_1_1(
    stage: TlsStage, tmp_path: Path
) -> None:
    (tmp_path / "a.pem").write_bytes(b"".join(make("a.test")))
    await stage.serve(those(tmp_path / "a.pem"))

    async def shaken(*options: str) -> str:
        return await asyncio.to_thread(s_client, stage.port, *options)

    for old in ("-tls1", "-tls1_1"):
        assert refusal(await shaken(old, "-cipher", "ALL:@SECLEVEL=0"))
    weak = weak_ciphers()
    assert {"AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256"} <= {*weak}
    assert refusal(await shaken("-tls1_2", "-cipher", f"{':'.join(weak)}:@SECLEVEL=0"))
    for version, alpn in (("-tls1_2", "h2,http/1.1"), ("-tls1_3", "http/1.1")):
        text = await shaken(version, "-alpn", alpn)
        assert re.search(r"Cipher is (TLS_|ECDHE-ECDSA-)(AES|CHACHA20)", text), text
        assert "ALPN protocol: http/1.1" in text
        assert "Compression: NONE" in text
    assert "Secure Renegotiation IS supported" in await shaken("-tls1_2")
    await stage.end()
