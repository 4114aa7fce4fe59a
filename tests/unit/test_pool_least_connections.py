"""Least connections: the least active / weight wins, and ties go by weight."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.pool_samples import endpoints_of, joined
from trackproxy.pool.balancer import Balancer
from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.policies.least_connections import LeastConnections


def load_of(endpoint: Endpoint) -> Fraction:
    return Fraction(endpoint.active, endpoint.weight)


def taken(balancer: Balancer) -> Endpoint:
    endpoint = balancer.take(0)
    assert endpoint is not None
    return endpoint


def test_an_endpoint_joins_with_the_load_that_it_has() -> None:
    busy, idle = endpoints_of([1, 1])
    busy.active = 3
    policy = joined(LeastConnections(), [busy, idle])
    assert [policy.pick(0) for _ in range(3)] == [idle] * 3


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.lists(st.integers(0, 20), max_size=80))
def test_the_least_loaded_for_its_weight_is_taken(weights: list[int], endings: list[int]) -> None:
    endpoints = endpoints_of(weights)
    balancer = Balancer(endpoints, "least_connections")
    flying: list[Endpoint] = []
    for ending in endings:
        least = min(map(load_of, endpoints))
        endpoint = taken(balancer)
        assert load_of(endpoint) - Fraction(1, endpoint.weight) == least
        flying.append(endpoint)
        if ending < len(flying):
            balancer.give(flying.pop(ending))


@pytest.mark.parametrize("weights", [[1, 1, 1], [5, 1, 1], [3, 2, 2, 1]])
def test_one_request_at_a_time_is_spread_by_weight(weights: list[int]) -> None:
    endpoints = endpoints_of(weights)
    balancer = Balancer(endpoints, "least_connections")
    counts: Counter[Endpoint] = Counter()
    for _ in range(sum(weights) * 10):
        endpoint = taken(balancer)
        counts[endpoint] += 1
        balancer.give(endpoint)
    assert [counts[endpoint] for endpoint in endpoints] == [weight * 10 for weight in weights]


@pytest.mark.parametrize("weights", [[1, 1, 1], [5, 1, 1], [3, 2, 2, 1]])
def test_many_requests_at_once_lie_by_weight(weights: list[int]) -> None:
    endpoints = endpoints_of(weights)
    balancer = Balancer(endpoints, "least_connections")
    for _ in range(sum(weights) * 10):
        taken(balancer)
    assert [endpoint.active for endpoint in endpoints] == [weight * 10 for weight in weights]


def test_an_endpoint_that_was_busy_for_long_gets_no_turns_to_catch_up() -> None:
    first, second = endpoints_of([2, 1])
    balancer = Balancer([first, second], "least_connections")
    assert balancer.claim(second)
    for _ in range(300):
        balancer.give(taken(balancer))
    balancer.give(second)
    counts: Counter[Endpoint] = Counter()
    for _ in range(30):
        endpoint = taken(balancer)
        counts[endpoint] += 1
        balancer.give(endpoint)
    assert counts[second] in (10, 11)
