"""What a worker counts of its endpoints and of itself, as its cells on the board show it."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.memory_stage import Stage
from tests.unit.memory_transport import MemoryTransport
from tests.unit.test_protocols import BEGUN, GET, OK, SWITCH, UPGRADE, asked, leave
from trackproxy.board import BUCKETS_S, HISTOGRAM, METHODS, Answers, Counter, Process, Traffic, no_row
from trackproxy.http import channel, upstream
from trackproxy.pool.nodes import AdminState
from trackproxy.step import LATE_WINDOW_S, Lateness, Step

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
    kinds = (
        Counter.CONNECT_FAILURES,
        Counter.LOST,
        Counter.MALFORMED,
        Counter.SILENT,
        Counter.EJECTED_CONNECT,
    )
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
    assert stage.board.traffic(0, 0)[Traffic.CONNECTED] == 2
    leave(stage, waiting, tunnel, node)
    cells = cells_of(stage)
    assert [cells[kind] for kind in (Counter.ACTIVE, Counter.TUNNELS, Counter.IDLE)] == [0, 0, 0]
    assert stage.board.traffic(0, 0)[Traffic.CONNECTED] == 0


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
    stage.board.process(0)[Process.HEARTBEAT] = 1000
    for cell in (Traffic.ACCEPTED, Traffic.REFUSED_MALFORMED, Traffic.REFUSED_FAILED):
        stage.board.traffic(0, 0)[cell] = 1000
    stage.step = Step(stage.board, 0, [stage.service])
    client, node = asked(stage)
    node.receive(OK)
    bad = stage.client()
    bad.receive(BAD)
    for _ in range(3):
        cells = cells_of(stage)
    traffic = stage.board.traffic(0, 0)
    assert (cells[Counter.TOTAL], cells[Counter.STATUS_2XX]) == (101, 91)
    assert (traffic[Traffic.ACCEPTED], traffic[Traffic.REFUSED_MALFORMED]) == (1002, 1001)
    assert (traffic[Traffic.REFUSED_FAILED], stage.board.process(0)[Process.HEARTBEAT]) == (1000, 1003)
    leave(stage, client, bad)


def test_what_nobody_could_answer_counts_as_failed(stage: Stage) -> None:
    stage.loop.refusing = {8000}
    client = stage.client()
    client.receive(GET)
    stage.run()
    assert stage.board.traffic(0, 0)[Traffic.REFUSED_FAILED] == 1
    leave(stage, client)


# --- what is counted of routes ---

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
ROUTES: dict[str, Any] = {"routes": [{"name": "click", "path": "/t/"}]}


def traffic(stage: Stage, route: int = 0) -> dict[str, int]:
    """What is counted of a route, its gauges and its answers left out."""
    row = stage.board.traffic(0, route)
    return {
        cell.name: row[cell] for cell in Traffic if Traffic.WAITING < cell < Traffic.ANSWERS and row[cell]
    }


def answers(stage: Stage, route: int = 0) -> dict[tuple[bytes, int], int]:
    """What clients of a route got, by method and class."""
    row = Answers(stage.board.traffic(0, route))
    counted = {(method, family): row[method][family] for method in METHODS for family in range(1, 6)}
    return {what: count for what, count in counted.items() if count}


@pytest.mark.parametrize(
    ("method", "status", "counted"),
    [
        (b"GET", 200, (b"GET", 2)),
        (b"OPTIONS", 302, (b"OPTIONS", 3)),
        (b"PROPFIND", 404, (b"other", 4)),
        (b"DELETE", 503, (b"DELETE", 5)),
        (b"PATCH", 999, (b"PATCH", 5)),
    ],
)
def test_what_clients_get_counts_by_method_and_class(
    stage: Stage, method: bytes, status: int, counted: tuple[bytes, int]
) -> None:
    client = stage.client()
    client.receive(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method)
    stage.run()
    (node,) = stage.loop.connected
    node.receive(b"HTTP/1.1 %d Text\r\nContent-Length: 0\r\n\r\n" % status)
    assert answers(stage) == {counted: 1}
    leave(stage, client)


def test_each_route_counts_its_own_and_the_last_one_what_belongs_to_none() -> None:
    stage = Stage(**ROUTES)
    for request in (b"GET /t/1 HTTP/1.1\r\nHost: a\r\n\r\n", GET, BAD):
        client = stage.client()
        client.receive(request)
        stage.run()
        for node in stage.loop.connected[-1:]:
            node.receive(OK)
        leave(stage, client)
    assert answers(stage, 0) == {(b"GET", 2): 1}
    assert answers(stage, 1) == {(b"GET", 2): 1, (b"other", 4): 1}
    assert traffic(stage, 0) == {}
    assert traffic(stage, 1) == {"ACCEPTED": 3, "REFUSED_MALFORMED": 1}


def test_a_switch_of_protocols_counts_as_an_answer(stage: Stage) -> None:
    client, node = asked(stage, UPGRADE)
    node.receive(SWITCH)
    assert answers(stage) == {(b"GET", 1): 1}
    leave(stage, client, node)


@pytest.mark.parametrize(
    ("request_", "cause", "answer"),
    [
        (BAD, "REFUSED_MALFORMED", (b"other", 4)),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "REFUSED_METHOD", (b"other", 4)),
        (b"GET /" + b"x" * 20_000, "REFUSED_TOO_LARGE", (b"other", 4)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", "REFUSED_TOO_LARGE", (b"other", 4)),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "REFUSED_MALFORMED", (b"other", 5)),
    ],
    ids=["malformed", "method", "long target", "body", "version"],
)
def test_what_is_refused_counts_by_its_cause(request_: bytes, cause: str, answer: tuple[bytes, int]) -> None:
    stage = Stage(max_body=5)
    client = stage.client()
    client.receive(request_)
    assert traffic(stage) == {"ACCEPTED": 1, cause: 1}
    assert answers(stage) == {answer: 1}
    leave(stage, client)


def test_a_body_that_does_not_come_counts_as_a_timeout_of_its_method(stage: Stage) -> None:
    client = stage.client()
    client.receive(POST[:-1])
    stage.after(200)
    assert traffic(stage)["REFUSED_TIMEOUT"] == 1
    assert answers(stage) == {(b"POST", 4): 1}
    leave(stage, client)


def test_who_finds_no_room_counts_by_what_was_full() -> None:
    stage = Stage(max_connections=1, queue={"size": 1, "timeout": "2s"})
    busy, waits, full = (stage.client() for _ in range(3))
    for client in (busy, waits, full):
        client.receive(GET)
    stage.after(5)
    assert traffic(stage) == {"ACCEPTED": 3, "REFUSED_QUEUE_FULL": 1, "REFUSED_QUEUE_TIMEOUT": 1}
    assert answers(stage) == {(b"GET", 5): 2}
    leave(stage, busy, waits, full)


def test_who_finds_no_node_counts_so() -> None:
    stage = Stage(nodes=1)
    stage.endpoints[0].node.state = AdminState.READY
    stage.service.groups[0].balancer.set_state("node0", AdminState.DISABLED)
    client = stage.client()
    client.receive(GET)
    assert traffic(stage) == {"ACCEPTED": 1, "REFUSED_NO_NODE": 1}
    leave(stage, client)


def test_second_tries_count_by_what_went_wrong_before_and_where_they_go() -> None:
    stage = Stage(nodes=2)
    client, node = asked(stage)
    node.receive_eof()
    stage.run()
    stage.loop.connected[-1].receive(OK)
    assert traffic(stage) == {"ACCEPTED": 1, "RETRIED_LOST": 1, "REDISPATCHED": 1}
    assert answers(stage) == {(b"GET", 2): 1}
    leave(stage, client)


def test_an_error_that_another_node_does_not_make_counts_as_a_second_try_and_not_as_an_answer() -> None:
    stage = Stage(nodes=2, retry={"statuses": [503]})
    client, node = asked(stage)
    node.receive(b"HTTP/1.1 503 Text\r\nContent-Length: 0\r\n\r\n")
    stage.run()
    stage.loop.connected[-1].receive(OK)
    assert traffic(stage) == {"ACCEPTED": 1, "RETRIED_STATUS": 1, "REDISPATCHED": 1}
    assert answers(stage) == {(b"GET", 2): 1}
    leave(stage, client)


def test_a_second_try_at_the_same_node_is_no_redispatch(stage: Stage) -> None:
    idle = stage.node()
    client = stage.client()
    client.receive(GET)
    idle.receive_eof()
    stage.run()
    stage.loop.connected[-1].receive(OK)
    assert traffic(stage) == {"ACCEPTED": 1, "RETRIED_LOST": 1}
    cells = cells_of(stage)
    assert [cells[kind] for kind in (Counter.TOTAL, Counter.RETRIES, Counter.REUSED)] == [1, 1, 1]
    leave(stage, client)


def test_second_tries_that_the_budget_does_not_allow_are_counted() -> None:
    stage = Stage(nodes=2, retry={"budget": 0, "budget_min": 0})
    client, node = asked(stage)
    node.receive_eof()
    stage.run()
    assert traffic(stage) == {"ACCEPTED": 1, "BUDGET_EXHAUSTED": 1, "REFUSED_FAILED": 1}
    leave(stage, client)


def test_a_request_that_waits_for_its_second_try_counts_once_it_has_it() -> None:
    stage = Stage(nodes=2, max_connections=1)
    first, second = stage.client(), stage.client()
    for client in (first, second):
        client.receive(GET)
    stage.run()
    lost, busy = stage.loop.connected
    lost.receive_eof()
    stage.run()
    assert "RETRIED_LOST" not in traffic(stage)
    busy.receive(OK)
    stage.run()
    assert traffic(stage) == {"ACCEPTED": 2, "RETRIED_LOST": 1, "REDISPATCHED": 1}
    assert stage.board.counters(0, 0)[Counter.RETRIES] + stage.board.counters(0, 1)[Counter.RETRIES] == 1
    leave(stage, first, second)


@given(st.lists(st.sampled_from(["ask", "answer", "close", "leave", "refuse"]), max_size=40))
def test_every_request_that_was_sent_went_over_a_new_connection_or_one_that_is_used_again(
    steps: list[str],
) -> None:
    stage = Stage(outliers={"connects": 0, "failures": 0})
    clients: list[MemoryTransport] = []
    for step in steps:
        busy = [node for node in stage.loop.connected if not node.gone]
        if step == "ask":
            clients.append(stage.client())
            clients[-1].receive(GET)
        elif step == "leave" and clients:
            clients.pop(0).lose()
        elif step == "refuse":
            stage.loop.refusing ^= {8000}
        elif step == "answer" and busy and busy[0].taken():
            busy[0].receive(OK)
        elif step == "close" and busy:
            busy[0].receive_eof()
        stage.run()
    cells = cells_of(stage)
    sent = sum(endpoint.total + endpoint.repeats for endpoint in stage.endpoints)
    dialled = cells[Counter.CONNECTS] + cells[Counter.CONNECT_FAILURES]
    assert cells[Counter.REUSED] == sent - dialled >= 0
    leave(stage, *clients)


# --- what is counted of the loop ---


def test_lateness_of_beats_adds_up_and_the_worst_one_is_told_for_a_while() -> None:
    process = no_row(len(Process))
    lateness = Lateness(process)
    for now, pause_s in ((0.0, 0.025), (0.025, 0.025), (0.350, 0.1), (0.450, 0.1), (0.549, 0.1)):
        lateness.beat(now, pause_s)
    assert process[Process.BEATS] == 5
    assert process[Process.LATE_SUM_US] == pytest.approx(300_000, abs=5)
    assert process[Process.LATE_WORST_US] == pytest.approx(300_000, abs=5)
    lateness.beat(LATE_WINDOW_S + 0.549, LATE_WINDOW_S)
    lateness.beat(2 * LATE_WINDOW_S + 0.549, LATE_WINDOW_S)
    assert process[Process.LATE_WORST_US] > 4e6  # of the beat that came after a whole window
    for number in range(3, 6):
        lateness.beat(number * LATE_WINDOW_S + 0.549, LATE_WINDOW_S)
    assert process[Process.LATE_WORST_US] <= 5
