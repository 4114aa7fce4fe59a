"""Measure what a pick costs: nanoseconds per take and give, for each policy and number of endpoints.

The rounds of all cases are interleaved, so that a busy moment of the machine does not hit one case alone, and
CPU time is counted. Prints the medians and, in the last column, the cost with the most endpoints relative to
that with the fewest.
"""

from __future__ import annotations

import sys
from itertools import chain, product, repeat
from pathlib import Path
from statistics import median
from time import process_time_ns

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that a checkout need not be installed

from trackproxy.pool.balancer import Balancer
from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.nodes import Node
from trackproxy.pool.policies.table import POLICIES
from trackproxy.units import Address

SIZES = (2, 20, 1000)
WEIGHTS = {"equal": (1,), "mixed": (1, 2, 3, 5, 8)}
ROUNDS = 31
PICKS = 4000  # per round
CLIENTS = 500  # different ones
IN_FLIGHT = 16  # requests at any moment

Case = tuple[str, str, int]


def balancer_of(policy: str, weights: tuple[int, ...], size: int) -> Balancer:
    """Return a balancer of `size` endpoints that take these weights in turn."""
    cycle = chain.from_iterable(repeat(weights))
    return Balancer(
        [
            Endpoint(Node(f"node{number}"), Address("127.0.0.1", 1024 + number), weight)
            for number, weight in zip(range(size), cycle, strict=False)
        ],
        policy,
    )


def nanoseconds_per_pick(balancer: Balancer) -> float:
    """Run one round, with a steady number of requests in flight; return the mean cost."""
    take, give = balancer.take, balancer.give
    flying = [take(client) for client in range(IN_FLIGHT)]
    start = process_time_ns()
    for number in range(PICKS):
        lane = number % IN_FLIGHT
        if (endpoint := flying[lane]) is not None:
            give(endpoint)
        flying[lane] = take(number % CLIENTS)
    spent = process_time_ns() - start
    for endpoint in flying:
        if endpoint is not None:
            give(endpoint)
    return spent / PICKS


def measure() -> dict[Case, float]:
    """Return the median cost of each case, after one round to warm up."""
    cases = {
        (policy, kind, size): balancer_of(policy, weights, size)
        for policy, (kind, weights), size in product(POLICIES, WEIGHTS.items(), SIZES)
    }
    for balancer in cases.values():
        nanoseconds_per_pick(balancer)
    spent: dict[Case, list[float]] = {case: [] for case in cases}
    for _ in range(ROUNDS):
        for case, balancer in cases.items():
            spent[case].append(nanoseconds_per_pick(balancer))
    return {case: median(rounds) for case, rounds in spent.items()}


def main() -> None:
    """Print the table."""
    costs = measure()
    heads = "".join(f"{size:>8,}" for size in SIZES)
    print(f"{'ns per take + give':<20}{'weights':<9}{heads}{f'{SIZES[-1]:,} : {SIZES[0]}':>12}")
    for policy, kind in product(POLICIES, WEIGHTS):
        row = [costs[policy, kind, size] for size in SIZES]
        cells = "".join(f"{cost:>8.0f}" for cost in row)
        print(f"{policy:<20}{kind:<9}{cells}{row[-1] / row[0]:>12.2f}")


if __name__ == "__main__":
    main()
