"""Source hash: clients keep their endpoint, in every process; changes move no more of them than they must."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from tests.unit.pool_samples import endpoints_of, joined
from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.policies.source_hash import SLOTS, SourceHash, draw, seed_of, slot_of

CLIENTS = [Random(number).getrandbits(64) for number in range(3000)]


def homes_of(policy: SourceHash) -> dict[int, Endpoint]:
    return {client: policy.pick(client) for client in CLIENTS}


def test_the_choice_is_the_same_in_all_processes_and_after_restarts() -> None:
    endpoints = endpoints_of([1, 2, 3])
    policy = joined(SourceHash(), endpoints)
    assert [endpoints.index(policy.pick(client)) for client in range(12)] == [
        1,
        0,
        2,
        1,
        2,
        2,
        0,
        1,
        0,
        1,
        2,
        1,
    ]


def test_the_choice_does_not_depend_on_the_order_of_endpoints() -> None:
    endpoints = endpoints_of([1, 2, 3, 1, 2])
    assert homes_of(joined(SourceHash(), endpoints)) == homes_of(joined(SourceHash(), endpoints[::-1]))


def test_a_lost_endpoint_moves_only_its_own_clients_and_gets_exactly_these_back() -> None:
    endpoints = endpoints_of([1, 2, 3, 1, 2])
    policy = joined(SourceHash(), endpoints)
    homes = homes_of(policy)
    for lost in endpoints:
        policy.remove(lost)
        away = homes_of(policy)
        assert lost not in away.values()
        assert all(away[client] is home for client, home in homes.items() if home is not lost)
        policy.add(lost)
        assert homes_of(policy) == homes


def test_a_new_endpoint_takes_clients_only_for_itself() -> None:
    *old, new = endpoints_of([1] * 6)
    policy = joined(SourceHash(), old)
    before = homes_of(policy)
    policy.add(new)
    moved = {client: home for client, home in homes_of(policy).items() if home is not before[client]}
    assert set(moved.values()) == {new}
    assert len(moved) / len(CLIENTS) == pytest.approx(1 / 6, abs=0.03)


def test_more_weight_only_draws_clients_to_the_endpoint() -> None:
    endpoints = endpoints_of([1] * 5)
    policy = joined(SourceHash(), endpoints)
    before = homes_of(policy)
    heavier = endpoints[2]
    policy.remove(heavier)
    heavier.weight = 2
    policy.add(heavier)
    moved = {home for client, home in homes_of(policy).items() if home is not before[client]}
    assert moved == {heavier}


def test_when_most_endpoints_are_away_the_best_of_the_rest_is_still_picked() -> None:
    endpoints = endpoints_of([1, 2] * 6)
    policy = joined(SourceHash(), endpoints)
    homes = homes_of(policy)
    for endpoint in endpoints[:-2]:
        policy.remove(endpoint)
    for client, endpoint in homes_of(policy).items():
        slot = slot_of(client)
        assert endpoint is max(endpoints[-2:], key=lambda one: draw(slot, seed_of(one), one.weight))
    for endpoint in endpoints[:-2]:
        policy.add(endpoint)
    assert homes_of(policy) == homes


@pytest.mark.parametrize("weights", [[1] * 5, [1, 2, 3, 4]])
def test_clients_are_spread_by_weight(weights: list[int]) -> None:
    endpoints = endpoints_of(weights)
    policy = joined(SourceHash(), endpoints)
    counts = Counter(policy.pick(client) for client in range(20_000))
    for endpoint in endpoints:
        assert counts[endpoint] / 20_000 == pytest.approx(endpoint.weight / sum(weights), abs=0.02)


@pytest.mark.parametrize("step", [1, 1 << 8, 1 << 16, 1 << 32, 1 << 64, 1 << 100])
def test_slots_are_spread_evenly_for_neighbouring_networks_too(step: int) -> None:
    slots = [slot_of((0x2001_0DB8 << 96) + number * step) for number in range(4096)]
    assert all(0 <= slot < SLOTS for slot in slots)
    assert len(set(slots)) > 4000
