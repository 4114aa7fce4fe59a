"""The board: one writer per cell, sums that never run backwards, writers that are killed at any moment."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import count, pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackproxy.board import (
    BUCKETS_S,
    CLIENTS,
    FAMILIES,
    GAUGES,
    LEARNED,
    METHODS,
    PROCESS_GAUGES,
    RATES,
    ROW,
    TRAFFIC_GAUGES,
    TRAFFIC_ROW,
    Answers,
    Board,
    BoardError,
    Counter,
    Process,
    State,
    Traffic,
    no_row,
)

PAIR_OF_LINES = 16  # cells
DEADLINE_S = 10
KILLS = 10
MOVES_PER_KILL = 20_000  # how often a reader sees another total
INCREMENTS_PER_S = 20_000_000  # more than a loop of Python can do
STEP = 0x01010101  # its multiples have no byte that stands still, so a torn one is no multiple
PATTERN = 0x0101010101010101  # the same for all eight bytes at once

WRITER = f"""
import sys
from trackproxy.board import Board, Counter
row = Board.open(int(sys.argv[1])).counters(0, 1)
for n in range(1 << 62):
    row[Counter.ACTIVE] = 1
    row[Counter.TOTAL] += {STEP}
    row[Counter.LOST] = n % 128 * {PATTERN}
    row[Counter.DURATION + n % {len(BUCKETS_S) + 1}] += 1
"""

sizes = st.tuples(st.integers(0, 7), st.integers(1, 5), st.integers(0, 4))
some_sizes = pytest.mark.parametrize(("endpoints", "workers", "routes"), [(1, 1, 1), (3, 2, 5), (20, 8, 3)])


@contextlib.contextmanager
def created(endpoints: int, workers: int, routes: int = 2) -> Iterator[Board]:
    """A board for the length of a block."""
    board = Board.create(endpoints, workers, routes)
    try:
        yield board
    finally:
        board.close()


@pytest.fixture
def board() -> Iterator[Board]:
    """A board of three endpoints and two workers."""
    with created(3, 2) as board:
        yield board


def rows_of(board: Board) -> dict[tuple[str, int, int], memoryview]:
    """All that is handed out for writing, by what it is; of the large tables the first and the last cell."""
    workers, endpoints = range(board.workers), range(board.endpoints)
    rows = {("state", 0, endpoint): board.state(endpoint) for endpoint in endpoints}
    for worker in workers:
        rows["leases", worker, 0] = board.leases(worker)
        rows["claims", worker, 0] = board.claims(worker)
        rows["wants", worker, 0] = board.wants(worker)
        rows["process", worker, 0] = board.process(worker)
        rows["clients", worker, 0] = board.clients(worker)[:: CLIENTS - 1]
        rows["learned", worker, 0] = board.learned(worker)[:: LEARNED - 1]
        rows["rates", worker, 0] = board.rates(worker)[:: RATES - 1]
        rows |= {("traffic", worker, route): board.traffic(worker, route) for route in range(board.routes)}
        rows |= {("counters", worker, endpoint): board.counters(worker, endpoint) for endpoint in endpoints}
    return rows


def fill(board: Board) -> dict[tuple[str, int, int], list[int]]:
    """Write another number into each cell; return what was written."""
    numbers = count(1_000_000_007)
    written = {}
    for what, row in rows_of(board).items():
        written[what] = [next(numbers) for _ in row]
        for index, number in enumerate(written[what]):
            row[index] = number
    return written


def read(board: Board) -> dict[tuple[str, int, int], list[int]]:
    return {what: row.tolist() for what, row in rows_of(board).items()}


def words_of(board: Board) -> list[int]:
    """The file behind the board as aligned words of eight bytes."""
    size_bytes = os.fstat(board.fd).st_size
    return list(struct.unpack(f"={size_bytes // 8}q", os.pread(board.fd, size_bytes, 0)))


def pairs_of(board: Board) -> list[bytes]:
    """The file behind the board as pairs of cache lines."""
    size_bytes, pair_bytes = os.fstat(board.fd).st_size, PAIR_OF_LINES * 8
    whole = os.pread(board.fd, size_bytes, 0)
    return [whole[start : start + pair_bytes] for start in range(0, size_bytes, pair_bytes)]


@contextlib.contextmanager
def file_of(content: bytes) -> Iterator[int]:
    """A descriptor of an anonymous file."""
    fd = os.memfd_create("sample")
    try:
        os.write(fd, content)
        yield fd
    finally:
        os.close(fd)


def test_latency_buckets_are_about_two_per_octave_from_a_quarter_millisecond_to_64_seconds() -> None:
    assert (BUCKETS_S[0], BUCKETS_S[-1]) == (0.00025, 64)
    assert all(1.3 <= upper / lower <= 1.5 for lower, upper in pairwise(BUCKETS_S))


@given(st.floats(0, 1e9))
def test_every_latency_has_its_bucket_in_each_histogram_and_in_no_other(seconds: float) -> None:
    index = bisect_left(BUCKETS_S, seconds)
    assert Counter.CONNECT_TIME + index < Counter.WHOLE
    assert Counter.WHOLE + index < Counter.FIRST_BYTE
    assert Counter.FIRST_BYTE + index < Counter.DURATION
    assert Counter.DURATION + index < ROW
    histograms = {Counter.WHOLE, Counter.FIRST_BYTE, Counter.DURATION}
    assert sorted(set(Counter) - histograms) == list(range(Counter.CONNECT_TIME + 1))


@given(sizes)
def test_no_two_cells_are_the_same_one_and_all_are_aligned_words_of_the_file(
    size: tuple[int, int, int],
) -> None:
    with created(*size) as board:
        board.publish()
        written = fill(board)
        assert read(board) == written
        words = collections.Counter(words_of(board))
        assert {words[number] for row in written.values() for number in row} == {1}
        assert board.version == 1
        reopened = Board.open(board.fd)  # so the header is untouched too
        assert (reopened.endpoints, reopened.workers, reopened.routes) == size
        reopened.close()


@some_sizes
def test_no_two_writers_share_a_pair_of_cache_lines(endpoints: int, workers: int, routes: int) -> None:
    with created(endpoints, workers, routes) as board:
        written: dict[int, set[int]] = {worker: set() for worker in range(-1, workers)}
        for (kind, worker, _), row in rows_of(board).items():
            before = pairs_of(board)
            for index in range(len(row)):
                row[index] += 1
            pairs = enumerate(zip(before, pairs_of(board), strict=True))
            writer = -1 if kind in ("state", "leases") else worker
            written[writer] |= {place for place, (old, new) in pairs if old != new}
        written[-1].add(0)  # the header
        assert sum(map(len, written.values())) == len(set.union(*written.values()))


def test_a_row_has_the_cells_of_its_kind(board: Board) -> None:
    assert len(board.state(2)) == len(State)
    assert len(board.process(1)) == len(Process)
    assert len(board.traffic(1, 1)) == len(no_row(TRAFFIC_ROW)) == TRAFFIC_ROW
    assert len(board.counters(1, 2)) == len(no_row()) == ROW
    assert [len(cells) for cells in (board.leases(0), board.claims(0), board.wants(0))] == [3, 3, 3]
    tables = (board.clients(1), board.learned(1), board.rates(1))
    assert [len(cells) for cells in tables] == [CLIENTS, LEARNED, RATES]


def test_a_new_board_is_all_zeros(board: Board) -> None:
    assert not any(any(row) for row in read(board).values())
    assert board.version == 0


@pytest.mark.parametrize(
    "lookup",
    [
        lambda board: board.state(3),
        lambda board: board.state(-1),
        lambda board: board.counters(0, 3),
        lambda board: board.counters(2, 0),
        lambda board: board.counters(-1, 0),
        lambda board: board.leases(2),
        lambda board: board.process(-1),
        lambda board: board.learned(2),
        lambda board: board.rates(-1),
        lambda board: board.traffic(0, 2),
        lambda board: board.traffic(0, -1),
        lambda board: board.traffic(2, 0),
        lambda board: board.route_totals(2),
        lambda board: board.totals(3),
        lambda board: board.retire(2),
    ],
)
def test_what_is_not_on_the_board_is_an_error_and_not_another_row(
    board: Board, lookup: Callable[[Board], object]
) -> None:
    with pytest.raises(IndexError):
        lookup(board)


@given(sizes)
def test_two_mappings_see_each_others_writes(size: tuple[int, int, int]) -> None:
    with created(*size) as supervisor:
        worker = Board.open(supervisor.fd)
        assert read(worker) == read(supervisor)
        assert fill(worker) == read(supervisor)
        supervisor.publish()
        assert worker.version == supervisor.version == 1
        worker.close()


def test_the_version_moves_with_each_publication_and_not_with_states(board: Board) -> None:
    board.state(0)[State.WEIGHT] = 5
    assert board.version == 0
    for version in (1, 2, 3):
        board.publish()
        assert board.version == version


@st.composite
def boards_and_writes(draw: st.DrawFn) -> tuple[tuple[int, int], list[tuple[int, int, int, int]]]:
    """A size, and writes: (worker, endpoint, cell, number)."""
    endpoints, workers = draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    write = st.tuples(
        st.integers(0, workers - 1),
        st.integers(0, endpoints - 1),
        st.sampled_from([Counter.ACTIVE, Counter.EJECTED_UNTIL, Counter.TOTAL, ROW - 1]),
        st.integers(0, 1 << 40),
    )
    return (endpoints, workers), draw(st.lists(write, max_size=40))


@given(boards_and_writes(), st.lists(st.integers(0, 9), min_size=5, max_size=5))
def test_sums_are_those_of_a_model(
    sample: tuple[tuple[int, int], list[tuple[int, int, int, int]]], older: list[int]
) -> None:
    (endpoints, workers), writes = sample
    model = {(worker, endpoint): [0] * ROW for worker in range(workers) for endpoint in range(endpoints)}
    with created(endpoints, workers) as board:
        for worker, endpoint, cell, number in writes:
            board.counters(worker, endpoint)[cell] = model[worker, endpoint][cell] = number
        for endpoint in range(endpoints):
            board.state(endpoint)[State.ELSEWHERE] = older[endpoint]
            column = [model[worker, endpoint] for worker in range(workers)]
            assert board.totals(endpoint) == [sum(cells) for cells in zip(*column, strict=True)]
            assert board.ejected_until()[endpoint] == max(row[Counter.EJECTED_UNTIL] for row in column)
            for worker in range(workers):
                others = sum(row[Counter.ACTIVE] for other, row in enumerate(column) if other != worker)
                assert board.active_elsewhere(worker)[endpoint] == others + older[endpoint]
        assert len(board.active_elsewhere(0)) == len(board.ejected_until()) == endpoints


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, TRAFFIC_ROW - 1)), max_size=40)
)
def test_sums_of_routes_are_those_of_a_model(writes: list[tuple[int, int, int]]) -> None:
    model = {(worker, route): [0] * TRAFFIC_ROW for worker in range(3) for route in range(2)}
    with created(1, 3, 2) as board:
        for worker, route, cell in writes:
            board.traffic(worker, route)[cell] += 1
            model[worker, route][cell] += 1
        for route in range(2):
            column = [model[worker, route] for worker in range(3)]
            assert board.route_totals(route) == [sum(cells) for cells in zip(*column, strict=True)]
        for worker in range(3):
            accepted = sum(model[worker, route][Traffic.ACCEPTED] for route in range(2))
            assert board.of_worker(worker, Traffic.ACCEPTED) == accepted


def test_answers_to_each_method_and_of_each_class_have_a_cell_of_their_own(board: Board) -> None:
    row = board.traffic(1, 1)
    answers = Answers(row)
    for number, method in enumerate([*METHODS[:-1], b"PROPFIND"]):
        for family in range(1, FAMILIES + 1):
            answers[method][family] += 10 * number + family
    expected = [10 * number + family for number in range(len(METHODS)) for family in range(1, FAMILIES + 1)]
    assert row.tolist() == [0] * Traffic.ANSWERS + expected
    assert set(Traffic) == set(range(Traffic.ANSWERS + 1))


@given(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(0, 3)), st.data())
def test_retiring_a_worker_clears_its_gauges_claims_wants_and_clients_and_beats_once_more(
    size: tuple[int, int, int], data: st.DataObject
) -> None:
    retired = data.draw(st.integers(0, size[1] - 1))
    gauges = {"process": PROCESS_GAUGES, "traffic": TRAFFIC_GAUGES, "counters": GAUGES}
    with created(*size) as board:
        expected = fill(board)
        for (kind, worker, _), row in expected.items():
            if worker == retired and kind in ("claims", "wants", "clients"):
                row[:] = [0] * len(row)
            if worker == retired:
                for gauge in gauges.get(kind, ()):
                    row[gauge] = 0
            if worker == retired and kind == "counters":
                row[Counter.TOTAL] = max(row[Counter.TOTAL], answers_in(row))
        expected["process", retired, 0][Process.HEARTBEAT] += 1
        board.retire(retired)
        assert read(board) == expected


def test_a_worker_killed_between_two_beats_has_had_as_many_requests_as_it_has_answered(
    board: Board,
) -> None:
    row = board.counters(1, 2)
    row[Counter.TOTAL] = 5  # as last told
    row[Counter.STATUS_2XX], row[Counter.STATUS_5XX] = 6, 3
    board.retire(1)
    assert row[Counter.TOTAL] == 9
    row[Counter.TOTAL] = 11  # two came to nothing
    board.retire(1)
    assert row[Counter.TOTAL] == 11


def answers_in(row: list[int]) -> int:
    return sum(row[Counter.STATUS_1XX : Counter.STATUS_5XX + 1])


def test_slices_outlive_their_board_and_it_may_be_closed_twice() -> None:
    board = Board.create(3, 2)
    opened = Board.open(board.fd)
    rows, others = rows_of(board), rows_of(opened)
    for _ in range(2):
        opened.close()
        board.close()
    for what, row in rows.items():
        row[0] = 7
        assert others[what][0] == 7
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(board.fd)


def test_closing_an_opened_board_leaves_the_descriptor_to_its_owner(board: Board) -> None:
    Board.open(board.fd).close()
    Board.open(board.fd).close()


def test_closing_unmaps_the_memory_when_no_slice_is_left() -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum("trackproxy-board" in line for line in maps)

    before = mapped()
    board = Board.create(3, 2)
    row = board.counters(1, 1)
    assert mapped() == before + 1
    board.close()
    assert mapped() == before + 1
    row.release()
    assert mapped() == before


def test_a_board_is_not_inherited_by_chance_and_its_size_is_final(board: Board) -> None:
    assert not os.get_inheritable(board.fd)
    with pytest.raises(PermissionError):
        os.truncate(board.fd, 4096)


def test_a_board_that_cannot_be_mapped_is_an_error_of_ours_and_leaks_nothing() -> None:
    # Far beyond any address space: refused before a page is taken.
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BoardError):
        Board.create(1 << 45, 8)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kept_bytes", [0, 7, 47, 48, 4096, -8, -1])
def test_a_truncated_board_is_refused(board: Board, kept_bytes: int) -> None:
    whole = os.pread(board.fd, os.fstat(board.fd).st_size, 0)
    with file_of(whole) as fd:
        Board.open(fd).close()
    with file_of(whole[:kept_bytes]) as fd, pytest.raises(BoardError):
        Board.open(fd)
    with file_of(whole + bytes(8)) as fd, pytest.raises(BoardError):
        Board.open(fd)


@pytest.mark.parametrize("cell", range(5), ids=["magic", "layout", "endpoints", "routes", "workers"])
@pytest.mark.parametrize("number", [-1, 0, 1, 1 << 20, (1 << 63) - 1, -(1 << 63)])
def test_a_foreign_header_is_refused(board: Board, cell: int, number: int) -> None:
    whole = bytearray(os.pread(board.fd, os.fstat(board.fd).st_size, 0))
    struct.pack_into("=q", whole, cell * 8, number)
    with file_of(bytes(whole)) as fd, pytest.raises(BoardError):
        Board.open(fd)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_what_is_no_board_is_refused(content: bytes) -> None:
    with file_of(content) as fd, pytest.raises(BoardError):
        Board.open(fd)


def test_descriptors_that_cannot_be_mapped_are_refused(board: Board) -> None:
    reader, writer = os.pipe()
    directory = os.open("/", os.O_RDONLY)
    readable = os.open(f"/proc/self/fd/{board.fd}", os.O_RDONLY)
    for fd in (reader, writer, directory, readable, -1):
        with pytest.raises(BoardError):
            Board.open(fd)
    for fd in (reader, writer, directory, readable):
        os.close(fd)


@contextlib.contextmanager
def writer_on(board: Board) -> Iterator[None]:
    """A process that counts on this board as fast as it can, until it is killed."""
    command = [sys.executable, "-c", WRITER, str(board.fd)]
    child = subprocess.Popen(command, pass_fds=[board.fd])
    try:
        yield
        assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(DEADLINE_S)


def watch(row: memoryview) -> None:
    """Read until a writer has been seen at work; each read follows from the one before it."""
    first = before = row[Counter.TOTAL]
    moves, since = 0, time.monotonic()
    deadline = since + DEADLINE_S
    while moves < MOVES_PER_KILL:
        started = time.monotonic()
        total, lost = row[Counter.TOTAL], row[Counter.LOST]
        now = time.monotonic()
        assert now < deadline, f"seen to move {moves} times since {first}"
        assert total % STEP == lost % PATTERN == 0
        assert before <= total <= before + STEP * (1 + INCREMENTS_PER_S * (now - since))
        moves += total != before
        before, since = total, started


def test_a_writer_that_is_killed_again_and_again_leaves_nothing_torn_and_totals_that_never_run_back() -> None:
    with created(2, 1) as board:
        row = board.counters(0, 1)
        for kill in range(1, KILLS + 1):
            before = row[Counter.TOTAL]
            with writer_on(board):
                watch(row)
            histogram = row[Counter.DURATION :]
            requests = row[Counter.TOTAL] // STEP
            assert before <= row[Counter.TOTAL]
            assert requests - kill <= sum(histogram) <= requests
            assert max(histogram) - min(histogram) <= 2 * kill
            board.retire(0)
            assert row[Counter.ACTIVE] == 0
            assert row[Counter.TOTAL] // STEP == requests
        assert board.totals(0) == [0] * ROW


def test_all_totals_at_once_are_those_of_each_endpoint() -> None:
    with created(3, 2) as board:
        for worker, endpoint, cell in product(range(2), range(3), range(ROW)):
            board.counters(worker, endpoint)[cell] = (worker + 1) * 1_000_000 + endpoint * 1_000 + cell
        assert board.all_totals() == [board.totals(endpoint) for endpoint in range(3)]
        kept = [row[Counter.IDLE] for row in board.all_totals()]
        assert board.of_kind(Counter.IDLE) == kept
    with created(0, 2) as nothing:
        assert nothing.all_totals() == []
