"""What operators change at run time: what holds, what outlives what, and what a bad disk does about it."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.database_writer import look, state_after
from trackproxy.control import database as module
from trackproxy.control.database import FILE, MIGRATIONS, Database, NotKept
from trackproxy.control.overrides import (
    Added,
    Override,
    Wanted,
    apply,
    configured,
    endpoint_scope,
    node_scope,
    states,
)
from trackproxy.control.store import Store
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import Settings, endpoints_of, load

A = node_scope("a")
NOW = 1000.0


def settings_of(
    *, a: Any = 1, web: dict[str, Any] | None = None, mail: dict[str, Any] | None = None, **more: Any
) -> Settings:
    """Nodes a and b; a service for the web, and one for mail if it is wanted."""
    services: dict[str, Any] = {"web": {"protocol": "http", "listen": [":8080"], "nodes": web or {}}}
    if mail is not None:
        services["mail"] = {"protocol": "smtp", "listen": [":2525"], "nodes": mail}
    nodes = {"a": {"address": "10.0.0.1", "weight": a}, "b": {"address": "10.0.0.2"}, **more}
    return load(None, {"nodes": nodes, "services": services})


def weights(settings: Settings, service: str = "web") -> dict[str, int]:
    return {one.node: one.weight for one in endpoints_of(settings, settings.services[service])}


def weight(scope: str, value: Any, was: Any = 1, at: float = NOW) -> Override:
    return Override(scope, "weight", value, was, at, "eve")


def added(name: str, at: float = NOW, address: str = "10.0.0.9", **settings: Any) -> Added:
    return Added(name, address, settings, at, "eve")


# --- what outlives a restart ---


def test_what_was_set_is_there_after_a_restart_with_who_and_when(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    database.put(A, "weight", 5, 1, "eve", NOW)
    database.put(A, "state", {"state": "drain", "deadline": 1.5, "sticky": "keep"}, "ready", "eve", NOW)
    database.add_node(added("c", weight=3, services={"mail": {"priority": 2}}))
    again = Database.open(tmp_path)
    assert again.overrides() == database.overrides()
    assert again.overrides()[1] == weight(A, 5)
    assert again.nodes() == [added("c", weight=3, services={"mail": {"priority": 2}})]


def test_what_was_dropped_stays_away(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    database.put(A, "weight", 5, 1, "eve", NOW)
    database.drop(A, "weight")
    database.drop(A, "weight")
    assert Database.open(tmp_path).overrides() == []


def test_setting_what_the_configuration_says_anyway_is_no_override(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    database.put(A, "weight", 5, 1, "eve", NOW)
    database.put(A, "weight", 1, 1, "eve", NOW)
    assert Database.open(tmp_path).overrides() == []


def test_a_service_that_is_to_keep_its_value_keeps_it_beside_another_of_the_node(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    database.put(A, "weight", 5, 1, "eve", NOW)
    database.put(endpoint_scope("web", "a"), "weight", 1, 1, "eve", NOW + 1)
    applied = apply(settings_of(mail={}), Database.open(tmp_path).overrides(), [])
    assert (weights(applied.settings)["a"], weights(applied.settings, "mail")["a"]) == (1, 5)


def test_a_node_that_is_removed_takes_what_was_set_for_it_along(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    for name in ("c", "cc"):
        database.add_node(added(name))
        database.put(node_scope(name), "weight", 5, 1, "eve", NOW)
        database.put(endpoint_scope("web", name), "weight", 5, 1, "eve", NOW)
    database.remove_node("c")
    again = Database.open(tmp_path)
    assert [node.name for node in again.nodes()] == ["cc"]
    assert {one.scope for one in again.overrides()} == {node_scope("cc"), endpoint_scope("web", "cc")}


def test_what_is_no_json_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    with pytest.raises(TypeError):
        database.put(A, "weight", object(), 1, "eve", NOW)
    assert database.overrides() == []


def test_folder_and_file_are_for_their_owner_alone_and_there_is_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    Database.open(folder).put(A, "weight", 5, 1, "eve", NOW)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert os.listdir(folder) == [FILE]


# --- what holds ---


def test_what_was_set_holds_until_the_file_says_something_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database.open(tmp_path)
    database.put(A, "weight", 5, 1, "eve", NOW)
    held = database.effective(A, "weight", 1)
    assert (held.value, held.source, held.changed_at, held.changed_by) == (5, "run time", NOW, "eve")
    assert caplog.text == ""
    overtaken = database.effective(A, "weight", 2)
    assert (overtaken.value, overtaken.source, overtaken.changed_at) == (2, "configuration", None)
    assert (
        "node/a: weight 5, set at run time by eve, is dropped: the configuration said 1, now 2" in caplog.text
    )
    assert database.effective(A, "weight", 1).value == 1
    assert Database.open(tmp_path).overrides() == []


def test_what_nobody_set_is_as_configured(tmp_path: Path) -> None:
    resolved = Database.open(tmp_path).effective(A, "weight", 7)
    assert (resolved.value, resolved.source) == (7, "configuration")


def test_what_is_forgotten_as_outdated_may_have_been_set_anew_meanwhile(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    database.put(A, "weight", 5, 1, "eve", NOW)
    outdated = database.overrides()
    database.put(A, "weight", 6, 2, "eve", NOW + 1)
    database.forget(outdated, [])
    assert [one.value for one in Database.open(tmp_path).overrides()] == [6]


@pytest.mark.parametrize(
    ("scope", "key", "value"),
    [
        (A, "weight", 4),
        (A, "max_connections", 0),
        (A, "state", "ready"),
        (endpoint_scope("web", "a"), "weight", 4),
        (endpoint_scope("web", "b"), "weight", 9),
    ],
)
def test_what_is_configured_of_an_endpoint_is_what_holds_there(scope: str, key: str, value: object) -> None:
    settings = settings_of(a=4, web={"a": {}, "b": {"weight": 9}})
    assert configured(settings, scope, key) == value


@pytest.mark.parametrize(
    ("scope", "key"),
    [
        ("node/z", "weight"),
        ("node/z", "state"),
        (A, "colour"),
        ("service/z/node/a", "weight"),
        ("service/web/node/z", "weight"),
        (endpoint_scope("web", "a"), "state"),
        ("a", "weight"),
        ("", ""),
    ],
)
def test_there_is_nothing_configured_of_what_there_is_not(scope: str, key: str) -> None:
    with pytest.raises(KeyError):
        configured(settings_of(), scope, key)


# --- settings with what was changed ---


def test_without_changes_settings_stay_as_they_are() -> None:
    settings = settings_of(mail={"a": {"priority": 10}})
    applied = apply(settings, [], [])
    assert (applied.settings, applied.lines) == (settings, [])


def test_a_weight_of_a_node_holds_in_all_services_that_say_nothing_else() -> None:
    settings = settings_of(mail={"a": {"weight": 7, "priority": 10}, "b": {}})
    applied = apply(settings, [weight(A, 5), weight(node_scope("b"), 6)], [])
    assert weights(applied.settings) == {"a": 5, "b": 6}
    assert weights(applied.settings, "mail") == {"a": 7, "b": 6}
    assert applied.lines == []


def test_a_value_for_one_service_changes_nothing_else() -> None:
    settings = settings_of(mail={"a": {"priority": 10}, "b": {}})
    limit = Override(endpoint_scope("mail", "a"), "max_connections", 3, 0, NOW, "eve")
    merged = apply(settings, [weight(endpoint_scope("web", "a"), 5), limit], []).settings
    assert weights(merged) == {"a": 5, "b": 1}
    assert weights(merged, "mail") == {"a": 1, "b": 1}
    (first, second) = endpoints_of(merged, merged.services["mail"])
    assert (first.max_connections, first.priority, second.max_connections) == (3, 10, 0)
    assert weights(settings) == {"a": 1, "b": 1}


def test_a_value_that_the_file_has_overtaken_is_dropped_with_a_line() -> None:
    gone = weight(node_scope("gone"), 5)
    overtaken, holds = weight(endpoint_scope("web", "a"), 5), weight(node_scope("b"), 6)
    applied = apply(settings_of(a=2), [overtaken, holds, gone], [])
    assert weights(applied.settings) == {"a": 2, "b": 6}
    assert applied.outdated == [overtaken, gone]
    assert applied.lines == [
        "service/web/node/a: weight 5, set at run time by eve, is dropped: the configuration said 1, now 2",
        "node/gone: weight 5, set at run time by eve, is dropped:"
        " the configuration has nothing of the kind now",
    ]


def test_a_node_that_was_added_serves_with_values_of_its_own() -> None:
    nodes = [added("d", NOW + 1), added("c", weight=3)]
    values = [weight(node_scope("c"), 8, was=3), weight(endpoint_scope("web", "d"), 9)]
    applied = apply(settings_of(mail={"a": {}}), values, nodes)
    assert list(applied.settings.nodes) == ["a", "b", "c", "d"]
    assert weights(applied.settings) == {"a": 1, "b": 1, "c": 8, "d": 9}
    assert weights(applied.settings, "mail") == {"a": 1}  # names its nodes
    assert applied.lines == []


def test_a_node_that_was_added_says_itself_where_services_that_name_their_nodes_find_it() -> None:
    node = added(
        "c", services={"mail": {"port": 2526, "proxy_protocol": "v1"}, "web": {"weight": 2}, "z": {}}
    )
    merged = apply(settings_of(mail={"a": {}}), [], [node, added("d", NOW + 1)]).settings
    assert weights(merged) == {"a": 1, "b": 1, "c": 2, "d": 1}
    assert [(one.node, one.address.port) for one in endpoints_of(merged, merged.services["mail"])] == [
        ("a", 25),
        ("c", 2526),
    ]


def test_a_node_that_the_file_names_too_is_dropped_and_the_file_wins() -> None:
    node = added("c", weight=3)
    applied = apply(settings_of(c={"address": "10.0.0.3"}), [weight(node_scope("c"), 8, was=3)], [node])
    assert weights(applied.settings) == {"a": 1, "b": 1, "c": 1}
    assert [row.id for row in applied.outdated] == [("nodes", "c"), ("overrides", "node/c", "weight")]
    assert applied.lines[0] == (
        "node/c: added at run time by eve, is dropped: the configuration names that node now"
    )


@pytest.mark.parametrize(
    "node",
    [
        added("c", address="not an address"),
        added("c", weight=-1),
        added("c", colour="red"),
        added("c", services={"mail": {"weight": "heavy"}}),
        added("c", services={"mail": 5}),
        added("c", services=5),
        added("c", address="10.0.0.9:80"),
    ],
    ids=["address", "weight", "unknown key", "of a service", "no table", "no tables", "one port for two"],
)
def test_a_node_that_is_of_no_use_is_left_out_but_not_dropped_nor_what_was_set_for_it(node: Added) -> None:
    settings = settings_of(mail={})
    applied = apply(settings, [weight(node_scope("c"), 5)], [node])
    assert applied.settings == settings
    assert (applied.outdated, applied.left_out) == ([], [node])
    assert "is left out" in applied.lines[0]


@pytest.mark.parametrize("value", ["heavy", -1, 1.5, [], {"a": 1}])
@pytest.mark.parametrize("scope", [A, endpoint_scope("web", "a")])
def test_a_value_that_is_of_no_use_is_left_out(scope: str, value: object) -> None:
    applied = apply(settings_of(), [weight(scope, value)], [])
    assert weights(applied.settings) == {"a": 1, "b": 1}
    assert [one.value for one in applied.left_out if isinstance(one, Override)] == [value]


def test_a_service_is_never_left_without_a_node_by_what_was_set_before_the_file_changed() -> None:
    web = {"a": {}, "b": {"weight": 0}}
    older, innocent, newer = weight(A, 0), weight(node_scope("b"), 3, at=NOW + 2), weight(A, 0, at=NOW + 1)
    applied = apply(settings_of(web=web), [older, innocent], [])
    assert weights(applied.settings) == {"a": 1, "b": 0}
    assert applied.left_out == [older]
    assert "no node with a weight above 0" in applied.lines[0]
    both = [weight(node_scope("b"), 0), newer]
    assert apply(settings_of(), both, []).left_out == [newer]


# --- states ---


@pytest.mark.parametrize(
    ("now", "wanted"),
    [
        (NOW + 10, Wanted(AdminState.DRAIN, 20.0, "move")),
        (NOW + 30, Wanted(AdminState.DISABLED)),
        (NOW + 9e9, Wanted(AdminState.DISABLED)),
        (NOW - 9e9, Wanted(AdminState.DRAIN, 30.0, "move")),
    ],
    ids=["under way", "at its deadline", "long past", "the clock went back"],
)
def test_a_drain_goes_on_after_a_restart_until_its_deadline_and_ends_disabled(
    now: float, wanted: Wanted
) -> None:
    value = Wanted(AdminState.DRAIN, 30.0, "move").value(NOW)
    assert states([Override(A, "state", value, "ready", NOW, "eve")], now) == {"a": wanted}


def test_a_disabled_node_stays_disabled_and_other_values_are_no_states() -> None:
    value = Wanted(AdminState.DISABLED).value(NOW)
    found = states([Override(A, "state", value, "ready", NOW, "eve"), weight(node_scope("b"), 5)], NOW)
    assert found == {"a": Wanted(AdminState.DISABLED)}


@pytest.mark.parametrize(
    "value", ["asleep", 5, None, {}, {"deadline": "soon"}, {"deadline": 9e9, "state": "x"}]
)
def test_a_state_of_another_version_is_none(value: object) -> None:
    assert states([Override(A, "state", value, "ready", NOW, "eve")], NOW) == {}


# --- files that are of no use ---


def sound() -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
        return bytes(connection.serialize())


def without_tables() -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE other (x)")
        connection.execute("PRAGMA user_version = 1")
        return bytes(connection.serialize())


BROKEN = {
    "no database": b"hello" * 1000,
    "zeros": bytes(8192),
    "cut off": sound()[:4096],
    "its first bytes": sound()[:50],
    "a page of something else": sound()[:4096] + b"\x55" * 4096 + sound()[8192:],
    "other tables": without_tables(),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_moved_aside_and_a_new_one_begun(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    database = Database.open(tmp_path)
    assert database.writable
    assert database.overrides() == []
    (aside,) = tmp_path.glob(f"{FILE}.broken-*")
    assert aside.read_bytes() == content
    assert f"it is {aside.name} now, and a new one is begun" in caplog.text
    database.put(A, "weight", 5, 1, "eve", NOW)
    assert Database.open(tmp_path).overrides() == [weight(A, 5)]


@pytest.mark.parametrize("tail", ["-journal", "-wal"])
def test_a_journal_of_a_broken_file_is_not_taken_for_that_of_the_new_one(tmp_path: Path, tail: str) -> None:
    (tmp_path / FILE).write_bytes(BROKEN["no database"])
    journal = tmp_path / f"{FILE}{tail}"
    journal.write_bytes(b"old" * 1000)
    Database.open(tmp_path).put(A, "weight", 5, 1, "eve", NOW)
    assert not journal.exists()
    assert Database.open(tmp_path).overrides() == [weight(A, 5)]


def test_a_file_that_breaks_or_vanishes_later_is_written_anew_with_all_that_is_known(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    database.put(A, "weight", 5, 1, "eve", NOW)
    (tmp_path / FILE).write_bytes(BROKEN["no database"])
    database.put(node_scope("b"), "weight", 5, 1, "eve", NOW)
    assert len(Database.open(tmp_path).overrides()) == 2
    (tmp_path / FILE).unlink()
    database.add_node(added("c"))
    again = Database.open(tmp_path)
    assert (len(again.overrides()), again.nodes()) == (2, [added("c")])


def test_a_file_of_a_newer_version_is_kept_under_another_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Database.open(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    assert Database.open(tmp_path).writable
    assert len([*tmp_path.glob(f"{FILE}.newer-*")]) == 1
    assert "version 2 is newer than this program's 1" in caplog.text


def test_a_file_of_an_older_version_is_brought_up_to_date_with_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database.open(tmp_path).put(A, "weight", 5, 1, "eve", NOW)
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE more (x)",)))
    database = Database.open(tmp_path)
    assert database.overrides() == [weight(A, 5)]
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        assert connection.execute("SELECT count(*) FROM more").fetchone() == (0,)
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


@pytest.mark.parametrize("value", ["{", b"\xff\xfe", ""], ids=["cut off", "no text", "empty"])
def test_a_row_that_is_of_no_use_is_dropped_with_a_line_and_the_others_stay(
    tmp_path: Path, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    Database.open(tmp_path).put(A, "weight", 5, 1, "eve", NOW)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute("INSERT INTO overrides VALUES ('node/b', 'weight', ?, '1', 0, '')", (value,))
    assert Database.open(tmp_path).overrides() == [weight(A, 5)]
    assert "dropped, since it is of no use" in caplog.text
    caplog.clear()
    assert Database.open(tmp_path).overrides() == [weight(A, 5)]
    assert caplog.text == ""


# --- disks that take nothing ---


@contextmanager
def disk_full() -> Iterator[None]:
    """Let no file grow: the system refuses each write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def connect_read_only(database: Database) -> sqlite3.Connection:
    uri = f"{database._path.as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def test_what_a_full_disk_does_not_take_holds_and_is_kept_with_the_next_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    database = Database.open(tmp_path)
    database.put(A, "weight", 5, 1, "eve", NOW)
    database.put(node_scope("b"), "weight", 5, 1, "eve", NOW)
    with disk_full():
        with pytest.raises(NotKept, match=rf"done, but a restart undoes it: .*{FILE} takes nothing: "):
            database.put(A, "weight", 6, 1, "eve", NOW)
        with pytest.raises(NotKept):
            database.drop(node_scope("b"), "weight")
        assert database.effective(A, "weight", 1).value == 6
        assert not database.writable
    assert caplog.text.count("is not kept, and a restart undoes it") == 1
    assert len(Database.open(tmp_path).overrides()) == 2
    database.add_node(added("c"))
    assert database.writable
    assert caplog.text.count("is kept again") == 1
    assert Database.open(tmp_path).overrides() == [weight(A, 6)]
    assert Database.open(tmp_path).nodes() == [added("c")]


def test_keep_tries_again_without_a_change(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    with disk_full():
        with pytest.raises(NotKept):
            database.put(A, "weight", 5, 1, "eve", NOW)
        with pytest.raises(NotKept):
            database.keep()
    database.keep()
    assert Database.open(tmp_path).overrides() == [weight(A, 5)]


def test_overtaken_values_are_dropped_in_force_even_if_the_disk_takes_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    database.put(A, "weight", 5, 1, "eve", NOW)
    with disk_full():
        assert database.effective(A, "weight", 2).value == 2
        assert database.overrides() == []


def test_a_disk_that_is_full_from_the_start_is_told_of_once_and_is_no_reason_not_to_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with disk_full():
        database = Database.open(tmp_path / "state")
        assert not database.writable
        assert database.overrides() == []
        with pytest.raises(NotKept):
            database.put(A, "weight", 5, 1, "eve", NOW)
    assert caplog.text.count("is not kept, and a restart undoes it") == 1
    database.keep()
    assert Database.open(tmp_path / "state").overrides() == [weight(A, 5)]


def test_what_cannot_be_written_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Database.open(tmp_path).put(A, "weight", 5, 1, "eve", NOW)
    monkeypatch.setattr(Database, "_connect", connect_read_only)
    database = Database.open(tmp_path)
    assert not database.writable
    assert "takes nothing: it is read-only" not in caplog.text
    assert "a restart undoes it: it is read-only" in caplog.text
    assert database.overrides() == [weight(A, 5)]


def test_a_file_in_the_place_of_the_folder_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    database = Database.open(tmp_path / "state")
    with pytest.raises(NotKept):
        database.put(A, "weight", 5, 1, "eve", NOW)
    assert database.overrides() == [weight(A, 5)]


def test_a_database_that_is_locked_is_an_error_after_a_while_and_none_of_its_rows_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.01)
    Database.open(tmp_path).put(A, "weight", 5, 1, "eve", NOW)
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        database = Database.open(tmp_path)
        assert database.overrides() == []
        assert "what operators changed before cannot be read: another process has it locked" in caplog.text
        with pytest.raises(NotKept, match="another process has it locked"):
            database.put(node_scope("b"), "weight", 5, 1, "eve", NOW)
    database.keep()
    assert len(database.overrides()) == len(Database.open(tmp_path).overrides()) == 2


def test_two_in_one_folder_lose_nothing_of_each_other(tmp_path: Path) -> None:
    one, other = Database.open(tmp_path), Database.open(tmp_path)
    one.put(A, "weight", 5, 1, "eve", NOW)
    other.put(node_scope("b"), "weight", 5, 1, "eve", NOW)
    assert len(other.overrides()) == len(Database.open(tmp_path).overrides()) == 2


def test_what_was_kept_once_is_not_written_again_over_what_another_has_done_since(tmp_path: Path) -> None:
    one, other = Database.open(tmp_path), Database.open(tmp_path)
    one.put(A, "weight", 5, 1, "eve", NOW)
    other.drop(A, "weight")
    one.put(node_scope("b"), "weight", 5, 1, "eve", NOW)
    assert one.overrides() == Database.open(tmp_path).overrides() == [weight(node_scope("b"), 5)]


# --- kill -9 ---

ROUNDS = 60
MOST_ROUNDS = 20 * ROUNDS
MOST_S = 90.0


class Writer:
    """See tests.e2e.database_writer."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.e2e.database_writer", str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._deadline = time.monotonic() + MOST_S

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.wait(MOST_S)

    def run(self, step: int, for_s: float) -> list[int]:
        """Begin with STEP, kill it after FOR_S; return the steps that were told as kept."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % step)
        text = b""
        while b"\n" not in text:
            text += self._read(self._deadline)
        pid, kill_at = int(text.partition(b"\n")[0]), time.monotonic() + for_s
        while more := self._read(kill_at):
            text += more
        os.kill(pid, signal.SIGKILL)
        while not text.endswith(b"dead\n"):
            text += self._read(self._deadline)
        return [int(line) for line in text.split()[1:-1]]

    def _read(self, until: float) -> bytes:
        """Return what comes, nothing if it does not come until then."""
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        ready, _, _ = select.select([out], [], [], max(until - time.monotonic(), 0))
        assert ready or until < self._deadline, "the writer hangs"
        return os.read(out, 65536) if ready else b""


def test_kill_9_leaves_what_was_acknowledged_and_nothing_half_done(tmp_path: Path) -> None:
    chance, next_step, moments = random.Random(), 0, 0
    with Writer(tmp_path) as writer:
        for number in count(1):
            kept = writer.run(next_step, chance.uniform(0.0, 0.03))
            moments += (tmp_path / f"{FILE}-journal").exists()
            database = Database.open(tmp_path)
            last = kept[-1] if kept else next_step - 1
            possible = [state_after(step) if step >= 0 else (-1, -1, -1) for step in (last, last + 1)]
            assert look(database) in possible, f"after step {last}"
            next_step = last + 1 + possible.index(look(database))
            with closing(sqlite3.connect(tmp_path / FILE)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert os.listdir(tmp_path) == [FILE]  # nothing was moved aside
            if number >= ROUNDS and next_step > ROUNDS and moments:
                break  # a busy machine needs more rounds until kills have come at all kinds of moments
            assert number < MOST_ROUNDS, "hardly a kill has come inside a transaction"


# --- for the event loop ---


async def test_a_store_does_in_order_what_many_ask_for_at_once(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    await asyncio.gather(*(store.put(A, "weight", value, 1, "eve", NOW) for value in range(2, 32)))
    await store.add_node(added("c"))
    assert store.overrides() == Database.open(tmp_path).overrides() == [weight(A, 31)]
    assert store.nodes() == [added("c")]
    await store.remove_node("c")
    assert (await store.effective(A, "weight", 1)).value == 31
    await store.forget(store.overrides(), [])
    await store.drop(A, "weight")
    await store.close()
    again = Database.open(tmp_path)
    assert (again.overrides(), again.nodes()) == ([], [])


async def test_a_caller_that_is_cancelled_has_its_change_done_all_the_same(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    calls = [
        asyncio.create_task(store.put(node_scope(name), "weight", 5, 1, "eve", NOW)) for name in ("a", "b")
    ]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    await store.settled()
    assert len(Database.open(tmp_path).overrides()) == 2
    await store.close()


async def test_the_loop_turns_while_the_disk_waits(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        call = asyncio.create_task(store.put(A, "weight", 5, 1, "eve", NOW))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not call.done()
        other.execute("ROLLBACK")
    await call
    await store.close()


async def test_what_a_store_cannot_keep_is_an_error_for_who_waits_and_for_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await Store.open(tmp_path / "state")
    (tmp_path / "state" / FILE).unlink()
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("")
    with pytest.raises(NotKept):
        await store.put(A, "weight", 5, 1, "eve", NOW)
    assert not store.writable
    call = asyncio.create_task(store.put(A, "weight", 6, 1, "eve", NOW))
    await asyncio.sleep(0)
    call.cancel()
    await store.settled()
    gc.collect()  # an error that nobody has seen would be told now, and fail the test
    (tmp_path / "state").unlink()
    await store.keep()
    assert Database.open(tmp_path / "state").overrides() == [weight(A, 6)]
    await store.close()
