"""Drains that go on after a restart, and what is told when one has come to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.told import told as events
from trackproxy.board import Counter, Process
from trackproxy.control import drain as module
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drains
from trackproxy.health.probes import open_session
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import load

COOKIE = {"mode": "cookie", "secrets": ["0123456789abcdef0123456789abcdef"]}


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    async with open_session() as session:
        cluster = Cluster(tmp_path, session)
        yield cluster
        cluster.stop()


@pytest.fixture(autouse=True)
async def beating(cluster: Cluster) -> AsyncIterator[Beating]:
    """Workers whose hearts beat; all of them have followed soon."""
    beating = Beating(cluster)
    task = asyncio.create_task(beating.run())
    yield beating
    task.cancel()


class Beating:
    """The hearts of all workers. late: numbers of those that stand still."""

    def __init__(self, cluster: Cluster) -> None:
        self.late: set[int] = set()
        self._cluster = cluster

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            for view in self._cluster.views:
                for number in {*range(view.board.workers)} - self.late:
                    view.board.process(number)[Process.HEARTBEAT] += 1
            await asyncio.sleep(0.005)


async def serve(cluster: Cluster, workers: int = 1, **more: Any) -> None:
    service = {"protocol": "http", "listen": ["127.0.0.1:0"], "probe": {"type": "off"}, **more}
    nodes = {"a": {"address": "127.0.0.1:9"}}
    cluster.adopt(await cluster.view(load(None, {"nodes": nodes, "services": {"web": service}}), workers))


async def over(drains: Drains) -> None:
    async with asyncio.timeout(5):
        await drains.of["a"].over.wait()


async def test_a_drain_that_goes_on_waits_for_clients_that_may_have_our_cookie(cluster: Cluster) -> None:
    await serve(cluster, sticky=COOKIE)
    drains = Drains(cluster)
    drain = drains.begin("a", 0.3, resumed=True)
    await over(drains)
    assert asyncio.get_running_loop().time() >= drain.deadline


@pytest.mark.parametrize(
    ("service", "how"),
    [
        ({}, {"resumed": True}),
        ({"sticky": COOKIE}, {}),
        ({"sticky": COOKIE}, {"sticky": "move", "resumed": True}),
    ],
    ids=["no cookies", "nobody has one", "they move"],
)
async def test_else_it_ends_once_the_node_is_empty(
    cluster: Cluster, service: dict[str, Any], how: dict[str, Any]
) -> None:
    await serve(cluster, **service)
    drains = Drains(cluster)
    drain = drains.begin("a", 600.0, **how)
    await over(drains)
    assert drain.outcome == "empty"


async def test_it_does_not_end_before_a_worker_has_followed_that_is_late(
    cluster: Cluster, beating: Beating
) -> None:
    await serve(cluster, workers=2)
    beating.late = {1}
    drain = Drains(cluster).begin("a", 600.0)
    await asyncio.wait({asyncio.create_task(drain.over.wait())}, timeout=0.1)
    assert drain.outcome is None
    cluster.views[0].board.counters(1, 0)[Counter.ACTIVE] = 1  # what it had begun until then
    beating.late = set()
    await asyncio.wait({asyncio.create_task(drain.over.wait())}, timeout=0.1)
    assert drain.outcome is None
    cluster.views[0].board.counters(1, 0)[Counter.ACTIVE] = 0
    await asyncio.wait_for(drain.over.wait(), 5)
    assert drain.outcome == "empty"


@pytest.mark.parametrize("replaced", [True, False], ids=["another one follows", "it was not needed any more"])
async def test_a_late_worker_that_dies_is_not_waited_for(
    cluster: Cluster, beating: Beating, replaced: bool
) -> None:
    await serve(cluster, workers=2)
    beating.late = {1}
    drains = Drains(cluster)
    drains.begin("a", 600.0)
    await asyncio.sleep(0)
    view = cluster.views[0]
    (view.board.retire if replaced else view.bury)(1)
    await over(drains)


async def test_a_stop_is_not_the_end_of_a_drain(cluster: Cluster) -> None:
    await serve(cluster, sticky=COOKIE)
    drains, told = Drains(cluster), list[str]()
    drains.on_disabled = told.append
    drain = drains.begin("a", 600.0, resumed=True)
    cluster.leave(cluster.views[0])
    await asyncio.wait({*drains._tasks.values()}, timeout=5)
    assert (drain.outcome, told) == (None, [])
    assert cluster.states["a"] is AdminState.DRAIN


async def test_the_end_of_a_drain_is_told_unless_somebody_decided_otherwise(cluster: Cluster) -> None:
    await serve(cluster)
    drains, told = Drains(cluster), list[str]()
    drains.on_disabled = told.append
    drains.begin("a", 600.0)
    drains.forget("a")
    await over(drains)
    assert told == []
    drains.begin("a", 600.0)
    await over(drains)
    assert told == ["a"]


async def test_each_drain_is_an_event_when_it_begins_and_when_it_ends(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await serve(cluster)
    drains = Drains(cluster)
    begun = {"level": "info", "node": "a", "state": "begun", "sticky": "move"}
    ended = {"level": "info", "node": "a", "state": "ended", "reason": None}
    drains.begin("a", 600.0, "move")
    drains.forget("a")
    assert events(caplog, "drain") == [begun, ended | {"outcome": "ended otherwise"}]
    caplog.clear()
    drains.begin("a", 600.0, "move")
    await over(drains)
    assert events(caplog, "drain") == [begun, ended | {"outcome": "empty"}]
    caplog.clear()
    cluster.set_state("a", AdminState.READY)
    cluster.views[0].board.counters(0, 0)[Counter.ACTIVE] = 2
    drains.begin("a", 0.0, "move")
    await over(drains)
    reason = "2 requests, 0 tunnels, 0 sessions were still open"
    late = {"level": "warning", "outcome": "deadline", "reason": reason}
    assert events(caplog, "drain") == [begun, ended | late]


async def test_a_node_that_is_disabled_already_is_not_said_to_be_drained(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await serve(cluster)
    cluster.set_state("a", AdminState.DISABLED)
    assert Drains(cluster).begin("a", 1.0).outcome == "empty"
    assert events(caplog, "drain") == []
