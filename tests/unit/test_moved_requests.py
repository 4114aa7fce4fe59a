"""Requests that leave their endpoint before it has answered: none is lost, sent twice or miscounted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.memory_stage import Stage
from tests.unit.memory_transport import HIGH_WATER, MemoryTransport
from tests.unit.test_protocols import (
    GET,
    GET_2,
    OK,
    SWITCH,
    UPGRADE,
    asked,
    leave,
    status_of,
)
from tests.unit.test_step import PUT, SENT_POST, publish
from trackproxy.board import Counter, State
from trackproxy.health.outliers import Cause
from trackproxy.http.upstream import Upstream

ERROR = b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nsorry"


def connecting(stage: Stage, request: bytes) -> MemoryTransport:
    """Return a client for which a connection to the first of two nodes is being made."""
    publish(stage, 1, ADMIN=1)
    stage.beat()
    client = stage.client()
    client.receive(request)
    publish(stage, 1, ADMIN=0)
    stage.beat()
    assert stage.active == [1, 0]
    return client


def closing_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch, close: Callable[..., object]) -> None:
    """Have the first node CLOSE each connection before anybody could send on it."""
    connect = stage.loop.create_connection

    async def create_connection(make: Callable[[], Upstream], host: str, port: int) -> Any:
        transport, upstream = await connect(make, host, port)
        if port == 8000:
            close(transport)
        return transport, upstream

    monkeypatch.setattr(stage.loop, "create_connection", create_connection)


# --- orders to end what is left ---


@pytest.mark.parametrize("request_", [GET, PUT, SENT_POST])
def test_an_end_moves_what_waits_for_a_connection_since_nothing_was_sent(request_: bytes) -> None:
    stage = Stage(nodes=2)
    client = connecting(stage, request_)
    publish(stage, ENDS=1, ADMIN=2)
    stage.beat()
    assert stage.active == [0, 1]
    stage.run()
    sent = [node for node in stage.loop.connected if node.taken()]
    assert len(sent) == 1
    sent[0].receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_what_an_end_moves_goes_to_nobody_who_was_taken_out_with_it() -> None:
    stage = Stage(nodes=2, panic_threshold=0)
    other = stage.node(1)
    client = connecting(stage, GET)
    stage.run()
    stage.board.state(1)[State.ADMIN] = 2
    publish(stage, 0, ENDS=1)
    stage.beat()
    stage.run()
    assert other.taken() == b""
    assert status_of(client.taken()) == 502
    leave(stage, client)


def test_what_would_find_no_room_and_no_place_in_the_queue_stays_where_it_is() -> None:
    stage = Stage(nodes=2, max_connections=1, outliers={"silence": 1}, queue={"size": 0}, panic_threshold=0)
    nodes = stage.node(0), stage.node(1)
    clients = stage.client(), stage.client()
    for client in clients:
        client.receive(GET)
    publish(stage, 0, HEALTH=1)
    stage.after(5)
    assert stage.active == [1, 1]
    for node in nodes:
        node.receive(OK)
    assert [client.taken() for client in clients] == [OK, OK]
    leave(stage, *clients)


# --- connections that are dead before anything was sent ---


@pytest.mark.parametrize("close", [MemoryTransport.receive_eof, MemoryTransport.lose])
@pytest.mark.parametrize("request_", [GET, PUT, SENT_POST])
def test_a_node_that_closes_a_connection_at_once_has_not_got_the_request(
    request_: bytes, close: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(nodes=2)
    closing_at_once(stage, monkeypatch, close)
    client = connecting(stage, request_)
    stage.run()
    assert stage.active == [0, 1]
    assert stage.endpoints[0].ejected
    stage.loop.connected[-1].receive(OK)
    assert client.taken() == OK
    leave(stage, client)


@pytest.mark.parametrize("close", [MemoryTransport.receive_eof, MemoryTransport.lose])
def test_a_connection_that_is_dead_when_its_client_has_left_is_not_kept(
    close: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(nodes=2)
    closing_at_once(stage, monkeypatch, close)
    client = connecting(stage, GET)
    client.lose()
    stage.run()
    assert not stage.channel().idle
    stage.assert_at_rest()


def test_a_client_does_not_wait_for_ever_after_an_error_that_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def send(*args: object) -> None:
        raise ZeroDivisionError

    stage = Stage()
    client = stage.client()
    client.receive(GET)
    monkeypatch.setattr(Upstream, "send", send)
    with pytest.raises(ZeroDivisionError):
        stage.run()
    stage.run()
    assert client.gone
    (node,) = stage.loop.connected
    assert node.gone
    stage.assert_at_rest()


# --- errors that are asked for again elsewhere ---


def test_a_retry_that_the_budget_refuses_is_no_request_that_was_sent() -> None:
    stage = Stage(nodes=2, retry={"budget": 0, "budget_min": 0})
    client, node = asked(stage)
    node.receive(ERROR)
    assert client.taken() == ERROR
    assert sum(endpoint.total for endpoint in stage.endpoints) == 1
    leave(stage, client)


def test_an_early_error_that_is_kept_from_the_client_leaves_its_connection_as_it_was() -> None:
    stage = Stage(nodes=2)
    client, node = asked(stage, PUT[:-1])
    node.receive(ERROR)
    stage.run()
    client.receive(PUT[-1:])
    (other,) = stage.loop.connected
    other.receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_a_switch_of_protocol_is_a_good_answer() -> None:
    stage = Stage(nodes=2, outliers={"failures": 2})
    (first, _) = stage.endpoints
    for _ in range(3):
        stage.service.groups[0].ejections.failed(first, Cause.LOST)
        node, client = stage.node(), stage.client()
        stage.service.groups[0].balancer.set_weight(stage.endpoints[1], 0)
        client.receive(UPGRADE)
        node.receive(SWITCH)
        client.lose()
        stage.run()
    assert not first.ejected
    stage.assert_at_rest()


def test_a_request_that_is_sent_to_the_same_endpoint_again_counts_as_a_retry() -> None:
    stage = Stage()
    client, node = asked(stage)
    node.receive_eof()
    stage.run()
    assert stage.endpoints[0].cells[Counter.RETRIES] == 1
    leave(stage, client)


# --- back-pressure and the end ---


def test_a_client_that_took_no_more_before_its_request_came_to_a_node_holds_that_node() -> None:
    stage = Stage(timeouts={"response": 5, "body": 30})
    client, node = asked(stage)
    client.stuck = True
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    size = HIGH_WATER - len(head % HIGH_WATER)
    node.receive(head % size + b"x" * size)
    assert node.reading
    client.receive(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert client.unsent > HIGH_WATER
    stage.run()
    assert node.taken().startswith(b"PUT ")
    assert not node.reading, "nobody takes the answer"
    client.drain()
    stage.after(15)
    assert node.reading, "the node owes nothing as long as the client has not sent all"
    client.receive(b"abcde")
    node.receive(OK)
    assert client.taken().endswith(OK)
    leave(stage, client)


def test_who_waits_for_room_when_all_is_ended_is_sent_nowhere() -> None:
    stage = Stage(max_connections=1)
    first, node = asked(stage)
    waiting = [stage.client() for _ in range(50)]  # connections end in any order
    for client in waiting:
        client.receive(GET_2)
    stage.drain(1.0)
    stage.service.abort()
    stage.run()
    assert node.taken() == b""
    assert not stage.loop.connected
    assert stage.over
    leave(stage, first, *waiting)
