"""What a worker counts of its endpoints and of itself, as its cells on the board show it."""

from __future__ import annotations

from bisect import bisect_left

import pytest

from tests.unit.memory_stage import Stage
from tests.unit.test_protocols import BEGUN, GET, OK, SWITCH, UPGRADE, asked, leave
from trackproxy.board import BUCKETS_S, HISTOGRAM, Counter, Process
from trackproxy.http import channel, upstream
from trackproxy.step import Step

BAD = b"GET / HTTP/1.1\r\n\r\n"  # no Host


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage whose connections measure time by its clock."""
    stage = Stage()
    monkeypatch.setattr(upstream, "monotonic", stage.loop.time)
    monkeypatch.setattr(channel, "monotonic", stage.loop.time)
    return stage


def cells_of(stage: Stage) -> list[int]:
    """The row of the only endpoint, after a beat."""
    stage.beat()
    return stage.board.counters(0, 0).tolist()


def histogram(cells: list[int], first: Counter) -> dict[int, int]:
    """The buckets of a histogram that hold anything."""
    return {bucket: count for bucket, count in enumerate(cells[first : first + HISTOGRAM]) if count}


def test_every_answer_counts_with_its_time_to_the_head_and_to_the_end(stage: Stage) -> None:
    for _ in range(5):
        client = stage.client()
        client.receive(GET)
        stage.run()
        node = stage.loop.connected[0]
        stage.loop.now_s += 0.003
        node.receive(BEGUN)
        stage.loop.now_s += 0.1
        node.receive(b"x" * 95)
        client.lose()
    cells = cells_of(stage)
    assert (cells[Counter.TOTAL], cells[Counter.STATUS_2XX], cells[Counter.CONNECTS]) == (5, 5, 1)
    assert cells[Counter.FIRST_BYTE_SUM_US] == pytest.approx(5 * 3_000, abs=5)
    assert cells[Counter.DURATION_SUM_US] == pytest.approx(5 * 103_000, abs=5)
    assert histogram(cells, Counter.FIRST_BYTE) == {bisect_left(BUCKETS_S, 0.003): 5}
    assert histogram(cells, Counter.DURATION) == {bisect_left(BUCKETS_S, 0.103): 5}
    assert histogram(cells, Counter.CONNECT_TIME) == {0: 1}
    stage.assert_at_rest()


def test_an_answer_in_one_piece_counts_with_one_time(stage: Stage) -> None:
    for _ in range(5):
        client, node = asked(stage)
        stage.loop.now_s += 0.003
        node.receive(OK)
        client.lose()
        node.receive_eof()
    cells = cells_of(stage)
    assert (cells[Counter.TOTAL], cells[Counter.STATUS_2XX]) == (5, 5)
    assert cells[Counter.WHOLE_SUM_US] == pytest.approx(5 * 3_000, abs=5)
    assert histogram(cells, Counter.WHOLE) == {bisect_left(BUCKETS_S, 0.003): 5}
    assert histogram(cells, Counter.FIRST_BYTE) == histogram(cells, Counter.DURATION) == {}
    stage.run()
    stage.assert_at_rest()


@pytest.mark.parametrize(
    ("status", "cell"),
    [
        (200, Counter.STATUS_2XX),
        (302, Counter.STATUS_3XX),
        (404, Counter.STATUS_4XX),
        (503, Counter.STATUS_5XX),
    ],
)
def test_answers_count_by_their_class(stage: Stage, status: int, cell: Counter) -> None:
    client, node = asked(stage)
    node.receive(b"HTTP/1.1 %d Text\r\nContent-Length: 0\r\n\r\n" % status)
    cells = cells_of(stage)
    classes = range(Counter.STATUS_1XX, Counter.STATUS_5XX + 1)
    assert [counter for counter in classes if cells[counter]] == [cell]
    leave(stage, client)


def test_failures_count_by_their_kind(stage: Stage) -> None:
    clients = [stage.client() for _ in range(3)]
    for client in clients:
        client.receive(GET)
    stage.run()
    lost, malformed, _ = stage.loop.connected
    lost.receive_eof()
    malformed.receive(b"nonsense")
    stage.after(62)  # the third one keeps silent
    stage.loop.refusing = {8000}
    refused = stage.client()
    refused.receive(GET)
    stage.run()
    cells = cells_of(stage)
    kinds = (Counter.CONNECT_FAILURES, Counter.LOST, Counter.MALFORMED, Counter.SILENT, Counter.EJECTIONS)
    assert [cells[kind] for kind in kinds] == [1, 1, 1, 1, 1]
    assert (cells[Counter.TOTAL], cells[Counter.CONNECTS]) == (4, 3)
    leave(stage, refused, *clients)


def test_gauges_show_what_there_is_now(stage: Stage) -> None:
    waiting, _ = asked(stage)
    tunnel, node = asked(stage, UPGRADE)
    node.receive(SWITCH)
    stage.node()
    cells = cells_of(stage)
    assert [cells[kind] for kind in (Counter.ACTIVE, Counter.TUNNELS, Counter.IDLE)] == [2, 1, 1]
    assert stage.board.process(0)[Process.CONNECTIONS] == 2
    leave(stage, waiting, tunnel, node)
    cells = cells_of(stage)
    assert [cells[kind] for kind in (Counter.ACTIVE, Counter.TUNNELS, Counter.IDLE)] == [0, 0, 0]
    assert stage.board.process(0)[Process.CONNECTIONS] == 0


def test_a_request_that_is_asked_again_counts_as_a_retry_where_it_goes() -> None:
    stage = Stage(nodes=2)
    client, node = asked(stage)
    node.receive_eof()
    stage.run()
    stage.loop.connected[-1].receive(OK)
    stage.beat()
    rows = [stage.board.counters(0, number).tolist() for number in range(2)]
    assert [row[Counter.RETRIES] for row in rows] == [0, 1]
    assert [row[Counter.LOST] for row in rows] == [1, 0]
    assert [row[Counter.TOTAL] for row in rows] == [1, 1]
    leave(stage, client)


def test_totals_are_added_to_what_a_worker_before_left_in_the_column(stage: Stage) -> None:
    stage.board.counters(0, 0)[Counter.TOTAL] = 100
    stage.board.counters(0, 0)[Counter.STATUS_2XX] = 90
    for cell in (Process.HEARTBEAT, Process.ACCEPTED, Process.REFUSED, Process.UNAVAILABLE):
        stage.board.process(0)[cell] = 1000
    stage.step = Step(stage.board, 0, [stage.service])
    client, node = asked(stage)
    node.receive(OK)
    bad = stage.client()
    bad.receive(BAD)
    for _ in range(3):
        cells = cells_of(stage)
    process = stage.board.process(0)
    assert (cells[Counter.TOTAL], cells[Counter.STATUS_2XX]) == (101, 91)
    assert (process[Process.ACCEPTED], process[Process.REFUSED]) == (1002, 1001)
    assert (process[Process.UNAVAILABLE], process[Process.HEARTBEAT]) == (1000, 1003)
    leave(stage, client, bad)


def test_what_nobody_could_answer_counts_as_unavailable(stage: Stage) -> None:
    stage.loop.refusing = {8000}
    client = stage.client()
    client.receive(GET)
    stage.run()
    stage.beat()
    assert stage.board.process(0)[Process.UNAVAILABLE] == 1
    leave(stage, client)
