"""The balancer against a model that looks at everybody each time: anything may happen, in any order."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.pool_samples import endpoints_of
from trackproxy.pool.balancer import Balancer, Room
from trackproxy.pool.endpoints import Endpoint, Health
from trackproxy.pool.nodes import AdminState
from trackproxy.pool.policies.table import POLICIES

indexes = st.integers(0, 5)
clients = st.integers(0, 1 << 64)
members = st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 3))


class Model(RuleBasedStateMachine):
    """Runs a balancer; `held` is what was taken and not given back yet, `elsewhere` what others hold."""

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        chosen=st.lists(members, min_size=1, max_size=6),
        panic_threshold=st.sampled_from([0, 0, 34, 50, 100]),
    )
    def start(self, policy: str, chosen: list[tuple[int, int, int]], panic_threshold: int) -> None:
        weights, priorities, limits = zip(*chosen, strict=True)
        self.endpoints = endpoints_of(weights, priorities=priorities)
        for endpoint, limit in zip(self.endpoints, limits, strict=True):
            endpoint.max_connections = limit
        self.policy = policy
        self.panic_threshold = panic_threshold
        self.balancer = Balancer(self.endpoints, policy, panic_threshold)
        self.held: list[Endpoint] = []
        self.elsewhere = dict.fromkeys(self.endpoints, 0)

    def at(self, index: int) -> Endpoint:
        return self.endpoints[index % len(self.endpoints)]

    def admitted(self) -> list[Endpoint]:
        return [one for one in self.endpoints if one.node.state is AdminState.READY and one.weight > 0]

    def panicking(self) -> bool:
        ups = [endpoint.health is not Health.DOWN for endpoint in self.admitted()]
        return bool(ups) and Fraction(sum(ups), len(ups)) < Fraction(self.panic_threshold, 100)

    def believed(self, endpoint: Endpoint) -> bool:
        return endpoint.health is not Health.DOWN or self.panicking()

    def candidates(self) -> list[Endpoint]:
        return [endpoint for endpoint in self.admitted() if self.believed(endpoint)]

    def eligible(self) -> list[Endpoint]:
        candidates = self.candidates()
        return [endpoint for endpoint in candidates if not endpoint.ejected] or candidates

    def open(self) -> list[Endpoint]:
        return [endpoint for endpoint in self.eligible() if self.has_room(endpoint)]

    def has_room(self, endpoint: Endpoint) -> bool:
        return endpoint.max_connections == 0 or self.held.count(endpoint) < endpoint.max_connections

    def load(self, endpoint: Endpoint) -> int:
        return self.held.count(endpoint) + self.elsewhere[endpoint]

    def first(self, candidates: list[Endpoint]) -> list[Endpoint]:
        """Return those of the first priority, where one with nobody up comes last."""
        up = [endpoint for endpoint in candidates if endpoint.health is not Health.DOWN]
        priority = min((endpoint.priority for endpoint in up or candidates), default=None)
        return [endpoint for endpoint in candidates if endpoint.priority == priority]

    def check(self, endpoint: Endpoint | None, candidates: list[Endpoint]) -> None:
        """Note what was taken; it must be one of the best candidates, or nothing if there are none."""
        candidates = self.first(candidates)
        if endpoint is None:
            assert not candidates
            return
        assert endpoint in candidates
        if self.policy == "least_connections":
            loads = {one: Fraction(self.load(one), one.weight) for one in candidates}
            assert loads[endpoint] == min(loads.values())
        self.held.append(endpoint)

    @rule(client=clients)
    def take(self, client: int) -> None:
        candidates = self.open()
        self.check(self.balancer.take(client), candidates)

    @rule(client=clients, tried=st.lists(indexes, max_size=4))
    def take_other(self, client: int, tried: list[int]) -> None:
        out = [self.at(index) for index in tried]
        candidates = [endpoint for endpoint in self.open() if endpoint not in out]
        self.check(self.balancer.take_other(client, out), candidates)

    @rule(index=indexes)
    def claim(self, index: int) -> None:
        endpoint = self.at(index)
        draining = endpoint.node.state is AdminState.DRAIN
        speaks_against = not self.believed(endpoint) or endpoint.ejected or endpoint.weight == 0
        stays = draining and not speaks_against and self.has_room(endpoint)
        allowed = stays or endpoint in self.open()
        assert self.balancer.claim(endpoint) is allowed
        self.held += [endpoint] * allowed

    @rule(index=st.integers(0, 100))
    def give(self, index: int) -> None:
        if self.held:
            self.balancer.give(self.held.pop(index % len(self.held)))

    @rule(index=indexes, state=st.sampled_from(AdminState))
    def set_state(self, index: int, state: AdminState) -> None:
        before = self.panicking(), self.candidates()
        changed = self.balancer.set_state(self.at(index).node.name, state)
        assert changed is ((self.panicking(), self.candidates()) != before)

    @rule(index=indexes, health=st.sampled_from(Health))
    def set_health(self, index: int, health: Health) -> None:
        news = self.at(index).health is not health
        assert self.balancer.set_health(self.at(index), health) is news

    @rule(index=indexes, weight=st.integers(0, 4))
    def set_weight(self, index: int, weight: int) -> None:
        self.balancer.set_weight(self.at(index), weight)

    @rule(index=indexes, limit=st.integers(-1, 4))
    def set_limit(self, index: int, limit: int) -> None:
        self.balancer.set_limit(self.at(index), limit)

    @rule(index=indexes, elsewhere=st.integers(0, 5))
    def set_elsewhere(self, index: int, elsewhere: int) -> None:
        self.elsewhere[self.at(index)] = elsewhere
        self.balancer.set_elsewhere(self.at(index), elsewhere)

    @rule(index=indexes)
    def eject(self, index: int) -> None:
        self.balancer.eject(self.at(index))

    @rule(index=indexes)
    def readmit(self, index: int) -> None:
        self.balancer.readmit(self.at(index))

    @invariant()
    def counts_are_what_is_held(self) -> None:
        for endpoint in self.endpoints:
            assert endpoint.own == self.held.count(endpoint)
            assert endpoint.active == self.load(endpoint)

    @invariant()
    def it_panics_with_too_few_up(self) -> None:
        assert self.balancer.panicking is self.panicking()

    @invariant()
    def who_may_be_picked_with_room_counts(self) -> None:
        assert [one for one in self.endpoints if self.balancer.counts(one)] == self.eligible()

    @invariant()
    def room_says_why(self) -> None:
        eligible = Room.FULL if self.eligible() else Room.NOBODY
        assert self.balancer.room is (Room.FREE if self.open() else eligible)

    @invariant()
    def exactly_the_open_endpoints_are_listed(self) -> None:
        assert [endpoint for endpoint in self.endpoints if endpoint.listed] == self.open()


TestBalancerAgainstModel = Model.TestCase
TestBalancerAgainstModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
