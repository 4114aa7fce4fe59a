"""Round robin by weight: exact over every period, smooth in between, and fair to those who come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import gcd

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.pool_samples import endpoints_of, joined
from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.policies.round_robin import RoundRobin

weight_lists = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def picks_of(policy: RoundRobin, count: int) -> list[Endpoint]:
    return [policy.pick(0) for _ in range(count)]


def period_of(endpoints: Sequence[Endpoint]) -> int:
    weights = [endpoint.weight for endpoint in endpoints]
    return sum(weights) // gcd(*weights)


def assert_each_period_is_exact(endpoints: Sequence[Endpoint], picks: list[Endpoint]) -> None:
    period = period_of(endpoints)
    total = sum(endpoint.weight for endpoint in endpoints)
    parts = {endpoint: endpoint.weight * period // total for endpoint in endpoints}
    for start in range(len(picks) - period + 1):
        assert Counter(picks[start : start + period]) == parts


@given(weight_lists)
def test_each_endpoint_gets_its_exact_part_of_every_period(weights: list[int]) -> None:
    endpoints = endpoints_of(weights)
    policy = joined(RoundRobin(), endpoints)
    assert_each_period_is_exact(endpoints, picks_of(policy, 3 * period_of(endpoints)))


@given(weight_lists, st.data())
def test_periods_are_exact_whatever_came_and_went_before(weights: list[int], data: st.DataObject) -> None:
    endpoints = endpoints_of(weights)
    policy = joined(RoundRobin(), endpoints)
    away: list[Endpoint] = []
    for index, picks in data.draw(st.lists(st.tuples(st.integers(0, len(weights) - 1), st.integers(0, 9)))):
        endpoint = endpoints[index]
        (policy.add if endpoint in away else policy.remove)(endpoint)
        (away.remove if endpoint in away else away.append)(endpoint)
        if len(away) < len(endpoints):
            picks_of(policy, picks)
    members = [endpoint for endpoint in endpoints if endpoint not in away]
    if members:
        assert_each_period_is_exact(members, picks_of(policy, 2 * period_of(members)))


@given(weight_lists)
def test_no_endpoint_is_ever_more_than_a_few_picks_off_its_share(weights: list[int]) -> None:
    endpoints = endpoints_of(weights)
    policy = joined(RoundRobin(), endpoints)
    kinds = len(set(weights))
    bound = 1.0 if kinds == 1 else 1 + kinds / 2
    counts: Counter[Endpoint] = Counter()
    for number in range(1, period_of(endpoints) + 1):
        counts[policy.pick(0)] += 1
        for endpoint in endpoints:
            assert abs(counts[endpoint] - number * endpoint.weight / sum(weights)) < bound


def test_light_endpoints_do_not_come_up_together() -> None:
    endpoints = endpoints_of([5, 1, 1])
    names = dict(zip(endpoints, "abc", strict=True))
    picks = picks_of(joined(RoundRobin(), endpoints), 14)
    assert "".join(names[endpoint] for endpoint in picks) == "abaaaca" * 2


def test_who_joins_waits_for_a_whole_round_of_its_peers() -> None:
    *early, late = endpoints_of([1] * 5)
    policy = joined(RoundRobin(), early)
    picks_of(policy, 2)
    policy.add(late)
    assert picks_of(policy, 5) == [*early[2:], *early[:2], late]


def test_who_joins_late_gets_no_turns_to_catch_up() -> None:
    first, second, late = endpoints_of([1, 1, 1])
    policy = joined(RoundRobin(), [first, second])
    picks_of(policy, 1001)
    policy.add(late)
    assert picks_of(policy, 6).count(late) == 2


def test_a_heavier_endpoint_that_joins_late_gets_no_turns_to_catch_up() -> None:
    *early, late = endpoints_of([1, 1, 8])
    policy = joined(RoundRobin(), early)
    picks_of(policy, 1001)
    policy.add(late)
    assert picks_of(policy, 10).count(late) == 8


def test_leaving_after_each_pick_and_coming_back_changes_no_share() -> None:
    endpoints = endpoints_of([5, 3, 1, 1])
    policy = joined(RoundRobin(), endpoints)
    counts: Counter[Endpoint] = Counter()
    for _ in range(1000):
        endpoint = policy.pick(0)
        counts[endpoint] += 1
        policy.remove(endpoint)
        policy.add(endpoint)
    assert [counts[endpoint] for endpoint in endpoints] == [500, 300, 100, 100]


def test_a_light_endpoint_neither_starves_nor_gains_by_being_away_half_of_the_time() -> None:
    heavy, light = endpoints_of([9, 1])
    policy = joined(RoundRobin(), [heavy, light])
    counts: Counter[Endpoint] = Counter()
    for _ in range(1000):
        counts.update(picks_of(policy, 1))
        policy.remove(light)
        counts.update(picks_of(policy, 1))
        policy.add(light)
    assert 90 <= counts[light] <= 112  # about a tenth of the picks that it was there for
