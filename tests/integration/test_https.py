"""HTTPS: what holds without TLS holds with it, and a handshake that fails leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import os
import shutil
import socket
import ssl
from typing import Any

import pytest

from tests.integration.conftest import SecureWire, Stage, until
from tests.integration.messages import LAST_CHUNK, OK, answer, chunked, post, request
from tests.integration.nodes import Exchange, Node, Script, answering, breaking_off, echoing, silent
from tests.integration.sources import HELD_BYTES, Source
from tests.integration.test_bodies import DIGEST, SIZE, body, pouring_node
from tests.integration.test_tunnels import ASK, switching
from tests.integration.wire import DEADLINE_S, Wire, settle
from tests.unit.test_certificates import put
from trackproxy.board import Traffic
from trackproxy.http.edge import Edge

KIB = 1024
A_MOMENT_S = 0.1


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Nothing that clients do is worth a warning, nor does asyncio have anything to say."""
    caplog.set_level(logging.INFO)
    yield
    said = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name == "asyncio"
        or (record.levelno >= logging.WARNING and not record.name.startswith("trackproxy.health"))
    ]
    assert said == []


class Https:
    """Starts proxies with TLS."""

    def __init__(self, stage: Stage, certificate: str) -> None:
        self._stage = stage
        self.certificates = [{"certificate": certificate}]

    async def start(self, nodes: list[Node | str], tls: dict[str, Any] | None = None, **more: Any) -> str:
        """Serve with and without TLS; the address without."""
        https = {"certificates": self.certificates, **(tls or {})}
        return await self._stage.start_proxy(nodes, https=https, **more)

    async def through(self, script: Script | None = None, **more: Any) -> tuple[SecureWire, Node]:
        """One node, a proxy before it, and a client connected to that with TLS."""
        node = await self._stage.start_node(script)
        await self.start([node], **more)
        return await self._stage.connect_securely(), node


@pytest.fixture
def https(stage: Stage, certificate: str) -> Https:
    return Https(stage, certificate)


# --- requests ---


async def test_requests_come_through_tls_one_after_the_other(https: Https) -> None:
    client, node = await https.through(echoing())
    for number in range(3):
        await client.send(request(f"/{number}"))
        assert (await client.answer()).body == b"/%d" % number
    assert len(node.connections) == 1
    assert client.tls.selected_alpn_protocol() == "http/1.1"


async def test_pipelined_requests_are_answered_in_their_order(https: Https) -> None:
    client, _ = await https.through(echoing())
    await client.send(b"".join(request(f"/{number}") for number in range(50)))
    assert [(await client.answer()).body for _ in range(50)] == [b"/%d" % number for number in range(50)]


async def test_a_request_may_come_in_a_record_for_each_byte(https: Https) -> None:
    client, node = await https.through()
    for byte in post("/x", b"hello"):
        await client.send(bytes([byte]))
    assert (await client.answer()).status == 200
    assert node.requests[0].body == b"hello"


async def test_bodies_of_either_framing_reach_the_node(https: Https) -> None:
    client, node = await https.through()
    await client.send(post("/1", b"hello"))
    await client.send(request("/2", "Transfer-Encoding: chunked", method="POST") + chunked(b"he", b"llo"))
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    assert [seen.body for seen in node.requests] == [b"hello", b"hello"]


async def test_a_client_that_expects_100_gets_it(https: Https) -> None:
    client, node = await https.through()
    await client.send(request("/", "Expect: 100-continue", "Content-Length: 5", method="POST"))
    assert (await client.answer()).status == 100
    await client.send(b"hello")
    assert (await client.answer()).status == 200
    assert node.requests[0].body == b"hello"


async def test_head_has_no_body_and_the_connection_goes_on(https: Https) -> None:
    client, _ = await https.through(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", OK))
    await client.send(request("/", method="HEAD"))
    assert (await client.answer(b"HEAD")).value("Content-Length") == b"2"
    await client.send(request("/"))
    assert (await client.answer()).body == b"ok"


async def test_http_1_0_ends_with_close_notify(https: Https) -> None:
    client, _ = await https.through(breaking_off(b"HTTP/1.1 200 OK\r\n\r\nuntil the end"))
    await client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    await client.farewell_said()
    assert bytes(client.received).endswith(b"\r\n\r\nuntil the end")


async def test_an_answer_that_breaks_off_does_not_end_with_close_notify(https: Https) -> None:
    client, _ = await https.through(
        breaking_off(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    )
    await client.send(request("/"))
    await client.rest()
    assert (client.ended, client.farewell) == ("reset", False)
    assert LAST_CHUNK not in client.received


async def test_a_client_that_does_not_answer_close_notify_is_let_go(stage: Stage, https: Https) -> None:
    client, _ = await https.through(timeouts={"linger": "100ms", "write": "60s"})
    await client.send(request("/", "Connection: close"))
    assert (await client.answer()).body == b"ok"
    await client.rest()
    assert client.farewell
    await stage.over()


# --- much to send ---


async def test_a_long_answer_stays_with_the_node_while_the_client_does_not_read(
    stage: Stage, https: Https
) -> None:
    source = Source(body("length"))
    node = await pouring_node(stage, "length", source)
    await https.start([node])
    client = await stage.connect_securely(receive_buffer_bytes=64 * KIB)
    client.pause()
    await client.send(request("/"))
    await node.requested()
    await source.stalls()
    assert source.held_between(node.address, stage.secure) < HELD_BYTES
    client.resume()
    assert hashlib.sha256((await client.answer()).body).digest() == DIGEST


async def connect_narrowly(stage: Stage) -> SecureWire:
    """A client that does not read by itself; the kernel holds little for it, so that the proxy has to."""
    for _, listener, _ in stage.workers[0]._listeners:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * KIB)
    client = await stage.connect_securely(receive_buffer_bytes=4 * KIB)
    await client.stop_reading()
    return client


async def ask_slowly(client: SecureWire, *fields: str) -> None:
    """Ask, and read until the answer has begun."""
    await client.send(request("/", *fields))
    while b"200 OK" not in client.received:
        assert await client.take()


@pytest.mark.parametrize("size", [60 * KIB, 600 * KIB])
async def test_the_end_of_an_answer_is_not_lost_on_a_slow_client(
    stage: Stage, https: Https, size: int
) -> None:
    node = await stage.start_node(answering(answer(body=b"x" * size)))
    await https.start([node], timeouts={"linger": "100ms", "write": "60s"})
    client = await connect_narrowly(stage)
    await ask_slowly(client, "Connection: close")
    (edge,) = stage.web.open
    assert isinstance(edge, Edge)
    while not edge.transport.is_closing():
        assert await client.take()
    assert not await client.ends_within(4 * A_MOMENT_S)
    while not client.farewell:
        assert await client.take()
        assert not await client.ends_within(0.01)
    assert len((await client.answer()).body) == size


async def test_a_client_that_reads_slowly_but_steadily_is_not_cut_off(stage: Stage, https: Https) -> None:
    node = await pouring_node(stage, "length", Source(body("length")))
    await https.start([node], timeouts={"write": "300ms", "response": "300ms"})
    client = await connect_narrowly(stage)
    await ask_slowly(client)
    for _ in range(30):
        assert not await client.ends_within(A_MOMENT_S / 2)
        assert await client.take()


async def test_a_node_is_let_go_by_a_client_that_says_farewell_and_does_not_read(
    stage: Stage, https: Https
) -> None:
    source = Source(body("length"))
    node = await pouring_node(stage, "length", source)
    await https.start([node])
    client = await connect_narrowly(stage)
    await ask_slowly(client)
    await client.say_farewell()
    await node.connections[0].rest()
    assert source.sent < SIZE
    client.reset()
    await stage.over()


async def test_a_client_that_stops_reading_is_cut_off_in_time(stage: Stage, https: Https) -> None:
    node = await pouring_node(stage, "length", Source(body("length")))
    await https.start([node], timeouts={"write": "300ms"})
    client = await stage.connect_securely(receive_buffer_bytes=64 * KIB)
    client.pause()
    await client.send(request("/"))
    await (await node.connected()).rest()
    client.resume()
    await client.rest()
    assert len(client.received) < SIZE
    await stage.over()


# --- upgrades ---


async def test_a_tunnel_passes_bytes_both_ways_and_ends_with_either_side(stage: Stage, https: Https) -> None:
    for who in ("client", "farewell", "node"):
        client, node = await https.through(switching)
        await client.send(ASK)
        assert (await client.answer()).status == 101
        server = node.connections[0]
        block = bytes(range(256)) * 4096
        sending = asyncio.create_task(server.send(block))
        await client.send(block)
        assert await server.exactly(len(block)) == block
        assert await client.exactly(len(block)) == block
        await sending
        if who == "client":
            client.close()
            await server.rest()
        elif who == "farewell":
            await client.say_farewell()
            await server.rest()
        else:
            await server.send(b"the last")
            server.close()
            assert await client.exactly(8) == b"the last"
            await client.farewell_said()
            await client.say_farewell()
            await client.rest()
        await stage.over()


# --- clients that go ---


@pytest.mark.parametrize("how", ["farewell", "end", "reset"])
@pytest.mark.parametrize("when", ["between requests", "before the answer", "in the answer", "in the request"])
async def test_a_client_may_go_at_any_time(stage: Stage, https: Https, when: str, how: str) -> None:
    pouring = await pouring_node(stage, "length", Source(body("length")))
    mute = await stage.start_node(silent)
    await https.start([pouring if when == "in the answer" else mute])
    client = await stage.connect_securely()
    if when == "in the request":
        await client.send(request("/", "Content-Length: 100", method="POST") + b"x")
        await mute.connected()
    elif when == "before the answer":
        await client.send(request("/"))
        await mute.requested()
    elif when == "in the answer":
        await client.send(request("/"))
        await client.exactly(256 * KIB)
    if how == "farewell":
        await client.say_farewell()
    elif how == "end":
        client.half_close()
    else:
        client.reset()
    await stage.over()
    if when != "between requests":
        await (pouring if when == "in the answer" else mute).connections[0].rest()


# --- refusals ---


async def test_a_refusal_reaches_the_client_before_the_connection_ends(stage: Stage, https: Https) -> None:
    client, node = await https.through(timeouts={"linger": "300ms"})
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n" + b"x" * 64 * KIB)
    reply = await client.answer()
    assert reply.status == 400
    assert b"close" in reply.tokens("Connection")
    await client.send(b"x" * 64 * KIB)
    await client.rest()
    assert (client.ended, client.farewell) == ("eof", True)
    assert not node.connections
    await stage.over()


async def test_a_refused_client_hears_at_once_that_nothing_more_comes(https: Https) -> None:
    client, _ = await https.through(timeouts={"linger": "60s"})
    await client.send(b"NONSENSE\r\n\r\n")
    assert (await client.answer()).status == 400
    await client.farewell_said()


async def test_an_early_answer_is_not_lost_while_the_client_still_sends(stage: Stage, https: Https) -> None:
    async def too_large(exchange: Exchange) -> None:
        await exchange.wire.until(b"\r\n\r\n")
        await exchange.send(answer("Connection: close", status="413 Too Large", body=b"too large"))

    client, _ = await https.through(too_large, timeouts={"linger": "300ms"})
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(4):
        await client.send(b"x" * 64 * KIB)
        await settle()
    assert (await client.answer()).status == 413
    await client.rest()
    assert (client.ended, client.farewell) == ("eof", True)
    await stage.over()


async def test_a_slow_head_is_refused_and_an_idle_client_leaves_in_good_order(
    stage: Stage, https: Https
) -> None:
    client, _ = await https.through(timeouts={"head": "100ms", "linger": "100ms"})
    await client.send(b"GET / HTTP/1.1\r\n")
    assert (await client.answer()).status == 408
    await client.rest()
    idle = await stage.connect_securely()
    await idle.rest()
    assert (idle.farewell, bytes(idle.received)) == (True, b"")


async def test_a_long_handshake_takes_no_time_from_the_first_head(stage: Stage, https: Https) -> None:
    node = await stage.start_node()
    await https.start([node], timeouts={"head": "300ms", "tls_handshake": "10s"})
    client = await stage.connect_securely(shaken=False)
    hello = client.hello()
    await Wire.send(client, hello[:50])
    assert not await client.ends_within(0.5)
    await Wire.send(client, hello[50:])
    await until(lambda: client.shaken)
    assert not await client.ends_within(A_MOMENT_S)
    await client.send(request("/"))
    assert (await client.answer()).status == 200


# --- handshakes that fail ---


@pytest.mark.parametrize("sent", [0, 20, None], ids=["nothing", "a part of the hello", "nothing after it"])
async def test_a_handshake_has_to_be_over_in_time(stage: Stage, https: Https, sent: int | None) -> None:
    node = await stage.start_node()
    await https.start([node], timeouts={"tls_handshake": "100ms"})
    hello = (await stage.connect_securely(shaken=False)).hello()
    client = await stage.connect(stage.secure)
    await client.send(hello[:sent])
    await client.rest()
    await stage.over()
    cells = stage.web.routes[-1].cells
    assert cells[Traffic.ACCEPTED] == 0 < cells[Traffic.REFUSED_HANDSHAKE]


@pytest.mark.parametrize(
    "data",
    [
        request("/"),
        b"\x16\x03\x01\x00\x05garbage",
        b"\xff" * 100_000,
        b"\x16\x03\x01\xff\xff",
        b"PROXY TCP4 ",
    ],
    ids=["plain text", "garbage", "much garbage", "impossible", "a PROXY header"],
)
async def test_what_is_no_tls_ends_the_connection_and_nothing_else(
    stage: Stage, https: Https, data: bytes
) -> None:
    node = await stage.start_node()
    await https.start([node], timeouts={"tls_handshake": "100ms"})
    client = await stage.connect(stage.secure)
    await client.send(data)
    await client.rest()
    await stage.over()
    assert not node.connections
    good = await stage.connect_securely()
    await good.send(request("/"))
    assert (await good.answer()).status == 200


async def test_handshakes_that_are_broken_off_leave_nothing_behind(stage: Stage, https: Https) -> None:
    node = await stage.start_node()
    await https.start([node], max_connections=100, per_client={"max_connections": 50})
    first = await stage.connect_securely()
    await first.send(request("/"))
    assert (await first.answer()).status == 200
    first.close()
    await stage.over()
    gc.collect()
    before = open_files()
    for cut in (0, 1, 100, None):
        for how in ("close", "reset", "half_close"):
            for _ in range(20):
                client = await stage.connect_securely(shaken=False)
                if (data := client.hello()[:cut]) and cut != 0:
                    await Wire.send(client, data)
                if cut is None:
                    await settle()
                getattr(client, how)()
                if how == "half_close":
                    await client.rest()
                    client.close()
    await stage.over()
    await until(lambda: open_files() <= before)
    clients = [await stage.connect_securely() for _ in range(50)]
    for client in clients:
        await client.send(request("/"))
        assert (await client.answer()).status == 200


async def test_handshakes_count_as_connections(stage: Stage, https: Https) -> None:
    node = await stage.start_node()
    await https.start([node])
    clients = [await stage.connect(stage.secure) for _ in range(3)]
    await until(lambda: stage.web.connections == 3)
    assert not stage.web.open
    for client in clients:
        client.close()
    await stage.over()


# --- what nodes and clients are told ---


async def test_nodes_are_told_that_the_client_speaks_tls(stage: Stage, https: Https) -> None:
    client, node = await https.through()
    port = stage.secure.rpartition(":")[2].encode()
    await client.send(request("/"))
    await client.answer()
    seen = await node.requested()
    assert seen.value("X-Forwarded-Proto") == b"https"
    assert seen.value("X-Forwarded-Port") == port
    assert seen.value("X-Forwarded-For") == b"127.0.0.1"


async def test_both_listeners_of_a_service_share_its_nodes(stage: Stage, https: Https) -> None:
    node = await stage.start_node()
    plain = await https.start([node], {"hsts": "365d"}, forwarded=True)
    client, secure = await stage.connect(plain), await stage.connect_securely()
    answers = []
    for wire in (client, secure):
        await wire.send(request("/"))
        answers.append(await wire.answer())
    assert [seen.value("X-Forwarded-Proto") for seen in node.requests] == [b"http", b"https"]
    assert [b"proto=https" in (seen.value("Forwarded") or b"") for seen in node.requests] == [False, True]
    assert [reply.value("Strict-Transport-Security") for reply in answers] == [None, b"max-age=31536000"]
    assert len(node.connections) == 1


async def test_hsts_is_not_said_unless_it_is_set(https: Https) -> None:
    client, _ = await https.through()
    await client.send(request("/"))
    assert (await client.answer()).value("Strict-Transport-Security") is None


async def test_hsts_is_said_in_answers_of_the_proxy_too(stage: Stage, https: Https) -> None:
    await https.start([stage.refusing()], {"hsts": "1d"})
    client = await stage.connect_securely()
    await client.send(request("/"))
    reply = await client.answer()
    assert (reply.status, reply.value("Strict-Transport-Security")) == (502, b"max-age=86400")


@pytest.mark.parametrize(
    ("raw", "status", "location"),
    [
        (request("/web/x?y=1&z"), 301, b"https://a%b/web/x?y=1&z"),
        (request("/web/", host="a.example:8080"), 301, b"https://a.example%b/web/"),
        (request("/web/", host="[::1]:8080"), 301, b"https://[::1]%b/web/"),
        (request("/web/", host="[::1]"), 301, b"https://[::1]%b/web/"),
        (request("/web/", method="HEAD"), 301, b"https://a%b/web/"),
        (post("/web/form"), 308, b"https://a%b/web/form"),
        (b"GET /web/ HTTP/1.0\r\n\r\n", 301, b"https://127.0.0.1%b/web/"),
        (request("http://b.example/web/?q"), 301, b"https://b.example%b/web/?q"),
        (request("/web/%FF"), 301, b"https://a%b/web/%%FF"),
    ],
)
@pytest.mark.parametrize("public", [None, 443])
async def test_a_route_for_tls_sends_others_there(
    stage: Stage, https: Https, raw: bytes, status: int, location: bytes, public: int | None
) -> None:
    node = await stage.start_node()
    routes = [{"name": "web", "path": "/web/", "https": True}]
    tls = {} if public is None else {"port": public}
    plain = await https.start([node], tls, routes=routes)
    port = b"" if public else b":" + stage.secure.rpartition(":")[2].encode()
    client = await stage.connect(plain)
    await client.send(raw)
    reply = await client.answer(raw.split(b" ")[0])
    assert (reply.status, reply.value("Location")) == (status, location % port)
    if b"HTTP/1.1" in raw:
        await client.send(request("/other"))
        assert (await client.answer()).body == b"ok"
    secure = await stage.connect_securely()
    await secure.send(request("/web/"))
    assert (await secure.answer()).body == b"ok"
    assert node.targets[-1] == b"/web/"


async def test_options_for_the_whole_server_is_redirected_to_a_url(stage: Stage, https: Https) -> None:
    plain = await https.start(
        [await stage.start_node()], {"port": 443}, routes=[{"name": "all", "https": True}]
    )
    client = await stage.connect(plain)
    await client.send(request("*", method="OPTIONS"))
    assert (await client.answer()).value("Location") == b"https://a"


async def test_a_trusted_proxy_may_have_spoken_tls_for_us(stage: Stage, https: Https) -> None:
    node = await stage.start_node()
    routes = [{"name": "web", "path": "/web/", "https": True}]
    plain = await https.start([node], routes=routes, trusted_proxies=["127.0.0.1"])
    client = await stage.connect(plain)
    await client.send(request("/web/", "X-Forwarded-Proto: https"))
    assert (await client.answer()).status == 200
    await client.send(request("/web/", "X-Forwarded-Proto: http"))
    assert (await client.answer()).status == 301


async def test_the_name_a_client_asks_for_chooses_the_certificate(
    stage: Stage, certificate: str, tmp_path: Any
) -> None:
    other = put(tmp_path / "other.pem", "other.example", "*.wild.example")
    node = await stage.start_node()
    both = [{"certificate": certificate}, {"certificate": other}]
    await stage.start_proxy([node], https={"certificates": both})
    shown = []
    for name in (None, "localhost", "other.example", "x.wild.example", "nobody.example"):
        client = await stage.connect_securely(name=name)
        shown.append(client.tls.getpeercert(binary_form=True))
    default, mine, second, wild, unknown = shown
    assert default == mine == unknown
    assert second == wild != default


# --- the end ---


async def test_a_drain_ends_tls_connections_with_their_next_answer(stage: Stage, https: Https) -> None:
    may_answer = asyncio.Event()

    async def waiting(exchange: Exchange) -> None:
        while True:
            seen = await exchange.request()
            if seen.target == b"/slow":
                await may_answer.wait()
            await exchange.send(OK)

    node = await stage.start_node(waiting)
    await https.start([node], timeouts={"linger": "200ms"})
    idle, busy = await stage.connect_securely(), await stage.connect_securely()
    shaking = await stage.connect_securely(shaken=False)
    hello = shaking.hello()
    await Wire.send(shaking, hello[:50])
    await busy.send(request("/slow"))
    await idle.send(request("/"))
    await idle.answer()
    await node.requested(2)
    queued = await stage.connect_securely(shaken=False)
    await Wire.send(queued, queued.hello())
    worker = stage.workers[0]
    worker.retire(DEADLINE_S)
    await Wire.send(shaking, hello[50:])
    may_answer.set()
    await until(lambda: shaking.shaken and queued.shaken)
    for client in (idle, shaking, queued):
        await client.send(request("/"))
    for client in (idle, busy, shaking, queued):
        reply = await client.answer()
        assert (reply.status, reply.tokens("Connection")) == (200, {b"close"})
        await client.rest()
        assert client.farewell
    async with asyncio.timeout(DEADLINE_S):
        await worker.over.wait()
    assert not worker.left


async def test_a_worker_ends_though_handshakes_never_do(stage: Stage, https: Https) -> None:
    node = await stage.start_node()
    await https.start([node])
    clients = [await stage.connect(stage.secure) for _ in range(3)]
    await clients[0].send(b"\x16\x03\x01")
    await until(lambda: stage.web.connections == 3)
    worker = stage.workers[0]
    worker.retire(A_MOMENT_S)
    async with asyncio.timeout(DEADLINE_S):
        await worker.over.wait()
    for client in clients:
        await client.rest()
    assert stage.web.connections == 0


# --- other people's clients ---


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_curl_is_served(stage: Stage, https: Https) -> None:
    node = await stage.start_node(answering(answer(body=b"x" * 300_000)))
    await https.start([node])
    url = f"https://{stage.secure}/"
    process = await asyncio.create_subprocess_exec(
        *("curl", "-ksS", "--http1.1", "--data-binary", "hello", "-H", "Expect: 100-continue"),
        *(url, "-o", "/dev/null", url, "-o", "/dev/null", "-w", "%{http_code} %{size_download}\n"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(2 * DEADLINE_S):
        printed, _ = await process.communicate()
    assert printed == b"200 300000\n" * 2
    assert [seen.body for seen in node.requests] == [b"hello"] * 2


async def test_pythons_own_client_verifies_the_certificate(
    stage: Stage, https: Https, certificate: str
) -> None:
    node = await stage.start_node()
    await https.start([node])
    context = ssl.create_default_context(cafile=certificate)
    host, _, port = stage.secure.rpartition(":")
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(
            host, int(port), ssl=context, server_hostname="localhost"
        )
        writer.write(request("/", "Connection: close"))
        assert (await reader.read()).endswith(b"ok")
        writer.close()
        await writer.wait_closed()
