"""Generations over workers that are told what to do by the test: starts, deaths, hangs and ends."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.unit.told import told
from trackproxy.board import Board, Process
from trackproxy.control import generation as module
from trackproxy.control.generation import HANG_S, OVERSLEPT_S, START_S, Generation
from trackproxy.control.listeners import Listeners
from trackproxy.control.views import View
from trackproxy.errors import StartFailed
from trackproxy.settings import load

SETTINGS = load(
    None,
    {
        "nodes": {"a": {"address": "127.0.0.1:9"}},
        "services": {"web": {"protocol": "http", "listen": ["127.0.0.1:0"]}},
    },
)


class FakeWorker:
    """A worker that does nothing by itself, but dies when it is killed. told: its orders."""

    pid = 0

    def __init__(self) -> None:
        self.ready, self.closed = asyncio.Event(), asyncio.Event()
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_suspect: Callable[[int], None] = lambda index: None
        self.told: list[str] = []

    def retire(self, grace_s: float) -> None:
        self.told.append(f"retire {grace_s:g}")

    def stop(self, grace_s: float) -> None:
        self.told.append(f"stop {grace_s:g}")

    def end(self) -> None:
        self.told.append("end")

    def reopen(self) -> None:
        self.told.append("reopen")

    def kill(self) -> None:
        assert not self.death.done(), "its process id may be another's by now"
        self.told.append("kill")
        self.death.set_result("was killed by SIGKILL")


class Manned(Generation):
    """A generation of fake workers. born: all that were ever started."""

    def __init__(self, count: int, *, ready: bool = True) -> None:
        listeners = Listeners()
        listeners.services = {"web": []}
        super().__init__(1, SETTINGS, View(Board.create(0, count), [], SETTINGS), listeners, count)
        self.born: list[FakeWorker] = []
        self._ready = ready

    async def _start_one(self, number: int) -> FakeWorker:
        worker = FakeWorker()
        if self._ready:
            worker.ready.set()
        self.born.append(worker)
        return worker

    def beat(self, *numbers: int) -> None:
        for number in numbers:
            self.view.board.process(number)[Process.HEARTBEAT] += 1

    def watch(self, seconds: float, *beating: int, start: float = 100.0) -> None:
        """Look once a second while the workers of these numbers beat."""
        for second in range(int(seconds) + 1):
            self.beat(*beating)
            self.watch_beats(start + second)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATE_S", 0.01)
    monkeypatch.setattr(module, "GIVE_UP_S", 0.01)


async def soon(fact: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while not fact():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0)


async def over(generation: Generation) -> None:
    async with asyncio.timeout(10):
        await generation.over.wait()


async def gives_up(generation: Generation) -> None:
    async with asyncio.timeout(10):
        await generation.give_up()


# --- starts ---


async def test_a_worker_that_ends_before_it_serves_is_why_the_start_fails_and_none_stays() -> None:
    generation = Manned(2, ready=False)
    starting = asyncio.create_task(generation.start())
    await soon(lambda: len(generation.born) == 2)
    generation.born[0].ready.set()
    generation.born[1].death.set_result("ended with exit code 1")
    with pytest.raises(StartFailed, match="a worker ended with exit code 1 before it could serve"):
        await starting
    await gives_up(generation)
    assert all(worker.death.done() for worker in generation.born)


async def test_a_start_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_S", 0.01)
    generation = Manned(1, ready=False)
    with pytest.raises(StartFailed, match=r"workers do not start: not ready within 0\.01 s"):
        await generation.start()
    await gives_up(generation)
    assert generation.born[0].told == ["stop 0.01", "kill"]


# --- deaths and hangs ---


async def test_a_worker_that_dies_is_replaced_and_one_of_a_retired_generation_is_not() -> None:
    generation = Manned(1)
    await generation.start()
    generation.born[0].death.set_result("was killed by SIGSEGV")
    await soon(lambda: len(generation.born) == 2)
    generation.retire(60)
    generation.born[1].death.set_result("ended")
    await over(generation)
    assert len(generation.born) == 2


async def test_only_a_worker_whose_heart_stands_still_is_killed() -> None:
    generation = Manned(2)
    await generation.start()
    generation.watch(HANG_S + 1, 0)
    assert [worker.told for worker in generation.born[:2]] == [[], ["kill"]]
    generation.end()


async def test_a_replacement_that_never_serves_is_killed_too() -> None:
    generation = Manned(1)
    await generation.start()
    generation._ready = False
    generation.born[0].death.set_result("was killed by SIGKILL")
    await soon(lambda: len(generation.born) == 2)
    generation.watch(START_S)
    assert generation.born[1].told == []
    generation.watch(1, start=100 + START_S + 1)
    assert generation.born[1].told == ["kill"]
    generation.end()


async def test_a_replacement_is_not_judged_by_the_heart_of_the_one_before() -> None:
    generation = Manned(1)
    await generation.start()
    generation.watch(HANG_S - 1)
    generation.born[0].death.set_result("was killed by SIGKILL")
    await soon(lambda: len(generation.born) == 2)
    generation.watch(HANG_S - 1, start=100 + HANG_S)
    assert generation.born[1].told == []
    generation.end()


async def test_a_supervisor_that_has_slept_itself_kills_nobody() -> None:
    generation = Manned(1)
    await generation.start()
    generation.watch(1)
    generation.watch(HANG_S - 1, start=101 + OVERSLEPT_S + HANG_S)
    assert generation.born[0].told == []
    generation.end()


# --- ends ---


async def test_who_does_not_end_in_time_is_killed_and_who_has_ended_is_left_alone() -> None:
    generation = Manned(2)
    await generation.start()
    generation.retire(0.01)
    generation.born[0].death.set_result("ended with exit code 0")
    await over(generation)
    assert [worker.told for worker in generation.born] == [["retire 0.01"], ["retire 0.01", "kill"]]


async def test_a_second_order_to_end_may_shorten_the_first_but_never_lengthen_it() -> None:
    generation = Manned(1)
    await generation.start()
    generation.retire(3600)
    await asyncio.sleep(0)
    generation.stop(0.01)
    generation.stop(7200)
    await over(generation)
    assert generation.born[0].told == ["retire 3600", "stop 0.01", "stop 7200", "kill"]


async def test_workers_that_have_ended_are_buried_while_others_go_on() -> None:
    generation = Manned(2)
    await generation.start()
    generation.view.board.process(0)[Process.LATE_WORST_US] = 7
    generation.retire(3600)
    generation.born[0].death.set_result("ended")
    await soon(lambda: generation.view.gone == {0})
    assert generation.view.board.process(0)[Process.LATE_WORST_US] == 0
    assert not generation.over.is_set()
    generation.born[1].death.set_result("ended")
    await over(generation)


async def test_closed_waits_for_those_that_live_alone() -> None:
    generation = Manned(2)
    await generation.start()
    generation.retire(3600)
    waiting = asyncio.create_task(generation.closed())
    generation.born[0].closed.set()
    await asyncio.sleep(0)
    assert not waiting.done()
    generation.born[1].death.set_result("ended")
    async with asyncio.timeout(10):
        await waiting
    generation.born[0].death.set_result("ended")
    await over(generation)


def test_a_worker_loads_nothing_that_only_others_need() -> None:
    code = "import sys, trackproxy.worker_process; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "trackproxy.http.service" in loaded
    assert not {"aiohttp", "cryptography", "typer", "tomllib"} & {*loaded}


async def test_deaths_and_successors_of_workers_are_events(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    generation = Manned(2)
    await generation.start()
    generation.watch(HANG_S + 1, 0)
    await soon(lambda: len(generation.born) == 3)
    second = {"worker": 2, "generation": 1}
    assert told(caplog, "worker") == [
        {"level": "error", "state": "killed", "reason": "it has hung"} | second,
        {"level": "error", "state": "died", "reason": "was killed by SIGKILL"} | second,
        {"level": "info", "state": "started"} | second,
    ]
    await gives_up(generation)


async def test_events_of_workers_are_passed_on_with_whose_they_are() -> None:
    heard: list[tuple[bytes, dict[str, int]]] = []
    generation = Manned(2)
    generation.on_event = lambda line, origin: heard.append((line, dict(origin)))
    generation._pass_event(1, b"{}")
    assert heard == [(b"{}", {"worker": 2, "generation": 1})]
