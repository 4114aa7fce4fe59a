"""What operators change at run time, on disk. See `overrides` for what that is, `store` for the event loop.

A change is on disk when its call returns; kill -9 or power loss leave all of it or nothing. What the disk
does not take is in force nevertheless, and goes there with the next change that it takes.

The trick: memory holds everything, and each change opens the file anew. So a disk that was full, read-only
or swapped needs no restart, and a file that was lost or is broken is written again from memory.

Journal DELETE and not WAL: one file, which is as it should be after kill -9 and can be read where nothing
can be written; a WAL needs a second file and shared memory even to be read, and gains what a dozen changes a
day do not need. synchronous EXTRA and not FULL: without it a power loss may bring the deleted journal back,
and with it the state before a change that was acknowledged (https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from trackproxy.control.overrides import Added, Id, Override, Resolved, Row, is_said_anyway, resolve
from trackproxy.errors import TrackproxyError

log = logging.getLogger(__name__)

FILE = "state.sqlite3"
BUSY_S = 2.0  # for another process to finish its transaction
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

R = TypeVar("R", Override, Added)


class NotKept(TrackproxyError):
    """A change is in force, but not on disk: it ends with this program, unless a later one can be kept."""


class _Unusable(Exception):
    """The file is none that we can go on with; SUFFIX: of the name under which it stays."""

    def __init__(self, reason: str, suffix: str = "broken") -> None:
        super().__init__(reason)
        self.suffix = suffix


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
        self._taken = False
        self.writable = True

    @classmethod
    def open(cls, folder: Path, *, taken: bool = False) -> Database:
        """Read what is kept in FOLDER, which is made on demand; what goes wrong is only logged.

        A file that is broken, or of a newer version, is moved aside. taken: it is another process's, so it is
        neither read nor written.
        """
        database = cls(folder)
        database._taken = taken
        try:
            database.keep()
        except NotKept:
            if not taken:
                database._read_only()
        return database

    # --- what is known ---

    def find(self, id_: Id) -> Row | None:
        """Return one row, None if there is none."""
        return self._rows.get(id_)

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
        self.change({override.id: None if is_said_anyway(override, self._rows) else override})

    def drop(self, scope: str, key: str) -> None:
        """Let the configuration decide again, if it does not."""
        self.change({("overrides", scope, key): None})

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
        self.change({node.id: node})

    def remove_node(self, name: str) -> None:
        """Forget a node that was added, with everything that was set for it."""
        own = {one.id: None for one in self.overrides() if one.scope.rpartition("/")[2] == name}
        self.change({("nodes", name): None, **own})

    def forget(self, outdated: Iterable[Row], lines: Iterable[str]) -> None:
        """Drop what `apply` has found OUTDATED, once its settings are served, and say so. Raises nothing."""
        for line in lines:
            log.warning("%s", line)
        gone: dict[Id, Row | None] = {row.id: None for row in outdated if self._rows.get(row.id) == row}
        with suppress(NotKept):  # so it is outdated at the next start as well
            if gone:
                self.change(gone)

    def change(self, changes: Mapping[Id, Row | None]) -> None:
        """Make all these rows so, or none; None is no row. Raises TypeError if one is no JSON."""
        for row in _whole(changes).values():
            row.columns()
        self._rows = _whole({**self._rows, **changes})
        self._unkept.update(changes)
        self.keep()

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

    # --- the file ---

    def _exchange_or_begin_anew(self) -> None:
        if self._taken:
            raise OSError("it is another trackproxy's; set state_dir")
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
