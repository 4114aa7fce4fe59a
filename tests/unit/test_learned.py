"""Learned stickiness: which node has which session, over the tables of several workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trackproxy.board import LEARNED, Board
from trackproxy.pool.learned import BUCKET, BUCKETS, CELLS, SLOTS, Learned, carry, key_of, number_of

NOW = 1_800_000_000  # any second
IDLE_S = 600
KEY = key_of("web", b"0123456789abcdef")
ONE, TWO, THREE = map(number_of, ("node1", "node2", "node3"))


def table_of() -> memoryview:
    return memoryview(bytearray(LEARNED * 8)).cast("q")


def workers(count: int, idle_s: int = IDLE_S) -> list[Learned]:
    """As many workers, each with a table of its own that all others read."""
    tables = [table_of() for _ in range(count)]
    return [Learned(own, [table for table in tables if table is not own], idle_s) for own in tables]


def neighbours(count: int) -> list[int]:
    """Other keys that share the bucket of KEY."""
    return [KEY % BUCKETS + BUCKETS * number for number in range(1000, 1000 + count)]


# --- keys and numbers ---


def test_a_key_fits_a_cell_and_is_never_that_of_an_empty_slot() -> None:
    keys = {key_of(service, session) for service in "abc" for session in (b"", b"1", b"\xff" * 5000)}
    assert len(keys) == 9
    assert all(0 < key < 1 << 63 for key in keys)


@given(st.text(max_size=20))
def test_a_number_has_31_bits_so_that_an_entry_fits_a_cell(node: str) -> None:
    assert 0 <= number_of(node) < 1 << 31


@pytest.mark.parametrize("number", [0, (1 << 31) - 1])
@pytest.mark.parametrize("now_s", [1, (1 << 32) - 1])
@pytest.mark.parametrize("key", [1, (1 << 63) - 1])
def test_every_number_key_and_second_fits_and_is_found(number: int, now_s: int, key: int) -> None:
    (learned,) = workers(1)
    learned.learn(key, number, now_s)
    assert learned.find(key, now_s) == number


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_keys_and_numbers_are_the_same_in_every_process(seed: str) -> None:
    program = (
        "from trackproxy.pool.learned import key_of, number_of\n"
        "print(key_of('web', b'0123456789abcdef'), number_of('node1'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert [int(word) for word in done.stdout.split()] == [KEY, ONE]


def test_a_table_is_a_whole_number_of_buckets_that_are_whole_pairs_of_cache_lines() -> None:
    assert (LEARNED % BUCKET, BUCKET * 8 % 128) == (0, 0)


# --- one worker ---


def test_a_session_that_nobody_has_seen_is_not_known() -> None:
    assert workers(2)[0].find(KEY, NOW) is None


def test_a_session_is_found_at_the_node_that_was_seen_last() -> None:
    (learned,) = workers(1)
    for second, node in enumerate((ONE, TWO, ONE, THREE)):
        learned.learn(KEY, node, NOW + second)
        assert learned.find(KEY, NOW + second) == node


def test_a_session_moves_within_a_second() -> None:
    (learned,) = workers(1)
    learned.learn(KEY, ONE, NOW)
    learned.learn(KEY, TWO, NOW)
    assert learned.find(KEY, NOW) == TWO


@pytest.mark.parametrize(
    ("idle_s", "age_s", "node"),
    [(IDLE_S, 0, ONE), (IDLE_S, IDLE_S, ONE), (IDLE_S, IDLE_S + 1, None), (0, NOW, ONE), (IDLE_S, -5, ONE)],
    ids=["at once", "at its end", "after it", "without a limit", "a clock set back"],
)
def test_a_session_is_known_for_its_idle_time(idle_s: int, age_s: int, node: int | None) -> None:
    (learned,) = workers(1, idle_s)
    learned.learn(KEY, ONE, NOW)
    assert learned.find(KEY, NOW + age_s) == node


def test_a_session_that_goes_on_stays_known() -> None:
    (learned,) = workers(1)
    for second in range(0, 5 * IDLE_S, 7):
        learned.learn(KEY, ONE, NOW + second)
        assert learned.find(KEY, NOW + second + IDLE_S - IDLE_S // 10) == ONE


@pytest.mark.parametrize(
    ("idle_s", "age_s", "written"),
    [(600, 0, False), (600, 59, False), (600, 60, True), (0, 0, True), (0, 1, True)],
)
def test_what_is_known_is_written_again_only_after_a_tenth_of_the_idle_time(
    idle_s: int, age_s: int, written: bool
) -> None:
    table = table_of()
    learned = Learned(table, [], idle_s)
    learned.learn(KEY, ONE, NOW)
    before = table.tolist()
    guarded = Learned(table if written else table.toreadonly(), [], idle_s)
    guarded.learn(KEY, ONE, NOW + age_s)  # a store would raise
    assert (table.tolist() != before) is (written and age_s > 0)


def test_sessions_of_one_bucket_are_kept_apart() -> None:
    (learned,) = workers(1)
    keys = [KEY, *neighbours(SLOTS - 1)]
    for number, key in enumerate(keys):
        learned.learn(key, number, NOW)
    assert [learned.find(key, NOW) for key in keys] == list(range(SLOTS))


def test_in_a_full_bucket_the_session_that_was_not_seen_for_longest_gives_way() -> None:
    (learned,) = workers(1)
    keys = neighbours(SLOTS)
    for number, key in enumerate(keys):
        learned.learn(key, number, NOW + (number - 3) % SLOTS)  # the one of number 3 is the oldest
    learned.learn(KEY, ONE, NOW + SLOTS)
    assert learned.find(KEY, NOW + SLOTS) == ONE
    assert [learned.find(key, NOW + SLOTS) is None for key in keys] == [n == 3 for n in range(SLOTS)]


# --- several workers ---


def test_what_one_worker_learns_all_find() -> None:
    all_workers = workers(4)
    all_workers[2].learn(KEY, TWO, NOW)
    assert [learned.find(KEY, NOW) for learned in all_workers] == [TWO] * 4


def test_the_newest_entry_wins_wherever_it_is() -> None:
    first, second, third = workers(3)
    second.learn(KEY, TWO, NOW + 1)
    first.learn(KEY, ONE, NOW)
    third.learn(KEY, THREE, NOW - 1)
    assert [learned.find(KEY, NOW + 1) for learned in (first, second, third)] == [THREE] * 3


def test_of_two_nodes_within_one_second_the_later_one_wins_everywhere() -> None:
    first, second = workers(2)
    first.learn(KEY, ONE, NOW)
    second.learn(KEY, TWO, NOW)
    assert [learned.find(KEY, NOW) for learned in (first, second)] == [TWO, TWO]


def test_a_session_that_comes_back_is_found_where_it_came_back_to() -> None:
    first, second = workers(2)
    first.learn(KEY, ONE, NOW)
    second.learn(KEY, TWO, NOW + 1)
    first.learn(KEY, ONE, NOW + 2)  # its own entry says so already, but is not the one that is believed
    assert [learned.find(KEY, NOW + 2) for learned in (first, second)] == [ONE] * 2


def test_what_another_worker_has_just_written_takes_no_second_slot() -> None:
    first = table_of()
    Learned(first, [], IDLE_S).learn(KEY, ONE, NOW)
    Learned(table_of().toreadonly(), [first], IDLE_S).learn(KEY, ONE, NOW + 1)  # a store would raise


def test_the_node_of_number_0_is_learned_by_a_clock_that_has_just_begun() -> None:
    (learned,) = workers(1)
    learned.learn(KEY, 0, 1)
    assert learned.find(KEY, 1) == 0


class BusyTable:
    """The table of a worker that does something right after another one has read a bucket of it."""

    def __init__(self, table: memoryview, deed: Callable[[], object]) -> None:
        self._table = table
        self._deeds = [deed]

    def __getitem__(self, where: int | slice) -> object:
        if isinstance(where, int):
            return self._table[where]
        read = memoryview(bytearray(self._table[where].tobytes())).cast("q")
        while self._deeds:
            self._deeds.pop()()
        return read


def test_a_slot_that_goes_over_to_another_session_meanwhile_is_not_believed() -> None:
    table = table_of()
    writer = Learned(table, [], IDLE_S)
    for key in (KEY, *neighbours(SLOTS - 1)):
        writer.learn(key, ONE, NOW)
    newcomer = neighbours(SLOTS)[-1]
    busy = BusyTable(table, lambda: writer.learn(newcomer, TWO, NOW + 1))
    reader = Learned(table_of(), [cast(memoryview, busy)], IDLE_S)
    assert reader.find(KEY, NOW + 1) is None
    assert reader.find(newcomer, NOW + 1) == TWO


class Recorded:
    """A table that keeps what it looked like after each store."""

    def __init__(self, table: memoryview) -> None:
        self._table = table
        self.stages: list[memoryview] = []

    def __getitem__(self, where: slice) -> memoryview:
        return self._table[where]

    def __setitem__(self, where: int, number: int) -> None:
        self._table[where] = number
        self.stages.append(memoryview(bytearray(self._table.tobytes())).cast("q"))


def test_a_writer_that_is_killed_between_two_stores_leaves_no_session_with_the_node_of_another() -> None:
    table = table_of()
    oldest, *others = keys = neighbours(SLOTS)
    for number, key in enumerate(keys):
        Learned(table, [], IDLE_S).learn(key, ONE, NOW + number)
    recorded = Recorded(table)
    Learned(cast(memoryview, recorded), [], IDLE_S).learn(KEY, TWO, NOW + SLOTS)
    assert len(recorded.stages) == 3
    for stage in recorded.stages:
        left = Learned(stage, [], IDLE_S)
        assert left.find(oldest, NOW + SLOTS) is None
        assert left.find(KEY, NOW + SLOTS) in (None, TWO)
        assert [left.find(key, NOW + SLOTS) for key in others] == [ONE] * len(others)
        left.learn(KEY, THREE, NOW + SLOTS)  # the replacement goes on with that table
        assert left.find(KEY, NOW + SLOTS) == THREE
        assert [left.find(key, NOW + SLOTS) for key in others] == [ONE] * len(others)


# --- from one board to the next ---


def found(table: memoryview, keys: list[int], now_s: int) -> list[int | None]:
    learned = Learned(table, [], 0)
    return [learned.find(key, now_s) for key in keys]


def test_what_all_workers_of_an_old_board_have_learned_is_known_on_the_new_one() -> None:
    old, new = Board.create(5, 3), Board.create(2, 4)
    for worker in range(3):
        own = old.learned(worker)
        others = [old.learned(other) for other in range(3) if other != worker]
        Learned(own, others, IDLE_S).learn(KEY + worker, worker, NOW)
    carry([old.learned(worker) for worker in range(3)], new.learned(0))
    readers = [
        Learned(new.learned(worker), [new.learned(other) for other in range(4) if other != worker], IDLE_S)
        for worker in range(4)
    ]
    for reader in readers:
        assert [reader.find(KEY + worker, NOW) for worker in range(3)] == [0, 1, 2]
    old.close()
    new.close()


entries = st.dictionaries(
    st.sampled_from([KEY, KEY + 1, *neighbours(2 * SLOTS)]),
    st.tuples(st.integers(0, (1 << 31) - 1), st.integers(1, 1 << 20)),
    max_size=SLOTS,
)


@given(st.lists(entries, min_size=1, max_size=4))
def test_of_each_session_the_newest_entry_is_carried_and_of_each_bucket_the_newest_sessions(
    contents: list[dict[int, tuple[int, int]]],
) -> None:
    tables = [table_of() for _ in contents]
    newest: dict[int, tuple[int, int]] = {}
    for table, content in zip(tables, contents, strict=True):
        for key, (node, seen_s) in content.items():
            Learned(table, [], 0).learn(key, node, seen_s)
            if seen_s > newest.get(key, (0, 0))[1]:
                newest[key] = node, seen_s
    *source, target = tables  # what is there already counts like the rest
    carry(source, target)
    results = dict(zip(newest, found(target, list(newest), 1 << 20), strict=True))
    for bucket in {key % BUCKETS for key in newest}:
        times = sorted((newest[key][1] for key in newest if key % BUCKETS == bucket), reverse=True)
        kept = [key for key in newest if key % BUCKETS == bucket and results[key] is not None]
        assert sorted((newest[key][1] for key in kept), reverse=True) == times[:SLOTS]
        assert all(results[key] == newest[key][0] for key in kept)


def test_carrying_changes_nothing_on_the_old_board() -> None:
    source = table_of()
    Learned(source, [], 0).learn(KEY, ONE, NOW)
    before = source.tolist()
    carry([source.toreadonly()], table_of())
    assert source.tolist() == before


def test_a_slot_that_goes_over_to_another_session_is_not_carried_with_its_node() -> None:
    source, target = table_of(), table_of()
    writer = Learned(source, [], 0)
    for key in (KEY, *neighbours(SLOTS - 1)):
        writer.learn(key, ONE, NOW)
    newcomer = neighbours(SLOTS)[-1]

    class Keys:
        """The keys of the table; when they have been read for the first time, the writer goes on."""

        first = True

        def tolist(self) -> list[int]:
            keys = source[::CELLS].tolist()
            if self.first:
                self.first = False
                writer.learn(newcomer, TWO, NOW + 1)
            return keys

    class Busy:
        keys = Keys()

        def __getitem__(self, where: slice) -> object:
            return self.keys if not where.start else source[where]

    carry([cast(memoryview, Busy())], target)
    assert found(target, [KEY, newcomer], NOW + 1) == [None, None]
    assert found(target, neighbours(SLOTS - 1), NOW + 1) == [ONE] * (SLOTS - 1)


class SeveralWorkers(RuleBasedStateMachine):
    """Workers that learn at will, beside a model that knows everything.

    As many keys as a bucket has slots, so that none gives way.
    """

    keys = (KEY, *neighbours(SLOTS - 1))

    def __init__(self) -> None:
        super().__init__()
        self.workers = workers(3, 20)
        self.now_s = NOW
        self.known: dict[int, tuple[int, int]] = {}  # node and when, by key

    @rule(worker=st.integers(0, 2), key=st.sampled_from(keys), node=st.integers(0, 2))
    def learn(self, worker: int, key: int, node: int) -> None:
        self.now_s += 1  # of two things that happen in one second the order is not known
        self.workers[worker].learn(key, node, self.now_s)
        self.known[key] = node, self.now_s

    @rule(seconds=st.integers(1, 15))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds

    @invariant()
    def all_find_the_node_that_was_seen_last(self) -> None:
        for key in self.keys:
            node, seen_s = self.known.get(key, (None, 0))
            age_s = self.now_s - seen_s
            for learned in self.workers:
                result = learned.find(key, self.now_s)
                if age_s <= 18:  # what was not written again is missing a tenth at most
                    assert result == node
                elif age_s > 20:
                    assert result is None


SeveralWorkers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSeveralWorkers = SeveralWorkers.TestCase
