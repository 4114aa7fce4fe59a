"""The policies by their names in the configuration."""

from __future__ import annotations

from collections.abc import Callable

from trackproxy.pool.policies.base import Policy
from trackproxy.pool.policies.least_connections import LeastConnections
from trackproxy.pool.policies.random_two import RandomTwo
from trackproxy.pool.policies.round_robin import RoundRobin
from trackproxy.pool.policies.source_hash import SourceHash

POLICIES: dict[str, Callable[[], Policy]] = {
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "random_two": RandomTwo,
    "source_hash": SourceHash,
}
