"""What operators say of nodes besides their states: weights, limits, and which nodes there are.

It is served as a reload is, by new workers, or over the board if nothing but weights is another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from trackproxy.control.activation import Notifier
from trackproxy.control.audit import LOCAL, Entry, audited
from trackproxy.control.changes import Changes, Plan, Values, listed
from trackproxy.control.generations import Generations
from trackproxy.control.overrides import differ_in_weights_alone
from trackproxy.control.turns import CHANGE, OnlyIf, Turns


class NodeValues:
    """Changes values and nodes, one change after another; each goes on if whoever asked goes away.

    All raise NotChanged, ListenError or StartFailed, and everything is as before then. WHO: has asked for it.
    """

    def __init__(self, changes: Changes, generations: Generations, turns: Turns, notifier: Notifier) -> None:
        self._changes = changes
        self._generations = generations
        self._turns = turns
        self._notifier = notifier

    async def change(
        self,
        node: str,
        values: Values,
        service: str = "",
        who: str = LOCAL,
        only_if: OnlyIf | None = None,
    ) -> None:
        """Serve other VALUES of a node, weight or max_connections, in one SERVICE or in all.

        None is what the configuration says. ONLY_IF: what must hold, see `NodeStates.drain`.
        """
        auditing = audited(who, "values", node=node, service=service or None, to=listed(values))
        plan = _only(only_if, lambda: self._changes.values(node, service, values, who))
        await self._change(plan, auditing)

    async def add(self, name: str, address: str, settings: Mapping[str, Any], who: str = LOCAL) -> None:
        """Serve with one node more; SETTINGS: see `Added`."""
        auditing = audited(who, "add", node=name, to=address)
        await self._change(lambda: self._changes.addition(name, address, settings, who), auditing)

    async def remove(self, name: str, who: str = LOCAL, only_if: OnlyIf | None = None) -> None:
        """Serve without a node that was added at run time. ONLY_IF: as of `change`."""
        plan = _only(only_if, lambda: self._changes.removal(name, who))
        await self._change(plan, audited(who, "remove", node=name))

    async def _change(self, plan: Callable[[], Plan], auditing: AbstractContextManager[Entry]) -> None:
        await self._turns.to_its_end(self._change_alone(plan, auditing), CHANGE)

    async def _change_alone(self, plan: Callable[[], Plan], auditing: AbstractContextManager[Entry]) -> None:
        with auditing as entry:
            async with self._turns.turn():
                self._turns.must_go_on()
                planned = plan()
                entry["from"] = planned.was or None
                await self._serve(planned)

    async def _serve(self, planned: Plan) -> None:
        before, after = self._generations.serving.settings, planned.applied.settings
        if differ_in_weights_alone(before, after):
            self._generations.reweigh(after)
        else:
            await self._generations.switch(after)
        await self._changes.keep(planned)
        self._notifier.ready(self._generations.summary())


def _only(only_if: OnlyIf | None, plan: Callable[[], Plan]) -> Callable[[], Plan]:
    """Return PLAN, which is made only if that holds at the moment when the change is made."""

    def planned() -> Plan:
        if only_if is not None:
            only_if()
        return plan()

    return planned
