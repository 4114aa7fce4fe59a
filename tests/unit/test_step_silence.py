"""Silence: endpoints that owe answers and give none are probed, and left once they are known to be down."""

from __future__ import annotations

import pytest

from tests.unit.memory_stage import Stage
from tests.unit.test_protocols import GET, GET_2, OK, SWITCH, UPGRADE, asked, leave, status_of
from tests.unit.test_step import PUT, SENT_POST, publish, two

SILENCE = {"silence": 1}


def alerts_of(stage: Stage) -> list[int]:
    """The numbers of endpoints that are to be probed, from now on."""
    alerts: list[int] = []
    stage.service.groups[0].alert = alerts.append
    return alerts


def test_an_endpoint_that_owes_answers_and_gives_none_is_to_be_probed_again_and_again() -> None:
    stage = Stage(nodes=2, outliers=SILENCE)
    client, _, _ = two(stage, GET)
    alerts = alerts_of(stage)
    stage.after(0.75)
    assert alerts == []
    stage.after(0.5)
    assert alerts == [0]
    stage.after(2)
    assert set(alerts) == {0}
    assert 3 <= len(alerts) <= 6
    leave(stage, client)


def test_an_endpoint_that_answers_others_is_not_silent() -> None:
    stage = Stage(outliers=SILENCE)
    stage.beat()
    slow, _ = asked(stage)
    alerts = alerts_of(stage)
    for _ in range(6):
        stage.after(0.75)
        quick, node = asked(stage, GET_2)
        node.receive(OK)
        quick.lose()
        node.receive_eof()
        stage.run()
    assert alerts == []
    leave(stage, slow)


def test_an_endpoint_that_owes_nothing_is_not_silent() -> None:
    stage = Stage(outliers=SILENCE)
    alerts = alerts_of(stage)
    stage.after(5)
    client, node = asked(stage)
    stage.after(0.75)
    assert alerts == []
    node.receive(OK)
    stage.after(5)
    assert alerts == []
    leave(stage, client)


def test_a_tunnel_owes_no_answer() -> None:
    stage = Stage(outliers=SILENCE)
    client, node = asked(stage, UPGRADE)
    node.receive(SWITCH)
    alerts = alerts_of(stage)
    stage.after(5)
    assert alerts == []
    waiting, _ = asked(stage)
    stage.after(2)
    assert alerts
    leave(stage, client, node, waiting)


@pytest.mark.parametrize("request_", [GET, PUT])
def test_what_waits_for_a_silent_endpoint_goes_elsewhere_once_that_is_down(request_: bytes) -> None:
    stage = Stage(nodes=2, outliers=SILENCE, retry={"budget": 0, "budget_min": 0})
    client, first, _ = two(stage, request_)
    publish(stage, 0, HEALTH=1)
    stage.after(0.75)
    assert stage.active == [1, 0]
    stage.after(0.5)
    assert first.gone
    assert stage.active == [0, 1]
    stage.loop.connected[-1].receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_what_may_not_be_sent_again_stays_with_an_endpoint_that_is_down() -> None:
    stage = Stage(nodes=2, outliers=SILENCE)
    client, first, second = two(stage, SENT_POST)
    publish(stage, 0, HEALTH=1)
    stage.after(5)
    assert (stage.active, second.taken()) == ([1, 0], b"")
    first.receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_what_would_find_nobody_else_stays_with_an_endpoint_that_is_down() -> None:
    stage = Stage(outliers=SILENCE, panic_threshold=0)
    client, node = asked(stage)
    publish(stage, 0, HEALTH=1)
    stage.after(5)
    node.receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_an_endpoint_that_is_down_and_answers_all_the_same_keeps_its_requests() -> None:
    stage = Stage(nodes=2, outliers=SILENCE)
    client, first, _ = two(stage, GET)
    other, second, _ = two(stage, GET_2)
    publish(stage, 0, HEALTH=1)
    stage.after(0.75)
    second.receive(OK)
    stage.after(0.75)
    assert stage.active == [1, 0]
    first.receive(OK)
    assert (status_of(client.taken()), status_of(other.taken())) == (200, 200)
    leave(stage, client, other)
