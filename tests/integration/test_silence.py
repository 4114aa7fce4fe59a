"""Nodes that take requests and never answer: they are probed, and left once they are known to be down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import OK, post, request
from tests.integration.nodes import Exchange, Node, Script, silent
from tests.integration.wire import DEADLINE_S, settle
from tests.unit.memory_stage import board_of
from trackproxy.board import Process, State

IN_ORDER = [{"priority": 0}, {"priority": 1}]
DOWN = 1
SOON = {"silence": "100ms"}


class Supervisor:
    """A board of two endpoints and one worker, and what a supervisor does with it.

    suspects: the endpoints that were to be probed, by their number.
    """

    def __init__(self) -> None:
        self.board = board_of(2, 1)
        self.suspects: list[int] = []
        self._news = asyncio.Event()
        for number in range(2):
            self.board.state(number)[State.WEIGHT] = 1
        self.board.publish()

    def suspect(self, number: int) -> None:
        self.suspects.append(number)
        self._news.set()

    async def suspected(self) -> int:
        """Wait for the next suspect."""
        self._news.clear()
        async with asyncio.timeout(DEADLINE_S):
            await self._news.wait()
        return self.suspects[-1]

    async def say_down(self, number: int) -> None:
        """Say that an endpoint is down, and wait until the worker has read it."""
        self.board.state(number)[State.HEALTH] = DOWN
        self.board.publish()
        seen = self.board.process(0)[Process.HEARTBEAT]
        async with asyncio.timeout(DEADLINE_S):
            while self.board.process(0)[Process.HEARTBEAT] == seen:  # noqa: ASYNC110 - memory tells nobody
                await asyncio.sleep(0)


@pytest.fixture
async def supervisor() -> Supervisor:
    """What there is of a supervisor."""
    return Supervisor()


async def staged(
    stage: Stage, supervisor: Supervisor, first: Script, **service: Any
) -> tuple[str, Node, Node]:
    """A proxy on the supervisor's board that asks the first node as long as it can."""
    node, healthy = await stage.start_node(first), await stage.start_node()
    told: dict[str, Any] = {"board": supervisor.board, "suspect": supervisor.suspect}
    proxy = await stage.start_proxy([node, healthy], endpoints=IN_ORDER, outliers=SOON, **told, **service)
    return proxy, node, healthy


async def test_a_node_that_takes_requests_and_never_answers_is_to_be_probed(
    stage: Stage, supervisor: Supervisor
) -> None:
    proxy, node, healthy = await staged(stage, supervisor, silent)
    client = await stage.connect(proxy)
    await client.send(request("/"))
    await node.requested()
    for _ in range(3):
        assert await supervisor.suspected() == 0
    assert healthy.received == b""
    assert client.received == b""


async def test_what_waits_for_a_node_that_is_down_is_answered_by_another_one_but_a_post_stays(
    stage: Stage, supervisor: Supervisor
) -> None:
    awake = asyncio.Event()

    async def waking(exchange: Exchange) -> None:
        await exchange.request()
        await awake.wait()
        await exchange.send(OK)

    proxy, node, healthy = await staged(stage, supervisor, waking, retry={"budget": 0, "budget_min": 0})
    clients = [await stage.connect(proxy) for _ in range(4)]
    raws = [
        request("/1"),
        request("/2", method="PUT", body=b"hello"),
        request("/3", method="HEAD"),
        post("/4"),
    ]
    for number, (client, raw) in enumerate(zip(clients, raws, strict=True), 1):
        await client.send(raw)
        await node.requested(number)
    await supervisor.suspected()
    await supervisor.say_down(0)
    for client, raw in zip(clients[:3], raws[:3], strict=True):
        assert (await client.answer(raw.split(b" ")[0])).status == 200
    assert sorted(healthy.targets) == [b"/1", b"/2", b"/3"]
    await settle()
    assert clients[3].received == b""
    awake.set()
    assert (await clients[3].answer()).status == 200
    assert sorted(healthy.targets) == [b"/1", b"/2", b"/3"]


async def test_an_answer_that_has_begun_stays_with_a_node_that_is_down(
    stage: Stage, supervisor: Supervisor
) -> None:
    awake = asyncio.Event()

    async def pausing(exchange: Exchange) -> None:
        await exchange.read_and_send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await awake.wait()
        await exchange.send(b"world")

    proxy, _, healthy = await staged(stage, supervisor, pausing)
    reading, waiting = await stage.connect(proxy), await stage.connect(proxy)
    await reading.send(request("/1"))
    await reading.until(b"hello")
    await supervisor.say_down(0)
    await waiting.send(request("/2"))
    assert (await waiting.answer()).status == 200
    assert healthy.targets == [b"/2"]
    assert not await reading.ends_within(0.3)
    awake.set()
    assert await reading.exactly(5) == b"world"


async def test_a_silent_node_that_is_up_all_the_same_keeps_its_requests(
    stage: Stage, supervisor: Supervisor
) -> None:
    proxy, _, healthy = await staged(stage, supervisor, silent, timeouts={"response_head": "400ms"})
    client = await stage.connect(proxy)
    await client.send(request("/"))
    for _ in range(2):
        await supervisor.suspected()
    assert healthy.received == b""
    assert (await client.answer()).status == 200, "its own timeout still moves it"
    assert len(healthy.requests) == 1
