"""Panic: with too few endpoints up, probes are not believed, while operators and live traffic are."""

from __future__ import annotations

import pytest

from tests.unit.pool_samples import endpoints_of, taken_of
from trackproxy.pool.balancer import Balancer, Room
from trackproxy.pool.endpoints import Endpoint, Health
from trackproxy.pool.nodes import AdminState
from trackproxy.pool.panic import panics
from trackproxy.pool.policies.table import POLICIES

all_policies = pytest.mark.parametrize("policy", list(POLICIES))


def down(balancer: Balancer, *endpoints: Endpoint) -> None:
    for endpoint in endpoints:
        balancer.set_health(endpoint, Health.DOWN)


@pytest.mark.parametrize(
    ("up", "all_", "threshold", "panic"),
    [
        (1, 2, 50, False),
        (1, 3, 50, True),
        (0, 1, 1, True),
        (0, 5, 0, False),
        (4, 5, 100, True),
        (5, 5, 100, False),
        (0, 0, 100, False),
    ],
    ids=["just enough", "too few", "none", "off", "all are asked for", "all", "an empty service"],
)
def test_it_panics_with_fewer_than_the_threshold_up(up: int, all_: int, threshold: int, panic: bool) -> None:
    assert panics(up, all_, threshold) is panic


@all_policies
def test_in_panic_those_that_are_down_take_part_until_enough_are_up_again(policy: str) -> None:
    one, two, three = endpoints = endpoints_of([1, 2, 3])
    balancer = Balancer(endpoints, policy, panic_threshold=50)
    down(balancer, one)
    assert (balancer.panicking, taken_of(balancer, 100)) == (False, {two, three})
    down(balancer, two)
    assert (balancer.panicking, taken_of(balancer, 200)) == (True, {one, two, three})
    for endpoint in endpoints:
        assert balancer.counts(endpoint)
        assert balancer.claim(endpoint)
        balancer.give(endpoint)
    balancer.set_health(one, Health.STARTING)
    assert (balancer.panicking, taken_of(balancer, 100)) == (False, {one, three})
    assert not balancer.counts(two)
    assert not balancer.claim(two)


@all_policies
def test_endpoints_that_start_down_are_used_if_nobody_is_up(policy: str) -> None:
    endpoints = endpoints_of([1, 1])
    for endpoint in endpoints:
        endpoint.health = Health.DOWN
    assert taken_of(Balancer(endpoints, policy, panic_threshold=1), 50) == set(endpoints)


def test_without_a_threshold_nobody_is_left_when_all_are_down() -> None:
    endpoints = endpoints_of([1, 1])
    balancer = Balancer(endpoints, "round_robin")
    down(balancer, *endpoints)
    assert (balancer.panicking, balancer.room) == (False, Room.NOBODY)


def test_only_endpoints_that_operators_let_take_part_are_judged_and_used() -> None:
    up, drained, weightless, one_down = endpoints = endpoints_of([1, 1, 0, 1])
    balancer = Balancer(endpoints, "round_robin", panic_threshold=50)
    balancer.set_state("node1", AdminState.DRAIN)
    down(balancer, one_down)
    assert (balancer.panicking, taken_of(balancer, 10)) == (False, {up})
    balancer.set_weight(weightless, 1)
    down(balancer, weightless)
    assert (balancer.panicking, taken_of(balancer, 10)) == (True, {up, weightless, one_down})
    balancer.set_state("node1", AdminState.READY)
    assert (balancer.panicking, taken_of(balancer, 10)) == (False, {up, drained})


def test_a_change_of_state_that_starts_or_ends_a_panic_is_news() -> None:
    up, down_ = endpoints = endpoints_of([1, 1])
    balancer = Balancer(endpoints, "round_robin", panic_threshold=50)
    down(balancer, down_)
    assert balancer.set_state("node0", AdminState.DISABLED)
    assert taken_of(balancer, 10) == {down_}
    assert balancer.set_state("node0", AdminState.READY)
    assert taken_of(balancer, 10) == {up}
    assert not balancer.set_state("node1", AdminState.DISABLED)


@all_policies
def test_ejections_hold_in_panic_until_everybody_is_ejected(policy: str) -> None:
    one, two = endpoints = endpoints_of([1, 1])
    balancer = Balancer(endpoints, policy, panic_threshold=50)
    down(balancer, one, two)
    balancer.eject(one)
    assert taken_of(balancer, 50) == {two}
    assert not balancer.claim(one)
    balancer.eject(two)
    assert taken_of(balancer, 50) == {one, two}
    balancer.readmit(one)
    assert taken_of(balancer, 50) == {one}


def test_in_panic_an_ejection_of_everybody_that_is_up_sends_requests_to_those_that_are_down() -> None:
    up, one, two = endpoints = endpoints_of([1, 1, 1])
    balancer = Balancer(endpoints, "round_robin", panic_threshold=50)
    down(balancer, one, two)
    balancer.eject(up)
    assert taken_of(balancer, 10) == {one, two}


def test_in_panic_a_reserve_that_is_up_comes_before_endpoints_that_are_all_down() -> None:
    one, two, reserve = endpoints = endpoints_of([1, 1, 1], priorities=[0, 0, 9], max_connections=1)
    balancer = Balancer(endpoints, "round_robin", panic_threshold=50)
    down(balancer, one, two)
    assert balancer.panicking
    assert [balancer.take(0), balancer.take(0), balancer.take(0)] == [reserve, one, two]
    balancer.give(reserve)
    assert balancer.take(0) is reserve


def test_in_panic_the_reserve_serves_while_the_only_one_before_it_that_is_up_is_full() -> None:
    up, not_up, reserve = endpoints = endpoints_of([1, 1, 1], priorities=[0, 0, 9])
    up.max_connections = 1
    balancer = Balancer(endpoints, "round_robin", panic_threshold=100)
    down(balancer, not_up)
    assert balancer.claim(up)
    assert taken_of(balancer, 10) == {reserve}
    balancer.give(up)
    assert taken_of(balancer, 10) == {up, not_up}


def test_in_panic_with_nobody_up_priorities_keep_their_order() -> None:
    reserve, first = endpoints = endpoints_of([1, 1], priorities=[9, 0])
    balancer = Balancer(endpoints, "round_robin", panic_threshold=50)
    down(balancer, reserve, first)
    assert taken_of(balancer, 10) == {first}
    assert balancer.take_other(0, [first]) is reserve
    balancer.set_health(reserve, Health.UP)
    assert taken_of(balancer, 10) == {reserve}


def test_in_panic_clients_stay_with_a_draining_node_whatever_its_probes_say() -> None:
    draining, ready = endpoints = endpoints_of([1, 1])
    balancer = Balancer(endpoints, "round_robin", panic_threshold=50)
    balancer.set_state("node0", AdminState.DRAIN)
    down(balancer, draining)
    assert not balancer.claim(draining)
    down(balancer, ready)
    assert balancer.claim(draining)
