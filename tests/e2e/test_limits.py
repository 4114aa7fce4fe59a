"""Limits and loads that hold for all workers together, measured at the nodes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.health_stage import Stage, pairs, staged, statuses
from tests.e2e.scripted_node import SLOW, until


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


LIMIT = 5
FIVE_EACH = {name: f"max_connections = {LIMIT}" for name in ("one", "two")}
QUEUE_S = 5.0  # the default


@pairs
async def test_no_node_ever_has_more_requests_than_its_limit_and_everybody_is_served(
    stage: Stage, workers: int
) -> None:
    for node in await stage.add("one", "two"):
        node.delay_s = lambda: random.uniform(0.02, 0.05)
    await stage.start(node=FIVE_EACH, workers=workers)
    async with stage.load(60) as answers:
        await until(lambda: len(answers) >= 240)
        for _ in range(3):
            await stage.reload()
            before = len(answers)
            await until(lambda: len(answers) >= before + 60)  # noqa: B023 - awaited here
    assert [node.most_open for node in stage.nodes] == [LIMIT, LIMIT]
    assert statuses(answers) == {200}


async def test_a_limit_of_one_is_shared_by_two_workers_and_nobody_starves(stage: Stage) -> None:
    (node,) = await stage.add("one")
    node.delay_s = lambda: 0.01
    await stage.start(node={"one": "max_connections = 1"})
    async with stage.load(16) as answers:
        await until(lambda: len(answers) >= 120)
    assert node.most_open == 1
    assert statuses(answers) == {200}
    assert max(answer.took_s for answer in answers) < QUEUE_S / 2


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in turn"])
async def test_long_requests_are_spread_evenly_by_least_connections(stage: Stage, at_once: bool) -> None:
    nodes = await stage.add("one", "two", "three", "four")
    await stage.start(service='balance = "least_connections"')
    async with asyncio.TaskGroup() as group:
        for number in range(1, 41):
            group.create_task(stage.get(SLOW))
            if not at_once:
                await until(lambda: sum(node.open for node in nodes) >= number)  # noqa: B023
        await until(lambda: sum(node.open for node in nodes) == 40)
        loads = [node.open for node in nodes]
        for node in nodes:
            node.go_on.set()
    assert max(loads) - min(loads) <= 4, loads


async def send(stage: Stage, clients: list[asyncio.StreamWriter]) -> None:
    """Have these clients ask for SLOW one by one, each once all workers can know of those before."""
    for client in clients:
        before = told(await stage.look())
        client.write(f"GET {SLOW} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await stage.see(lambda seen: told(seen) > before)  # noqa: B023 - awaited here


def told(seen: dict[str, dict[str, Any]]) -> int:
    """How many open requests the workers have told of."""
    return sum(int(one["gauges"]["active"]) for one in seen.values())


async def test_a_worker_sees_what_the_other_one_has_open(stage: Stage) -> None:
    busy, *idle = nodes = await stage.add("busy", "two", "three", "four")
    await stage.start(service='balance = "least_connections"')
    first, second = await stage.kept(64)
    await send(stage, first[:16])
    assert [node.open for node in nodes] == [4, 4, 4, 4]
    for node in idle:
        node.go_on.set()
    await stage.see(lambda seen: told(seen) == 4)
    for node in idle:
        node.go_on.clear()
    await send(stage, second[:12])
    assert busy.open <= 5, [node.open for node in nodes]  # three more, if it knew its own ones only
