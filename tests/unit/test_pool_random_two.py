"""Best of two: draws by weight, never the same endpoint twice, and the less loaded one wins."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from tests.unit.pool_samples import endpoints_of, joined
from trackproxy.pool.policies.random_two import RandomTwo


def test_of_two_the_less_loaded_for_its_weight_is_always_taken() -> None:
    light, heavy = endpoints_of([1, 3])
    light.active, heavy.active = 1, 2
    policy = joined(RandomTwo(Random(1)), [light, heavy])
    assert {policy.pick(0) for _ in range(200)} == {heavy}


def test_the_most_loaded_of_many_is_never_taken() -> None:
    endpoints = endpoints_of([1, 1, 2, 2, 5])
    endpoints[2].active = 100
    policy = joined(RandomTwo(Random(1)), endpoints)
    assert {policy.pick(0) for _ in range(500)} == {*endpoints} - {endpoints[2]}


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [1, 2, 3, 3], [1, 1, 90]])
def test_idle_endpoints_are_taken_by_weight(weights: list[int]) -> None:
    endpoints = endpoints_of(weights)
    policy = joined(RandomTwo(Random(1)), endpoints)
    counts = Counter(policy.pick(0) for _ in range(20_000))
    for endpoint in endpoints:
        assert counts[endpoint] / 20_000 == pytest.approx(endpoint.weight / sum(weights), abs=0.01)


def test_the_second_draw_is_by_weight_too() -> None:
    first, second, third = endpoints_of([1, 1, 3])
    first.active, second.active, third.active = 0, 9, 27
    policy = joined(RandomTwo(Random(1)), [first, second, third])
    counts = Counter(policy.pick(0) for _ in range(20_000))
    # The first wins whenever it is drawn: first, or second after one of the others.
    drawn = 1 / 5 + 1 / 5 * 1 / 4 + 3 / 5 * 1 / 2
    assert counts[first] / 20_000 == pytest.approx(drawn, abs=0.01)


def test_only_members_are_taken_whatever_came_and_went() -> None:
    rng = Random(2)
    endpoints = endpoints_of([1, 1, 1, 2, 2, 4])
    policy = joined(RandomTwo(Random(1)), endpoints)
    members = set(endpoints)
    for _ in range(500):
        endpoint = rng.choice(endpoints)
        if endpoint not in members:
            policy.add(endpoint)
        elif len(members) > 1:
            policy.remove(endpoint)
        members ^= {endpoint} if len(members) > 1 or endpoint not in members else set()
        assert policy.pick(0) in members


def test_a_single_member_is_taken() -> None:
    (endpoint,) = endpoints_of([7])
    assert joined(RandomTwo(), [endpoint]).pick(0) is endpoint
