"""Full endpoints: who waits, in which order, how long, and that every place comes back."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import OK, post, request
from tests.integration.nodes import Exchange, Script
from tests.integration.wire import Wire, settle

ONE_AT_ONCE = [{"max_connections": 1}]


def gated(gate: asyncio.Semaphore) -> Script:
    """Answer each request when the gate lets it."""

    async def script(exchange: Exchange) -> None:
        while True:
            await exchange.request()
            await gate.acquire()
            await exchange.send(OK)

    return script


async def asks(stage: Stage, proxy: str, target: str) -> Wire:
    """A new client whose request has arrived at the proxy."""
    client = await stage.connect(proxy)
    await client.send(request(target))
    await settle()
    return client


async def test_requests_wait_for_a_place_and_get_it_in_their_order(stage: Stage) -> None:
    gate = asyncio.Semaphore(0)
    node = await stage.start_node(gated(gate))
    proxy = await stage.start_proxy([node], endpoints=ONE_AT_ONCE)
    clients = [await asks(stage, proxy, f"/{number}") for number in range(6)]
    for number, client in enumerate(clients):
        assert (await node.requested(number + 1)).target == f"/{number}".encode()
        await settle()
        assert len(node.requests) == number + 1
        gate.release()
        assert (await client.answer()).status == 200


async def test_a_waiting_request_takes_whichever_place_is_free_first(stage: Stage) -> None:
    gates = [asyncio.Semaphore(0), asyncio.Semaphore(0)]
    nodes = [await stage.start_node(gated(gate)) for gate in gates]
    proxy = await stage.start_proxy(nodes, endpoints=ONE_AT_ONCE * 2)
    for number in range(2):
        await asks(stage, proxy, f"/{number}")
    waiting = await asks(stage, proxy, "/waiting")
    assert [len(node.requests) for node in nodes] == [1, 1]
    gates[1].release()
    await nodes[1].requested(2)
    gates[1].release()
    assert (await waiting.answer()).status == 200
    assert b"/waiting" in nodes[1].targets


async def test_a_waiting_body_reaches_the_node_whole(stage: Stage) -> None:
    gate = asyncio.Semaphore(0)
    node = await stage.start_node(gated(gate))
    proxy = await stage.start_proxy([node], endpoints=ONE_AT_ONCE)
    await asks(stage, proxy, "/first")
    client = await stage.connect(proxy)
    body = bytes(range(256)) * 1024
    await client.send(post("/second", body))
    for _ in range(2):
        gate.release()
    assert (await client.answer()).status == 200
    assert node.requests[1].body == body


async def test_a_request_that_finds_the_queue_full_gets_503_and_learns_when_to_come_back(
    stage: Stage,
) -> None:
    gate = asyncio.Semaphore(0)
    node = await stage.start_node(gated(gate))
    proxy = await stage.start_proxy([node], endpoints=ONE_AT_ONCE, queue={"size": 1, "retry_after": "7s"})
    served, waiting = [await asks(stage, proxy, target) for target in ("/served", "/waiting")]
    reply = await (await asks(stage, proxy, "/refused")).answer()
    assert (reply.status, reply.value("Retry-After")) == (503, b"7")
    for client in (served, waiting):
        gate.release()
        assert (await client.answer()).status == 200
    assert node.targets == [b"/served", b"/waiting"]


async def test_a_request_that_waits_too_long_gets_503_and_reaches_no_node(stage: Stage) -> None:
    gate = asyncio.Semaphore(0)
    node = await stage.start_node(gated(gate))
    proxy = await stage.start_proxy([node], endpoints=ONE_AT_ONCE, queue={"timeout": "150ms"})
    served = await asks(stage, proxy, "/served")
    waiting = await asks(stage, proxy, "/waiting")
    reply = await waiting.answer()
    assert reply.status == 503
    assert reply.value("Retry-After")
    gate.release()
    assert (await served.answer()).status == 200
    assert node.targets == [b"/served"]


async def test_a_client_that_leaves_the_queue_takes_no_place(stage: Stage) -> None:
    gate = asyncio.Semaphore(0)
    node = await stage.start_node(gated(gate))
    proxy = await stage.start_proxy([node], endpoints=ONE_AT_ONCE, queue={"size": 2})
    served, leaving, staying = [await asks(stage, proxy, name) for name in ("/served", "/leaves", "/stays")]
    leaving.reset()
    await settle()
    later = await asks(stage, proxy, "/later")  # there is room in the queue again
    for client in (served, staying, later):
        gate.release()
        assert (await client.answer()).status == 200
    assert node.targets == [b"/served", b"/stays", b"/later"]


async def acting(exchange: Exchange) -> None:
    """Do what the target says."""
    while True:
        target = (await exchange.request()).target
        if target == b"/close":
            exchange.wire.close()
        elif target == b"/reset":
            exchange.wire.reset()
        elif target != b"/hang":
            await exchange.send(ANSWERS.get(target, OK))


ANSWERS = {
    b"/rubbish": b"rubbish\r\n\r\n",
    b"/half": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    b"/switch": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}
SWITCH = request("/switch", "Connection: Upgrade", "Upgrade: websocket")
BAD_BODY = b"POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n"
OPEN_BODY = b"POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"


@pytest.mark.parametrize(
    ("raw", "leave"),
    [
        (request("/"), "stay"),
        (post("/close"), "stay"),
        (post("/reset"), "stay"),
        (post("/rubbish"), "stay"),
        (post("/hang"), "stay"),
        (post("/hang"), "reset"),
        (post("/hang"), "close"),
        (request("/hang") * 3, "reset"),
        (request("/half"), "stay"),
        (request("/half"), "reset"),
        (BAD_BODY, "stay"),
        (OPEN_BODY, "stay"),
        (OPEN_BODY, "reset"),
        (SWITCH, "reset"),
        (SWITCH, "close"),
        (SWITCH, "stay"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.split(b" ")[1].decode(),
)
async def test_a_place_is_free_again_however_a_request_ended(stage: Stage, raw: bytes, leave: str) -> None:
    node = await stage.start_node(acting)
    quick = {name: "150ms" for name in ("response_head", "response", "body", "client_gone", "tunnel")}
    proxy = await stage.start_proxy([node], endpoints=ONE_AT_ONCE, timeouts=quick, retry={"tries": 1})
    for _ in range(3):
        client = await asks_raw(stage, proxy, raw)
        if leave != "stay":
            getattr(client, leave)()
        good = await asks(stage, proxy, "/good")
        assert (await good.answer()).status == 200


async def asks_raw(stage: Stage, proxy: str, raw: bytes) -> Wire:
    """A new client whose bytes have arrived at the proxy."""
    client = await stage.connect(proxy)
    await client.send(raw)
    await settle()
    return client
