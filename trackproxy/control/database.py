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
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from trackproxy.errors import TrackproxyError
from trackproxy.explain import problems_of
from trackproxy.pool.nodes import AdminState
from trackproxy.sections import EndpointSettings, NodeSettings, Section
from trackproxy.session_sections import SessionEndpointSettings, SessionService
from trackproxy.settings import AnyService, Settings, _contradictions, endpoints_of

if TYPE_CHECKING:
    from trackproxy.control.drain import Sticky

log = logging.getLogger(__name__)

FILE = "state.sqlite3"
BUSY_S = 2.0  # for another process to finish its transaction
VALUES = ("weight", "max_connections")
KEYS = {"overrides": ("scope", "key"), "nodes": ("name",)}

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
R = TypeVar("R", "Override", "Added")
S = TypeVar("S", bound=Section)
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
    left_out: what is of no use with these settings, but may be with others.
    lines: why, a sentence for each.
    """

    settings: Settings
    outdated: list[Row]
    left_out: list[Row]
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

    What does not fit any more is left out: no change at run time keeps a configuration from being served.
    """
    applying = _Applying(settings)
    for node in sorted(nodes, key=lambda node: node.added_at):
        applying.add(node)
    for override in sorted(overrides, key=lambda override: -override.changed_at):
        applying.take(override)
    merged = applying.fitting()
    return Applied(merged, applying.outdated, applying.left_out, applying.lines)


@dataclass(slots=True, eq=False)
class _Applying:
    """How far `apply` has come. nodes, values: what has been found to be of use, VALUES the newest first."""

    settings: Settings
    nodes: list[Added] = field(default_factory=list)
    values: list[Override] = field(default_factory=list)
    outdated: list[Row] = field(default_factory=list)
    left_out: list[Row] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def add(self, node: Added) -> None:
        if node.name in self.settings.nodes:
            self._drop(node, "the configuration names that node now")
        elif problem := self._problem([*self.nodes, node], []):
            self._leave_out(node, problem)
        else:
            self.nodes.append(node)

    def take(self, one: Override) -> None:
        if ("nodes", one.scope.rpartition("/")[2]) in {node.id for node in self.left_out}:
            return
        try:
            now = configured(_merged(self.settings, self.nodes, []), one.scope, one.key)
        except KeyError:
            self._drop(one, "the configuration has nothing of the kind now")
            return
        if resolve(one, now).source == "configuration":
            self._drop(one, f"the configuration said {json.dumps(one.configured)}, now {json.dumps(now)}")
        elif one.key in VALUES:
            self._take_value(one)

    def _take_value(self, one: Override) -> None:
        try:
            _merged(self.settings, self.nodes, [one])
        except ValueError as error:
            self._leave_out(one, str(error))
        else:
            self.values.append(one)

    def fitting(self) -> Settings:
        """Return the settings with all that fits together; of what does not, the newest is left out."""
        while problem := self._problem(self.nodes, self.values):
            if not self.values:  # the settings are wrong without us
                break
            culprits = (one for one in self.values if not self._problem(self.nodes, self._without(one)))
            culprit = next(culprits, self.values[0])
            self._leave_out(culprit, problem)
            self.values = self._without(culprit)
        return _merged(self.settings, self.nodes, self.values)

    def _without(self, culprit: Override) -> list[Override]:
        return [one for one in self.values if one is not culprit]

    def _problem(self, nodes: list[Added], values: list[Override]) -> str:
        """Return why these cannot be served together, if so."""
        try:
            return str(next(_contradictions(_merged(self.settings, nodes, values)), ""))
        except ValueError as error:
            return str(error)

    def _drop(self, row: Row, reason: str) -> None:
        self.outdated.append(row)
        self.lines.append(f"{row} is dropped: {reason}")

    def _leave_out(self, row: Row, reason: str) -> None:
        self.left_out.append(row)
        self.lines.append(f"{row} is left out: {reason}")


def _merged(settings: Settings, nodes: Iterable[Added], values: Iterable[Override]) -> Settings:
    """Return SETTINGS with all of these; raises ValueError if one is of no use."""
    tables = dict(settings.nodes)
    changes: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in settings.services}
    for node in nodes:
        fields = dict(node.settings)
        for service, changed in _table(fields.pop("services", {})).items():
            if service in changes:
                changes[service][node.name] = _table(changed)
        tables[node.name] = _valid(NodeSettings, {**fields, "address": node.address})
    for one in values:
        *_, service, _, name = ["", *one.scope.split("/")]
        if service:
            changes[service][name] = {**changes[service].get(name, {}), one.key: one.value}
        else:
            tables[name] = _valid(NodeSettings, {**dict(tables[name]), one.key: one.value})
    services = {
        name: _changed(service, tables, changes[name]) if changes[name] else service
        for name, service in settings.services.items()
    }
    return settings.model_copy(update={"nodes": tables, "services": services})


def _changed(
    service: AnyService, nodes: Iterable[str], changes: Mapping[str, Mapping[str, Any]]
) -> AnyService:
    """Return SERVICE with CHANGES to nodes; if it names none, it names all NODES from now on."""
    kind = SessionEndpointSettings if isinstance(service, SessionService) else EndpointSettings
    known: dict[str, EndpointSettings] = {**service.nodes} or {name: kind() for name in nodes}
    for name, changed in changes.items():
        known[name] = _valid(kind, {**dict(known.get(name, kind())), **changed})
    return service.model_copy(update={"nodes": known})


def _table(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"services: must hold tables, not {json.dumps(value)}")
    return value


def _valid(kind: type[S], tree: Mapping[str, Any]) -> S:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ValueError("; ".join(str(problem) for problem in problems_of(error, kind))) from error


# --- the file ---


class Database:
    """What is kept in one folder: all of it in memory, and on disk as far as that takes it.

    writable: whether the disk has taken the last change. Reading is for any thread and waits for nothing;
    changing is for one at a time, see `Store`.
    """

    def __init__(self, folder: Path) -> None:
        """Use `open`."""
        self._path = folder.absolute() / FILE
        self._rows: Mapping[Id, Row] = {}
        self._unkept: dict[Id, Row | None] = {}
        self.writable = True

    @classmethod
    def open(cls, folder: Path) -> Database:
        """Read what is kept in FOLDER, which is made on demand; what goes wrong is only logged.

        A file that is broken, or of a newer version, is moved aside.
        """
        database = cls(folder)
        try:
            database.keep()
        except NotKept:
            database._read_only()
        return database

    # --- what is known ---

    def overrides(self) -> list[Override]:
        """Return all values that were set at run time, by scope and key."""
        return sorted(_only(Override, self._rows), key=lambda one: one.id)

    def nodes(self) -> list[Added]:
        """Return the nodes that were added at run time, in that order."""
        return sorted(_only(Added, self._rows), key=lambda one: one.added_at)

    # --- changes; each raises NotKept if it holds, but the disk does not take it ---

    def put(self, scope: str, key: str, value: Any, configured: Any, who: str, now: float) -> None:
        """Set a value at run time; what the configuration says anyway is no override.

        value, configured: as JSON has them. now: in seconds of the wall clock.
        """
        override = Override(scope, key, value, configured, now, who)
        override.columns()  # raises TypeError if it is no JSON
        self._change({override.id: None if value == configured else override})

    def drop(self, scope: str, key: str) -> None:
        """Let the configuration decide again, if it does not."""
        self._change({("overrides", scope, key): None})

    def effective(self, scope: str, key: str, configured: Any) -> Resolved:
        """Return what holds; an override that CONFIGURED has overtaken is dropped. Raises nothing."""
        override = next((one for one in self.overrides() if one.id == ("overrides", scope, key)), None)
        resolved = resolve(override, configured)
        if override is not None and resolved.source == "configuration":
            was, now = json.dumps(override.configured), json.dumps(configured)
            self.forget([override], [f"{override} is dropped: the configuration said {was}, now {now}"])
        return resolved

    def add_node(self, node: Added) -> None:
        """Keep a node, or what it has become; whether it fits, `apply` says."""
        node.columns()  # raises TypeError if it is no JSON
        self._change({node.id: node})

    def remove_node(self, name: str) -> None:
        """Forget a node that was added, with everything that was set for it."""
        own = {one.id: None for one in self.overrides() if one.scope.rpartition("/")[2] == name}
        self._change({("nodes", name): None, **own})

    def forget(self, outdated: Iterable[Row], lines: Iterable[str]) -> None:
        """Drop what `apply` has found OUTDATED, once its settings are served, and say so. Raises nothing."""
        for line in lines:
            log.warning("%s", line)
        gone: dict[Id, Row | None] = {row.id: None for row in outdated if self._rows.get(row.id) == row}
        with suppress(NotKept):  # so it is outdated at the next start as well
            if gone:
                self._change(gone)

    def keep(self) -> None:
        """Try again to keep what could not be kept, or find out whether the disk takes anything."""
        try:
            self._exchange_or_begin_anew()
        except (sqlite3.Error, OSError, _Unusable) as error:
            reason = _reason(error)
            if self.writable:
                log.warning(
                    "%s: what operators change is not kept, and a restart undoes it: %s", self._path, reason
                )
            self.writable = False
            raise NotKept(f"done, but a restart undoes it: {self._path} takes nothing: {reason}") from error
        if not self.writable:
            log.info("%s: what operators change is kept again", self._path)
        self.writable = True
        self._unkept = {}

    def _change(self, changes: Mapping[Id, Row | None]) -> None:
        self._rows = _whole({**self._rows, **changes})
        self._unkept.update(changes)
        self.keep()

    # --- the file ---

    def _exchange_or_begin_anew(self) -> None:
        try:
            self._exchange()
        except _Unusable as error:
            self._move_aside(error)
            self._exchange()

    def _exchange(self) -> None:
        """Write what is unkept, or everything into a file that is new; and read all, in one transaction."""
        with _unusable(), closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("BEGIN IMMEDIATE")
            _must_be_sound(connection)
            new = _migrate(connection)
            for id_, row in (self._rows if new else self._unkept).items():
                _write(connection, id_, row)
            rows = self._read(connection)
            for id_ in [id_ for id_, row in rows.items() if row is None]:
                _write(connection, id_, None)
            connection.execute("COMMIT")
            self._rows = _whole(rows)

    def _read_only(self) -> None:
        """Know what can be read where nothing can be written."""
        try:
            with _unusable(), closing(self._connect()) as connection:
                _must_be_sound(connection)
                self._rows = _whole(self._read(connection))
        except (sqlite3.Error, OSError, _Unusable) as error:
            log.warning("%s: what operators changed before cannot be read: %s", self._path, _reason(error))

    def _read(self, connection: sqlite3.Connection) -> dict[Id, Row | None]:
        """Return all rows, None for those that cannot be understood."""
        found: dict[Id, Row | None] = {}
        kinds: tuple[tuple[str, type[Row]], ...] = (("overrides", Override), ("nodes", Added))
        for table, kind in kinds:
            for columns in connection.execute(f"SELECT * FROM {table}").fetchall():
                id_ = (table, *columns[: len(KEYS[table])])
                try:
                    found[id_] = kind.of(columns)
                except (ValueError, TypeError) as error:
                    log.error("%s: dropped, since it is of no use: %r: %s", self._path, columns, error)
                    found[id_] = None
        return found

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw", timeout=BUSY_S, isolation_level=None, uri=True
        )
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        return connection

    def _move_aside(self, error: _Unusable) -> None:
        """Keep the file for whoever wants to look at it. A journal of it SQLite has removed on its own."""
        aside = f"{FILE}.{error.suffix}-{time.strftime('%Y%m%dT%H%M%S')}"
        with suppress(FileNotFoundError):
            self._path.replace(self._path.with_name(aside))
        log.error("%s: %s; it is %s now, and a new one is begun", self._path, error, aside)


def _whole(rows: Mapping[Id, Row | None]) -> dict[Id, Row]:
    return {id_: row for id_, row in rows.items() if row is not None}


def _only(kind: type[R], rows: Mapping[Id, Row]) -> list[R]:
    return [row for row in rows.values() if isinstance(row, kind)]


@contextmanager
def _unusable() -> Iterator[None]:
    """Raise _Unusable for what SQLite says of a file that is not, or no longer, ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if _code(error) in _BROKEN:
            raise _Unusable(str(error)) from error
        raise


def _must_be_sound(connection: sqlite3.Connection) -> None:
    """Raise _Unusable or sqlite3.Error unless every page is sound, and the version one that we know."""
    [(found,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise _Unusable(found)
    if (version := _version(connection)) > len(MIGRATIONS):
        raise _Unusable(f"version {version} is newer than this program's {len(MIGRATIONS)}", "newer")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrate(connection: sqlite3.Connection) -> bool:
    """Bring the tables to this version; return whether there were none."""
    version = _version(connection)
    for statement in (statement for step in MIGRATIONS[version:] for statement in step):
        connection.execute(statement)
    # Always written, so that a disk that takes nothing is found out at the start.
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    return version == 0


def _write(connection: sqlite3.Connection, id_: Id, row: Row | None) -> None:
    table, *key = id_
    columns = KEYS[table]
    if row is None:
        where = " AND ".join(f"{column} = ?" for column in columns)
        connection.execute(f"DELETE FROM {table} WHERE {where}", key)
        return
    values = row.columns()
    connection.execute(f"REPLACE INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what SQLite adds to it


def _reason(error: Exception) -> str:
    return _REASONS.get(_code(error), str(error))


# --- for the event loop ---


class Store:
    """A database whose changes are made one after the other, in one thread.

    A caller that is cancelled stops to wait and nothing else: what was asked for is done, in its turn.
    Before the process becomes another program, and at the end, wait for `settled`; `close` ends the thread.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, "database")

    @classmethod
    async def open(cls, folder: Path) -> Store:
        """See `Database.open`."""
        return cls(await asyncio.to_thread(Database.open, folder))

    @property
    def writable(self) -> bool:
        return self._database.writable

    def overrides(self) -> list[Override]:
        """Return the values set at run time, changes that are awaited not among them."""
        return self._database.overrides()

    def nodes(self) -> list[Added]:
        """Return the nodes added at run time, changes that are awaited not among them."""
        return self._database.nodes()

    async def put(self, scope: str, key: str, value: Any, configured: Any, who: str, now: float) -> None:
        """See Database."""
        await self._do(partial(self._database.put, scope, key, value, configured, who, now))

    async def drop(self, scope: str, key: str) -> None:
        """See Database."""
        await self._do(partial(self._database.drop, scope, key))

    async def effective(self, scope: str, key: str, configured: Any) -> Resolved:
        """See Database."""
        return await self._do(partial(self._database.effective, scope, key, configured))

    async def add_node(self, node: Added) -> None:
        """See Database."""
        await self._do(partial(self._database.add_node, node))

    async def remove_node(self, name: str) -> None:
        """See Database."""
        await self._do(partial(self._database.remove_node, name))

    async def forget(self, outdated: Iterable[Row], lines: Iterable[str]) -> None:
        """See Database."""
        await self._do(partial(self._database.forget, outdated, lines))

    async def keep(self) -> None:
        """See Database."""
        await self._do(self._database.keep)

    async def settled(self) -> None:
        """Wait until everything that was asked for is done."""
        await self._do(lambda: None)

    async def close(self) -> None:
        """Do what was asked for, and end the thread."""
        await asyncio.to_thread(self._thread.shutdown)

    async def _do(self, work: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        future.add_done_callback(_seen)
        await asyncio.wait({future})  # unlike the future itself, this may be cancelled
        return future.result()


def _seen(future: asyncio.Future[Any]) -> None:
    """What was not kept is logged already, if nobody waits for the error any more."""
    if not future.cancelled():
        future.exception()
