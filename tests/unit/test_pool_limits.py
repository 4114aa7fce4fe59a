"""Limits that change while requests are open: what is open stays, and room follows at once."""

from __future__ import annotations

import pytest

from tests.unit.pool_samples import endpoints_of, taken_of
from trackproxy.pool.balancer import Balancer, Room
from trackproxy.pool.policies.table import POLICIES


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("before", [-1, 0, 1, 2, 3, 5])
@pytest.mark.parametrize("after", [-1, 0, 1, 2, 3, 5])
def test_after_any_change_there_is_room_for_as_many_more_as_the_new_limit_says(
    policy: str, before: int, after: int
) -> None:
    (endpoint,) = endpoints_of([1])
    balancer = Balancer([endpoint], policy)
    for _ in range(2):
        assert balancer.take(0)
    balancer.set_limit(endpoint, before)
    assert balancer.set_limit(endpoint, after) is (after != before)
    more = 9 if after == 0 else max(0, after - 2)
    assert [balancer.take(0) for _ in range(more)] == [endpoint] * more
    assert balancer.room is (Room.FREE if after == 0 else Room.FULL)
    assert balancer.take(0) is (endpoint if after == 0 else None)


def test_with_a_limit_below_what_is_open_room_comes_when_enough_has_ended() -> None:
    (endpoint,) = endpoints_of([1])
    balancer = Balancer([endpoint], "least_connections")
    for _ in range(3):
        assert balancer.take(0)
    balancer.set_limit(endpoint, 1)
    rooms = []
    for _ in range(3):
        balancer.give(endpoint)
        rooms.append(balancer.room)
    assert rooms == [Room.FULL, Room.FULL, Room.FREE]


def test_an_endpoint_with_nothing_for_now_stays_full_and_the_next_priority_serves() -> None:
    first, reserve = endpoints = endpoints_of([1, 1], priorities=[0, 1])
    balancer = Balancer(endpoints, "round_robin")
    balancer.set_limit(first, -1)
    assert taken_of(balancer, 10) == {reserve}
    assert balancer.counts(first)
    assert not balancer.claim(first)
    balancer.set_limit(first, 1)
    assert taken_of(balancer, 10) == {first}
