"""The greeting first: a node is heard before its client sees a byte, and passed over if it is sick."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration.conftest import Stage
from tests.integration.nodes import Exchange, Script
from tests.integration.sessions import GREETING, UNAVAILABLE, greeting, hands_off, session, start_mail
from tests.integration.wire import settle

GOOD = b"220 good\r\n"


async def closing(exchange: Exchange) -> None:
    """Close at once."""
    exchange.wire.close()


async def resetting(exchange: Exchange) -> None:
    """Reset at once."""
    exchange.wire.reset()


async def half_a_line(exchange: Exchange) -> None:
    """Begin a greeting, and close."""
    await exchange.send(b"220 al")
    exchange.wire.close()


SICK: list[tuple[str, Script]] = [
    ("busy", greeting(b"421 busy\r\n")),
    ("refusing", greeting(b"554 no\r\n")),
    ("refusing at length", greeting(b"554-no\r\n554 never\r\n")),
    ("another protocol", greeting(b"HTTP/1.1 400 Bad Request\r\n")),
    ("another protocol without an end", greeting(b"SSH-2.0-x")),
    ("binary", greeting(bytes(range(256)))),
    ("endless line", greeting(b"220 " + b"x" * 10_000)),
    ("endless greeting", greeting(b"220-more\r\n" * 1000)),
    ("two codes", greeting(b"220-a\r\n250 b\r\n")),
    ("closing", closing),
    ("resetting", resetting),
    ("half a line", half_a_line),
]


@pytest.mark.parametrize("sick", [script for _, script in SICK], ids=[name for name, _ in SICK])
async def test_a_sick_node_is_passed_over_before_the_client_sees_a_byte(stage: Stage, sick: Script) -> None:
    bad, good = await stage.start_node(sick), await stage.start_node(greeting(GOOD))
    address = await start_mail(stage, [bad, good], endpoints=[{}, {"priority": 1}], outliers={"failures": 0})
    client = await stage.connect(address)
    assert await client.exactly(len(GOOD)) == GOOD
    assert bytes(client.received) == GOOD
    await bad.connected()


@pytest.mark.parametrize(
    ("protocol", "good", "bad", "refusal"),
    [
        (
            "smtp",
            b"220 a\r\n",
            b"421 a\r\n",
            b"421 s Service not available, closing transmission channel\r\n",
        ),
        ("smtp", b"220-a\r\n220 b\r\n", b"220-a\r\n", b"421 s Service not available, "),
        ("smtp", b"220\n", b"200 a\r\n", b"421 s Service not available, "),
        ("nntp", b"200 a\r\n", b"400 a\r\n", b"400 s service temporarily unavailable\r\n"),
        ("nntp", b"201 no posting\r\n", b"502 a\r\n", b"400 s service temporarily unavailable\r\n"),
        ("nntp", b"200 a\r\n", b"220 a\r\n", b"400 s service temporarily unavailable\r\n"),
    ],
)
async def test_each_protocol_has_its_greetings_and_its_refusal(
    stage: Stage, protocol: str, good: bytes, bad: bytes, refusal: bytes
) -> None:
    service: dict[str, Any] = {"name": "s", "protocol": protocol, "greeting_timeout": 0.1}
    node = await stage.start_node(greeting(good))
    client = await stage.connect(await stage.start_proxy([node], **service))
    assert await client.exactly(len(good)) == good
    node = await stage.start_node(greeting(bad))
    client = await stage.connect(await stage.start_proxy([node], **service))
    told = await client.rest()
    assert told.startswith(refusal)
    assert told.count(b"\r\n") == 1
    assert client.ended == "eof"


async def test_a_greeting_may_come_in_pieces(stage: Stage) -> None:
    async def dripping(exchange: Exchange) -> None:
        await exchange.wire.drip(b"220-a\r\n220 b\r\n")

    node = await stage.start_node(dripping)
    client = await stage.connect(await start_mail(stage, [node]))
    assert await client.exactly(14) == b"220-a\r\n220 b\r\n"


async def test_what_follows_the_greeting_at_once_is_passed_on(stage: Stage) -> None:
    text = GREETING + b"x" * 20_000
    node = await stage.start_node(greeting(text))
    client = await stage.connect(await start_mail(stage, [node]))
    assert await client.exactly(len(text)) == text


async def test_silence_passes_to_the_next_node(stage: Stage) -> None:
    silent, good = await stage.start_node(hands_off), await stage.start_node(greeting(GOOD))
    address = await start_mail(
        stage, [silent, good], endpoints=[{}, {"priority": 1}], greeting_timeout="100ms"
    )
    client = await stage.connect(address)
    assert await client.until(b"\r\n") == GOOD


async def test_silence_inside_a_greeting_does_too_but_a_slow_one_is_waited_for(stage: Stage) -> None:
    async def slow(exchange: Exchange) -> None:
        for piece in (b"220-a\r\n", b"220-b\r\n", b"220 c\r\n"):
            await exchange.send(piece)
            await asyncio.sleep(0.15)  # what the node does is the passing of time

    node = await stage.start_node(slow)
    client = await stage.connect(await start_mail(stage, [node], greeting_timeout="300ms"))
    assert (await client.until(b"220 c\r\n")).startswith(b"220-a\r\n")


async def test_one_deadline_holds_for_all_nodes_together(stage: Stage) -> None:
    nodes = [await stage.start_node(hands_off) for _ in range(8)]
    address = await start_mail(stage, [*nodes], greeting_timeout="200ms", greeting_deadline="300ms")
    client = await stage.connect(address)
    assert await client.rest() == UNAVAILABLE
    assert sum(bool(node.connections) for node in nodes) < 5


async def test_a_refused_or_unanswered_connect_passes_to_the_next_node(stage: Stage) -> None:
    good = await stage.start_node(greeting(GOOD))
    address = await start_mail(
        stage,
        [stage.refusing(), stage.deaf(), good],
        endpoints=[{}, {"priority": 1}, {"priority": 2}],
        timeouts={"connect": "200ms"},
    )
    client = await stage.connect(address)
    assert await client.until(b"\r\n") == GOOD


async def test_without_any_node_the_client_is_told_even_if_it_has_spoken(stage: Stage) -> None:
    client = await stage.connect(await start_mail(stage, [stage.refusing()]))
    await client.send(b"EHLO me\r\n" * 100)
    assert await client.rest() == UNAVAILABLE
    assert client.ended == "eof"


async def test_a_client_that_talks_before_the_greeting_keeps_its_bytes(stage: Stage) -> None:
    node = await stage.start_node(hands_off)
    client = await stage.connect(await start_mail(stage, [node]))
    await client.send(b"EHLO eager\r\n")
    server = await node.connected()
    await settle()
    assert bytes(server.received) == b""
    await server.send(GREETING)
    assert await client.until(b"\r\n") == GREETING
    assert await server.until(b"\r\n") == b"EHLO eager\r\n"


async def test_a_client_that_has_spoken_and_ended_is_still_served(stage: Stage) -> None:
    node = await stage.start_node(hands_off)
    client = await stage.connect(await start_mail(stage, [node]))
    await client.send(b"QUIT\r\n")
    client.half_close()
    server = await node.connected()
    await server.send(GREETING)
    assert await server.rest() == b"QUIT\r\n"
    await server.send(b"221 bye\r\n")
    server.close()
    assert await client.rest() == GREETING + b"221 bye\r\n"


async def test_a_client_that_is_gone_before_the_greeting_leaves_nothing_behind(stage: Stage) -> None:
    node = await stage.start_node(hands_off)
    client = await stage.connect(await start_mail(stage, [node]))
    server = await node.connected()
    client.reset()
    assert await server.ends_within(5)
    forwarder = stage.workers[0].services["mail"]
    assert not forwarder.open
    assert [endpoint.active for endpoint in forwarder.groups[0].endpoints] == [0]


async def test_plain_tcp_is_forwarded_blindly(stage: Stage) -> None:
    node = await stage.start_node(hands_off)
    client = await stage.connect(await stage.start_proxy([node], protocol="tcp"))
    server = await node.connected()
    await client.send(b"\x00\xff")
    assert await server.exactly(2) == b"\x00\xff"
    await server.send(b"421 as it is")
    assert await client.exactly(12) == b"421 as it is"


async def test_plain_tcp_without_a_node_is_closed_without_a_word(stage: Stage) -> None:
    client = await stage.connect(await stage.start_proxy([stage.refusing()], protocol="tcp"))
    assert await client.rest() == b""


async def test_a_good_session_is_counted_where_it_is(stage: Stage) -> None:
    client, server, _ = await session(stage)
    (endpoint,) = stage.workers[0].services["mail"].groups[0].endpoints
    assert (endpoint.active, endpoint.tunnels, endpoint.total) == (1, 1, 1)
    client.close()
    assert await server.rest() == b""
    server.close()
    await settle()
    assert (endpoint.active, endpoint.tunnels, endpoint.total) == (0, 0, 1)
