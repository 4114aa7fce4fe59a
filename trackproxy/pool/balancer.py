"""The balancer: who may be picked at all, in which order of priority, and how many each one has.

Promise: what `take` returns is eligible and has room, and no endpoint with a lower priority number is and
does; each `take` is paid back by one `give`. The trick: a policy holds exactly the endpoints that may be
picked right now (they are "listed"), so a pick asks no questions; each change of state, health, weight or
room moves one endpoint in or out.

Panic (see `panic`) is judged over all endpoints of the service, whatever their priority. In panic those that
are down are eligible like the others, and ejections still count. A reserve that is up is not passed over for
that: a priority with nobody listed who is up comes after all that have somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum

from trackproxy.pool.endpoints import Endpoint, Health
from trackproxy.pool.nodes import AdminState
from trackproxy.pool.panic import panics
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
    """The endpoints of one priority. size: how many of them are listed; up: those not down."""

    policy: Policy
    size: int = 0
    up: int = 0


@dataclass(slots=True, eq=False)
class _Circle:
    """Endpoints that may be picked by some rule. trusted: those of them that are not ejected.

    Dicts instead of sets, so that the order is always the same.
    """

    members: dict[Endpoint, None] = field(default_factory=dict)
    trusted: dict[Endpoint, None] = field(default_factory=dict)

    def follow(self, endpoint: Endpoint, member: bool) -> None:
        """Take in what is known of an endpoint now."""
        _keep(self.members, endpoint, member)
        _keep(self.trusted, endpoint, member and not endpoint.ejected)


def _nobody(client: int) -> None:
    """Stand in for a policy's `pick` when no endpoint is listed."""


class Balancer:
    """Picks an endpoint of one service for each request, and keeps the counts.

    policy: a name of `POLICIES`, or what makes a policy; each priority gets its own.
    panic_threshold: percent; see `panics`.

    States, health, ejections, weights and limits are changed here, never on the objects themselves; each
    change may come at any time, in any order and more than once, and leaves the counts alone. Nodes are
    shared between services: the balancer of each service has to hear of a node's new state.
    """

    def __init__(
        self, endpoints: Iterable[Endpoint], policy: str | Callable[[], Policy], panic_threshold: int = 0
    ) -> None:
        make = POLICIES[policy] if isinstance(policy, str) else policy
        self.endpoints = tuple(endpoints)
        priorities = sorted({endpoint.priority for endpoint in self.endpoints})
        self._tiers = {priority: _Tier(make()) for priority in priorities}
        self.tracks_load = any(tier.policy.tracks_load for tier in self._tiers.values())
        self._pick: Callable[[int], Endpoint | None] = _nobody
        self._moved: Callable[[Endpoint, int], None] | None = None
        self._panic_threshold = panic_threshold
        self._admitted = _Circle()
        self._usable = self._circle = _Circle()
        self._eligible = self._usable.members
        self._review(self.endpoints)

    @property
    def room(self) -> Room:
        """Whether `take` has something to give, and if not, why."""
        if self._pick is not _nobody:
            return Room.FREE
        return Room.FULL if self._eligible else Room.NOBODY

    @property
    def panicking(self) -> bool:
        """Whether probes are not believed now."""
        return self._circle is self._admitted

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
        endpoint.active = before + 1
        endpoint.total += 1
        if self._moved is not None:
            self._moved(endpoint, before)
        if endpoint.max_connections:
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
        if not endpoint.listed and not (endpoint.has_room and self.may_claim(endpoint)):
            return False
        endpoint.total += 1
        self._count(endpoint, 1)
        return True

    def may_claim(self, endpoint: Endpoint) -> bool:
        """Whether clients that belong to it may be sent there as soon as it has room."""
        return endpoint in self._eligible or self._may_stay(endpoint)

    def give(self, endpoint: Endpoint) -> None:
        """End what `take`, `take_other` or `claim` began."""
        # `_count` written out, as in `take`.
        before = endpoint.active
        assert before > 0, "given more often than taken"
        endpoint.active = before - 1
        if self.tracks_load and endpoint.listed:
            self._tiers[endpoint.priority].policy.moved(endpoint, before)
        if endpoint.max_connections:
            self._list(endpoint)

    def set_state(self, node_name: str, state: AdminState) -> bool:
        """Follow an operator's decision on a node; return whether that took any endpoint in or out."""
        concerned = [endpoint for endpoint in self.endpoints if endpoint.node.name == node_name]
        before = [endpoint in self._circle.members for endpoint in concerned]
        for endpoint in concerned:
            endpoint.node.state = state
        self._review(concerned)
        return before != [endpoint in self._circle.members for endpoint in concerned]

    def set_health(self, endpoint: Endpoint, health: Health) -> bool:
        """Follow a probe's verdict; return whether it was news."""
        if health is endpoint.health:
            return False
        if endpoint.listed and Health.DOWN in (health, endpoint.health):
            self._unlist(endpoint)
        endpoint.health = health
        self._review([endpoint])
        return True

    def set_weight(self, endpoint: Endpoint, weight: int) -> bool:
        """Change its share of traffic; return whether it was another one."""
        if weight == endpoint.weight:
            return False
        if endpoint.listed:
            self._unlist(endpoint)
        endpoint.weight = weight
        self._review([endpoint])
        return True

    def set_elsewhere(self, endpoint: Endpoint, elsewhere: int) -> None:
        """Follow how many requests other workers have open there."""
        change = elsewhere - endpoint.elsewhere
        if change:
            endpoint.elsewhere = elsewhere
            self._count(endpoint, change)

    def set_limit(self, endpoint: Endpoint, max_connections: int) -> bool:
        """Change what it may have at once; return whether it was another number.

        0 is no limit, -1 nothing for now. What is open stays, also if that is more. After a change there may
        be room for those who wait.
        """
        if max_connections == endpoint.max_connections:
            return False
        endpoint.max_connections = max_connections
        self._list(endpoint)
        return True

    def eject(self, endpoint: Endpoint) -> bool:
        """Take it out on the suspicion of live traffic; return whether it was in.

        While all endpoints that could be picked otherwise are ejected, suspicion counts for nothing.
        """
        changed = not endpoint.ejected
        endpoint.ejected = True
        self._review([endpoint])
        return changed

    def readmit(self, endpoint: Endpoint) -> bool:
        """End an ejection; return whether there was one."""
        changed = endpoint.ejected
        endpoint.ejected = False
        self._review([endpoint])
        return changed

    def _count(self, endpoint: Endpoint, change: int) -> None:
        before = endpoint.active
        endpoint.active = before + change
        if self.tracks_load and endpoint.listed:
            self._tiers[endpoint.priority].policy.moved(endpoint, before)
        if endpoint.max_connections:
            self._list(endpoint)

    def _may_stay(self, endpoint: Endpoint) -> bool:
        """Whether clients that belong to it may go on using it though its node is in DRAIN."""
        believed = endpoint.health is not Health.DOWN or self.panicking
        node = endpoint.node
        draining = node.state is AdminState.DRAIN and node.keeps and endpoint.weight > 0
        return draining and believed and not endpoint.ejected

    def _review(self, changed: Collection[Endpoint]) -> None:
        """Follow changes in what is known of these, and in what that means for the others."""
        for endpoint in changed:
            self._admitted.follow(endpoint, endpoint.admitted)
            self._usable.follow(endpoint, endpoint.usable)
        up, all_ = len(self._usable.members), len(self._admitted.members)
        self._circle = self._admitted if panics(up, all_, self._panic_threshold) else self._usable
        eligible = self._circle.trusted or self._circle.members
        if eligible is not self._eligible:
            self._eligible = eligible
            for other in self._admitted.members:
                self._list(other)
        for endpoint in changed:
            self._list(endpoint)

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
        self._resize(tier, endpoint, 1)

    def _unlist(self, endpoint: Endpoint) -> None:
        tier = self._tiers[endpoint.priority]
        tier.policy.remove(endpoint)
        endpoint.listed = False
        self._resize(tier, endpoint, -1)

    def _resize(self, tier: _Tier, endpoint: Endpoint, change: int) -> None:
        before = tier.size, tier.up
        tier.size += change
        if endpoint.health is not Health.DOWN:
            tier.up += change
        if 0 in (*before, tier.size, tier.up):
            self._choose_tier()

    def _choose_tier(self) -> None:
        """Send picks to the first priority with anybody listed who is up, else to the first with anybody."""
        tiers = [tier for tier in self._tiers.values() if tier.size]
        best = next((tier for tier in tiers if tier.up), tiers[0] if tiers else None)
        if best is None:
            self._pick, self._moved = _nobody, None
            return
        self._pick = best.policy.pick
        self._moved = best.policy.moved if self.tracks_load else None


def _keep(kept: dict[Endpoint, None], endpoint: Endpoint, wanted: bool) -> None:
    """Make `kept` hold it or not."""
    if wanted:
        kept[endpoint] = None
    else:
        kept.pop(endpoint, None)
