"""Connections to nodes are kept, but neither too many nor too long; and what a drain does."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import OK, answer, post, request
from tests.integration.nodes import Exchange, Node, answering, silent
from tests.integration.wire import settle


def still_open(node: Node) -> int:
    """The connections that the proxy holds to this node."""
    return sum(not wire.ended for wire in node.connections)


async def test_one_connection_serves_many_clients_in_turn(stage: Stage) -> None:
    node = await stage.start_node()
    proxy = await stage.start_proxy([node])
    for _ in range(10):
        client = await stage.connect(proxy)
        await client.send(request("/"))
        assert (await client.answer()).status == 200
    assert len(node.connections) == 1


@pytest.mark.parametrize(
    ("raw", "connections"),
    [
        (answer(body=b"ok"), 1),
        (answer("Connection: keep-alive", body=b"ok"), 1),
        (answer("Connection: close", body=b"ok"), 2),
        (answer("Connection: x, CLOSE", body=b"ok"), 2),
        (answer(body=b"ok", version="1.0"), 2),
        (answer("Connection: Keep-Alive", body=b"ok", version="1.0"), 1),
    ],
    ids=["1.1", "1.1 keep-alive", "1.1 close", "1.1 close in a list", "1.0", "1.0 keep-alive"],
)
async def test_a_connection_is_used_again_exactly_when_the_node_allows_it(
    stage: Stage, raw: bytes, connections: int
) -> None:
    client, node = await stage.through(answering(raw))
    for _ in range(2):
        await client.send(request("/"))
        assert (await client.answer()).body == b"ok"
    assert len(node.connections) == connections


async def test_an_idle_connection_is_given_up_in_time(stage: Stage) -> None:
    client, node = await stage.through(keepalive={"idle": "150ms"})
    await client.send(request("/"))
    assert (await client.answer()).status == 200
    assert await node.connections[0].rest() == b""
    assert node.connections[0].ended == "eof"


async def test_no_more_idle_connections_are_kept_than_allowed(stage: Stage) -> None:
    gate = asyncio.Event()

    async def gated(exchange: Exchange) -> None:
        while True:
            await exchange.request()
            await gate.wait()
            await exchange.send(OK)

    node = await stage.start_node(gated)
    proxy = await stage.start_proxy([node], keepalive={"connections": 2})
    clients = [await stage.connect(proxy) for _ in range(5)]
    for client in clients:
        await client.send(request("/"))
    await node.requested(5)
    gate.set()
    for client in clients:
        assert (await client.answer()).status == 200
    await settle()
    assert still_open(node) == 2


async def test_posts_one_after_the_other_do_not_pile_up_connections(stage: Stage) -> None:
    client, node = await stage.through()
    for _ in range(20):
        await client.send(post("/"))
        assert (await client.answer()).status == 200
    await settle()
    assert still_open(node) <= 2


@pytest.mark.parametrize("count", [1, 3])
async def test_a_request_on_its_way_is_answered_before_the_worker_ends(stage: Stage, count: int) -> None:
    gate = asyncio.Event()

    async def gated(exchange: Exchange) -> None:
        while True:
            await exchange.request()
            await gate.wait()
            await exchange.send(OK)

    node = await stage.start_node(gated)
    proxy = await stage.start_proxy([node])
    clients = [await stage.connect(proxy) for _ in range(count)]
    for client in clients:
        await client.send(request("/"))
    await node.requested(count)
    stopping = asyncio.create_task(stage.workers[0].stop(5.0))
    await settle()
    gate.set()
    for client in clients:
        assert (await client.answer()).body == b"ok"
        await client.rest()
    async with asyncio.timeout(1.0):
        await stopping


async def test_a_request_that_comes_just_after_the_drain_began_is_answered_and_the_last_one(
    stage: Stage,
) -> None:
    client, node = await stage.through()
    await client.send(request("/1"))
    assert (await client.answer()).status == 200
    stopping = asyncio.create_task(stage.workers[0].stop(1.0))
    await asyncio.sleep(0)
    await client.send(request("/2"))
    reply = await client.answer()
    assert (reply.status, reply.value("Connection")) == (200, b"close")
    await client.rest()
    await stopping
    assert node.targets == [b"/1", b"/2"]


async def test_what_takes_longer_than_the_grace_is_ended(stage: Stage) -> None:
    node = await stage.start_node(silent)
    client = await stage.connect(await stage.start_proxy([node]))
    await client.send(request("/"))
    await node.requested()
    async with asyncio.timeout(1.0):
        await stage.workers[0].stop(0.1)
    await client.rest()
    await node.connections[0].rest()
