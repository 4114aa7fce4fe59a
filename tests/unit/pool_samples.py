"""Endpoints for the tests of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from trackproxy.pool.balancer import Balancer
from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.nodes import Node
from trackproxy.pool.policies.base import Policy
from trackproxy.units import Address

PolicyT = TypeVar("PolicyT", bound=Policy)


def endpoints_of(
    weights: Sequence[int], *, priorities: Sequence[int] = (), max_connections: int = 0
) -> list[Endpoint]:
    """Return one endpoint for each weight, each on a node of its own, all with priority 0 unless given."""
    priorities = priorities or [0] * len(weights)
    return [
        Endpoint(
            Node(f"node{number}"), Address("127.0.0.1", 8000 + number), weight, priority, max_connections
        )
        for number, (weight, priority) in enumerate(zip(weights, priorities, strict=True))
    ]


def joined(policy: PolicyT, endpoints: Sequence[Endpoint]) -> PolicyT:
    """Return the policy with all these endpoints as members."""
    for endpoint in endpoints:
        policy.add(endpoint)
    return policy


def taken_of(balancer: Balancer, count: int) -> set[Endpoint | None]:
    """Return what many different clients get, one after the other."""
    endpoints = set()
    for client in range(count):
        endpoint = balancer.take(client)
        endpoints.add(endpoint)
        if endpoint is not None:
            balancer.give(endpoint)
    return endpoints
