"""Least connections by weight: the endpoint with the least active / weight, compared in whole numbers.

Endpoints of equal weight form one share, filed by their active count, so the least loaded of a share is
found without looking at the others; shares are few and compared one by one. Ties go by turns (see `shares`):
an idle cluster with one request at a time is spread by weight exactly.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import ClassVar

from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.policies.base import Policy
from trackproxy.pool.policies.shares import Share, plan


@dataclass(slots=True, eq=False)
class _Levels(Share):
    """One share, filed by load.

    levels: active count → the members that have it, in the order in which they got there.
    order: heap of the keys of `levels`; an empty level goes when it comes up.
    """

    levels: dict[int, OrderedDict[Endpoint, None]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def put(self, endpoint: Endpoint, active: int) -> None:
        """File it behind those that are as loaded."""
        level = self.levels.get(active)
        if level is None:
            level = self.levels[active] = OrderedDict()
            heappush(self.order, active)
        level[endpoint] = None

    def lowest(self) -> int:
        """Return the least active count of any member; there is at least one."""
        order = self.order
        while not self.levels[order[0]]:
            del self.levels[heappop(order)]
        return order[0]


class LeastConnections(Policy):
    """Members with the least load for their weight come first.

    With one weight in use `_only` is everything. With several it is None, and shares are planned again after
    each change of members when the next pick needs it. `_now` is the clock of their turns.
    """

    tracks_load: ClassVar[bool] = True

    def __init__(self) -> None:
        self._shares: dict[int, _Levels] = {}
        self._only: _Levels | None = None
        self._planned: list[_Levels] = []
        self._now = 0
        self._stale = False

    def add(self, endpoint: Endpoint) -> None:
        """File it under its load."""
        share = self._shares.get(endpoint.weight)
        if share is None:
            share = self._shares[endpoint.weight] = _Levels(endpoint.weight)
        share.put(endpoint, endpoint.active)
        self._resize(share, 1)

    def remove(self, endpoint: Endpoint) -> None:
        """Take it out of the file; its `active` is what `moved` was last told."""
        share = self._shares[endpoint.weight]
        del share.levels[endpoint.active][endpoint]
        self._resize(share, -1)

    def pick(self, client: int) -> Endpoint:
        """Return the least loaded for its weight; call `moved` once its `active` has changed."""
        share = self._only or self._least()
        return next(iter(share.levels[share.lowest()]))

    def moved(self, endpoint: Endpoint, before: int) -> None:
        """File it under its new load."""
        share = self._shares[endpoint.weight]
        del share.levels[before][endpoint]
        level = share.levels.get(endpoint.active)
        if level is None:
            share.put(endpoint, endpoint.active)
        else:
            level[endpoint] = None

    def _resize(self, share: _Levels, change: int) -> None:
        share.size += change
        if self._only is not share:
            self._only = None
            self._stale = True

    def _least(self) -> _Levels:
        """Return the share with the least active / weight; among equals the one that is due first."""
        if self._stale:
            self._plan()
        best = self._planned[0]
        active = best.lowest()
        for share in self._planned[1:]:
            lowest = share.lowest()
            worse = lowest * best.weight - active * share.weight
            if worse < 0 or (worse == 0 and share.due < best.due):
                best, active = share, lowest
        # A share that was seldom the least loaded gets one turn at once, not all that it has missed.
        self._now = max(self._now, best.due)
        best.due = self._now + best.stride
        return best

    def _plan(self) -> None:
        self._planned = plan(self._shares.values(), self._planned, self._now)
        self._now = 0
        self._stale = False
        if len(self._planned) == 1:
            self._only = self._planned[0]
