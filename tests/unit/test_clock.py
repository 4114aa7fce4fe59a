"""Deadlines: never early, at most two intervals late, and safe to change while they pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.clock import MAX_INTERVAL_S, MIN_INTERVAL_S, NEVER, Sweep


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Wait:
    """Something with a deadline; expired: when it was told so. others: what leaves the sweep by that."""

    def __init__(self, sweep: Sweep, clock: Clock, deadline: float = NEVER) -> None:
        self.deadline = deadline
        self.expired: list[float] = []
        self.others: list[Wait] = []
        self._sweep = sweep
        self._clock = clock
        sweep.add(self)

    def expire(self) -> None:
        self.expired.append(self._clock.now)
        self.deadline = NEVER
        for other in self.others:
            self._sweep.discard(other)


@pytest.mark.parametrize(
    ("shortest_s", "interval_s"),
    [(0.0, MIN_INTERVAL_S), (0.001, MIN_INTERVAL_S), (1.0, 0.25), (2.0, 0.5), (3600.0, MAX_INTERVAL_S)],
)
def test_the_interval_is_a_quarter_of_the_shortest_wait_within_bounds(
    shortest_s: float, interval_s: float
) -> None:
    assert Sweep(Clock(), shortest_s).interval_s == interval_s


@given(st.floats(0.1, 20), st.floats(0, 1), st.floats(0, 1))
def test_a_deadline_passes_never_early_and_at_most_two_intervals_late(
    wait_s: float, phase: float, set_at: float
) -> None:
    """The deadline is set SET_AT of an interval after a tick, from the clock of that tick."""
    clock = Clock()
    sweep = Sweep(clock, 1.0)
    clock.now += sweep.interval_s * phase
    sweep.tick()
    real_s = clock.now + sweep.interval_s * set_at
    wait = Wait(sweep, clock, sweep.now + wait_s)
    while not wait.expired:
        clock.now += sweep.interval_s
        sweep.tick()
    late_s = wait.expired[0] - (real_s + wait_s)
    assert -1e-9 <= late_s <= 2 * sweep.interval_s + 1e-9


def test_a_deadline_passes_once() -> None:
    clock = Clock()
    sweep = Sweep(clock, 1.0)
    wait = Wait(sweep, clock, 101.0)
    for _ in range(20):
        clock.now += 1.0
        sweep.tick()
    assert len(wait.expired) == 1


def test_what_never_ends_is_left_alone() -> None:
    clock = Clock()
    sweep = Sweep(clock, 1.0)
    wait = Wait(sweep, clock)
    clock.now = 1e12
    sweep.tick()
    assert not wait.expired


def test_a_deadline_that_moved_on_in_time_does_not_pass() -> None:
    clock = Clock()
    sweep = Sweep(clock, 1.0)
    wait = Wait(sweep, clock, 101.0)
    wait.deadline = 200.0
    clock.now = 150.0
    sweep.tick()
    assert not wait.expired


def test_what_has_left_is_not_told() -> None:
    clock = Clock()
    sweep = Sweep(clock, 1.0)
    wait = Wait(sweep, clock, 101.0)
    sweep.discard(wait)
    clock.now = 150.0
    sweep.tick()
    assert not wait.expired
    assert len(sweep) == 0


def test_what_is_removed_by_another_deadline_of_the_same_tick_is_not_told() -> None:
    clock = Clock()
    sweep = Sweep(clock, 1.0)
    waits = [Wait(sweep, clock, 101.0) for _ in range(10)]
    for wait in waits:
        wait.others = waits
    clock.now = 150.0
    sweep.tick()
    assert sum(len(wait.expired) for wait in waits) == 1
    assert len(sweep) == 0


def test_the_clock_moves_with_ticks_only() -> None:
    clock = Clock()
    sweep = Sweep(clock, 1.0)
    clock.now = 150.0
    assert sweep.now == 100.0
    sweep.tick()
    assert sweep.now == 150.0
