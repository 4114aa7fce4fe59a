"""What operators want of nodes while we serve: drained, disabled or ready, at once and for the next start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager

from trackproxy.control.audit import LOCAL, Entry, audited
from trackproxy.control.changes import Changes
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drain, Drains, Sticky
from trackproxy.control.overrides import Wanted
from trackproxy.control.tasks import Tasks
from trackproxy.control.turns import OnlyIf, Turns
from trackproxy.pool.nodes import AdminState


class NodeStates:
    """Changes the states of nodes; a change that depends on nothing waits for no other one."""

    def __init__(
        self, cluster: Cluster, drains: Drains, changes: Changes, turns: Turns, tasks: Tasks
    ) -> None:
        self._cluster = cluster
        self._drains = drains
        self._changes = changes
        self._turns = turns
        self._tasks = tasks
        drains.on_disabled = self._drained

    async def drain(
        self,
        node: str,
        timeout_s: float,
        sticky: Sticky = "keep",
        who: str = LOCAL,
        only_if: OnlyIf | None = None,
    ) -> Drain:
        """Send no new clients to NODE; disable it once nothing is open there, after TIMEOUT_S at the latest.

        WHO: has asked for it. ONLY_IF: what must hold, else it raises Outdated and nothing has changed.
        Raises KeyError if there is no such node.
        """
        with self._audited(who, "drain", node, AdminState.DRAIN) as entry:
            async with self._turn(node, entry, only_if):
                drain = self._drains.begin(node, timeout_s, sticky)
                if drain.outcome is None:
                    await self._changes.keep_state(node, Wanted(AdminState.DRAIN, timeout_s, sticky), who)
                return drain

    async def disable(self, node: str, who: str = LOCAL, only_if: OnlyIf | None = None) -> None:
        """Send nothing to NODE any more and probe it no more. WHO, ONLY_IF and errors: as of `drain`."""
        with self._audited(who, "disable", node, AdminState.DISABLED) as entry:
            async with self._turn(node, entry, only_if):
                self._cluster.set_state(node, AdminState.DISABLED)
                self._drains.forget(node)
                await self._changes.keep_state(node, Wanted(AdminState.DISABLED), who)

    async def ready(self, node: str, who: str = LOCAL, only_if: OnlyIf | None = None) -> None:
        """Let NODE take part again, as its probes say. WHO, ONLY_IF and errors: as of `drain`."""
        with self._audited(who, "ready", node, AdminState.READY) as entry:
            if self._cluster.states[node] is AdminState.DISABLED:
                if only_if is not None:
                    only_if()  # and again once it has been probed
                await self._cluster.look_at(node)
            async with self._turn(node, entry, only_if):
                self._drains.forget(node)
                self._cluster.set_state(node, AdminState.READY)
                await self._changes.keep_state(node, Wanted(AdminState.READY), who)

    def _audited(self, who: str, what: str, node: str, wanted: AdminState) -> AbstractContextManager[Entry]:
        before = self._cluster.states.get(node)
        states = {"from": before.value if before else None, "to": wanted.value}
        return audited(who, what, node=node, **states)

    @asynccontextmanager
    async def _turn(self, node: str, entry: Entry, only_if: OnlyIf | None) -> AsyncIterator[None]:
        """Let a change that depends on what there is wait for all that are under way; others need not.

        ENTRY: of the audit, which is to say what NODE was when it changed.
        """
        if only_if is None:
            yield
            return
        async with self._turns.turn():
            self._turns.must_go_on()
            only_if()
            entry["from"] = self._cluster.states[node].value
            yield

    def _drained(self, node: str) -> None:
        began = self._changes.of_state(node, AdminState.DRAIN.value).resolved.changed_by
        kept = self._changes.keep_state(node, Wanted(AdminState.DISABLED), began or LOCAL)
        self._tasks.spawn(kept, f"state of {node}")
