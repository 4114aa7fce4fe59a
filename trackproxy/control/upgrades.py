"""Upgrades: another program takes over this process, with all that outlives a configuration."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass

from trackproxy.control.activation import Notifier
from trackproxy.control.audit import LOCAL, audit, reason_of, telling_failure
from trackproxy.control.changes import Changes
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drains
from trackproxy.control.events import Events
from trackproxy.control.generation import Generation
from trackproxy.control.generations import Generations
from trackproxy.control.listeners import Listeners
from trackproxy.control.overrides import Wanted
from trackproxy.control.reloads import OperatorsWay, Reloads
from trackproxy.control.takeover import Handover, become, try_out
from trackproxy.control.turns import Turns
from trackproxy.errors import TrackproxyError, UpgradeFailed
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import Settings
from trackproxy.telling import tell

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Estate:
    """Everything that one program leaves to the next."""

    cluster: Cluster
    changes: Changes
    generations: Generations
    drains: Drains
    events: Events
    reloads: Reloads
    way: OperatorsWay

    def hand_over(self) -> Handover:
        """Return all of it; nothing is to be begun after this."""
        states, endpoints, traffic = self.cluster.hand_over()
        traffic["reloads"] = [self.reloads.counts[True], self.reloads.counts[False]]
        return Handover(
            rows={**self.generations.listeners.rows, **self.way.rows},
            generations=self.generations.hand_over(),
            states=states,
            endpoints=endpoints,
            drains=self.drains.under_way(),
            traffic=traffic,
            events=self.events.number,
        )

    def take_over(self, handover: Handover, settings: Settings) -> None:
        """Take over sockets and workers; the last generation among them serves until another one does.

        SETTINGS: ours, for what cannot be known of theirs. Once ours are served, or cannot be, call `keep`.
        """
        self.events.number = handover.events
        self.generations.listeners = Listeners(handover.rows)
        boards = [one.open_board() for one in handover.generations]
        counted = None not in boards
        self.reloads.counts[True], self.reloads.counts[False] = handover.traffic.get("reloads", (0, 0))
        self.cluster.take_over(handover.states, handover.endpoints, handover.traffic, counted=counted)
        self.generations.adopt(handover.generations, boards, settings)
        for drain in handover.drains:
            self.drains.begin(*drain, resumed=True)

    async def keep(self, handover: Handover) -> None:
        """Keep the states that an upgrade has brought, where others were kept."""
        kept, drains = self.changes.states(), {node: drain for node, *drain in handover.drains}
        for node, state in self.cluster.states.items():
            if state is (kept[node].state if node in kept else AdminState.READY):
                continue
            await self.changes.keep_state(node, Wanted(state, *drains.get(node, ())), LOCAL)


class Upgrades:
    """Replaces the program."""

    def __init__(self, estate: Estate, turns: Turns, notifier: Notifier, *, is_demo: bool) -> None:
        """IS_DEMO: there is more in this process than what we leave to the next program."""
        self._estate = estate
        self._generations = estate.generations
        self._turns = turns
        self._notifier = notifier
        self._is_demo = is_demo

    async def upgrade(self, who: str = LOCAL) -> None:
        """Replace the program of this process by the one that is installed now, which then reloads.

        WHO: has asked for it. Raises UpgradeFailed if that would not start; everything is as before then.
        """
        audit(who, "upgrade")
        async with self._turns.turn():
            with telling_failure("upgrade_failed", "not upgraded", who):
                if self._turns.are_over:
                    raise UpgradeFailed("this trackproxy is being upgraded already, or stopping")
                text = "upgrading: trying the new program"
                tell(log, logging.INFO, "upgrade", text, state="begun", who=who)
                await self._upgrade()

    async def complete(self, handover: Handover, serving: Awaitable[Generation]) -> None:
        """We are the program after, and have taken over: wait until workers of ours are SERVING.

        If they do not start, those of the program before go on.
        """
        try:
            generation = await serving
        except TrackproxyError as error:
            reason = reason_of(error)
            text = "upgraded, but the workers of the program before go on: %s"
            tell(log, logging.ERROR, "upgrade_failed", text, reason, reason=reason)
        else:
            outcome = f"upgraded: generation {generation.number} serves, {self._generations.summary()}"
            fields = {"state": "done", "outcome": outcome, "generation": generation.number}
            tell(log, logging.INFO, "upgrade", "%s", outcome, **fields)
        await self._estate.keep(handover)

    async def _upgrade(self) -> None:
        try:
            self._must_be_possible()
            await try_out()
            self._notifier.reloading()
            async with self._turns.last(), self._estate.way.resting():
                await self._estate.changes.settled()
                become(self._estate.hand_over())
        except (UpgradeFailed, OSError):
            self._notifier.ready(self._generations.summary())
            raise

    def _must_be_possible(self) -> None:
        serving = self._generations.serving
        inside = not all(generation.count for generation in self._generations.running)
        if self._is_demo or inside:
            raise UpgradeFailed("it takes workers in processes of their own, and no demo")
        if len(serving.children()) < serving.count:
            raise UpgradeFailed("a worker is just being replaced; try again")
