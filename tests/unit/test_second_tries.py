"""Second tries and ejections at their edges: who is asked again, who waits, and who is to blame."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.memory_stage import Stage
from tests.unit.test_protocols import GET, GET_2, OK, TIMEOUTS, asked, leave, status_of
from trackproxy.errors import ConnectFailed
from trackproxy.http.channel import OUT_OF_RESOURCES

# --- the only node is asked again ---


def test_a_node_that_closes_a_used_connection_is_asked_again_before_anybody_who_waits() -> None:
    stage = Stage(max_connections=1)
    first, node = asked(stage)
    second = stage.client()
    second.receive(GET_2)
    node.receive_eof()
    stage.run()
    (again,) = stage.loop.connected
    for number, client in enumerate((first, second), 1):
        assert again.taken().startswith(b"GET /%d " % number)
        assert stage.active == [1]
        again.receive(OK)
        assert client.taken() == OK
    leave(stage, first, second)


def test_the_only_node_is_not_asked_again_after_it_kept_silent() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = asked(stage)
    stage.after(TIMEOUTS["response_head"] + 2)
    assert node.gone
    assert not stage.loop.connected
    assert status_of(client.taken()) == 504
    leave(stage, client)


def test_a_connection_that_was_made_for_a_client_that_left_may_have_been_closed_by_its_node() -> None:
    stage = Stage()
    gone, client = stage.client(), stage.client()
    gone.receive(GET)
    gone.lose()
    stage.run()
    client.receive(GET_2)
    (parked,) = stage.loop.connected
    assert parked.taken().startswith(b"GET /2 ")
    parked.receive_eof()
    stage.run()
    again = stage.loop.connected[1]
    assert again.taken().startswith(b"GET /2 ")
    again.receive(OK)
    assert client.taken() == OK
    leave(stage, client)


# --- ejections ---


def test_who_finds_every_node_ejected_and_full_waits() -> None:
    stage = Stage(max_connections=1)
    first, node = asked(stage)
    stage.service.groups[0].balancer.eject(stage.endpoints[0])
    second = stage.client()
    second.receive(GET_2)
    assert second.taken() == b""
    node.receive(OK)
    assert node.taken().startswith(b"GET /2 ")
    node.receive(OK)
    assert (first.taken(), second.taken()) == (OK, OK)
    leave(stage, first, second)


def fail_to_connect(stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception, *ports: int) -> None:
    """Have connects to PORTS raise ERROR."""
    connect = stage.loop.create_connection

    async def create_connection(make: Callable[[], object], host: str, port: int) -> object:
        if port in ports:
            raise error
        return await connect(make, host, port)  # type: ignore[arg-type]

    monkeypatch.setattr(stage.loop, "create_connection", create_connection)


@pytest.mark.parametrize("number", sorted(OUT_OF_RESOURCES))
def test_no_node_is_left_out_for_what_this_machine_is_short_of(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(nodes=2)
    fail_to_connect(stage, monkeypatch, OSError(number, "short of something"), 8000, 8001)
    client = stage.client()
    client.receive(GET)
    stage.run()
    assert status_of(client.taken()) == 502
    assert [endpoint.ejected for endpoint in stage.endpoints] == [False, False]
    leave(stage, client)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_name_that_cannot_be_looked_up_is_a_failed_connect(
    nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(nodes=nodes)
    fail_to_connect(stage, monkeypatch, UnicodeError("label too long"), 8000)
    client = stage.client()
    client.receive(GET)
    stage.run()
    assert stage.endpoints[0].ejected
    if nodes == 2:
        stage.loop.connected[0].receive(OK)
    assert status_of(client.taken()) == (502 if nodes == 1 else 200)
    leave(stage, client)


def refused(stage: Stage) -> None:
    """The node refuses one connect."""
    stage.loop.refusing = {8000}
    client = stage.client()
    client.receive(GET)
    stage.run()
    assert status_of(client.taken()) == 502
    client.lose()
    stage.loop.refusing = set()


def served(stage: Stage) -> None:
    """The node takes one connection, and closes it after its answer."""
    client = stage.client()
    client.receive(GET)
    stage.run()
    node = stage.loop.connected.pop()
    node.receive(OK)
    node.receive_eof()
    assert client.taken() == OK
    client.lose()
    stage.run()


def test_a_connect_that_works_ends_an_ejection_for_failed_ones_but_not_the_next_ejection() -> None:
    stage = Stage()
    (endpoint,) = stage.endpoints
    refused(stage)  # for a second
    assert endpoint.ejected
    stage.after(0.5)
    served(stage)
    stage.beat()
    assert not endpoint.ejected
    refused(stage)  # for two seconds
    stage.after(1.75)
    assert endpoint.ejected
    stage.after(0.5)
    assert not endpoint.ejected
    stage.assert_at_rest()


def test_an_ejection_ends_at_the_first_beat_after_its_time() -> None:
    stage = Stage()
    (endpoint,) = stage.endpoints
    refused(stage)  # for a second
    stage.loop.now_s += 0.99
    stage.beat()
    assert endpoint.ejected
    stage.loop.now_s += 0.02
    assert endpoint.ejected
    stage.beat()
    assert not endpoint.ejected
    stage.assert_at_rest()


def test_the_end_of_an_ejection_does_not_end_the_one_that_has_begun_since() -> None:
    stage = Stage()
    (endpoint,) = stage.endpoints
    refused(stage)  # for a second
    stage.loop.now_s += 1.01  # the beat that would end it is yet to come
    refused(stage)  # for two seconds
    stage.beat()
    stage.after(1.75)
    assert endpoint.ejected
    stage.after(0.5)
    assert not endpoint.ejected
    stage.assert_at_rest()


def test_only_the_node_can_be_blamed_for_a_connect() -> None:
    blame = [ConnectFailed("", local=local).side.value for local in (False, True)]
    assert blame == ["node", "proxy"]


# --- errors that are asked for again elsewhere ---

ERROR = b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nsorry"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % (b"x" * 30_000)


def test_a_connection_whose_error_was_kept_from_a_slow_client_serves_the_next_request() -> None:
    stage = Stage(nodes=2)
    first, node = asked(stage)
    first.stuck = True
    node.receive(HINTS * 3 + ERROR)
    stage.run()
    assert stage.active == [0, 1]
    assert node.reading
    (other,) = stage.loop.connected
    assert not other.reading, "the client has to take what it got before"
    second, third = stage.client(), stage.client()
    for client in (second, third):
        client.receive(GET_2)
    assert node.taken().startswith(b"GET /2 ")
    node.receive(OK)
    assert OK in (second.taken(), third.taken())
    other.receive(OK)
    first.drain()
    stage.run()
    assert first.taken() == HINTS * 3 + OK
    leave(stage, first, second, third)


def test_a_connection_on_which_a_body_is_still_on_its_way_serves_nobody_else_after_an_error() -> None:
    stage = Stage(nodes=2)
    node, client = stage.node(), stage.client()
    node.stuck = True
    client.receive(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde")
    stage.run()
    node.receive(ERROR)
    stage.run()
    assert stage.active == [0, 1]
    assert node.gone
    stage.loop.connected[-1].receive(OK)
    assert client.taken() == OK
    leave(stage, client)
