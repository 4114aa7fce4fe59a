"""Source hash: a client keeps its endpoint for as long as that endpoint takes part.

Weighted rendezvous hashing: clients fall into slots, and for each slot every endpoint draws a number that
depends only on the slot, its name and its address; the highest wins. So all workers agree, also after a
restart; when an endpoint leaves only its own clients move, and when it comes back exactly these return. The
first few of a slot's ranking are remembered over all endpoints ever seen, members or not, so that leaving and
coming back costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from heapq import nlargest
from math import log

from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.policies.base import Policy

SLOTS = 1 << 16
# Of a slot's ranking; when all of these are away, the members are ranked anew for each pick.
_REMEMBERED = 4

_MASK = (1 << 64) - 1
_PRIME = (1 << 61) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: neighbours land far apart


def slot_of(client: int) -> int:
    """Return the slot of a client, evenly spread whatever the numbers look like."""
    return (client % _PRIME * _GOLDEN & _MASK) >> 48


def seed_of(endpoint: Endpoint) -> int:
    """Return 64 bits that stand for an endpoint in every process."""
    address = endpoint.address
    name = f"{endpoint.node.name}\n{address.host}\n{address.port}\n{address.path}"
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())


def draw(slot: int, seed: int, weight: int) -> float:
    """Return the number that an endpoint draws for a slot: -weight / ln(u), u evenly spread in (0, 1)."""
    bits = (seed + slot * _GOLDEN) & _MASK
    bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & _MASK  # the finaliser of splitmix64
    bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & _MASK
    bits ^= bits >> 31
    return -weight / log(((bits >> 12) + 0.5) / (1 << 52))


class SourceHash(Policy):
    """Members by the client's number. Remembers at most SLOTS short rankings."""

    def __init__(self) -> None:
        self._members: dict[Endpoint, None] = {}
        self._known: dict[Endpoint, tuple[int, int]] = {}  # seed and weight
        self._rankings: dict[int, tuple[Endpoint, ...]] = {}

    def add(self, endpoint: Endpoint) -> None:
        """Let it have its slots; rankings are forgotten if it is new or its weight has changed."""
        self._members[endpoint] = None
        seed, weight = self._known.get(endpoint) or (seed_of(endpoint), 0)
        if weight != endpoint.weight:
            self._known[endpoint] = (seed, endpoint.weight)
            self._rankings.clear()

    def remove(self, endpoint: Endpoint) -> None:
        """Let the next in each ranking have its slots until it comes back."""
        del self._members[endpoint]

    def pick(self, client: int) -> Endpoint:
        """Return the first in the ranking of the client's slot that is a member."""
        slot = (client % _PRIME * _GOLDEN & _MASK) >> 48  # slot_of, without the cost of a call
        members = self._members
        for endpoint in self._rankings.get(slot) or self._remember(slot):
            if endpoint in members:
                return endpoint
        return self._rank(slot, members, 1)[0]

    def _remember(self, slot: int) -> tuple[Endpoint, ...]:
        ranking = self._rankings[slot] = tuple(self._rank(slot, self._known, _REMEMBERED))
        return ranking

    def _rank(self, slot: int, among: Iterable[Endpoint], count: int) -> list[Endpoint]:
        return nlargest(count, among, key=lambda endpoint: draw(slot, *self._known[endpoint]))
