"""The balancer: who may be picked at all, in which order of priority, and how many each one has.

Promise: what `take` returns is eligible and has room, and no endpoint with a lower priority number is and
does; each `take` is paid back by one `give`. The trick: a policy holds exactly the endpoints that may be
picked right now (they are "listed"), so a pick asks no questions; each change of state, health, weight or
room moves one endpoint in or out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from trackproxy.pool.endpoints import Endpoint, Health
from trackproxy.pool.nodes import AdminState
from trackproxy.pool.policies.base import Policy
from trackproxy.pool.policies.table import POLICIES


class Room(Enum):
    """Why `take` has, or has not, got an endpoint.

    FREE: somebody may take one more. FULL: somebody is eligible, but none has room, so waiting helps.
    NOBODY: nobody is eligible.
    """

    FREE = "free"
    FULL = "full"
    NOBODY = "nobody"


@dataclass(slots=True, eq=False)
class _Tier:
    """The endpoints of one priority. size: how many of them are listed."""

    policy: Policy
    size: int = 0


def _nobody(client: int) -> None:
    """Stand in for a policy's `pick` when no endpoint is listed."""


class Balancer:
    """Picks an endpoint of one service for each request, and keeps the counts.

    policy: a name of `POLICIES`, or what makes a policy; each priority gets its own.

    States, health, ejections and weights are changed here, never on the objects themselves; each change may
    come at any time, in any order and more than once, and leaves the counts alone. Nodes are shared between
    services: the balancer of each service has to hear of a node's new state.
    """

    def __init__(self, endpoints: Iterable[Endpoint], policy: str | Callable[[], Policy]) -> None:
        make = POLICIES[policy] if isinstance(policy, str) else policy
        self.endpoints = tuple(endpoints)
        priorities = sorted({endpoint.priority for endpoint in self.endpoints})
        self._tiers = {priority: _Tier(make()) for priority in priorities}
        self._tracks_load = any(tier.policy.tracks_load for tier in self._tiers.values())
        self._pick: Callable[[int], Endpoint | None] = _nobody
        self._moved: Callable[[Endpoint, int], None] | None = None
        # Dicts instead of sets, so that the order is always the same.
        self._usable: dict[Endpoint, None] = {}
        self._trusted: dict[Endpoint, None] = {}
        self._eligible = self._usable
        for endpoint in self.endpoints:
            self._review(endpoint)

    @property
    def room(self) -> Room:
        """Whether `take` has something to give, and if not, why."""
        if self._pick is not _nobody:
            return Room.FREE
        return Room.FULL if self._eligible else Room.NOBODY

    def counts(self, endpoint: Endpoint) -> bool:
        """Whether it may be picked as soon as it has room: eligible, or ejected like all the others."""
        return endpoint in self._eligible

    def take(self, client: int) -> Endpoint | None:
        """Return an endpoint for one request of `client`, counted, or None; call `give` when it is over."""
        endpoint = self._pick(client)
        if endpoint is None:
            return None
        # `_count` written out: this is called once per request.
        before = endpoint.active
        endpoint.active = active = before + 1
        endpoint.total += 1
        if self._moved is not None:
            self._moved(endpoint, before)
        if active == endpoint.max_connections:
            self._list(endpoint)
        return endpoint

    def take_other(self, client: int, tried: Collection[Endpoint]) -> Endpoint | None:
        """Like `take`, but none of `tried`, also if that means a higher priority number: for a retry."""
        held = [endpoint for endpoint in dict.fromkeys(tried) if endpoint.listed]
        for endpoint in held:
            self._unlist(endpoint)
        taken = self.take(client)
        for endpoint in held:
            self._list(endpoint)
        return taken

    def claim(self, endpoint: Endpoint) -> bool:
        """Take this very endpoint, for a client that belongs to it; return False if it may not or cannot.

        Such clients stay on a node in DRAIN.
        """
        stays = endpoint.node.state is AdminState.DRAIN and endpoint.sound and not endpoint.ejected
        if not endpoint.has_room or not (stays or endpoint in self._eligible):
            return False
        endpoint.total += 1
        self._count(endpoint, 1)
        return True

    def give(self, endpoint: Endpoint) -> None:
        """End what `take`, `take_other` or `claim` began."""
        # `_count` written out, as in `take`.
        before = endpoint.active
        assert before > 0, "given more often than taken"
        endpoint.active = before - 1
        if self._tracks_load and endpoint.listed:
            self._tiers[endpoint.priority].policy.moved(endpoint, before)
        if endpoint.max_connections:
            self._list(endpoint)

    def set_state(self, node_name: str, state: AdminState) -> bool:
        """Follow an operator's decision on a node; return whether that took any endpoint in or out."""
        concerned = [endpoint for endpoint in self.endpoints if endpoint.node.name == node_name]
        for endpoint in concerned:
            endpoint.node.state = state
        return any([self._review(endpoint) for endpoint in concerned])

    def set_health(self, endpoint: Endpoint, health: Health) -> bool:
        """Follow a probe's verdict; return whether it was news."""
        changed = endpoint.health is not health
        endpoint.health = health
        self._review(endpoint)
        return changed

    def set_weight(self, endpoint: Endpoint, weight: int) -> bool:
        """Change its share of traffic; return whether it was another one."""
        if weight == endpoint.weight:
            return False
        if endpoint.listed:
            self._unlist(endpoint)
        endpoint.weight = weight
        self._review(endpoint)
        return True

    def eject(self, endpoint: Endpoint) -> bool:
        """Take it out on the suspicion of live traffic; return whether it was in.

        While all usable endpoints of the service are ejected, suspicion counts for nothing.
        """
        changed = not endpoint.ejected
        endpoint.ejected = True
        self._review(endpoint)
        return changed

    def readmit(self, endpoint: Endpoint) -> bool:
        """End an ejection; return whether there was one."""
        changed = endpoint.ejected
        endpoint.ejected = False
        self._review(endpoint)
        return changed

    def _count(self, endpoint: Endpoint, change: int) -> None:
        before = endpoint.active
        endpoint.active = before + change
        if self._tracks_load and endpoint.listed:
            self._tiers[endpoint.priority].policy.moved(endpoint, before)
        if endpoint.max_connections:
            self._list(endpoint)

    def _review(self, endpoint: Endpoint) -> bool:
        """Follow a change in what is known of it; return whether it became usable or unusable."""
        flipped = _keep(self._usable, endpoint, endpoint.usable)
        _keep(self._trusted, endpoint, endpoint.eligible)
        eligible = self._trusted or self._usable
        if eligible is not self._eligible:
            self._eligible = eligible
            for other in self._usable:
                self._list(other)
        self._list(endpoint)
        return flipped

    def _list(self, endpoint: Endpoint) -> None:
        """Have its policy hold it if and only if it is eligible and has room."""
        listed = endpoint.has_room and endpoint in self._eligible
        if listed is endpoint.listed:
            return
        if not listed:
            self._unlist(endpoint)
            return
        tier = self._tiers[endpoint.priority]
        tier.policy.add(endpoint)
        endpoint.listed = True
        tier.size += 1
        if tier.size == 1:
            self._choose_tier()

    def _unlist(self, endpoint: Endpoint) -> None:
        tier = self._tiers[endpoint.priority]
        tier.policy.remove(endpoint)
        endpoint.listed = False
        tier.size -= 1
        if not tier.size:
            self._choose_tier()

    def _choose_tier(self) -> None:
        """Send picks to the first priority that has anybody listed."""
        for tier in self._tiers.values():
            if tier.size:
                self._pick = tier.policy.pick
                self._moved = tier.policy.moved if self._tracks_load else None
                return
        self._pick, self._moved = _nobody, None


def _keep(kept: dict[Endpoint, None], endpoint: Endpoint, wanted: bool) -> bool:
    """Make `kept` hold it or not; return whether that changed anything."""
    if wanted is (endpoint in kept):
        return False
    if wanted:
        kept[endpoint] = None
    else:
        del kept[endpoint]
    return True
