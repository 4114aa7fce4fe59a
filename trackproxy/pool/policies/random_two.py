"""Best of two: two different endpoints are drawn by weight, and the less loaded one is taken.

Workers that do not see each other's counts do not run after the same endpoint. Endpoints of equal weight form
one group, and the groups lie side by side on a line as long as the sum of the weights: a point on it says the
group and the member, and the second draw is from the line without the first one's piece.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from random import Random

from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.policies.base import Policy


@dataclass(slots=True, eq=False)
class _Group:
    """Members of one weight, in no order. places: member → its index."""

    weight: int
    members: list[Endpoint] = field(default_factory=list)
    places: dict[Endpoint, int] = field(default_factory=dict)

    def add(self, endpoint: Endpoint) -> None:
        self.places[endpoint] = len(self.members)
        self.members.append(endpoint)

    def remove(self, endpoint: Endpoint) -> None:
        """Let the last one take its place."""
        place = self.places.pop(endpoint)
        last = self.members.pop()
        if last is not endpoint:
            self.members[place] = last
            self.places[last] = place


class RandomTwo(Policy):
    """Members are drawn by weight; of two, the one with less active / weight is taken.

    rng: where chance comes from; tests give a seeded one.
    """

    def __init__(self, rng: Random | None = None) -> None:
        self._random = (rng or Random()).random
        self._groups: dict[int, _Group] = {}
        self._line: list[_Group] = []
        self._starts: list[int] = []
        self._length = 0
        self._stale = False

    def add(self, endpoint: Endpoint) -> None:
        """Add its piece to the line."""
        group = self._groups.get(endpoint.weight)
        if group is None:
            group = self._groups[endpoint.weight] = _Group(endpoint.weight)
        group.add(endpoint)
        self._stale = True

    def remove(self, endpoint: Endpoint) -> None:
        """Take its piece off the line."""
        self._groups[endpoint.weight].remove(endpoint)
        self._stale = True

    def pick(self, client: int) -> Endpoint:
        """Return the less loaded of two draws; with one member, that one."""
        if self._stale:
            self._lay()
        one, start = self._at(int(self._random() * self._length))
        rest = self._length - one.weight
        if not rest:
            return one
        point = int(self._random() * rest)
        two, _ = self._at(point if point < start else point + one.weight)
        return one if one.active * two.weight <= two.active * one.weight else two

    def _at(self, point: int) -> tuple[Endpoint, int]:
        """Return the member whose piece holds the point, and where that piece starts."""
        at = bisect_right(self._starts, point) - 1
        group = self._line[at]
        place, inside = divmod(point - self._starts[at], group.weight)
        return group.members[place], point - inside

    def _lay(self) -> None:
        self._line = [group for group in self._groups.values() if group.members]
        self._starts = []
        self._length = 0
        for group in self._line:
            self._starts.append(self._length)
            self._length += group.weight * len(group.members)
        self._stale = False
