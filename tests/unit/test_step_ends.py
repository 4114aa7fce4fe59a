"""Orders to end what is left at an endpoint: moved, answered or cut, and nothing elsewhere is touched."""

from __future__ import annotations

import pytest

from tests.unit.memory_stage import Stage
from tests.unit.test_protocols import GET, OK, SWITCH, UPGRADE, asked, begun, leave, status_of
from tests.unit.test_step import PUT, SENT_POST, publish, two
from trackproxy.step import Step


@pytest.mark.parametrize("request_", [GET, PUT])
def test_an_end_moves_what_may_be_sent_again(request_: bytes) -> None:
    stage = Stage(nodes=2)
    client, first, _ = two(stage, request_)
    publish(stage, ENDS=1)
    stage.beat()
    stage.run()
    assert first.gone
    assert stage.active == [0, 1]
    stage.loop.connected[-1].receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_an_end_answers_what_may_not_be_sent_again() -> None:
    stage = Stage(nodes=2)
    client, first, second = two(stage, SENT_POST)
    publish(stage, ENDS=1)
    stage.beat()
    stage.run()
    assert first.gone
    assert second.taken() == b""
    assert status_of(client.taken()) == 502
    leave(stage, client)


def test_an_end_cuts_answers_that_have_begun_and_closes_tunnels_and_idle_connections() -> None:
    stage = Stage(nodes=1)
    client, node = begun(stage)
    tunnel, tunnelled = asked(stage, UPGRADE)
    tunnelled.receive(SWITCH)
    idle = stage.node()
    publish(stage, ENDS=1)
    stage.beat()
    stage.run()
    assert [end.gone for end in (client, node, tunnel, tunnelled, idle)] == [True] * 5
    assert client.aborted
    stage.assert_at_rest()


def test_an_end_leaves_other_endpoints_alone() -> None:
    stage = Stage(nodes=2)
    client, first, idle = two(stage, GET)
    publish(stage, 1, ENDS=1)
    stage.beat()
    stage.run()
    assert (first.gone, idle.gone) == (False, True)
    first.receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_pardons_and_ends_of_the_time_before_a_worker_are_not_its_own() -> None:
    stage = Stage()
    publish(stage, ENDS=3, PARDONS=2)
    stage.step = Step(stage.board, 0, [stage.service])
    client, node = begun(stage)
    stage.beat()
    stage.run()
    assert not node.gone
    node.receive(b"x" * 95)
    assert client.taken() == b"x" * 95
    leave(stage, client)
