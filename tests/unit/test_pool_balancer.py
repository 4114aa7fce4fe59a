"""The balancer: who may be picked, priorities, counts, and what each change of state does."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.unit.pool_samples import endpoints_of, taken_of
from trackproxy.http_sections import HttpService
from trackproxy.pool.balancer import Balancer, Room
from trackproxy.pool.endpoints import Endpoint, Health
from trackproxy.pool.nodes import AdminState, Node
from trackproxy.pool.policies.table import POLICIES
from trackproxy.settings import EndpointConfig
from trackproxy.units import Address

all_policies = pytest.mark.parametrize("policy", list(POLICIES))


def test_every_policy_of_the_settings_is_in_the_table() -> None:
    assert set(get_args(HttpService.model_fields["balance"].annotation)) == set(POLICIES)


def test_an_endpoint_is_made_as_configured() -> None:
    node = Node("node1")
    address = Address("127.0.0.1", 80)
    config = EndpointConfig("node1", address, weight=3, priority=10, max_connections=25, probe_timeout_s=1.0)
    endpoint = Endpoint.of(config, node, Health.STARTING)
    assert (endpoint.node, endpoint.address, endpoint.health) == (node, address, Health.STARTING)
    assert (endpoint.weight, endpoint.priority, endpoint.max_connections) == (3, 10, 25)


@all_policies
def test_all_endpoints_take_part(policy: str) -> None:
    endpoints = endpoints_of([1, 2, 3])
    assert taken_of(Balancer(endpoints, policy), 200) == set(endpoints)


@all_policies
def test_without_endpoints_there_is_nobody(policy: str) -> None:
    balancer = Balancer([], policy)
    assert balancer.take(0) is None
    assert balancer.room is Room.NOBODY


@all_policies
def test_full_endpoints_are_passed_over_until_one_is_given_back(policy: str) -> None:
    endpoints = endpoints_of([1, 2], max_connections=2)
    balancer = Balancer(endpoints, policy)
    assert None not in [balancer.take(client) for client in range(4)]
    assert balancer.take(0) is None
    full = balancer.room
    balancer.give(endpoints[1])
    assert (full, balancer.room) == (Room.FULL, Room.FREE)
    assert balancer.take(0) is endpoints[1]


@all_policies
def test_a_higher_priority_number_is_used_only_while_all_lower_ones_are_down_or_full(policy: str) -> None:
    reserve, one, two = endpoints = endpoints_of([9, 1, 1], priorities=[50, 10, 10])
    two.max_connections = 1
    balancer = Balancer(endpoints, policy)
    assert taken_of(balancer, 50) == {one, two}
    balancer.set_health(one, Health.DOWN)
    assert taken_of(balancer, 50) == {two}
    assert balancer.claim(two)
    assert taken_of(balancer, 50) == {reserve}
    balancer.give(two)
    assert taken_of(balancer, 50) == {two}


@pytest.mark.parametrize("state", [AdminState.DRAIN, AdminState.DISABLED])
@all_policies
def test_a_node_that_is_not_ready_gets_nothing_new_and_keeps_its_counts(
    policy: str, state: AdminState
) -> None:
    one, two = endpoints = endpoints_of([1, 1])
    balancer = Balancer(endpoints, policy)
    assert balancer.claim(one)
    assert balancer.set_state("node0", state)
    assert taken_of(balancer, 50) == {two}
    assert one.active == 1
    balancer.give(one)
    assert taken_of(balancer, 50) == {two}
    assert balancer.set_state("node0", AdminState.READY)
    assert taken_of(balancer, 50) == {one, two}


def test_health_and_admin_state_do_not_overwrite_each_other() -> None:
    one, two = endpoints = endpoints_of([1, 1])
    balancer = Balancer(endpoints, "round_robin")
    balancer.set_health(one, Health.DOWN)
    balancer.set_state("node0", AdminState.DRAIN)
    balancer.set_health(one, Health.UP)
    assert taken_of(balancer, 10) == {two}
    balancer.set_health(one, Health.DOWN)
    balancer.set_state("node0", AdminState.READY)
    assert taken_of(balancer, 10) == {two}
    balancer.set_health(one, Health.STARTING)
    assert taken_of(balancer, 10) == {one, two}


def test_a_node_leaves_every_service_that_hears_of_its_state() -> None:
    node = Node("node1")
    services = [[Endpoint(node, Address("127.0.0.1", port))] for port in (80, 119)]
    balancers = [Balancer(endpoints, "round_robin") for endpoints in services]
    assert [balancer.set_state("node1", AdminState.DRAIN) for balancer in balancers] == [True, True]
    assert [balancer.room for balancer in balancers] == [Room.NOBODY, Room.NOBODY]


def test_a_node_leaves_with_all_its_endpoints() -> None:
    node = Node("node1")
    balancer = Balancer([Endpoint(node, Address("127.0.0.1", port)) for port in (80, 81)], "round_robin")
    assert balancer.set_state("node1", AdminState.DISABLED)
    assert balancer.room is Room.NOBODY


def test_a_node_that_the_service_does_not_use_changes_nothing() -> None:
    balancer = Balancer(endpoints_of([1]), "round_robin")
    assert not balancer.set_state("elsewhere", AdminState.DISABLED)
    assert balancer.room is Room.FREE


def test_changes_say_whether_they_were_news() -> None:
    (endpoint,) = endpoints_of([1])
    balancer = Balancer([endpoint], "round_robin")
    assert [balancer.set_health(endpoint, Health.DOWN) for _ in range(2)] == [True, False]
    assert [balancer.set_weight(endpoint, 5) for _ in range(2)] == [True, False]
    assert [balancer.eject(endpoint) for _ in range(2)] == [True, False]
    assert [balancer.readmit(endpoint) for _ in range(2)] == [True, False]


@all_policies
def test_weight_zero_gets_nothing(policy: str) -> None:
    one, two = endpoints = endpoints_of([0, 1])
    balancer = Balancer(endpoints, policy)
    assert taken_of(balancer, 50) == {two}
    assert not balancer.claim(one)
    balancer.set_weight(one, 4)
    balancer.set_weight(two, 0)
    assert taken_of(balancer, 50) == {one}


@all_policies
def test_an_ejected_endpoint_gets_nothing_until_it_is_readmitted(policy: str) -> None:
    one, two = endpoints = endpoints_of([1, 1])
    balancer = Balancer(endpoints, policy)
    balancer.eject(one)
    assert taken_of(balancer, 50) == {two}
    assert not balancer.claim(one)
    balancer.readmit(one)
    assert taken_of(balancer, 50) == {one, two}


@all_policies
def test_ejection_is_ignored_while_everybody_is_ejected(policy: str) -> None:
    one, two, down, drained = endpoints = endpoints_of([1, 1, 1, 1])
    balancer = Balancer(endpoints, policy)
    balancer.set_health(down, Health.DOWN)
    balancer.set_state("node3", AdminState.DRAIN)
    for endpoint in endpoints[:3]:
        balancer.eject(endpoint)
    assert taken_of(balancer, 50) == {one, two}
    assert balancer.claim(one)
    balancer.readmit(two)
    assert taken_of(balancer, 50) == {two}
    assert not balancer.claim(one)
    balancer.set_state("node3", AdminState.READY)
    assert taken_of(balancer, 50) == {two, drained}


def test_the_reserve_takes_over_from_ejected_endpoints_unless_it_is_ejected_itself() -> None:
    first, reserve = endpoints = endpoints_of([1, 1], priorities=[0, 1])
    balancer = Balancer(endpoints, "round_robin")
    balancer.eject(first)
    assert taken_of(balancer, 10) == {reserve}
    balancer.eject(reserve)
    assert taken_of(balancer, 10) == {first}


def test_a_claim_needs_room() -> None:
    (endpoint,) = endpoints_of([1], max_connections=1)
    balancer = Balancer([endpoint], "least_connections")
    assert [balancer.claim(endpoint) for _ in range(2)] == [True, False]
    balancer.give(endpoint)
    assert balancer.claim(endpoint)


@pytest.mark.parametrize(
    ("state", "health", "claimed"),
    [
        (AdminState.READY, Health.STARTING, True),
        (AdminState.DRAIN, Health.UP, True),
        (AdminState.DRAIN, Health.DOWN, False),
        (AdminState.DISABLED, Health.UP, False),
        (AdminState.READY, Health.DOWN, False),
    ],
)
def test_clients_stay_with_a_draining_node_but_with_no_other(
    state: AdminState, health: Health, claimed: bool
) -> None:
    (endpoint,) = endpoints_of([1])
    balancer = Balancer([endpoint], "round_robin")
    balancer.set_state("node0", state)
    balancer.set_health(endpoint, health)
    assert balancer.claim(endpoint) is claimed


@all_policies
def test_another_try_goes_to_everybody_once_in_order_of_priority(policy: str) -> None:
    endpoints = endpoints_of([1, 2, 2, 1], priorities=[0, 0, 0, 7])
    balancer = Balancer(endpoints, policy)
    tried: list[Endpoint] = []
    while (endpoint := balancer.take_other(1, tried)) is not None:
        assert endpoint not in tried
        tried.append(endpoint)
    assert set(tried) == set(endpoints)
    assert tried[-1] is endpoints[-1]
    assert [endpoint.active for endpoint in endpoints] == [1, 1, 1, 1]
    for endpoint in tried:
        balancer.give(endpoint)
    assert taken_of(balancer, 200) == set(endpoints[:3])


def test_another_try_accepts_endpoints_that_were_tried_twice_or_have_left() -> None:
    one, two, three = endpoints = endpoints_of([1, 1, 1])
    balancer = Balancer(endpoints, "round_robin")
    balancer.set_health(two, Health.DOWN)
    assert balancer.take_other(0, [one, two, one]) is three
    assert taken_of(balancer, 10) == {one, three}


@all_policies
def test_totals_count_what_was_taken(policy: str) -> None:
    endpoints = endpoints_of([1, 1])
    balancer = Balancer(endpoints, policy)
    taken_of(balancer, 20)
    assert balancer.claim(endpoints[0])
    assert sum(endpoint.total for endpoint in endpoints) == 21


def test_giving_more_than_was_taken_is_an_error() -> None:
    (endpoint,) = endpoints_of([1])
    balancer = Balancer([endpoint], "round_robin")
    with pytest.raises(AssertionError):
        balancer.give(endpoint)
    assert endpoint.active == 0


def test_round_robin_by_weight_holds_when_every_request_fills_its_endpoint() -> None:
    endpoints = endpoints_of([5, 3, 1, 1], max_connections=1)
    balancer = Balancer(endpoints, "round_robin")
    taken_of(balancer, 1000)
    assert [endpoint.total for endpoint in endpoints] == [500, 300, 100, 100]
