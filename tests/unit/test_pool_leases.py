"""Leases: the limit holds whatever each side sees late, and what is wanted is shared fairly in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackproxy.pool.leases import first_shares, share

SETTLED_AFTER = 24  # rounds, in each of which each side acts once
LATEST = 2  # rounds by which a view is late at most, while these are counted


@dataclass
class Cell:
    """A number with one writer; its reader may see an older value, but never goes back in time."""

    values: list[int] = field(default_factory=lambda: [0])
    seen: int = 0

    def write(self, value: int) -> None:
        self.values.append(value)

    def now(self) -> int:
        return self.values[-1]

    def read(self, late: int) -> int:
        """Return what was written `late` writes ago, or what was seen last if that is newer."""
        self.seen = max(self.seen, len(self.values) - 1 - late)
        return self.values[self.seen]


@dataclass
class Worker:
    """What a worker does; `lease_read` is its own bound, and reading and writing are two moments."""

    lease: Cell = field(default_factory=Cell)
    claim: Cell = field(default_factory=Cell)
    want: Cell = field(default_factory=Cell)
    lease_read: int = 0
    open: int = 0
    demand: int = 0

    def look(self, late: int) -> None:
        self.lease_read = self.lease.read(late)

    def tell(self) -> None:
        self.claim.write(self.may_have())
        self.want.write(max(self.demand, self.open))

    def serve(self) -> None:
        """Open what is wanted as far as the lease goes."""
        self.open = max(self.open, min(self.demand, self.lease_read))

    def finish(self, count: int) -> None:
        self.open = max(0, self.open - count)

    def may_have(self) -> int:
        return max(self.lease_read, self.open)


class Cluster:
    """A supervisor and its workers around one limit."""

    def __init__(self, limit: int, workers: int) -> None:
        self.limit = limit
        self.workers = [Worker() for _ in range(workers)]
        for worker, lease in zip(self.workers, first_shares(limit, workers), strict=True):
            worker.lease.write(lease)

    def step(self, lateness: list[int]) -> None:
        """One step of the supervisor, that sees each worker's cells by so many writes late."""
        claims = [worker.claim.read(late) for worker, late in zip(self.workers, lateness, strict=True)]
        wants = [worker.want.read(late) for worker, late in zip(self.workers, lateness, strict=True)]
        for worker, lease in zip(self.workers, share(self.limit, self.leases(), claims, wants), strict=True):
            worker.lease.write(lease)

    def leases(self) -> list[int]:
        return [worker.lease.now() for worker in self.workers]

    def check(self) -> None:
        assert sum(worker.open for worker in self.workers) <= self.limit
        held = [max(worker.lease.now(), worker.claim.now(), worker.may_have()) for worker in self.workers]
        assert sum(held) <= self.limit, held

    def act(self, chance: Random) -> None:
        """Let anybody do anything, as late as can be."""
        worker = chance.choice(self.workers)
        deed = chance.randrange(8)
        if deed == 0:
            worker.demand = chance.choice([0, 0, 1, chance.randint(0, 2 * self.limit + 1)])
        elif deed == 1:
            worker.finish(chance.randint(1, self.limit + 1))
        elif deed == 2:
            worker.look(chance.choice([0, 1, 4]))
        elif deed == 3:
            worker.tell()
        elif deed == 4:
            worker.serve()
        else:
            self.step([chance.choice([0, 0, 1, 4]) for _ in self.workers])

    def round(self, chance: Random) -> None:
        """Let each side act once, in any order, late by LATEST rounds at most; all requests end."""
        deeds = [*self.workers, None]
        chance.shuffle(deeds)
        for deed in deeds:
            if deed is None:
                self.step([chance.randint(0, LATEST) for _ in self.workers])
                continue
            deed.look(chance.randint(0, LATEST))
            deed.finish(deed.open)
            deed.serve()
            deed.tell()
            self.check()


clusters = st.builds(Cluster, limit=st.integers(0, 12), workers=st.integers(1, 6))


@settings(max_examples=250, deadline=None)
@given(clusters, st.randoms(use_true_random=False), st.integers(0, 200))
def test_the_limit_holds_whatever_happens_in_whatever_order(
    cluster: Cluster, chance: Random, deeds: int
) -> None:
    for _ in range(deeds):
        cluster.act(chance)
        cluster.check()


@settings(max_examples=250, deadline=None)
@given(clusters, st.randoms(use_true_random=False), st.integers(0, 100))
def test_once_demand_stands_still_every_schedule_settles_at_fair_leases_and_stays_there(
    cluster: Cluster, chance: Random, deeds: int
) -> None:
    for _ in range(deeds):
        cluster.act(chance)
    for _ in range(SETTLED_AFTER):
        cluster.round(chance)
    leases = cluster.leases()
    assert_fair(cluster.limit, leases, [worker.demand for worker in cluster.workers])
    for _ in range(5):
        cluster.round(chance)
        assert cluster.leases() == leases


def assert_fair(limit: int, leases: list[int], wants: list[int]) -> None:
    """Nothing is left over; nobody lacks anything that another one has more of, or only keeps in reserve."""
    assert sum(leases) == limit
    got = [min(lease, want) for lease, want in zip(leases, wants, strict=True)]
    assert sum(got) == min(limit, sum(wants))
    for part, want in zip(got, wants, strict=True):
        assert part == want or part + 1 >= max(got)
    if sum(wants) <= limit:
        spare = [lease - want for lease, want in zip(leases, wants, strict=True)]
        assert max(spare) - min(spare) <= 1


def settled(limit: int, leases: list[int], wants: list[int]) -> list[int]:
    """Return the leases in the end, with workers that claim just what they may have."""
    for _ in range(10):
        leases = share(limit, leases, leases, wants)
    return leases


@pytest.mark.parametrize(
    ("limit", "workers", "leases"),
    [(8, 4, [2, 2, 2, 2]), (10, 4, [3, 3, 2, 2]), (2, 4, [1, 1, 0, 0]), (0, 2, [0, 0]), (5, 1, [5])],
)
def test_the_first_split_is_even_and_idle_workers_keep_it(
    limit: int, workers: int, leases: list[int]
) -> None:
    assert first_shares(limit, workers) == leases
    assert settled(limit, leases, [0] * workers) == leases


@pytest.mark.parametrize(
    ("wants", "leases"),
    [
        ([9, 0, 0], [9, 1, 0]),
        ([20, 0, 0], [10, 0, 0]),
        ([20, 20, 20], [4, 3, 3]),
        ([20, 2, 20], [4, 2, 4]),
        ([20, 1, 2], [7, 1, 2]),
        ([1, 3, 0], [3, 5, 2]),
    ],
    ids=["takes what is idle", "all of it", "even", "small wants are met", "the rest", "evenly on top"],
)
def test_what_is_wanted_is_shared_fairly_and_the_rest_lies_on_top(
    wants: list[int], leases: list[int]
) -> None:
    assert settled(10, first_shares(10, 3), wants) == leases


def test_a_worker_that_has_none_gets_one_in_the_second_step_after_another_lets_go() -> None:
    leases = share(1, [1, 0], [1, 0], [0, 1])
    assert leases == [0, 0]
    assert share(1, leases, [1, 0], [0, 1]) == [0, 0], "not while it may still be used"
    assert share(1, leases, [0, 0], [0, 1]) == [0, 1]


def test_who_lacks_what_it_wants_comes_before_what_is_only_kept_in_reserve() -> None:
    assert share(10, [0, 0, 0], [0, 0, 8], [2, 0, 0]) == [2, 0, 0]


def test_a_raise_is_not_taken_back_before_it_was_answered() -> None:
    assert share(10, [8, 2], [3, 2], [0, 10]) == [8, 2]
    assert share(10, [8, 2], [8, 2], [0, 10]) == [0, 2]


def test_a_lease_is_raised_above_what_its_worker_holds_and_never_only_up_to_it() -> None:
    assert share(10, [2, 0], [7, 0], [7, 0]) == [8, 2]
    assert share(7, [2, 0], [7, 0], [7, 0]) == [2, 0]
    assert share(10, [2, 0], [7, 0], [9, 9]) == [2, 3]


def test_what_does_not_divide_stays_with_who_has_it() -> None:
    assert share(7, [3, 4], [3, 4], [9, 9]) == [3, 4]
    assert share(1, [0, 1, 0], [0, 1, 0], [0, 0, 0]) == [0, 1, 0]


def test_a_lowered_limit_hands_nothing_out_until_enough_has_come_back() -> None:
    assert share(4, [5, 5], [5, 5], [9, 9]) == [2, 2]
    assert share(4, [2, 2], [5, 1], [9, 9]) == [2, 2]


def test_an_empty_cluster_has_no_leases() -> None:
    assert share(5, [], [], []) == first_shares(5, 0) == []
