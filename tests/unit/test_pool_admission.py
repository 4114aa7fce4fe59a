"""Admission: what one client or one service may have, over the tables of several workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trackproxy.board import CLIENTS
from trackproxy.pool.admission import BUCKETS, SLOTS, Admission, Quota, key_of

NOW = 1_800_000_000  # any second
KEY = key_of("mail", "192.0.2.1")


def workers(count: int) -> list[Admission]:
    """As many workers, each with a table of its own that all others read."""
    tables = [memoryview(bytearray(CLIENTS * 8)).cast("q") for _ in range(count)]
    return [Admission(own, [table for table in tables if table is not own]) for own in tables]


def neighbours(count: int, key: int = KEY) -> list[int]:
    """Other keys that share the bucket of KEY."""
    return [key % BUCKETS + BUCKETS * number for number in range(1000, 1000 + count)]


def admitted(admission: Admission, quota: Quota, times: int, *, key: int = KEY, now_s: int = NOW) -> int:
    """How many of so many attempts are admitted."""
    return sum(admission.admit(key, quota, now_s) is not False for _ in range(times))


@pytest.mark.parametrize(
    ("quota", "limits"), [(Quota(), False), (Quota(most=1), True), (Quota(rate=1), True)]
)
def test_a_quota_of_zeros_limits_nothing(quota: Quota, limits: bool) -> None:
    assert quota.limits is limits
    (admission,) = workers(1)
    assert (admitted(admission, quota, 5) == 5) is not limits


def test_no_more_sessions_are_open_at_once_than_the_quota_says() -> None:
    (admission,) = workers(1)
    assert admitted(admission, Quota(most=3), 5) == 3


def test_who_leaves_makes_room_for_one() -> None:
    (admission,) = workers(1)
    admitted(admission, Quota(most=3), 3)
    admission.leave(KEY)
    assert admitted(admission, Quota(most=3), 5) == 1


def test_no_more_sessions_begin_in_one_second_than_the_quota_says() -> None:
    (admission,) = workers(1)
    assert admitted(admission, Quota(rate=2), 5) == 2
    assert admitted(admission, Quota(rate=2), 5, now_s=NOW + 1) == 2


def test_who_leaves_has_still_begun_in_this_second() -> None:
    (admission,) = workers(1)
    admitted(admission, Quota(rate=2), 2)
    admission.leave(KEY)
    assert admitted(admission, Quota(rate=2), 1) == 0


def test_sessions_of_earlier_seconds_are_still_open() -> None:
    (admission,) = workers(1)
    admitted(admission, Quota(most=2), 2)
    assert admitted(admission, Quota(most=2), 1, now_s=NOW + 3600) == 0


def test_both_limits_hold_together() -> None:
    (admission,) = workers(1)
    quota = Quota(most=3, rate=2)
    assert [admitted(admission, quota, 5, now_s=NOW + second) for second in range(3)] == [2, 1, 0]


@pytest.mark.parametrize("quota", [Quota(most=3), Quota(rate=3)], ids=["at once", "per second"])
def test_limits_are_those_of_all_workers_together(quota: Quota) -> None:
    all_workers = workers(4)
    assert sum(admitted(admission, quota, 1) for admission in all_workers) == 3
    assert all(admitted(admission, quota, 1) == 0 for admission in all_workers)


class BusyTable:
    """The table of a worker that does something just before the first look of another one."""

    def __init__(self, table: memoryview, deed: Callable[[], object]) -> None:
        self._table = table
        self._deeds = [deed]

    def __getitem__(self, where: slice) -> memoryview:
        while self._deeds:
            self._deeds.pop()()
        return self._table[where]


@pytest.mark.parametrize("quota", [Quota(most=1), Quota(rate=1)], ids=["at once", "per second"])
def test_of_two_workers_that_admit_at_the_same_moment_one_sees_the_other(quota: Quota) -> None:
    one, two = (memoryview(bytearray(CLIENTS * 8)).cast("q") for _ in range(2))
    second = Admission(two, [one])
    results: list[bool | None] = []
    busy = BusyTable(two, lambda: results.append(second.admit(KEY, quota, NOW)))
    first = Admission(one, [cast(memoryview, busy)])
    results.append(first.admit(KEY, quota, NOW))
    assert results == [False, True]


def test_room_that_is_made_in_one_worker_is_there_for_all() -> None:
    first, second = workers(2)
    admitted(first, Quota(most=1), 1)
    first.leave(KEY)
    assert admitted(second, Quota(most=1), 1) == 1


def test_a_session_is_counted_where_it_was_admitted() -> None:
    first, second = workers(2)
    admitted(first, Quota(most=1), 1)
    second.leave(KEY)
    assert admitted(second, Quota(most=1), 1) == 0


@pytest.mark.parametrize(
    ("quota", "wider"),
    [(Quota(most=1), Quota(most=2)), (Quota(rate=1), Quota(rate=2)), (Quota(most=1), Quota(rate=2))],
    ids=["at once", "per second", "one limit in the other"],
)
def test_who_was_refused_counts_nothing(quota: Quota, wider: Quota) -> None:
    first, second = workers(2)
    admitted(first, quota, 5)
    admitted(second, quota, 5)
    assert admitted(second, wider, 5) == 1


def test_who_leaves_twice_is_counted_once() -> None:
    (admission,) = workers(1)
    admitted(admission, Quota(most=2), 1)
    admission.leave(KEY)
    admission.leave(KEY)
    assert admitted(admission, Quota(most=2), 5) == 2


def test_clients_are_counted_apart() -> None:
    (admission,) = workers(1)
    quota = Quota(most=1)
    for key in (KEY, *neighbours(SLOTS - 1), key_of("mail"), key_of("news", "192.0.2.1")):
        assert admitted(admission, quota, 2, key=key) == 1


def test_who_finds_its_bucket_full_of_others_is_admitted_uncounted() -> None:
    (admission,) = workers(1)
    for key in neighbours(SLOTS):
        admission.admit(key, Quota(most=1), NOW)
    assert admitted(admission, Quota(most=1, rate=1), 5) == 5
    admission.leave(KEY)
    for key in neighbours(SLOTS):
        assert admitted(admission, Quota(most=1), 1, key=key, now_s=NOW + 1) == 0


def test_a_slot_is_taken_over_from_who_left_in_an_earlier_second() -> None:
    (admission,) = workers(1)
    others = neighbours(SLOTS)
    for key in others:
        admission.admit(key, Quota(most=1), NOW)
    admission.leave(others[2])
    assert admitted(admission, Quota(most=1), 3, now_s=NOW + 1) == 1


def test_a_slot_is_kept_in_the_second_in_which_its_sessions_began() -> None:
    (admission,) = workers(1)
    others = neighbours(SLOTS)
    for key in others:
        admission.admit(key, Quota(rate=1), NOW)
        admission.leave(key)
    assert admitted(admission, Quota(most=1), 3) == 3
    for key in others:
        assert admitted(admission, Quota(rate=1), 1, key=key) == 0


def test_who_takes_over_a_slot_begins_with_nothing() -> None:
    (admission,) = workers(1)
    others = neighbours(SLOTS)
    for key in others:
        admitted(admission, Quota(rate=5), 5, key=key)
        for _ in range(5):
            admission.leave(key)
    assert admitted(admission, Quota(most=2, rate=2), 5, now_s=NOW + 1) == 2


def test_a_key_is_found_again_behind_a_slot_that_has_become_free() -> None:
    (admission,) = workers(1)
    before, *_ = neighbours(1)
    admission.admit(before, Quota(most=1), NOW)
    admission.admit(KEY, Quota(most=1), NOW)
    admission.leave(before)
    assert admitted(admission, Quota(most=1), 1, now_s=NOW + 1) == 0


def test_a_key_fits_a_cell_and_is_never_that_of_an_empty_slot() -> None:
    keys = {key_of(service, client) for service in "abc" for client in ("", "192.0.2.1", "2001:db8::")}
    assert len(keys) == 9
    assert all(0 < key < 1 << 63 for key in keys)


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_a_key_is_the_same_in_every_process(seed: str) -> None:
    program = "from trackproxy.pool.admission import key_of; print(key_of('mail', '192.0.2.1'))"
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True, timeout=60
    )
    assert int(done.stdout) == KEY


class SeveralWorkers(RuleBasedStateMachine):
    """Workers that admit and leave at will, beside a model that counts by hand.

    As many keys as a bucket has slots, so that all are counted.
    """

    keys = (KEY, *neighbours(SLOTS - 1))

    def __init__(self) -> None:
        super().__init__()
        self.workers = workers(3)
        self.now_s = NOW
        self.quota = Quota(most=3, rate=2)
        self.open: Counter[tuple[int, int]] = Counter()  # by worker and key
        self.begun: Counter[int] = Counter()

    def total(self, key: int) -> int:
        return sum(count for (_, other), count in self.open.items() if other == key)

    @rule(worker=st.integers(0, 2), key=st.sampled_from(keys))
    def admit(self, worker: int, key: int) -> None:
        room = self.total(key) < self.quota.most and self.begun[key] < self.quota.rate
        assert self.workers[worker].admit(key, self.quota, self.now_s) is room
        if room:
            self.open[worker, key] += 1
            self.begun[key] += 1

    @precondition(lambda self: self.open.total())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        worker, key = data.draw(st.sampled_from(sorted(+self.open)))
        self.workers[worker].leave(key)
        self.open[worker, key] -= 1

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds
        self.begun.clear()

    @invariant()
    def nobody_has_more_than_the_quota(self) -> None:
        for key in self.keys:
            assert self.total(key) <= self.quota.most
            assert self.begun[key] <= self.quota.rate


SeveralWorkers.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestSeveralWorkers = SeveralWorkers.TestCase
