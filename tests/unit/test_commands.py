"""Commands without a trackproxy: where they look for one, and what they show."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest

from trackproxy.commands.client import Client, Unreachable
from trackproxy.commands.drain import End, Waiting, in_words
from trackproxy.commands.place import find_socket
from trackproxy.commands.progress import Show
from trackproxy.commands.table import table
from trackproxy.errors import ConfigError

# --- where ---


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, and a state folder for who names none."""
    monkeypatch.delenv("TRACKPROXY_STATE_DIR", raising=False)
    monkeypatch.setenv("STATE_DIRECTORY", "/default")


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ('state_dir = "/a"\n[nodes]\n', "/a"),
        ('state_dir = "/a"\nworker = 1\n', "/a"),
        ('workers = many\nstate_dir = "/a"\n[nodes', "/a"),
        ("state_dir = '/a'\n[nodes", "/a"),
        ('[nodes\n[other]\nstate_dir = "/a"\n', "/default"),
        ("[nodes]\n", "/default"),
        ("state_dir = 5\n", "/default"),
    ],
    ids=["right", "wrong key", "no TOML", "literal", "another table's", "not named", "no text"],
)
def test_the_folder_is_found_whatever_else_the_file_says(tmp_path: Path, text: str, folder: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text(text)
    assert find_socket(file) == Path(folder, "control.sock")


def test_without_a_file_it_is_the_default_folder() -> None:
    assert find_socket(None) == Path("/default/control.sock")


def test_the_environment_stands_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKPROXY_STATE_DIR", "/b")
    file = tmp_path / "t.toml"
    file.write_text('state_dir = "/a"\n')
    assert find_socket(file) == find_socket(None) == Path("/b/control.sock")


def test_a_file_that_is_not_there_is_not_the_default(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        find_socket(tmp_path / "typo.toml")


@pytest.mark.parametrize("path", ["/nowhere/control.sock", "/" + "x" * 200])
def test_nobody_there_is_one_sentence(path: str) -> None:
    with pytest.raises(Unreachable, match=f"no trackproxy answers at {path}; is it running"):
        Client(Path(path)).nodes()


# --- the table ---


def node(**changes: Any) -> dict[str, Any]:
    kinds = ("requests", "connect_failures", "lost", "silent", "malformed", "status_5xx")
    web = {
        "address": "10.0.0.1:80",
        "health": "up",
        "ejected": False,
        "weight": 2,
        "probe": {"passed": True, "reason": "200 in 1 ms", "took_ms": 1.2},
        "gauges": {"active": 3, "tunnels": 0, "idle": 0},
        "totals": {kind: 10**place for place, kind in enumerate(kinds)},
    }
    left = {"requests": 3, "tunnels": 0, "sessions": 0, "idle": 0}
    plain = {"name": "node1", "state": "ready", "drain": None, "left": left, "services": {"web": web}}
    return plain | changes


def drain(outcome: str | None = None, seconds: float | None = None, **changes: Any) -> dict[str, Any]:
    return node(drain={"seconds_left": seconds, "sticky": "keep", "outcome": outcome}, **changes)


def test_columns_are_aligned_and_numbers_flush_right() -> None:
    lines = list(table([node(), node(name="a-longer-name", services={})]))
    assert lines == [
        "NODE           STATE  SERVICE  ADDRESS      HEALTH  WEIGHT  ACTIVE  REQUESTS  ERRORS  LAST PROBE",
        "node1          ready  web      10.0.0.1:80  up           2       3         1  111110  "
        "passed: 200 in 1 ms",
        "a-longer-name  ready  -        -            -            -       -         -       -  -",
    ]


def test_a_drain_shows_what_is_left_of_its_time_while_it_lasts() -> None:
    assert "drain, 12 s left" in [*table([drain(None, 12.4, state="drain")])][1]
    assert "left" not in [*table([drain("empty", None, state="disabled")])][1]


def source(value: Any, configured: Any = None, at: float | None = None) -> dict[str, Any]:
    kind = "configuration" if at is None else "run time"
    who = None if at is None else "eve"
    return {"value": value, "configured": configured, "source": kind, "changed_at": at, "changed_by": who}


def test_what_was_changed_at_run_time_is_marked_and_told_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    web = node()["services"]["web"]
    services = {
        "web": web | {"sources": {"weight": source(2, 1, 10.0), "max_connections": source(0, 0)}},
        "sites": web | {"sources": {"weight": source(2, 3, 20.0)}},
        "mail": web | {"sources": {"weight": source(2, 2)}},
    }
    sources = {
        "state": source("disabled", "ready", 0.0),
        "weight": source(2, 1, 10.0),
        "address": source("10.0.0.1", None, 5.0),
    }
    lines = [*table([node(state="disabled", services=services, sources=sources)])]
    assert [line.split()[:2] for line in lines[1:4]] == [["node1*", "disabled*"]] * 3
    assert [line.split()[5] for line in lines[1:4]] == ["2*", "2*", "2"]
    assert lines[4:] == [
        "* changed at run time: node1 state from ready to disabled, by eve, 1970-01-01 00:00:00",
        "* changed at run time: node1 weight from 1 to 2, by eve, 1970-01-01 00:00:10",
        "* changed at run time: node1 added, 10.0.0.1, by eve, 1970-01-01 00:00:05",
        "* changed at run time: node1 in sites weight from 3 to 2, by eve, 1970-01-01 00:00:20",
    ]


def test_an_endpoint_that_is_ejected_or_never_probed_says_so() -> None:
    web = node()["services"]["web"] | {"ejected": True, "probe": None}
    line = [*table([node(services={"web": web})])][1]
    assert "up, ejected" in line
    assert line.endswith("  -")


# --- waiting ---


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Scripted(Client):
    """A trackproxy that tells of one node after the other."""

    def __init__(self, *nodes: dict[str, Any]) -> None:
        super().__init__(Path("/nowhere"))
        self.next = iter(nodes)

    def node(self, name: str) -> dict[str, Any]:
        return next(self.next)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackproxy.commands.drain.LOOK_S", 0.0)


@pytest.mark.parametrize(
    ("last", "end"),
    [
        (drain("empty"), End.EMPTY),
        (drain("deadline"), End.DEADLINE),
        (drain("ended otherwise"), End.OTHERWISE),
        (node(), End.OTHERWISE),
    ],
    ids=["empty", "deadline", "otherwise", "unknown to an upgraded program"],
)
def test_waiting_ends_as_the_drain_does(last: dict[str, Any], end: End) -> None:
    waiting = Waiting(Scripted(drain(None, 1.0), last), drain(None, 2.0), Show(io.StringIO()))
    assert waiting.wait() is end
    assert waiting.node is last


def test_a_drain_that_never_ends_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackproxy.commands.drain.LATE_S", 0.0)
    never = (drain(None, 0.0) for _ in range(1_000_000))
    scripted = Scripted(*[next(never) for _ in range(1000)])
    assert Waiting(scripted, next(never), Show(io.StringIO())).wait() is End.OTHERWISE


def left(requests: int, sessions: int = 0) -> dict[str, int]:
    return {"requests": requests, "tunnels": 0, "sessions": sessions, "idle": 0}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.usefixtures("plain")
def test_a_terminal_shows_one_line_that_is_rewritten_with_what_part_is_over() -> None:
    out = Terminal()
    steps = [drain(None, 1.0, left=left(1)), drain("empty")]
    Waiting(Scripted(*steps), drain(None, 2.0, left=left(3, 1)), Show(out, width=lambda: 80)).wait()
    assert out.getvalue() == (
        f"\r{'-' * 24} node1: 3 requests, 1 session left, 2 s to go\x1b[K"
        f"\r{'#' * 18}{'-' * 6} node1: 1 request left, 1 s to go\x1b[K"
        "\rnode1 is empty, and disabled now\x1b[K\n"
    )


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("width", "line"),
    [(20, "#####----- 123 left"), (14, "123 left"), (5, "123 ")],
    ids=["less bar", "no bar", "less text"],
)
def test_a_narrow_terminal_is_never_left_for_a_second_line(width: int, line: str) -> None:
    out = Terminal()
    Show(out, width=lambda: width).progress("123 left", 0.5)
    assert out.getvalue() == f"\r{line}\x1b[K"


def test_a_bar_has_colour_unless_that_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    Show(out, width=lambda: 80).progress("left", 1.0)
    assert out.getvalue() == f"\r\x1b[32m{'#' * 24}\x1b[39m left\x1b[K"


def test_a_terminal_that_cannot_go_back_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    Show(out).progress("left", 1.0)
    assert out.getvalue() == "left\n"


def test_elsewhere_there_is_a_line_at_most_each_second() -> None:
    now = iter([0.0, 0.0, 0.0, 0.5, 1.0, 1.0])
    out = io.StringIO()
    show = Show(out, lambda: next(now))
    for text in ("a", "b", "c"):
        show.progress(text)
    assert out.getvalue() == "a\nc\n"


def test_what_is_left_is_said_in_words() -> None:
    assert in_words({"requests": 1, "tunnels": 2, "sessions": 0, "idle": 7}) == "1 request, 2 tunnels"
    assert in_words({"requests": 0, "tunnels": 0, "sessions": 3, "idle": 0}) == "3 sessions"
    assert in_words({"requests": 0, "tunnels": 0, "sessions": 0, "idle": 1}) == "nothing"
