"""Whose session it is: the PROXY protocol towards nodes and from trusted proxies; TLS that ends here."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Stage
from tests.integration.nodes import Exchange
from tests.integration.sessions import GREETING, UNAVAILABLE, greeting, session, start_mail
from tests.integration.wire import DEADLINE_S, Wire, settle
from trackproxy.board import Traffic
from trackproxy.proxy_protocol import MAX_BYTES, ProxyHeader, header_v1, header_v2, parse

CLIENT, SITE = ("192.0.2.7", 4711), ("192.0.2.1", 25)
TRUSTED: dict[str, Any] = {"accept_proxy_protocol": True, "trusted_proxies": ["127.0.0.0/8"]}


async def header_at(wire: Wire) -> ProxyHeader:
    """The header that a node got."""
    async with asyncio.timeout(DEADLINE_S):
        while (found := parse(bytes(wire.received))) is None:
            await settle()
    header, size_bytes = found
    await wire.exactly(size_bytes)
    return header


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_nodes_are_told_who_the_client_is(stage: Stage, version: str) -> None:
    client, server, _ = await session(stage, proxy_protocol=version)
    header = await header_at(server)
    assert header.source == client.sock.getsockname()
    assert header.destination == client.sock.getpeername()
    await client.send(b"EHLO me\r\n")
    assert await server.until(b"\r\n") == b"EHLO me\r\n"


async def test_a_node_may_be_told_in_another_way_than_the_others(stage: Stage) -> None:
    nodes = [await stage.start_node(greeting()) for _ in range(3)]
    address = await start_mail(
        stage,
        [*nodes],
        endpoints=[{}, {"proxy_protocol": "v2"}, {"proxy_protocol": "off"}],
        proxy_protocol="v1",
    )
    for _ in nodes:
        client = await stage.connect(address)
        await client.until(b"\r\n")
        await client.send(b"RSET\r\n")
    firsts = []
    for node in nodes:
        wire = await node.connected()
        await wire.saw(b"RSET\r\n")
        firsts.append(bytes(wire.received[:5]))
    assert firsts == [b"PROXY", b"\r\n\r\n\x00", b"RSET\r"]


@pytest.mark.parametrize("made", [header_v1, header_v2])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "byte by byte"])
async def test_a_trusted_proxys_word_is_passed_on(stage: Stage, made: Any, at_once: bool) -> None:
    node = await stage.start_node(greeting())
    client = await stage.connect(await start_mail(stage, [node], proxy_protocol="v2", **TRUSTED))
    data = made(CLIENT, SITE) + b"EHLO eager\r\n"
    await (client.send(data) if at_once else client.drip(data))
    assert await client.until(b"\r\n") == GREETING
    server = await node.connected()
    assert await header_at(server) == ProxyHeader(CLIENT, SITE)
    assert await server.until(b"\r\n") == b"EHLO eager\r\n"


async def test_a_proxy_that_is_not_trusted_is_taken_for_the_client(stage: Stage) -> None:
    node = await stage.start_node(greeting())
    trusted = {"accept_proxy_protocol": True, "trusted_proxies": ["192.0.2.0/24"]}
    client = await stage.connect(await start_mail(stage, [node], proxy_protocol="v1", **trusted))
    await client.send(header_v1(CLIENT, SITE))
    server = await node.connected()
    header = await header_at(server)
    assert header.source == client.sock.getsockname()
    assert await server.until(b"\r\n") == header_v1(CLIENT, SITE)  # as any other bytes


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO me\r\n",
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY TCP4 1.2.3.256 1.1.1.1 1 1\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\xff",
    ],
    ids=["none", "short", "no address", "bad version"],
)
async def test_a_trusted_proxy_that_says_no_valid_header_is_turned_away(stage: Stage, data: bytes) -> None:
    node = await stage.start_node(greeting())
    client = await stage.connect(await start_mail(stage, [node], **TRUSTED))
    await client.send(data)
    assert await client.rest() == b""
    assert not node.connections
    (mail,) = stage.workers[0].services["mail"].routes
    assert mail.cells[Traffic.REFUSED_PROXY_HEADER] == 1


async def test_a_trusted_proxy_that_says_nothing_is_turned_away_in_time(stage: Stage) -> None:
    node = await stage.start_node(greeting())
    address = await start_mail(stage, [node], timeouts={"proxy_header": "100ms"}, **TRUSTED)
    client = await stage.connect(address)
    await client.send(b"PROXY TCP4 ")
    assert await client.rest() == b""
    assert not stage.workers[0].services["mail"].open


async def test_a_header_that_breaks_off_leaves_nothing_behind(stage: Stage) -> None:
    node = await stage.start_node(greeting())
    client = await stage.connect(await start_mail(stage, [node], **TRUSTED))
    await client.send(b"PROXY TCP4 ")
    client.half_close()
    assert await client.rest() == b""
    assert not stage.workers[0].services["mail"].open
    assert MAX_BYTES > 100


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, with its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    key, chain = folder / "key.pem", folder / "chain.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(chain)),
        ],
        check=True,
        capture_output=True,
    )
    both = folder / "both.pem"
    both.write_text(key.read_text() + chain.read_text())
    return both


async def secured(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that begins with TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.open_connection(host, int(port), ssl=context)


async def test_tls_ends_here_and_the_node_hears_plain_text(stage: Stage, certificate: Path) -> None:
    node = await stage.start_node(greeting())
    address = await start_mail(stage, [node], tls="terminate", certificate=str(certificate))
    reader, writer = await secured(address)
    async with asyncio.timeout(10):
        assert await reader.readline() == GREETING
        server = await node.connected()
        writer.write(b"EHLO me\r\n")
        assert await server.until(b"\r\n") == b"EHLO me\r\n"
        block = bytes(range(256)) * 4096
        writer.write(block * 8)
        assert await server.exactly(len(block) * 8, 30) == block * 8
        sending = asyncio.create_task(server.send(block * 8, 30))
        assert await reader.readexactly(len(block) * 8) == block * 8
        await sending
        server.close()
        assert await reader.read() == b""
        writer.close()


async def test_without_a_node_a_tls_client_is_told_so_in_tls(stage: Stage, certificate: Path) -> None:
    address = await start_mail(stage, [stage.refusing()], tls="terminate", certificate=str(certificate))
    reader, writer = await secured(address)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == UNAVAILABLE
    writer.close()


async def test_a_tls_session_ends_with_a_farewell(stage: Stage, certificate: Path) -> None:
    node = await stage.start_node(greeting())
    address = await start_mail(stage, [node], tls="terminate", certificate=str(certificate))
    reader, writer = await secured(address)
    async with asyncio.timeout(DEADLINE_S):
        await reader.readline()
        service = stage.workers[0].services["mail"]
        writer.write(b"NOOP\r\n")
        server = await node.connected()
        await server.until(b"\r\n")
        await server.send(b"250 ok\r\n")
        assert await reader.readline() == b"250 ok\r\n"
        service.groups[0].end(service.groups[0].endpoints[0])
        assert await reader.read() == UNAVAILABLE
        await server.rest()
    writer.close()


async def test_a_client_that_does_not_speak_tls_holds_nothing(stage: Stage, certificate: Path) -> None:
    node = await stage.start_node(greeting())
    address = await start_mail(stage, [node], tls="terminate", certificate=str(certificate))
    client = await stage.connect(address)
    await client.send(b"EHLO plain\r\n" * 10)
    await client.rest()
    assert not node.connections
    assert not stage.workers[0].services["mail"].open


async def test_tls_that_passes_through_is_not_looked_at(stage: Stage, certificate: Path) -> None:
    async def tls_node(exchange: Exchange) -> None:
        """Say nothing first, as a node that speaks TLS does."""

    node = await stage.start_node(tls_node)
    address = await start_mail(stage, [node], tls="passthrough")
    client = await stage.connect(address)
    await client.send(b"\x16\x03\x01")
    server = await node.connected()
    assert await server.exactly(3) == b"\x16\x03\x01"


async def test_a_tls_client_that_is_gone_before_the_greeting_leaves_nothing_behind(
    stage: Stage, certificate: Path
) -> None:
    async def silent(exchange: Exchange) -> None:
        """Never greet."""

    node = await stage.start_node(silent)
    address = await start_mail(
        stage, [node], tls="terminate", certificate=str(certificate), per_client={"max_connections": 1}
    )
    _, writer = await secured(address)
    server = await node.connected()
    writer.transport.abort()
    assert await server.ends_within(DEADLINE_S)
    service = stage.workers[0].services["mail"]
    async with asyncio.timeout(DEADLINE_S):
        while service.open:
            await settle()
    assert [endpoint.active for endpoint in service.groups[0].endpoints] == [0]
    await secured(address)
    await node.connected(2)  # its place was given back
