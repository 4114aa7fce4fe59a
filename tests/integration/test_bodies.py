"""Bodies of any size, peers of any speed: every byte arrives, and the proxy holds only a few at a time."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections.abc import Iterator

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import LAST_CHUNK, OK, answer, request
from tests.integration.nodes import Exchange, Node, answering, silent
from tests.integration.sources import HELD_BYTES, Source, stop
from tests.integration.wire import settle

KIB = 1024
MIB = 1024 * KIB
SIZE = 64 * MIB
BLOCK = random.Random(43).randbytes(128 * KIB)
COUNT = SIZE // len(BLOCK)
DIGEST = hashlib.sha256(BLOCK * COUNT).digest()

ANSWER_HEADS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
}
REQUEST_HEADS = {
    "length": b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE,
    "chunked": b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
}
framings = pytest.mark.parametrize("framing", ["length", "chunked"])


def body(framing: str) -> Iterator[bytes]:
    """A body of SIZE bytes, in pieces."""
    head, tail = (b"%x\r\n" % len(BLOCK), b"\r\n") if framing == "chunked" else (b"", b"")
    for _ in range(COUNT):
        yield head + BLOCK + tail
    if framing == "chunked":
        yield LAST_CHUNK


async def pouring_node(stage: Stage, framing: str, source: Source) -> Node:
    """A node that answers with the source."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_and_send(ANSWER_HEADS[framing])
        await source.pour(exchange.wire)

    return await stage.start_node(script)


@framings
async def test_a_long_answer_arrives_byte_for_byte(stage: Stage, framing: str) -> None:
    node = await pouring_node(stage, framing, Source(body(framing)))
    client = await stage.connect(await stage.start_proxy([node]))
    await client.send(request("/"))
    reply = await client.answer()
    assert hashlib.sha256(reply.body).digest() == DIGEST


@framings
async def test_a_long_upload_arrives_byte_for_byte(stage: Stage, framing: str) -> None:
    client, node = await stage.through()
    await client.send(REQUEST_HEADS[framing])
    await Source(body(framing)).pour(client)
    assert (await client.answer()).status == 200
    assert hashlib.sha256(node.requests[0].body).digest() == DIGEST


@framings
async def test_an_answer_that_the_client_does_not_read_stays_with_the_node(
    stage: Stage, framing: str
) -> None:
    source = Source(body(framing))
    node = await pouring_node(stage, framing, source)
    proxy = await stage.start_proxy([node])
    client = await stage.connect(proxy, reading=False, receive_buffer_bytes=64 * KIB)
    await client.send(request("/"))
    await node.requested()
    await source.stalls()
    assert source.sent < SIZE
    assert source.held_between(node.address, proxy) < HELD_BYTES
    client.resume()
    assert hashlib.sha256((await client.answer()).body).digest() == DIGEST


@framings
async def test_an_upload_that_the_node_does_not_read_stays_with_the_client(
    stage: Stage, framing: str
) -> None:
    source = Source(body(framing))
    node = await stage.start_node(reading=False)
    proxy = await stage.start_proxy([node])
    client = await stage.connect(proxy)
    await client.send(REQUEST_HEADS[framing])
    pouring = asyncio.create_task(source.pour(client))
    slow = await node.connected()
    await source.stalls()
    assert source.sent < SIZE
    assert source.held_between(node.address, proxy) < HELD_BYTES
    slow.resume()
    await pouring
    assert (await client.answer()).status == 200
    assert hashlib.sha256(node.requests[0].body).digest() == DIGEST


async def test_requests_that_are_sent_far_ahead_stay_with_the_client(stage: Stage) -> None:
    node = await stage.start_node(silent)
    proxy = await stage.start_proxy([node])
    client = await stage.connect(proxy)
    source = Source(itertools.repeat(request("/") * 4096, 1000))
    pouring = asyncio.create_task(source.pour(client))
    await source.stalls()
    assert source.held_between(node.address, proxy) < HELD_BYTES
    assert len(node.requests) == 1
    await stop(pouring)
    client.close()


async def test_a_client_that_stops_reading_is_cut_off_in_time(stage: Stage) -> None:
    source = Source(body("length"))
    node = await pouring_node(stage, "length", source)
    proxy = await stage.start_proxy([node], timeouts={"write": "300ms"})
    client = await stage.connect(proxy, reading=False, receive_buffer_bytes=64 * KIB)
    await client.send(request("/"))
    await (await node.connected()).rest()
    client.resume()
    await client.rest()
    assert len(client.received) < SIZE


async def test_a_client_that_asks_on_and_on_without_reading_is_served_no_further(stage: Stage) -> None:
    node = await stage.start_node(answering(answer(body=b"x" * 64 * KIB)))
    proxy = await stage.start_proxy([node], timeouts={"write": "300ms"})
    client = await stage.connect(proxy, reading=False, receive_buffer_bytes=4 * KIB)
    await client.send(request("/") * 400_000)  # more than the kernel holds; ends when the proxy resets
    assert len(node.requests) < 1000


async def test_a_client_that_reads_slowly_but_steadily_is_not_cut_off(stage: Stage) -> None:
    node = await pouring_node(stage, "length", Source(body("length")))
    proxy = await stage.start_proxy([node], timeouts={"write": "300ms", "response": "300ms"})
    client = await stage.connect(proxy, receive_buffer_bytes=4 * KIB)
    await client.send(request("/"))
    assert not await client.ends_within(1.5)
    assert len(client.received) > MIB


async def test_a_node_that_stops_reading_costs_the_client_no_endless_wait(stage: Stage) -> None:
    node = await stage.start_node(reading=False)
    quick = {name: "300ms" for name in ("write", "body", "response_head", "response")}
    client = await stage.connect(await stage.start_proxy([node], timeouts=quick))
    await client.send(REQUEST_HEADS["length"])
    pouring = asyncio.create_task(Source(body("length")).pour(client))
    assert (await client.answer()).status in (408, 502, 504)
    await client.rest()
    await stop(pouring)
    client.close()
    slow = await node.connected()
    slow.resume()
    await slow.rest()


@pytest.mark.parametrize("manner", ["reads on", "sends no more", "closes"])
@framings
async def test_an_answer_that_comes_before_the_end_of_the_upload_reaches_the_client(
    stage: Stage, framing: str, manner: str
) -> None:
    async def too_large(exchange: Exchange) -> None:
        await exchange.wire.until(b"\r\n\r\n")
        await exchange.send(answer("Connection: close", status="413 Too Large", body=b"too large"))
        if manner == "sends no more":
            exchange.wire.half_close()
        elif manner == "closes":
            exchange.wire.close()

    client, node = await stage.through(too_large)
    await client.send(REQUEST_HEADS[framing])
    pouring = asyncio.create_task(Source(body(framing)).pour(client))
    reply = await client.answer()
    # A node that closes with unread bytes before it resets; its answer may be lost then.
    assert reply.status == 413 or (reply.status == 502 and manner == "closes")
    assert b"close" in reply.tokens("Connection")
    await stop(pouring)
    client.close()
    assert manner == "closes" or await node.connections[0].rest()


async def test_an_early_answer_is_not_lost_in_a_reset_while_the_client_still_sends(stage: Stage) -> None:
    async def too_large(exchange: Exchange) -> None:
        await exchange.wire.until(b"\r\n\r\n")
        await exchange.send(answer("Connection: close", status="413 Too Large", body=b"too large"))

    node = await stage.start_node(too_large)
    client = await stage.connect(await stage.start_proxy([node]), reading=False)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (256 * KIB))
    await node.connected()
    for _ in range(4):
        await settle()
        await client.send(b"x" * 64 * KIB)
    client.resume()
    assert (await client.answer()).status == 413
    assert await client.rest() == b""
    assert (client.ended, client.broken) == ("eof", False)


async def test_what_follows_an_upload_that_was_answered_early_is_no_request(stage: Stage) -> None:
    async def early(exchange: Exchange) -> None:
        await exchange.wire.until(b"\r\n\r\n")
        await exchange.send(OK)

    client, node = await stage.through(early)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    assert (await client.answer()).body == b"ok"
    await client.send(request("/smuggled"))
    await client.rest()
    assert len(node.connections) == 1
    assert client.received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("direction", ["upload", "download"])
async def test_the_node_is_let_go_at_once_when_the_client_resets_inside_a_body(
    stage: Stage, direction: str
) -> None:
    source = Source(body("length"))
    node = await (stage.start_node() if direction == "upload" else pouring_node(stage, "length", source))
    proxy = await stage.start_proxy([node], timeouts={"client_gone": "60s"})
    client = await stage.connect(proxy)
    if direction == "upload":
        await client.send(REQUEST_HEADS["length"] + BLOCK)
        await (await node.connected()).saw(BLOCK)
    else:
        await client.send(request("/"))
        await client.exactly(MIB)
    client.reset()
    await node.connections[0].rest()
    assert source.sent < SIZE
