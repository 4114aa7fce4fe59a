"""Upgrades: after a 101 that was asked for, bytes go both ways unread; before it, not one."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import OK, Message, answer, request
from tests.integration.nodes import Exchange, Node, answering
from tests.integration.sources import HELD_BYTES, Source
from tests.integration.wire import BODY_DEADLINE_S, Wire, settle

WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
ASK = request("/ws", *WEBSOCKET)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: y\r\n\r\n"
)
BLOCK = bytes(range(256)) * 512


async def switching(exchange: Exchange) -> None:
    """Accept the upgrade, and leave the rest to the test."""
    await exchange.read_and_send(SWITCH)


async def hands_off(exchange: Exchange) -> None:
    """Leave everything to the test."""


async def tunnel(stage: Stage, **service: Any) -> tuple[Wire, Wire, Node]:
    """Both ends of an open tunnel, and the node."""
    client, node = await stage.through(switching, **service)
    await client.send(ASK)
    assert (await client.answer()).status == 101
    return client, node.connections[0], node


async def test_both_sides_learn_of_the_upgrade(stage: Stage) -> None:
    client, node = await stage.through(switching)
    await client.send(ASK)
    accepted = await client.answer()
    seen = await node.requested()
    for message in (seen, accepted):
        assert message.tokens("Connection") == {b"upgrade"}
        assert message.value("Upgrade") == b"websocket"
    assert (seen.value("Sec-WebSocket-Key"), accepted.value("Sec-WebSocket-Accept")) == (b"x", b"y")


async def test_bytes_pass_both_ways_as_they_are(stage: Stage) -> None:
    client, server, _ = await tunnel(stage)
    for number in range(10):
        text = bytes(range(256)) * (1 + 100 * number)
        await client.send(text)
        assert await server.exactly(len(text)) == text
        await server.send(text[::-1])
        assert await client.exactly(len(text)) == text[::-1]


async def test_bytes_that_come_with_the_acceptance_reach_the_client(stage: Stage) -> None:
    client, _ = await stage.through(answering(SWITCH + b"\x81\x02hi"))
    await client.send(ASK)
    assert (await client.answer()).status == 101
    assert await client.exactly(4) == b"\x81\x02hi"


async def test_bytes_sent_too_early_wait_for_the_acceptance(stage: Stage) -> None:
    may_accept = asyncio.Event()

    async def hesitating(exchange: Exchange) -> None:
        await exchange.request()
        await may_accept.wait()
        await exchange.send(SWITCH)

    client, node = await stage.through(hesitating)
    await client.send(ASK + b"\x81\x00early")
    await node.requested()
    await settle()
    assert node.received.endswith(b"\r\n\r\n")
    may_accept.set()
    assert (await client.answer()).status == 101
    assert await node.connections[0].exactly(7) == b"\x81\x00early"


async def test_bytes_sent_too_early_never_reach_a_node_that_declines(stage: Stage) -> None:
    client, node = await stage.through(answering(answer(status="403 Forbidden", body=b"no")))
    await client.send(ASK + b"\x81\x00early\r\n\r\n")
    assert (await client.answer()).body == b"no"
    await client.rest()
    assert len(node.requests) == 1
    assert b"early" not in node.received


async def test_a_node_may_decline_and_answer_as_usual(stage: Stage) -> None:
    client, node = await stage.through(answering(OK))
    await client.send(ASK)
    assert (await client.answer()).body == b"ok"
    await client.send(request("/next"))
    assert (await client.answer()).body == b"ok"
    assert node.targets == [b"/ws", b"/next"]


@pytest.mark.parametrize(
    "raw",
    [
        request("/"),
        request("/", "Upgrade: websocket"),
        request("/", "Connection: Upgrade"),
        request("/", "Connection: Upgrade", "Upgrade: h2c"),
        request("/", *WEBSOCKET).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["not asked", "no Connection", "no protocol", "h2c", "HTTP/1.0"],
)
async def test_an_upgrade_that_nobody_asked_for_becomes_502(stage: Stage, raw: bytes) -> None:
    client, node = await stage.through(switching)
    await client.send(raw)
    assert (await client.answer()).status == 502
    await node.connections[0].rest()


@pytest.mark.parametrize(
    "fields",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        ("Connection: Upgrade", "Upgrade: H2C"),
        ("Upgrade: websocket",),
        ("Connection: Upgrade",),
    ],
    ids=["h2c", "H2C alone", "no Connection", "no protocol"],
)
async def test_an_upgrade_that_is_not_offered_never_reaches_a_node(
    stage: Stage, fields: tuple[str, ...]
) -> None:
    seen = await _seen(stage, request("/", *fields))
    assert not seen.values("Upgrade")
    assert not seen.values("HTTP2-Settings")
    assert b"upgrade" not in seen.tokens("Connection")


async def test_h2c_is_taken_out_of_a_list_of_protocols(stage: Stage) -> None:
    seen = await _seen(stage, request("/", "Connection: Upgrade", "Upgrade: h2c, websocket"))
    assert seen.tokens("Upgrade") == {b"websocket"}


async def test_an_upgrade_of_http_1_0_is_passed_over(stage: Stage) -> None:
    seen = await _seen(stage, ASK.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert not seen.values("Upgrade")


@pytest.mark.parametrize("end", ["close", "reset", "half_close"])
async def test_the_end_of_the_node_reaches_the_client(stage: Stage, end: str) -> None:
    client, server, _ = await tunnel(stage)
    await server.send(b"last words")
    assert await client.exactly(10) == b"last words"
    getattr(server, end)()
    await client.rest()


@pytest.mark.parametrize("end", ["close", "reset", "half_close"])
async def test_the_end_of_the_client_reaches_the_node(stage: Stage, end: str) -> None:
    client, server, _ = await tunnel(stage)
    await client.send(b"last words")
    assert await server.exactly(10) == b"last words"
    getattr(client, end)()
    await server.rest()


async def test_a_side_that_sends_no_more_still_hears_the_other(stage: Stage) -> None:
    client, server, _ = await tunnel(stage)
    client.half_close()
    await server.rest()
    await server.send(b"good bye")
    assert await client.exactly(8) == b"good bye"
    server.close()
    await client.rest()


async def test_a_silent_tunnel_is_closed_in_time(stage: Stage) -> None:
    client, server, _ = await tunnel(stage, timeouts={"tunnel": "150ms"})
    await client.rest()
    await server.rest()


async def test_a_tunnel_in_use_outlives_every_other_timeout(stage: Stage) -> None:
    short = {name: "150ms" for name in ("head", "idle", "body", "response", "response_head")}
    client, server, _ = await tunnel(stage, timeouts=short)
    assert not await client.ends_within(0.5)
    await client.send(b"hello")
    assert await server.exactly(5) == b"hello"


@pytest.mark.parametrize("reader", ["client", "node"])
async def test_what_one_side_does_not_read_stays_with_the_other(stage: Stage, reader: str) -> None:
    node = await stage.start_node(hands_off, reading=reader == "client")
    proxy = await stage.start_proxy([node])
    client = await stage.connect(proxy, reading=reader == "node")
    await client.send(ASK)
    server = await node.connected()
    await settle()
    await server.send(SWITCH)
    if reader == "node":
        await client.answer()
    slow, quick = (client, server) if reader == "client" else (server, client)
    source = Source(itertools.repeat(BLOCK, 256))
    pouring = asyncio.create_task(source.pour(quick))
    await source.stalls()
    assert source.held_between(node.address, proxy) < HELD_BYTES
    slow.resume()
    await slow.until(b"\r\n\r\n")
    assert await slow.exactly(256 * len(BLOCK), BODY_DEADLINE_S) == BLOCK * 256
    await pouring


async def _seen(stage: Stage, raw: bytes) -> Message:
    client, node = await stage.through()
    await client.send(raw)
    assert (await client.answer()).status == 200
    return await node.requested()
