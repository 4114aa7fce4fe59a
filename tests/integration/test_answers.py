"""What nodes may answer, and in which form it reaches a client."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import LAST_CHUNK, OK, answer, chunked, request
from tests.integration.nodes import Exchange, answering, breaking_off
from tests.integration.wire import settle

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
ONE_ZERO = b"GET / HTTP/1.0\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (OK, 200, b"ok"),
        (answer(body=b""), 200, b""),
        (CHUNKED + chunked(b"he", b"llo"), 200, b"hello"),
        (CHUNKED + b"5;x=y\r\nhello\r\n0;z\r\n\r\n", 200, b"hello"),
        (CHUNKED + LAST_CHUNK, 200, b""),
        (answer(status="404 Not Found", body=b"no"), 404, b"no"),
        (answer(status="599 Odd", body=b"odd"), 599, b"odd"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: x\r\n\r\n", 304, b""),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
    ],
    ids=[
        "length",
        "empty",
        "chunked",
        "chunk extensions",
        "chunked and empty",
        "404",
        "599",
        "204",
        "304 with a length",
        "304 with a coding",
        "100 unasked",
    ],
)
async def test_an_answer_reaches_the_client_and_both_connections_go_on(
    stage: Stage, raw: bytes, status: int, body: bytes
) -> None:
    client, node = await stage.through(answering(raw, OK))
    await client.send(request("/1"))
    first = await client.answer()
    assert (first.status, first.body) == (status, body)
    await client.send(request("/2"))
    assert (await client.answer()).body == b"ok"
    assert len(node.connections) == 1


async def test_an_answer_may_come_byte_by_byte(stage: Stage) -> None:
    async def dripping(exchange: Exchange) -> None:
        for raw in (CHUNKED + chunked(b"hel", b"lo", trailers=b"X: y\r\n"), EARLY_HINTS + OK):
            await exchange.request()
            await exchange.wire.drip(raw)

    client, node = await stage.through(dripping)
    await client.send(request("/1") + request("/2"))
    assert (await client.answer()).body == b"hello"
    assert (await client.answer()).status == 103
    assert (await client.answer()).body == b"ok"
    assert len(node.connections) == 1


async def test_each_piece_of_an_answer_is_passed_on_as_it_comes(stage: Stage) -> None:
    seen = asyncio.Event()

    async def pausing(exchange: Exchange) -> None:
        await exchange.read_and_send(CHUNKED + b"5\r\nfirst\r\n")
        await seen.wait()
        await exchange.send(b"6\r\nsecond\r\n" + LAST_CHUNK)

    client, _ = await stage.through(pausing)
    await client.send(request("/"))
    await client.until(b"first")
    seen.set()
    await client.until(b"second")
    await client.until(LAST_CHUNK)


@pytest.mark.parametrize(
    ("status_line", "expected"),
    [
        ("HTTP/1.1 200 Data follows", b"HTTP/1.1 200 Data follows"),
        ("HTTP/1.0 200 Data follows", b"HTTP/1.1 200 Data follows"),
        ("HTTP/1.1 200 ", b"HTTP/1.1 200 "),
        ("HTTP/1.1 404 Nicht gefunden: \xe4", b"HTTP/1.1 404 Nicht gefunden: \xe4"),
    ],
    ids=["Data follows", "HTTP/1.0", "empty", "beyond ASCII"],
)
async def test_any_reason_phrase_is_passed_on(stage: Stage, status_line: str, expected: bytes) -> None:
    raw = status_line.encode("latin-1") + b"\r\nContent-Length: 2\r\n\r\nok"
    client, _ = await stage.through(answering(raw))
    await client.send(request("/"))
    assert (await client.answer()).line == expected


@pytest.mark.parametrize(
    "raw",
    [
        UNTIL_CLOSE + b"hello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["1.1", "1.0", "close", "1.0 with length"],
)
@pytest.mark.parametrize("ask", [request("/"), ONE_ZERO], ids=["client 1.1", "client 1.0"])
async def test_a_body_that_ends_with_the_connection_reaches_the_client_as_a_whole(
    stage: Stage, raw: bytes, ask: bytes
) -> None:
    client, _ = await stage.through(breaking_off(raw))
    await client.send(ask)
    reply = await client.answer()
    assert (reply.status, reply.body) == (200, b"hello")


async def test_a_client_of_http_1_0_gets_a_chunked_body_without_chunks(stage: Stage) -> None:
    client, _ = await stage.through(answering(CHUNKED + chunked(b"he", b"llo", trailers=b"X: y\r\n")))
    await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    reply = await client.answer()
    assert (reply.body, reply.values("Transfer-Encoding")) == (b"hello", [])
    assert client.ended == "eof"


async def test_a_client_of_http_1_0_gets_no_interim_answer(stage: Stage) -> None:
    client, _ = await stage.through(answering(EARLY_HINTS + OK))
    await client.send(ONE_ZERO)
    assert (await client.answer()).status == 200


async def test_trailers_of_an_answer_reach_the_client(stage: Stage) -> None:
    client, _ = await stage.through(answering(CHUNKED + chunked(b"hello", trailers=b"X-Sum: 7\r\n")))
    await client.send(request("/"))
    assert (await client.answer()).trailers == [(b"X-Sum", b"7")]


async def test_early_hints_reach_the_client_before_the_answer(stage: Stage) -> None:
    client, _ = await stage.through(answering(EARLY_HINTS + EARLY_HINTS + OK))
    await client.send(request("/"))
    for _ in range(2):
        hint = await client.answer()
        assert (hint.status, hint.value("Link")) == (103, b"</style.css>; rel=preload")
    assert (await client.answer()).body == b"ok"


async def test_processing_is_no_end_of_an_answer(stage: Stage) -> None:
    client, _ = await stage.through(answering(b"HTTP/1.1 102 Processing\r\n\r\n" + OK))
    await client.send(request("/"))
    reply = await client.answer()
    assert (reply if reply.status == 200 else await client.answer()).body == b"ok"


async def test_a_node_that_sends_interim_answers_without_end_is_given_up(stage: Stage) -> None:
    client, node = await stage.through(answering(EARLY_HINTS * 17 + OK), retry={"tries": 1})
    await client.send(request("/"))
    statuses = [(await client.answer()).status for _ in range(17)]
    assert statuses == [103] * 16 + [502]
    await node.connections[0].rest()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["length", "chunked", "neither"],
)
async def test_an_answer_to_head_has_no_body_whatever_its_fields_say(stage: Stage, raw: bytes) -> None:
    client, node = await stage.through(answering(raw, OK))
    await client.send(request("/1", method="HEAD") + request("/2"))
    first = await client.answer(b"HEAD")
    assert first.status == 200
    if b"1000" in raw:
        assert first.value("Content-Length") == b"1000"
    assert (await client.answer()).body == b"ok"
    assert len(node.connections) == 1


async def test_repeated_fields_of_an_answer_stay_apart_and_in_order(stage: Stage) -> None:
    fields = ("Set-Cookie: a=1; path=/, x", "X-One: 1", "Set-Cookie: b=2", "X-Two: 2", "x-one: 3")
    client, _ = await stage.through(answering(answer(*fields)))
    await client.send(request("/"))
    got = [
        (name, value) for name, value in (await client.answer()).fields if name.lower() != b"content-length"
    ]
    expected = [tuple(line.encode().split(b": ", 1)) for line in fields]
    assert [pair for pair in got if pair in expected] == expected


async def test_fields_between_a_node_and_the_proxy_are_not_passed_on(stage: Stage) -> None:
    fields = (
        "Connection: keep-alive, X-Private",
        "Keep-Alive: timeout=5",
        "X-Private: 1",
        "Proxy-Connection: x",
    )
    client, _ = await stage.through(answering(answer(*fields, "X-Public: 1", body=b"ok")))
    await client.send(request("/"))
    reply = await client.answer()
    assert reply.value("X-Public") == b"1"
    assert not any(reply.values(name) for name in ("Keep-Alive", "X-Private", "Proxy-Connection"))
    assert b"x-private" not in reply.tokens("Connection")


async def test_connection_close_of_a_node_says_nothing_to_the_client(stage: Stage) -> None:
    client, node = await stage.through(breaking_off(answer("Connection: close", body=b"ok")))
    for number in range(1, 4):
        await client.send(request("/"))
        reply = await client.answer()
        assert (reply.body, b"close" in reply.tokens("Connection")) == (b"ok", False)
        assert len(node.connections) == number


async def test_a_connection_that_the_node_closes_after_25_answers_costs_no_request(stage: Stage) -> None:
    async def twenty_five(exchange: Exchange) -> None:
        for _ in range(24):
            await exchange.read_and_send(OK)
        await exchange.read_and_send(answer("Connection: close", body=b"ok"))
        exchange.wire.close()

    client, node = await stage.through(twenty_five)
    for _ in range(60):
        await client.send(request("/"))
        assert (await client.answer()).status == 200
    assert (len(node.connections), len(node.requests)) == (3, 60)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_end_of_an_idle_connection_is_noticed_before_it_is_used_again(
    stage: Stage, method: str
) -> None:
    client, node = await stage.through(breaking_off(OK), retry={"tries": 1})
    for number in range(1, 6):
        await client.send(request("/", method=method))
        assert (await client.answer()).body == b"ok"
        await settle()  # the node has closed right after its answer
        assert len(node.requests) == number
