"""Checkers: when an endpoint is probed, and what becomes of the results. Time is moved, never waited for."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from trackproxy.health.checker import Checker
from trackproxy.health.looking import Result
from trackproxy.health.verdict import Verdict

PASS = Result(True, "200 in 1 ms", 0.001)
FAIL = Result(False, "connection refused", 0.001)
LOCAL = Result(False, "this machine cannot probe: Too many open files", 0.001, local=True)
INTERVAL_S, FAST_S, POKE_S = 2.0, 0.5, 0.1
ROUNDING_S = 1e-6


class JumpingSelector(selectors.DefaultSelector):
    """Where a loop would wait for the time to pass, moves the time instead."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen again"
        self.now += timeout
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop in which hours pass at once."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class Script:
    """A prober that follows a script; the last result repeats. Each probe takes `took_s`.

    started: when each probe began, in seconds since the script was made.
    """

    def __init__(self, *results: Result, took_s: float = 0.01) -> None:
        self._results = list(results) or [PASS]
        self._took_s = took_s
        self._zero = asyncio.get_running_loop().time()
        self._under_way = 0
        self.started: list[float] = []
        self.began = asyncio.Event()

    async def probe(self) -> Result:
        self.started.append(asyncio.get_running_loop().time() - self._zero)
        self.began.set()
        self._under_way += 1
        assert self._under_way == 1, "two probes at once"
        await asyncio.sleep(self._took_s)
        self._under_way -= 1
        return self._results.pop(0) if len(self._results) > 1 else self._results[0]


class Run:
    """A checker that runs; heard: what it has reported."""

    def __init__(self, *results: Result, up: bool = True, took_s: float = 0.01, seed: int = 1) -> None:
        self.prober = Script(*results, took_s=took_s)
        self.verdict = Verdict(rise=2, fall=3, up=up)
        self.heard: list[tuple[Result, bool]] = []
        self.checker = Checker(
            self.prober, self.verdict, (INTERVAL_S, FAST_S), self.hear, random.Random(seed)
        )
        self.task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def hear(self, result: Result, changed: bool) -> None:
        self.heard.append((result, changed))
        self._news.set()

    async def for_s(self, seconds: float) -> None:
        """Let it run for so long, from where it is."""
        self.task = self.task or asyncio.create_task(self.checker.run())
        await asyncio.sleep(seconds)
        assert not self.task.done()

    async def probing(self) -> None:
        """Let it run until its first probe has begun."""
        await self.for_s(0)
        await self.prober.began.wait()

    async def probed(self, count: int = 1) -> float:
        """Let it run until that many probes are over; when the last of them began."""
        await self.for_s(0)
        while len(self.heard) < count:
            self._news.clear()
            await self._news.wait()
        return self.prober.started[count - 1]

    @property
    def pauses_s(self) -> list[float]:
        """From the start of each probe to the start of the next."""
        return [after - before for before, after in pairwise(self.prober.started)]


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene in a loop of its own, and fail if it leaves something undone."""

    async def whole() -> None:
        await scene()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(whole())


def test_the_first_probe_comes_at_a_random_moment_of_the_first_interval() -> None:
    async def scene() -> None:
        moments = [await Run(seed=seed).probed() for seed in range(40)]
        assert min(moments) < 0.2 * INTERVAL_S
        assert 0.8 * INTERVAL_S < max(moments) < INTERVAL_S

    play(scene)


def test_probes_follow_each_other_at_about_the_interval_on_a_common_grid() -> None:
    async def scene() -> None:
        run = Run()
        await run.probed(200)
        eighths = {round(8 * pause_s / INTERVAL_S, 6) for pause_s in run.pauses_s[1:]}
        assert eighths == {7, 8, 9}
        assert sum(run.pauses_s) / len(run.pauses_s) == pytest.approx(INTERVAL_S, rel=0.03)

    play(scene)


def test_the_time_a_probe_takes_is_part_of_the_interval() -> None:
    async def scene() -> None:
        run = Run(took_s=1.0)
        await run.probed(20)
        assert max(run.pauses_s) < 1.2 * INTERVAL_S

    play(scene)


def test_probes_that_take_longer_than_the_interval_follow_each_other_one_at_a_time() -> None:
    async def scene() -> None:
        run = Run(took_s=3 * INTERVAL_S)
        await run.probed(5)
        assert run.pauses_s[:4] == pytest.approx([3 * INTERVAL_S] * 4)

    play(scene)


def test_while_the_state_is_changing_probes_come_fast() -> None:
    async def scene() -> None:
        run = Run(PASS, FAIL, FAIL, FAIL, PASS, PASS, PASS)
        await run.probed(8)
        fast = [pause_s < 1.1 * FAST_S + ROUNDING_S for pause_s in run.pauses_s]
        # Down after the third failure, up after the second pass in a row.
        assert fast[:7] == [False, True, True, False, True, False, False]

    play(scene)


def test_each_result_is_reported_with_whether_it_changed_the_state() -> None:
    async def scene() -> None:
        run = Run(FAIL, FAIL, FAIL, PASS, PASS)
        await run.probed(5)
        assert run.heard[:5] == [(FAIL, False), (FAIL, False), (FAIL, True), (PASS, False), (PASS, True)]
        assert run.checker.last is PASS

    play(scene)


def test_results_that_are_this_machines_fault_are_reported_and_count_neither_way() -> None:
    async def scene() -> None:
        run = Run(FAIL, FAIL, *[LOCAL] * 9, FAIL)
        await run.probed(11)
        assert run.verdict.up
        assert run.heard[2:11] == [(LOCAL, False)] * 9
        assert run.checker.last is LOCAL
        await run.probed(12)
        assert run.heard[11] == (FAIL, True)

    play(scene)


def test_a_poke_has_the_endpoint_probed_at_once() -> None:
    async def scene() -> None:
        run = Run()
        last = await run.probed()
        await run.for_s(0.3)
        run.checker.poke()
        assert await run.probed(2) == pytest.approx(last + 0.31, abs=0.005)

    play(scene)


def test_after_a_poke_the_interval_begins_anew() -> None:
    async def scene() -> None:
        run = Run()
        await run.probed()
        run.checker.poke()
        await run.probed(3)
        assert run.pauses_s[1] > 0.9 * INTERVAL_S - ROUNDING_S

    play(scene)


def test_one_bad_probe_after_a_poke_takes_the_endpoint_down() -> None:
    async def scene() -> None:
        run = Run(PASS, FAIL)
        await run.probed()
        run.checker.poke()
        await run.probed(2)
        assert run.heard[1] == (FAIL, True)

    play(scene)


def test_a_poke_without_suspicion_leaves_the_failures_in_a_row_as_they_are() -> None:
    async def scene() -> None:
        run = Run(PASS, FAIL)
        await run.probed()
        run.checker.poke(suspected=False)
        await run.probed(2)
        assert run.heard[1] == (FAIL, False)

    play(scene)


def test_a_suspicion_lasts_for_one_probe() -> None:
    async def scene() -> None:
        run = Run(PASS, PASS, FAIL)
        await run.probed()
        run.checker.poke()
        await run.probed(3)
        assert run.heard[1:3] == [(PASS, False), (FAIL, False)]

    play(scene)


def test_a_poke_during_a_probe_makes_another_one_right_after_it() -> None:
    async def scene() -> None:
        run = Run(took_s=1.0)
        await run.probing()
        run.checker.poke()
        await run.probed(3)
        assert run.pauses_s[0] == pytest.approx(1.0)
        assert run.pauses_s[1] > 0.9 * INTERVAL_S - ROUNDING_S

    play(scene)


def test_however_often_it_is_poked_an_endpoint_is_probed_a_few_times_per_fast_interval() -> None:
    async def scene() -> None:
        run = Run()
        await run.probed()
        for _ in range(1000):
            run.checker.poke()
            await run.for_s(0.001)
        assert min(run.pauses_s[1:]) > POKE_S - ROUNDING_S
        assert 9 <= len(run.pauses_s) <= 11

    play(scene)


def test_a_suspicion_against_an_endpoint_that_is_down_is_no_news() -> None:
    async def scene() -> None:
        run = Run(FAIL, took_s=0.1)
        await run.probing()
        run.checker.poke()
        await run.probed(1)  # it began before the poke
        await run.probed(2)
        assert not run.verdict.up
        run.checker.poke()
        await run.probed(3)
        assert run.pauses_s[1] > 0.8 * INTERVAL_S

    play(scene)


def test_suspicions_during_the_probe_that_takes_it_down_are_no_news_either() -> None:
    async def scene() -> None:
        run = Run(FAIL, took_s=0.1)
        run.checker.poke()
        await run.probing()
        run.checker.poke()
        await run.probed(2)
        assert not run.verdict.up
        assert run.pauses_s[0] > 0.8 * INTERVAL_S

    play(scene)


def test_a_poke_that_comes_too_soon_is_followed_later() -> None:
    async def scene() -> None:
        run = Run()
        await run.probed()
        run.checker.poke()
        await run.probed(2)
        run.checker.poke()
        await run.probed(3)
        assert run.pauses_s[1] == pytest.approx(POKE_S)

    play(scene)


def test_a_listener_that_pokes_does_not_make_a_flood() -> None:
    async def scene() -> None:
        run = Run(took_s=0.0)
        run.checker = Checker(
            run.prober,
            run.verdict,
            (INTERVAL_S, FAST_S),
            lambda *_: run.checker.poke(),
            random.Random(1),
        )
        await run.for_s(INTERVAL_S)
        run.prober.started.clear()
        await run.for_s(1.0)
        assert len(run.prober.started) <= 11

    play(scene)


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("result", [PASS, FAIL])
def test_the_result_of_the_first_probe_decides_the_state(up: bool, result: Result) -> None:
    async def scene() -> None:
        run = Run(result, up=up)
        assert await run.checker.first() is result
        assert run.verdict.up is result.passed
        assert run.heard == [(result, up is not result.passed)]

    play(scene)


def test_a_first_probe_that_is_this_machines_fault_decides_nothing() -> None:
    async def scene() -> None:
        run = Run(LOCAL, up=True)
        assert await run.checker.first() is LOCAL
        assert run.verdict.up
        assert run.heard == [(LOCAL, False)]

    play(scene)


def test_the_first_probe_never_runs_beside_another() -> None:
    async def scene() -> None:
        run = Run(took_s=1.0)
        await run.probing()
        await run.checker.first()  # the script would object
        assert len(run.heard) == 2

    play(scene)


def test_a_listener_that_raises_is_logged_and_probing_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        def raise_() -> None:
            raise ValueError("no such column")

        run = Run()
        run.checker = Checker(
            run.prober, run.verdict, (INTERVAL_S, FAST_S), lambda *_: raise_(), random.Random(1)
        )
        await run.for_s(5 * INTERVAL_S)
        assert len(run.prober.started) >= 4

    play(scene)
    assert "no such column" in caplog.text


def test_a_cancelled_checker_ends_whether_it_waits_or_probes() -> None:
    async def scene() -> None:
        for took_s in (0.01, 100.0):
            run = Run(took_s=took_s)
            await run.for_s(INTERVAL_S)
            assert run.task is not None
            run.task.cancel()
            await asyncio.wait([run.task])
            assert run.task.cancelled()

    play(scene)
