"""Rates: how many requests a client may make, over the tables of several workers and in sliding windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackproxy.pool.admission import key_of
from trackproxy.pool.rates import BUCKET, MOST, SLOTS, Rates

CELLS = 24576
NOW = 1_800_000_000.0  # the beginning of a window of 1, 2, 3, 4 or 5 seconds
KEY = key_of("web", "192.0.2.1")


def tables(count: int) -> list[memoryview]:
    return [memoryview(bytearray(CELLS * 8)).cast("q") for _ in range(count)]


def workers(count: int, rate: int, burst: int = 0) -> list[Rates]:
    """As many workers, each with a table of its own that all others read."""
    cells = tables(count)
    return [Rates(own, [table for table in cells if table is not own], rate, burst) for own in cells]


def neighbours(count: int, key: int = KEY) -> list[int]:
    """Other keys that share the bucket of KEY."""
    buckets = CELLS // BUCKET
    return [key % buckets + buckets * number for number in range(1000, 1000 + count)]


def allowed(rates: Rates, times: int, now: float = NOW, key: int = KEY) -> int:
    """How many of so many requests are allowed."""
    return sum(rates.take(key, now) == 0.0 for _ in range(times))


@pytest.mark.parametrize(
    ("rate", "burst", "at_once"), [(5, 0, 5), (5, 5, 5), (5, 20, 20), (1, 1, 1), (10, 3, 10)]
)
def test_after_a_pause_the_burst_comes_at_once_or_a_second_s_worth(
    rate: int, burst: int, at_once: int
) -> None:
    (rates,) = workers(1, rate, burst)
    assert allowed(rates, 50) == at_once
    pause_s = 2 * max(1, burst / rate)
    assert allowed(rates, 50, NOW + pause_s) == at_once


def test_what_is_in_sight_of_the_window_before_counts_in_part() -> None:
    (rates,) = workers(1, 10)
    allowed(rates, 10)
    assert allowed(rates, 50, NOW + 1) == 0
    assert allowed(rates, 50, NOW + 1.26) == 3  # 7.4 of the 10 are in sight
    assert allowed(rates, 50, NOW + 1.95) == 7


@pytest.mark.parametrize("count", [2, 4])
def test_all_workers_together_obey_one_limit(count: int) -> None:
    every = workers(count, 5, 10)
    assert sum(allowed(rates, 1) for rates in every for _ in range(20)) == 10
    assert all(rates.take(KEY, NOW) > 0 for rates in every)


def test_all_workers_see_what_the_others_had_in_the_window_before() -> None:
    one, two = workers(2, 10)
    allowed(one, 10)
    assert allowed(two, 50, NOW + 1.26) == 3


class BusyTable:
    """The table of a worker that does something just before the first look of another one."""

    def __init__(self, table: memoryview, deed: Callable[[], object]) -> None:
        self._table = table
        self._deeds = [deed]

    def __getitem__(self, where: int) -> int:
        while self._deeds:
            self._deeds.pop()()
        return self._table[where]


def test_of_two_workers_that_allow_the_last_one_at_the_same_moment_one_sees_the_other() -> None:
    one, two = tables(2)
    second = Rates(two, [one], 1, 1)
    waits: list[float] = []
    busy = BusyTable(two, lambda: waits.append(second.take(KEY, NOW)))
    first = Rates(one, [cast(memoryview, busy)], 1, 1)
    waits.append(first.take(KEY, NOW))
    assert waits[0] > 0
    assert waits[1] == 0


def test_a_worker_whose_clock_is_a_little_ahead_is_counted_all_the_same() -> None:
    ahead, behind = workers(2, 10)
    allowed(ahead, 10, NOW + 1)
    assert allowed(behind, 50, NOW + 0.999) == 0


def test_a_refused_request_is_not_counted() -> None:
    (often,), (seldom,) = workers(1, 10), workers(1, 10)
    allowed(often, 1000)
    allowed(seldom, 10)
    for at in (1.05, 1.5, 2.0):
        assert allowed(often, 50, NOW + at) == allowed(seldom, 50, NOW + at)


def test_who_is_refused_at_first_sight_keeps_no_slot() -> None:
    one, two = workers(2, 1)
    allowed(one, 1)
    assert allowed(two, 5) == 0
    for key in neighbours(SLOTS):
        assert allowed(two, 5, key=key) == 1


def test_clients_are_counted_apart() -> None:
    (rates,) = workers(1, 3)
    for key in (KEY, *neighbours(SLOTS - 1), key_of("web", "192.0.2.2")):
        assert allowed(rates, 10, key=key) == 3


def test_who_finds_its_bucket_full_of_others_is_allowed_uncounted() -> None:
    (rates,) = workers(1, 2)
    for key in neighbours(SLOTS):
        allowed(rates, 2, key=key)
    assert allowed(rates, 50) == 50
    assert allowed(rates, 50, NOW + 1.999) == 50
    for key in neighbours(SLOTS):
        assert allowed(rates, 5, NOW + 1, key=key) == 0


def test_a_slot_of_which_nothing_is_in_sight_is_taken_over_with_nothing_in_it() -> None:
    (rates,) = workers(1, 2)
    for key in neighbours(SLOTS):
        allowed(rates, 2, key=key)
    assert allowed(rates, 50, NOW + 3) == 2


@pytest.mark.parametrize("begins", [NOW, float((1 << 23) * 7 - 15)], ids=["usually", "seconds begin again"])
def test_limits_with_other_windows_leave_each_other_s_slots_alone(begins: float) -> None:
    own = tables(1)[0]
    short, long = Rates(own, [], 5, 5), Rates(own, [], 1, 10)
    begins -= begins % 10
    for key in neighbours(SLOTS):
        assert allowed(long, 50, begins + 3, key=key) == 10
    for at in (4, 8, 12, 19):
        assert allowed(short, 50, begins + at) == 50  # nothing is free, so it is not counted
    for key in neighbours(SLOTS):
        assert allowed(long, 50, begins + 15, key=key) == 5
    assert allowed(short, 50, begins + 32) == 5


def test_a_key_is_found_again_behind_a_slot_that_has_become_free() -> None:
    (rates,) = workers(1, 2)
    before, *_ = neighbours(1)
    allowed(rates, 1, key=before)
    allowed(rates, 2, NOW + 1.9)
    assert allowed(rates, 5, NOW + 2) == 0


@pytest.mark.parametrize("begins", range(-5, 3))
def test_windows_are_told_apart_when_their_seconds_begin_again(begins: int) -> None:
    (rates,) = workers(1, 10)
    last = float((1 << 23) * 7 + begins)
    assert allowed(rates, 50, last) == 10
    assert allowed(rates, 50, last + 1) == 0
    assert allowed(rates, 50, last + 2) == 10


@pytest.mark.parametrize(("rate", "burst"), [(0, 5), (-1, 5), (MOST + 1, 0), (1, MOST + 1), (1, 3601)])
def test_a_limit_that_cannot_be_counted_is_an_error(rate: int, burst: int) -> None:
    with pytest.raises(ValueError, match="a rate is 1 to"):
        Rates(tables(1)[0], [], rate, burst)


def test_the_largest_limit_can_be_counted() -> None:
    own = tables(1)[0]
    rates = Rates(own, [], MOST, MOST)
    rates.take(KEY, NOW)
    (state,) = (cell for cell in range(CELLS) if own[cell] not in (0, KEY))
    own[state] += (MOST - 1) << 20
    assert rates.take(KEY, NOW) > 0
    assert rates.take(KEY, NOW + 1) > 0
    assert allowed(rates, 5, NOW + 2) == 5


def test_nobody_is_told_to_wait_longer_than_needed() -> None:
    (rates,) = workers(1, 10)
    allowed(rates, 10, NOW + 0.25)
    assert rates.take(KEY, NOW + 0.25) == pytest.approx(0.75, abs=0.002)
    assert allowed(rates, 50, NOW + 1.26) == 3
    assert rates.take(KEY, NOW + 1.26) == pytest.approx(0.04, abs=0.002)


LIMITS = st.tuples(st.integers(1, 40), st.integers(0, 120))
PAUSES = st.lists(st.floats(0, 0.4) | st.floats(0, 4) | st.just(0.0), min_size=1, max_size=150)


@given(limit=LIMITS, pauses=PAUSES, data=st.data())
@settings(max_examples=150, deadline=None)
def test_never_more_than_twice_the_allowance_comes_in_any_window_s_time(
    limit: tuple[int, int], pauses: list[float], data: st.DataObject
) -> None:
    rate, burst = limit
    allowance, window_s = max(rate, burst), max(1.0, burst / rate)
    every = workers(2, rate, burst)
    now, times = NOW, list[float]()
    for pause_s in pauses:
        now += pause_s
        for _ in range(data.draw(st.sampled_from([1, 3, allowance]))):
            if data.draw(st.sampled_from(every)).take(KEY, now) == 0.0:
                times.append(now)
    for begin in times:
        assert sum(begin <= at < begin + window_s for at in times) <= 2 * allowance


@given(limit=LIMITS, pauses=PAUSES, data=st.data())
@settings(max_examples=150, deadline=None)
def test_who_waits_as_long_as_it_was_told_is_allowed_then(
    limit: tuple[int, int], pauses: list[float], data: st.DataObject
) -> None:
    every = workers(2, *limit)
    now = NOW
    for pause_s in pauses:
        now += pause_s
        for _ in range(data.draw(st.sampled_from([1, max(limit)]))):
            wait_s = data.draw(st.sampled_from(every)).take(KEY, now)
            if wait_s:
                break
        if wait_s:
            assert 0 < wait_s < 2 * max(1.0, limit[1] / limit[0]) + 0.01
            now += wait_s
            assert data.draw(st.sampled_from(every)).take(KEY, now) == 0.0


@given(limit=LIMITS, offset=st.floats(0, 200), step=st.floats(0.2, 0.9))
@settings(max_examples=100, deadline=None)
def test_who_never_stops_asking_has_its_rate_in_the_long_run(
    limit: tuple[int, int], offset: float, step: float
) -> None:
    rate, burst = limit
    allowance, window_s = max(rate, burst), max(1.0, burst / rate)
    every = workers(2, rate, burst)
    asked, windows = 0, 60
    for number in range(int(windows * allowance / step)):
        now = NOW + offset + number * step * window_s / allowance
        asked += every[number % 2].take(KEY, now) == 0.0
    assert asked <= allowance * (windows + 1)  # both ends may cut a window
    assert asked >= allowance * windows * 0.95 - allowance


def test_the_long_run_is_within_five_percent_of_the_rate() -> None:
    for rate, burst in ((1, 1), (2, 2), (3, 10), (10, 50), (25, 0)):
        (rates,) = workers(1, rate, burst)
        seconds = 1000
        asked = sum(rates.take(KEY, NOW + tick / 100) == 0.0 for tick in range(100 * seconds))
        assert 0.95 * rate <= asked / seconds <= 1.05 * rate
