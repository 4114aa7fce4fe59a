"""GET /metrics of a trackproxy with workers: exact, never backwards, and nothing that a worker hears of."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.health_stage import Stage, staged, statuses
from tests.e2e.scripted_node import until
from tests.unit.test_metrics import Samples, samples

OWN = {"service": "web", "route": ""}
SCRAPE_S = 5.0


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


async def scrape(stage: Stage) -> Samples:
    """What an answer over the control socket says."""
    connector = aiohttp.UnixConnector(str(stage.client.place))
    timeout = aiohttp.ClientTimeout(SCRAPE_S)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.get("http://localhost/metrics") as answer,
    ):
        assert answer.status == 200
        return samples(await answer.read())


def added(found: Samples, name: str, **labels: str) -> float:
    """The sum over all that has these labels."""
    return sum(
        number
        for (one, own), number in found.items()
        if one == f"trackproxy_{name}" and labels.items() <= dict(own).items()
    )


async def seen(stage: Stage, count: int, name: str, **labels: str) -> Samples:
    """Scrape until so many have been counted."""
    found: Samples = {}
    for _ in range(400):
        found = await scrape(stage)
        if added(found, name, **labels) >= count:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name}: {added(found, name, **labels)}, not {count}")


class Scrapes:
    """Scrapes again and again; no counter may ever be less than before, nor disappear."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._before: Samples = {}
        self.count = 0

    async def run(self) -> None:
        """Scrape until cancelled."""
        while True:
            found = await scrape(self._stage)
            now = {what: number for what, number in found.items() if _only_grows(what[0], dict(what[1]))}
            back = {
                what: (was, now.get(what)) for what, was in self._before.items() if now.get(what, -1) < was
            }
            assert not back, f"scrape {self.count}: {back}"
            self._before = now
            self.count += 1
            await asyncio.sleep(0)

    async def go_on(self) -> None:
        before = self.count
        await until(lambda: self.count > before + 3)


def _only_grows(name: str, labels: dict[str, str]) -> bool:
    """Those of single workers end with these."""
    return name.endswith(("_total", "_count", "_sum", "_bucket")) and "worker" not in labels


async def test_what_clients_got_is_counted_exactly_over_workers_reloads_and_a_kill(stage: Stage) -> None:
    await stage.add("one", "two")
    await stage.start(workers=2)
    scrapes = Scrapes(stage)
    async with asyncio.TaskGroup() as group:
        scraping = group.create_task(scrapes.run())
        async with stage.load(3) as answers:
            for _ in range(2):
                await stage.reload()
                await scrapes.go_on()
            os.kill(stage.serving()[0], signal.SIGKILL)
            await stage.expect("another one starts")
            await scrapes.go_on()
            await stage.reload()
            await scrapes.go_on()
        scraping.cancel()
    assert statuses(answers) <= {0, 200}  # 0: what the killed one had on its way
    good = sum(answer.status == 200 for answer in answers)
    found = await scrape(stage)
    assert good <= added(found, "requests_total", method="GET", **OWN, **{"class": "2xx"}) <= len(answers)
    assert added(found, "requests_total") == added(found, "requests_total", **{"class": "2xx"})
    assert good <= added(found, "endpoint_duration_seconds_count") <= len(answers)
    assert added(found, "worker_deaths_total") == 1
    assert added(found, "config_reloads_total", result="ok") == 3


async def test_counters_go_on_over_an_upgrade_and_equal_what_clients_have_counted(stage: Stage) -> None:
    await stage.add("one", "two")
    await stage.start(workers=2)
    await stage.ask(20)
    await stage.reload()
    assert stage.process is not None
    stage.process.send_signal(signal.SIGUSR2)
    await stage.expect("upgraded: generation")
    await stage.ask(20)
    found = await seen(stage, 40, "endpoint_tries_total")
    for name in ("requests_total", "endpoint_responses_total", "endpoint_tries_total", "connections_total"):
        assert added(found, name) == 40, name
    assert added(found, "endpoint_first_byte_seconds_count") == 40
    assert added(found, "config_reloads_total", result="ok") == 1
    await stage.expect(r"generation \d has ended", 2)
    assert added(await scrape(stage), "requests_total") == 40


async def test_failures_and_what_became_of_them_are_told(stage: Stage) -> None:
    (node,) = await stage.add("one")
    await stage.start(workers=2)
    await stage.ask(3)
    node.status = 404
    await stage.ask(2)
    await node.stop()
    assert statuses(await stage.ask(4)) <= {502, 503}
    found = await seen(stage, 4, "requests_total", **{"class": "5xx"})
    assert added(found, "requests_total", **{"class": "2xx"}) == 3
    assert added(found, "requests_total", **{"class": "4xx"}) == 2
    refused = added(found, "refused_total", cause="failed") + added(found, "refused_total", cause="no_node")
    assert refused == 4
    assert added(found, "endpoint_failures_total", cause="connect") >= 1


async def test_a_scrape_needs_no_worker(stage: Stage) -> None:
    """They are stopped, and it is answered all the same."""
    await stage.add("one")
    await stage.start(workers=2)
    await stage.ask(5)
    workers = stage.serving()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        found = await scrape(stage)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    assert added(found, "requests_total") == 5
    assert added(found, "workers") == 2


async def test_each_process_is_told_of(stage: Stage) -> None:
    await stage.add("one")
    await stage.start(workers=2)
    await stage.ask(3)
    found = await scrape(stage)
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"):
        told = [labels for one, labels in found if one == f"trackproxy_process_{name}"]
        assert [dict(labels)["process"] for labels in told] == ["supervisor", "worker", "worker"]
        assert all(found[f"trackproxy_process_{name}", labels] > 0 for labels in told)
    assert added(found, "event_loop_lag_seconds_count") > 0
    assert added(found, "build_info") == 1
