"""What a reload keeps: health, operators' decisions and counters; and that counters never run backwards."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.health_stage import NEVER, Stage, names, pairs, staged, statuses
from tests.e2e.scripted_node import SLOW, until


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


async def test_a_node_that_is_down_stays_down_over_a_reload_without_a_probe(stage: Stage) -> None:
    sick, _ = await stage.add("sick", "other")
    await stage.start()
    sick.probe_status = 503
    await stage.health("sick", "down")
    stage.write(probe=NEVER)
    await stage.left_alone(sick)
    await stage.reload()
    sick.seen.clear()
    assert (await stage.look())["sick"]["health"] == "down"
    assert names(await stage.ask(20)) == {"other"}
    assert sick.seen == []


async def test_what_operators_want_outlives_a_reload(stage: Stage) -> None:
    drained, disabled, _ = await stage.add("drained", "disabled", "other")
    await stage.start()
    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(stage.get(SLOW))
        await until(lambda: drained.open)
        await asyncio.to_thread(stage.client.drain, "drained", "30s", "keep")
        await asyncio.to_thread(stage.client.disable, "disabled")
        await stage.left_alone(disabled)
        await stage.reload()
        states = {name: one["state"] for name, one in (await stage.look()).items()}
        assert states == {"drained": "drain", "disabled": "disabled", "other": "ready"}
        assert names(await stage.ask(20)) == {"other"}
        for node in stage.nodes:
            node.go_on.set()


class Counts:
    """Looks at the totals of all nodes again and again; they must never be less than before."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._before: dict[tuple[str, str], int] = {}
        self.looks = 0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            seen = await self._stage.look()
            now = {(name, kind): n for name, one in seen.items() for kind, n in one["totals"].items()}
            back = {key: (was, now[key]) for key, was in self._before.items() if now[key] < was}
            assert not back, f"ran backwards at look {self.looks}: {back}"
            self._before = now
            self.looks += 1
            await asyncio.sleep(0.002)


async def watched(counts: Counts, work: Any) -> None:
    """Do the work while the counts are looked at."""
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(counts.run())
        await work
        looking.cancel()


def total(seen: dict[str, dict[str, Any]], kind: str) -> int:
    return sum(one["totals"][kind] for one in seen.values())


@pairs
async def test_counters_go_on_over_reloads_and_equal_what_clients_have_counted(
    stage: Stage, workers: int
) -> None:
    await stage.add("one", "two")
    await stage.start(workers=workers)
    counts = Counts(stage)

    async def reloads() -> None:
        for _ in range(5):
            await stage.reload()
            before = counts.looks
            await until(lambda: counts.looks > before + 3)  # noqa: B023 - awaited here

    async with stage.load(2) as answers:
        await watched(counts, reloads())
    assert statuses(answers) == {200}
    await stage.expect(r"generation \d has ended", 5)
    seen = await stage.see(lambda seen: total(seen, "requests") >= len(answers))
    assert total(seen, "requests") == total(seen, "status_2xx") == len(answers)
    assert total(seen, "requests") == sum(node.requests for node in stage.nodes)


async def test_counters_never_run_backwards_when_a_worker_is_killed(stage: Stage) -> None:
    await stage.add("one", "two")
    await stage.start()
    counts = Counts(stage)

    async def kill() -> None:
        os.kill(stage.serving()[0], signal.SIGKILL)
        await stage.expect("another one starts")
        before = counts.looks
        await until(lambda: counts.looks > before + 30)
        await stage.reload()

    async with stage.load(2) as answers:
        await watched(counts, kill())
    assert statuses(answers) <= {0, 200}  # 0: what the killed one had on its way
    good = sum(answer.status == 200 for answer in answers)
    seen = await stage.look()
    assert good - 60 <= total(seen, "status_2xx") <= sum(node.requests for node in stage.nodes)


async def test_clients_notice_no_reload_while_a_node_is_left_out(stage: Stage) -> None:
    sick, *_ = await stage.add("sick", "one", "two")
    sick.status = 503
    await stage.start(outliers='ejection = "10s"', probe=NEVER)
    async with stage.load(2) as answers:
        await stage.expect("left out for")
        await stage.reload()
        before = len(answers)
        await until(lambda: len(answers) > before + 100)
    assert statuses(answers) == {200}
    assert sick.requests < 60  # five in a row at each worker of each generation, and what was on its way
