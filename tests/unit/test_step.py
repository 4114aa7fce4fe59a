"""A worker's beat: what it tells on its column of the board, and what it follows there."""

from __future__ import annotations

import pytest

from tests.unit.memory_stage import Stage
from tests.unit.memory_transport import MemoryTransport
from tests.unit.test_protocols import GET, OK, leave
from trackproxy.board import Counter, State, Traffic
from trackproxy.health.outliers import Cause
from trackproxy.pool.endpoints import Health
from trackproxy.pool.nodes import AdminState

PUT = b"PUT /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
SENT_POST = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


def publish(stage: Stage, number: int = 0, **states: int) -> None:
    """Be the supervisor: say this of an endpoint, and that the others are as configured."""
    for index, endpoint in enumerate(stage.endpoints):
        state = stage.board.state(index)
        state[State.WEIGHT] = state[State.WEIGHT] or endpoint.weight
        stage.board.leases(0)[index] = stage.board.leases(0)[index] or endpoint.max_connections
    for name, cell in states.items():
        stage.board.state(number)[State[name]] = cell
    stage.board.publish()


def lend(stage: Stage, lease: int) -> None:
    """Be the supervisor: let the worker have so many requests open at the first endpoint."""
    publish(stage)
    stage.board.leases(0)[0] = lease
    stage.beat()


def eject_elsewhere(stage: Stage, seconds: float) -> None:
    """Be another worker, which leaves the first endpoint out for so long from now."""
    stage.board.counters(1, 0)[Counter.EJECTED_UNTIL] = int((stage.loop.now_s + seconds) * 1000)


def two(stage: Stage, request: bytes) -> tuple[MemoryTransport, MemoryTransport, MemoryTransport]:
    """Return a client whose REQUEST is at the first of two nodes, and both nodes' connections."""
    nodes = stage.node(0), stage.node(1)
    client = stage.client()
    publish(stage, 1, ADMIN=1)
    stage.beat()
    client.receive(request)
    stage.run()
    publish(stage, 1, ADMIN=0)
    stage.beat()
    first = next(node for node in (nodes[0], *stage.loop.connected) if node.taken())
    return client, first, nodes[1]


# --- what the supervisor says ---


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"ADMIN": 1}, (AdminState.DRAIN, Health.UP, 1)),
        ({"ADMIN": 2}, (AdminState.DISABLED, Health.UP, 1)),
        ({"HEALTH": 1}, (AdminState.READY, Health.DOWN, 1)),
        ({"HEALTH": 2, "WEIGHT": 7}, (AdminState.READY, Health.STARTING, 7)),
    ],
)
def test_states_are_followed_once_they_are_published_and_not_before(
    states: dict[str, int], expected: tuple[AdminState, Health, int]
) -> None:
    stage = Stage(nodes=2)
    publish(stage)
    stage.beat()
    for name, cell in states.items():
        stage.board.state(0)[State[name]] = cell
    stage.beat()
    first, second = stage.endpoints
    as_configured = (AdminState.READY, Health.UP, 1)
    assert (first.node.state, first.health, first.weight) == as_configured
    stage.board.publish()
    stage.beat()
    assert (first.node.state, first.health, first.weight) == expected
    assert (second.node.state, second.health, second.weight) == as_configured


def test_a_board_on_which_nothing_was_published_changes_nothing() -> None:
    stage = Stage(nodes=2, max_connections=5)
    stage.beat()
    assert [(endpoint.weight, endpoint.max_connections) for endpoint in stage.endpoints] == [(1, 5)] * 2
    assert stage.board.claims(0).tolist() == [0, 0]


def test_who_waits_is_served_when_a_node_comes_back() -> None:
    stage = Stage(nodes=2, max_connections=1)
    publish(stage, HEALTH=1)
    stage.beat()
    first, second = stage.client(), stage.client()
    for client in (first, second):
        client.receive(GET)
    stage.run()
    assert stage.active == [0, 1]
    publish(stage, HEALTH=0)
    stage.beat()
    assert stage.active == [1, 1]
    leave(stage, first, second)


def test_idle_connections_of_a_node_that_is_down_are_closed() -> None:
    stage = Stage(nodes=2)
    nodes = [stage.node(0), stage.node(1)]
    publish(stage, HEALTH=1)
    stage.beat()
    stage.run()
    assert [node.gone for node in nodes] == [True, False]


# --- leases ---


def test_a_worker_claims_what_it_was_lent_and_never_less_than_it_has_open() -> None:
    stage = Stage(max_connections=5)
    clients = [stage.client() for _ in range(3)]
    lend(stage, 4)
    assert stage.board.claims(0)[0] == 4
    for client in clients:
        client.receive(GET)
    stage.run()
    claims = []
    for lease in (2, -1, 3):
        lend(stage, lease)
        claims.append(stage.board.claims(0)[0])
    assert claims == [3, 3, 3]
    lend(stage, 1)
    for client in clients:
        client.lose()
        stage.beat()
        claims.append(stage.board.claims(0)[0])
    assert claims[3:] == [2, 1, 1]
    leave(stage)


def test_a_worker_without_a_lease_has_requests_wait_until_it_gets_one() -> None:
    stage = Stage(max_connections=5)
    lend(stage, -1)
    client = stage.client()
    client.receive(GET)
    stage.run()
    assert (stage.active, client.taken()) == ([0], b"")
    lend(stage, 1)
    stage.run()
    (node,) = stage.loop.connected
    node.receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_a_worker_wants_what_it_has_open_and_what_waits() -> None:
    stage = Stage(max_connections=5)
    lend(stage, 2)
    clients = [stage.client() for _ in range(5)]
    for client in clients:
        client.receive(GET)
    stage.beat()
    assert stage.board.wants(0)[0] == 5
    assert stage.board.traffic(0, 0)[Traffic.WAITING] == 3
    leave(stage, *clients)
    stage.beat()
    assert stage.board.wants(0)[0] == 0


# --- what other workers say ---


def test_an_endpoint_that_another_worker_ejects_is_left_out_until_that_ends() -> None:
    stage = Stage(nodes=2, workers=2)
    eject_elsewhere(stage, 2.0)
    stage.beat()
    clients = [stage.client() for _ in range(4)]
    for client in clients:
        client.receive(GET)
    assert stage.active == [0, 4]
    stage.loop.now_s += 1.99
    stage.beat()
    assert stage.endpoints[0].ejected
    stage.loop.now_s += 0.02
    stage.beat()
    assert not stage.endpoints[0].ejected
    leave(stage, *clients)


def test_who_waits_is_served_when_an_ejection_elsewhere_ends() -> None:
    stage = Stage(nodes=2, workers=2, max_connections=1)
    eject_elsewhere(stage, 2.0)
    stage.beat()
    clients = [stage.client(), stage.client()]
    for client in clients:
        client.receive(GET)
    assert stage.active == [0, 1]
    stage.board.counters(1, 0)[Counter.EJECTED_UNTIL] = 0
    stage.beat()
    assert stage.active == [1, 1]
    leave(stage, *clients)


def test_our_own_ejection_lasts_although_another_worker_has_none() -> None:
    stage = Stage(nodes=2, workers=2)
    stage.loop.refusing = {8000}
    client, node = stage.client(), stage.node(1)
    client.receive(GET)
    stage.run()
    stage.beat()
    assert stage.endpoints[0].ejected
    assert max(stage.board.ejected_until()) == stage.board.counters(0, 0)[Counter.EJECTED_UNTIL] > 0
    node.receive(OK)
    leave(stage, client)


def test_what_other_workers_have_open_counts_for_least_connections() -> None:
    stage = Stage(nodes=2, workers=2, balance="least_connections")
    stage.board.counters(1, 0)[Counter.ACTIVE] = 2
    stage.board.state(0)[State.ELSEWHERE] = 1
    stage.beat()
    clients = [stage.client() for _ in range(4)]
    for client in clients:
        client.receive(GET)
    assert [endpoint.own for endpoint in stage.endpoints] in ([0, 4], [1, 3])
    stage.board.counters(1, 0)[Counter.ACTIVE] = stage.board.state(0)[State.ELSEWHERE] = 0
    stage.beat()
    leave(stage, *clients)


# --- pardons ---


def test_a_pardon_ends_an_ejection_that_came_from_the_generation_before() -> None:
    stage = Stage(nodes=2)
    stage.board.counters(0, 0)[Counter.EJECTED_UNTIL] = 1 << 40
    publish(stage)
    stage.beat()
    assert stage.endpoints[0].ejected
    publish(stage, PARDONS=1)
    stage.beat()
    assert not stage.endpoints[0].ejected
    assert stage.board.ejected_until() == [0, 0]


def test_a_pardon_ends_an_ejection() -> None:
    stage = Stage(nodes=2)
    stage.loop.refusing = {8000}
    client = stage.client()
    client.receive(GET)
    stage.run()
    publish(stage)
    stage.beat()
    assert stage.endpoints[0].ejected
    publish(stage, PARDONS=1)
    stage.beat()
    assert not stage.endpoints[0].ejected
    assert stage.board.ejected_until() == [0, 0]
    leave(stage, client)


def test_what_another_worker_has_just_ejected_counts_before_the_next_beat() -> None:
    stage = Stage(nodes=2, workers=2, outliers={"failures": 1, "max_ejected": 50})
    stage.beat()
    until_ms = int((stage.loop.now_s + 10) * 1000)
    stage.board.counters(1, 0)[Counter.EJECTED_UNTIL] = until_ms
    stage.service.groups[0].ejections.failed(stage.endpoints[1], Cause.LOST)
    assert not stage.endpoints[1].ejected
    stage.board.counters(1, 0)[Counter.EJECTED_UNTIL] = 0
    stage.service.groups[0].ejections.failed(stage.endpoints[1], Cause.LOST)
    assert stage.endpoints[1].ejected


def test_what_another_worker_has_just_ejected_is_ejected_here_too() -> None:
    stage = Stage(nodes=2, workers=2, outliers={"failures": 1, "max_ejected": 50})
    stage.beat()
    stage.board.counters(1, 1)[Counter.EJECTED_UNTIL] = int((stage.loop.now_s + 10) * 1000)
    stage.service.groups[0].ejections.failed(stage.endpoints[1], Cause.LOST)
    assert stage.endpoints[1].ejected
    assert stage.endpoints[1].cells[Counter.EJECTED_UNTIL]
