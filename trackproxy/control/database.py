"""What operators change at run time, on disk: states, weights and limits of nodes, and nodes that were added.

Each change stands beside the value that the configuration had then: once the file says something else there,
the file wins and the change is dropped. A change is on disk when its call returns; kill -9 or power loss
leave all of it or nothing. What the disk does not take is in force nevertheless, and goes there with the
next change that it takes.

The trick: memory holds everything, and each change opens the file anew. So a disk that was full, read-only
or swapped needs no restart, and a file that was lost or is broken is written again from memory.

Journal DELETE and not WAL: one file, which is as it should be after kill -9 and can be read where nothing
can be written; a WAL needs a second file and shared memory even to be read, and gains what a dozen changes a
day do not need. synchronous EXTRA and not FULL: without it a power loss may bring the deleted journal back,
and with it the state before a change that was acknowledged (https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from trackproxy.errors import TrackproxyError
from trackproxy.pool.nodes import AdminState
from trackproxy.sections import EndpointSettings, NodeSettings
from trackproxy.session_sections import SessionEndpointSettings, SessionService
from trackproxy.settings import Settings, _contradictions, endpoints_of

if TYPE_CHECKING:
    from trackproxy.control.drain import Sticky

log = logging.getLogger(__name__)

FILE = "state.sqlite3"
BUSY_S = 2.0  # for another process to finish its transaction
VALUES = ("weight", "max_connections")

# One step for each version; `user_version` says how many were made.
MIGRATIONS = (
    (
        "CREATE TABLE overrides (scope TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,"
        " configured TEXT NOT NULL, changed_at REAL NOT NULL, changed_by TEXT NOT NULL,"
        " PRIMARY KEY (scope, key)) WITHOUT ROWID",
        "CREATE TABLE nodes (name TEXT NOT NULL PRIMARY KEY, address TEXT NOT NULL, settings TEXT NOT NULL,"
        " added_at REAL NOT NULL, added_by TEXT NOT NULL) WITHOUT ROWID",
    ),
)

# SQLITE_ERROR: our statements are right, so its tables are not.
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_REASONS = {
    sqlite3.SQLITE_BUSY: "another process has it locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it is read-only",
}

T = TypeVar("T")
Id = tuple[str, ...]  # a table, and the primary key in it


class NotKept(TrackproxyError):
    """A change is in force, but not on disk: it ends with this program, unless a later one can be kept."""


class _Unusable(Exception):
    """The file is none that we can go on with; SUFFIX: of the name under which it stays."""

    def __init__(self, reason: str, suffix: str = "broken") -> None:
        super().__init__(reason)
        self.suffix = suffix


# --- what is kept ---


@dataclass(frozen=True, slots=True)
class Override:
    """A value that an operator has set at run time.

    scope: see `node_scope` and `endpoint_scope`. key: "weight", "max_connections", of a node also "state".
    configured: what the configuration said when it was set. changed_at: in seconds of the wall clock.
    """

    scope: str
    key: str
    value: Any
    configured: Any
    changed_at: float
    changed_by: str

    @property
    def id(self) -> Id:
        return "overrides", self.scope, self.key

    def columns(self) -> tuple[object, ...]:
        value, configured = json.dumps(self.value), json.dumps(self.configured)
        return self.scope, self.key, value, configured, self.changed_at, self.changed_by

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Override:
        scope, key, value, configured, at, who = row
        return cls(str(scope), str(key), json.loads(value), json.loads(configured), float(at), str(who))

    def __str__(self) -> str:
        return f"{self.scope}: {self.key} {json.dumps(self.value)}, set at run time by {self.changed_by},"


@dataclass(frozen=True, slots=True)
class Added:
    """A node that an operator has added at run time.

    settings: what its table in the file would hold beside the address; and under "services", by their names,
    what it would hold in theirs. Services that name their nodes take it only if they are named there.
    """

    name: str
    address: str
    settings: Mapping[str, Any]
    added_at: float
    added_by: str

    @property
    def id(self) -> Id:
        return "nodes", self.name

    def columns(self) -> tuple[object, ...]:
        return self.name, self.address, json.dumps(dict(self.settings)), self.added_at, self.added_by

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Added:
        name, address, settings, at, who = row
        return cls(str(name), str(address), dict(json.loads(settings)), float(at), str(who))

    def __str__(self) -> str:
        return f"node/{self.name}: added at run time by {self.added_by},"


Row = Override | Added


@dataclass(frozen=True, slots=True)
class Resolved:
    """The value that holds, and whose it is; since when and by whom if it was set at run time."""

    value: Any
    source: Literal["configuration", "run time"]
    changed_at: float | None = None
    changed_by: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an operator wants of a node. left_s, sticky: of a drain, see `control.drain`."""

    state: AdminState
    left_s: float = 0.0
    sticky: Sticky = "keep"

    def value(self, now: float) -> Any:
        """Return it as it is kept under "state"; NOW by the wall clock, since it has to outlive a boot."""
        if self.state is AdminState.DRAIN:
            return {"state": self.state.value, "deadline": now + self.left_s, "sticky": self.sticky}
        return self.state.value


@dataclass(frozen=True, slots=True)
class Applied:
    """Settings with what was changed at run time.

    outdated: what the configuration has overtaken; give it to `forget` once these settings are served.
    lines: why each of these is dropped, and why others are left out for now.
    """

    settings: Settings
    outdated: list[Row]
    lines: list[str]


def node_scope(node: str) -> str:
    """Return the scope of what holds for a node in all services that say nothing else about it."""
    return f"node/{node}"


def endpoint_scope(service: str, node: str) -> str:
    """Return the scope of what holds for a node in one service."""
    return f"service/{service}/node/{node}"  # no name holds a slash


# --- rules: pure ---


def resolve(override: Override | None, configured: object) -> Resolved:
    """Return what holds; an override whose value has changed in the file since then does not."""
    if override is None or override.configured != configured:
        return Resolved(configured, "configuration")
    return Resolved(override.value, "run time", override.changed_at, override.changed_by)


def configured(settings: Settings, scope: str, key: str) -> Any:
    """Return what SETTINGS say there; raises KeyError if there is no such thing."""
    match scope.split("/"):
        case ["node", node] if key == "state":
            return settings.nodes[node] and AdminState.READY.value
        case ["node", node] if key in VALUES:
            return getattr(settings.nodes[node], key)
        case ["service", service, "node", node] if key in VALUES:
            endpoints = endpoints_of(settings, settings.services[service])
            return getattr({one.node: one for one in endpoints}[node], key)
    raise KeyError(scope)


def states(overrides: Iterable[Override], now: float) -> dict[str, Wanted]:
    """Return what operators want of nodes, those left out of which they want nothing but "ready".

    A drain that was under way goes on until its deadline; if that has passed, the node is disabled.
    """
    found = {}
    for one in overrides:
        with suppress(ValueError, KeyError, TypeError):  # another version's
            if one.key == "state":
                found[one.scope.removeprefix("node/")] = _wanted(one, now)
    return found


def _wanted(one: Override, now: float) -> Wanted:
    if not isinstance(one.value, dict):
        return Wanted(AdminState(one.value))
    deadline = float(one.value["deadline"])
    left_s = min(deadline - now, deadline - one.changed_at)  # no longer than ever, if the clock went back
    if left_s <= 0:
        return Wanted(AdminState.DISABLED)
    return Wanted(AdminState(one.value["state"]), left_s, "move" if one.value["sticky"] == "move" else "keep")


def apply(settings: Settings, overrides: Iterable[Override], nodes: Iterable[Added]) -> Applied:
    """Lay what was changed at run time over SETTINGS, which are valid, and so is what is returned.

    What does not fit any more is left out: a change at run time never keeps a configuration from being served.
    """
    applying = _Applying(settings)
    for node in sorted(nodes, key=lambda node: node.added_at):
        applying.add(node)
    for override in overrides:
        applying.take(override)
    merged = applying.fitting()
    return Applied(merged, applying.outdated, applying.lines)


@dataclass(slots=True, eq=False)
class _Applying:
    """How far `apply` has come.

    base: the file and the nodes that were added. unusable: names of those that could not be.
    """

    base: Settings
    outdated: list[Row] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    unusable: set[str] = field(default_factory=set)
    chosen: list[Override] = field(default_factory=list)

    def add(self, node: Added) -> None:
        if node.name in self.base.nodes:
            self.drop(node, "the configuration names it now")
            return
        try:
            self.base = _with_node(self.base, node)
        except ValueError as error:
            self.unusable.add(node.name)
            self.leave_out(node, error)

    def take(self, one: Override) -> None:
        if one.scope.rpartition("/")[2] in self.unusable:
            return
        try:
            now = configured(self.base, one.scope, one.key)
        except KeyError:
            self.drop(one, "the configuration knows nothing of the kind now")
            return
        if resolve(one, now).source == "configuration":
            self.drop(one, f"the configuration says {json.dumps(now)} now, not {json.dumps(one.configured)}")
            return
        try:
            _with_value(self.base, one)
        except ValueError as error:
            self.leave_out(one, error)
        else:
            self.chosen.append(one)

    def fitting(self) -> Settings:
        """Return the base with all that fits together; of what does not, the newest goes first."""
        chosen = sorted(self.chosen, key=lambda one: one.changed_at, reverse=True)
        while chosen and (problem := next(_contradictions(_with_values(self.base, chosen)), None)):
            without = ([other for other in chosen if other is not one] for one in chosen)
            fits = (rest for rest in without if not any(_contradictions(_with_values(self.base, rest))))
            rest = next(fits, chosen[1:])
            for one in chosen:
                if one not in rest:
                    self.leave_out(one, problem)
            chosen = rest
        return _with_values(self.base, chosen)

    def drop(self, row: Row, reason: str) -> None:
        self.outdated.append(row)
        self.lines.append(f"{row} is dropped: {reason}")

    def leave_out(self, row: Row, reason: object) -> None:
        self.lines.append(f"{row} is left out: {reason}")


def _with_node(settings: Settings, node: Added) -> Settings:
    """Return SETTINGS and NODE; raises ValueError if that cannot be."""
    fields = dict(node.settings)
    services = fields.pop("services", {})
    with _said(NodeSettings):
        known = NodeSettings.model_validate({**fields, "address": node.address})
    settings = settings.model_copy(update={"nodes": {**settings.nodes, node.name: known}})
    for service, changes in services.items():
        if service in settings.services:
            settings = _with_endpoint(settings, service, node.name, changes)
    if problem := next(_contradictions(settings), None):
        raise ValueError(str(problem))
    return settings


def _with_endpoint(settings: Settings, name: str, node: str, changes: Mapping[str, Any]) -> Settings:
    """Return SETTINGS in which the service NAME changes so much about NODE."""
    service = settings.services[name]
    kind = SessionEndpointSettings if isinstance(service, SessionService) else EndpointSettings
    known = service.nodes or {each: kind() for each in settings.nodes}  # naming none, it takes all
    with _said(kind):
        changed = kind.model_validate({**dict(known.get(node, kind())), **changes})
    service = service.model_copy(update={"nodes": {**known, node: changed}})
    return settings.model_copy(update={"services": {**settings.services, name: service}})
