"""What live traffic says of nodes, as clients see it: those that fail are left out by all workers."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.health_stage import NEVER, Stage, names, pairs, staged, statuses
from tests.e2e.scripted_node import Node, until


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


def errs(node: Node) -> None:
    """Answer 503 to everything but probes."""
    node.status = 503


def resets(node: Node) -> None:
    """Reset whoever asks for anything but probes."""
    node.resets = True


sick_ways = pytest.mark.parametrize("falls_sick", [errs, resets], ids=["503", "reset"])


def ejections(stage: Stage) -> list[float]:
    """How long each ejection lasts, in the order of the log, seconds."""
    return [float(text) for text in re.findall(r"left out for (\S+) s", stage.log)]


@sick_ways
async def test_a_node_that_fails_all_but_probes_is_left_out_for_a_growing_time(
    stage: Stage, falls_sick: Callable[[Node], None]
) -> None:
    sick, *_ = await stage.add("sick", "one", "two")
    await stage.start(outliers='ejection = "200ms"\nlongest = "20s"')
    async with stage.load(3) as answers:
        await until(lambda: "sick" in names(answers))
        falls_sick(sick)
        sick.times.clear()
        await stage.expect("left out for 0.8 s")
        ends = time.monotonic() + 0.8
        await until(lambda: sick.times[-1] > ends)
        begun = len(answers)
        await until(lambda: len(answers) > begun + 50)
    assert statuses(answers) == {200}
    assert sorted(set(ejections(stage)))[:3] == [0.2, 0.4, 0.8]
    gaps = [later - earlier for earlier, later in pairwise(sick.times)]
    assert max(gaps) > 0.7  # nobody went there in between, from either worker
    assert len(sick.times) < 60 + len(answers) / 50


@pairs
async def test_no_more_nodes_are_left_out_for_errors_than_allowed(stage: Stage, workers: int) -> None:
    for node in await stage.add("sick1", "sick2", "one", "two"):
        node.status = 503 if node.name.startswith("sick") else 200
    await stage.start(outliers='ejection = "10s"\nmax_ejected = 25', probe=NEVER, workers=workers)
    async with stage.load(4) as answers:
        await stage.expect("left out for")
        most, enough = 0, len(answers) + 300
        while len(answers) < enough:
            most = max(most, sum(one["ejected"] for one in (await stage.look()).values()))
    assert most == 1
    assert statuses(answers) <= {200, 503}


@pytest.mark.parametrize(
    ("falls_sick", "status"), [(errs, 503), (resets, 502)], ids=["its own 503", "a reset"]
)
async def test_a_node_that_is_alone_gets_every_request_however_sick(
    stage: Stage, falls_sick: Callable[[Node], None], status: int
) -> None:
    (alone,) = await stage.add("alone")
    falls_sick(alone)
    await stage.start(outliers="failures = 1", probe=NEVER)
    answers = await stage.ask(20)
    assert statuses(answers) == {status}
    assert alone.requests == 20
    assert names(answers) == ({"alone"} if status == 503 else {""})
    alone.status, alone.resets = 200, False
    assert statuses(await stage.ask(4)) == {200}


async def test_a_node_that_is_alone_and_takes_no_connection_is_still_tried(stage: Stage) -> None:
    (alone,) = await stage.add("alone")
    await stage.start(probe=NEVER)
    await alone.stop()
    assert statuses(await stage.ask(10)) == {502}
    await alone.start()
    assert statuses(await stage.ask(4)) == {200}
