"""Round robin by weight: each endpoint gets its exact part of every period, evenly spread.

A period is sum(weights) / gcd(weights) picks. In between, with C different weights, no endpoint is ever
1 + C / 2 picks off its share; with equal weights, never one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heapify, heapreplace

from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.policies.base import Policy
from trackproxy.pool.policies.shares import Share, plan


class _Seat:
    """A member's place in the ring of its weight, at first a ring of one."""

    __slots__ = ("after", "before", "endpoint")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.before = self.after = self

    def join(self, first: _Seat) -> None:
        """Sit down at the end of the ring that starts at `first`."""
        self.before, self.after = first.before, first
        self.before.after = first.before = self

    def leave(self) -> None:
        """Close the gap; `after` still tells who came next."""
        self.before.after, self.after.before = self.after, self.before


@dataclass(slots=True, eq=False)
class _Ring(Share):
    """One share. first: whose turn it is; of no meaning while nobody is in."""

    first: _Seat = field(init=False)


class RoundRobin(Policy):
    """Members come up in turn; who joins waits for a whole round of its peers.

    With one weight in use `_only` is everything. With several it is None, and `_turns` is a heap of
    (due, weight, ring), planned again after each change of members when the next pick needs it.
    """

    def __init__(self) -> None:
        self._rings: dict[int, _Ring] = {}
        self._seats: dict[Endpoint, _Seat] = {}
        self._only: _Ring | None = None
        self._planned: list[_Ring] = []
        self._turns: list[tuple[int, int, _Ring]] = []
        self._now = 0
        self._stale = False

    def add(self, endpoint: Endpoint) -> None:
        """Put it at the end of the ring of its weight."""
        ring = self._rings.get(endpoint.weight)
        if ring is None:
            ring = self._rings[endpoint.weight] = _Ring(endpoint.weight)
        seat = self._seats[endpoint] = _Seat(endpoint)
        if ring.size:
            seat.join(ring.first)
        else:
            ring.first = seat
        self._resize(ring, 1)

    def remove(self, endpoint: Endpoint) -> None:
        """Close the gap that it leaves in its ring."""
        ring = self._rings[endpoint.weight]
        seat = self._seats.pop(endpoint)
        seat.leave()
        if ring.first is seat:
            ring.first = seat.after
        self._resize(ring, -1)

    def pick(self, client: int) -> Endpoint:
        """Return the first of the ring whose turn it is, and pass the turn on."""
        ring = self._only or self._next_ring()
        seat = ring.first
        ring.first = seat.after
        return seat.endpoint

    def _resize(self, ring: _Ring, change: int) -> None:
        ring.size += change
        if self._only is not ring:
            self._only = None
            self._stale = True

    def _next_ring(self) -> _Ring:
        if self._stale:
            self._plan()
        due, weight, ring = self._turns[0]
        self._now = due
        ring.due = due + ring.stride
        heapreplace(self._turns, (ring.due, weight, ring))
        return ring

    def _plan(self) -> None:
        self._planned = plan(self._rings.values(), self._planned, self._now)
        self._now = 0
        self._stale = False
        self._turns = [(ring.due, ring.weight, ring) for ring in self._planned]
        heapify(self._turns)
        if len(self._planned) == 1:
            self._only = self._planned[0]
