"""What operators change at run time, while we serve: which settings come of it, and that it lasts.

A change of values or nodes is a `Plan`: serve its settings, then `keep` it. One that cannot be served has
changed nothing, on disk neither; one that was served and not yet kept has not been answered.

A folder is one process's: a second one with other settings would take for outdated what the first one keeps.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trackproxy.control.database import NotKept
from trackproxy.control.overrides import (
    Added,
    Applied,
    Id,
    Override,
    Resolved,
    Row,
    Wanted,
    apply,
    configured,
    endpoint_scope,
    is_said_anyway,
    node_scope,
    states,
)
from trackproxy.control.store import Store
from trackproxy.errors import Conflict, NotChanged
from trackproxy.explain import unknown_key
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import Settings
from trackproxy.telling import tell

log = logging.getLogger(__name__)

READY = AdminState.READY.value

Values = Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """A change that fits.

    applied: what to serve. keep: makes it last, once it is served. line: what it is, for the log.
    kind, fields: the same as an event. was: what is changed, in words.
    """

    applied: Applied
    keep: Callable[[], Awaitable[None]]
    line: str
    kind: str = "node_values"
    fields: Mapping[str, Any] = field(default_factory=dict)
    was: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """A value that holds, what the configuration says instead, and whose it is."""

    resolved: Resolved
    configured: Any

    def tree(self) -> dict[str, Any]:
        """Return it as JSON has it; changed_at in seconds of the wall clock."""
        found = self.resolved
        return {
            "value": found.value,
            "configured": self.configured,
            "source": found.source,
            "changed_at": found.changed_at,
            "changed_by": found.changed_by or None,
        }


class Changes:
    """What was changed at run time, over the settings that were loaded last."""

    def __init__(self, store: Store, loaded: Settings, lock: int = -1) -> None:
        """LOCK: a descriptor that keeps others away, to be closed at the end."""
        self._lock = lock
        self._store = store
        self._loaded = loaded
        self._base = apply(loaded, [], store.nodes()).settings
        self._in_force: dict[Id, Override] = {}

    @classmethod
    async def open(cls, folder: Path, loaded: Settings) -> Changes:
        """Read what is kept in FOLDER, unless that is another process's; whoever opens it closes it."""
        try:
            lock = _locked(folder)
        except BlockingIOError:
            return cls(await Store.open(folder, taken=True), loaded)
        return cls(await Store.open(folder), loaded, lock)

    # --- settings ---

    def over(self, loaded: Settings) -> Applied:
        """Return what to serve of newly LOADED settings; once it is served, call `served`."""
        return apply(loaded, self._store.overrides(), self._store.nodes())

    async def served(self, loaded: Settings, applied: Applied) -> None:
        """Settings that were LOADED are in force: forget what they have overtaken, and say so."""
        self._loaded = loaded
        await self._store.settled()
        now = self.over(loaded)  # states may have been set meanwhile, of nodes that are gone
        await self._store.forget(now.outdated, now.lines)
        self._know(applied)

    def _know(self, applied: Applied) -> None:
        out = {row.id for row in (*applied.outdated, *applied.left_out)}
        self._base = apply(self._loaded, [], self._store.nodes()).settings
        self._in_force = {one.id: one for one in self._store.overrides() if one.id not in out}

    # --- values and nodes ---

    def values(self, node: str, service: str, values: Values, who: str) -> Plan:
        """Plan other VALUES of a node, in one SERVICE or, if that is empty, in all that say nothing else.

        None is what the configuration says. Raises NotChanged if they do not fit.
        """
        scope, now = _scope(service, node), time.time()
        if service:
            _must_be_known(service, self._base.services, "service")
        _must_be_known(node, self._base.nodes, "node")
        known = {row.id for row in self._store.overrides()}
        rows: dict[Id, Row | None] = {}
        before: dict[str, Any] = {}
        for key, value in values.items():
            said = _configured(self._base, scope, key)
            before[key] = self._in_force_for(node, service, key, said)
            one = Override(scope, key, said if value is None else value, said, now, who)
            rows[one.id] = None if value is None or is_said_anyway(one, known) else one
        line, was = listed(values), listed(before)
        plan = self._plan(rows, f"{scope}: {line}, set by {who}")
        fields = {"node": node, "service": service or None, "who": who, "was": was, **values}
        return replace(plan, fields=fields, was=was)

    def _in_force_for(self, node: str, service: str, key: str, said: Any) -> Any:
        """Return the value that holds there now; SAID: by the configuration."""
        scopes = [endpoint_scope(service, node)] if service else []
        found = [self._in_force.get(("overrides", scope, key)) for scope in (*scopes, node_scope(node))]
        return next((one.value for one in found if one is not None), said)

    def addition(self, name: str, address: str, settings: Mapping[str, Any], who: str) -> Plan:
        """Plan one node more; SETTINGS as in `Added`. Raises NotChanged if it does not fit."""
        if name in self._base.nodes:
            raise Conflict([f"{name}: there is a node of that name already"])
        for service in settings.get("services", {}):
            _must_be_known(service, self._loaded.services, "service")
        node = Added(name, address, settings, time.time(), who)
        plan = self._plan({node.id: node}, f"node/{name}: added by {who}")
        fields = {"node": name, "address": address, "who": who}
        return replace(plan, kind="node_added", fields=fields)

    def removal(self, name: str, who: str) -> Plan:
        """Plan to do without a node; raises Conflict if it was not added at run time, or is needed."""
        _must_be_known(name, self._base.nodes, "node")
        if name in self._loaded.nodes:
            reason = f"{name}: is in the configuration; take it out there and reload, or disable it"
            raise Conflict([reason])
        address = self._base.nodes[name].address
        gone: dict[Id, Row | None] = {("nodes", name): None}
        gone |= {one.id: None for one in self._store.overrides() if one.scope.rpartition("/")[2] == name}
        plan = self._plan(gone, f"node/{name}: removed by {who}")
        # Not as planned: a state may be set until then, and would be that of the next node of this name.
        return replace(
            plan,
            keep=lambda: self._store.remove_node(name),
            kind="node_removed",
            fields={"node": name, "address": str(address), "who": who},
            was=str(address),
        )

    def _plan(self, rows: Mapping[Id, Row | None], line: str) -> Plan:
        """Plan that these ROWS be so, None for none; raises NotChanged if then anything does not fit."""
        before = self.over(self._loaded)
        kept: list[Row] = [*self._store.overrides(), *self._store.nodes()]
        known = {row.id: row for row in kept}
        after = {id_: row for id_, row in {**known, **rows}.items() if row is not None}
        overrides = [row for row in after.values() if isinstance(row, Override)]
        applied = apply(self._loaded, overrides, [row for row in after.values() if isinstance(row, Added)])
        if problems := [text for text in applied.lines if text not in before.lines]:
            own = [f"{row} is left out: " for row in rows.values()]
            raise NotChanged([_without(own, text) for text in problems])
        return Plan(applied, lambda: self._store.change(rows), line)

    async def keep(self, plan: Plan) -> None:
        """Make a change last whose settings are served now."""
        tell(log, logging.INFO, plan.kind, "%s", plan.line, **plan.fields)
        await _kept(plan.keep(), plan.line)
        self._know(plan.applied)

    # --- states ---

    def states(self) -> dict[str, Wanted]:
        """Return what operators want of nodes, those left out that are just ready."""
        return states(self._store.overrides(), time.time())

    async def keep_state(self, node: str, wanted: Wanted, who: str) -> None:
        """Make the state of NODE last, which is in force now."""
        now, scope = time.time(), node_scope(node)
        put = self._store.put(scope, "state", wanted.value(now), READY, who, now)
        await _kept(put, f"node {node}: {wanted.state.value}")

    # --- whose a value is ---

    def of_state(self, node: str, value: str) -> Origin:
        """Say whose the state of NODE is, which is VALUE."""
        one = self._store.find(("overrides", node_scope(node), "state"))
        return Origin(_resolved(value, one if isinstance(one, Override) and value != READY else None), READY)

    def of_endpoint(self, node: str, service: str, key: str, value: int) -> Origin:
        """Say whose a VALUE is that is in force for NODE in one SERVICE."""
        if not self._in_force:
            return Origin(Resolved(value, "configuration"), value)
        whole = self._in_force.get(("overrides", node_scope(node), key))
        one = self._in_force.get(("overrides", endpoint_scope(service, node), key))
        said = value if one is None and whole is None else self._said(endpoint_scope(service, node), key)
        return Origin(_resolved(value, one or (whole if value != said else None)), said)

    def of_address(self, name: str) -> Origin | None:
        """Say what NODE was added as, and by whom; None if the configuration has it."""
        one = self._store.find(("nodes", name))
        if not isinstance(one, Added) or name in self._loaded.nodes:
            return None
        return Origin(Resolved(one.address, "run time", one.added_at, one.added_by), None)

    def _said(self, scope: str, key: str) -> Any:
        """Return what the configuration says; None if workers of another one still serve."""
        with suppress(KeyError):
            return configured(self._base, scope, key)

    def of_value(self, node: str, key: str) -> Origin:
        """Say what holds for NODE in all services that say nothing else, and whose it is."""
        said = self._said(node_scope(node), key)
        one = self._in_force.get(("overrides", node_scope(node), key))
        return Origin(_resolved(one.value if one else said, one), said)

    # --- the end ---

    async def settled(self) -> None:
        """Wait until everything that was asked for is on disk, as far as that takes it."""
        await self._store.settled()

    async def close(self) -> None:
        """Do what was asked for, and end."""
        await self._store.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _locked(folder: Path) -> int:
    """Return a descriptor that has FOLDER to itself, -1 if that cannot be had; raises BlockingIOError.

    It ends with the process, whatever ends that, and with an upgrade (execve).
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return -1  # the database says what is wrong with it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise
        return -1  # a file system without locks
    return lock


async def _kept(work: Awaitable[None], line: str) -> None:
    try:
        await work
    except NotKept as error:
        log.warning("%s: in force, but not on disk: %s", line, error)


def _scope(service: str, node: str) -> str:
    return endpoint_scope(service, node) if service else node_scope(node)


def _must_be_known(name: str, known: Collection[str], kind: str) -> None:
    if name not in known:
        raise NotChanged([str(unknown_key((name,), known, kind))])


def _configured(settings: Settings, scope: str, key: str) -> Any:
    """Return what the settings say there; raises NotChanged if it is nothing of theirs."""
    try:
        return configured(settings, scope, key)
    except KeyError:
        raise NotChanged([f"{scope}: there is no such thing; the service has other nodes"]) from None


def _resolved(value: object, one: Override | None) -> Resolved:
    if one is None:
        return Resolved(value, "configuration")
    return Resolved(value, "run time", one.changed_at, one.changed_by)


def _without(beginnings: Iterable[str], text: str) -> str:
    return next((text.removeprefix(one) for one in beginnings if text.startswith(one)), text)


def listed(values: Values) -> str:
    """Return VALUES in words."""
    return ", ".join(f"{key} {_shown(value)}" for key, value in values.items())


def _shown(value: int | None) -> str:
    return "as configured" if value is None else json.dumps(value)
