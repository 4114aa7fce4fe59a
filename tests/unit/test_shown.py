"""What commands show: the program, services, events, numbers; as people read them, and nothing else."""

from __future__ import annotations

import io
import time

import pytest

from tests.unit.operator_samples import event, service, status
from trackproxy.commands.aligned import aligned
from trackproxy.commands.events import Wanted, line_of
from trackproxy.commands.figures import milliseconds, rate, span
from trackproxy.commands.program import program_lines
from trackproxy.commands.services import services_table
from trackproxy.commands.terminal import has_colours, printable, takes


@pytest.fixture(autouse=True)
def greenwich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of the wall clock are the same everywhere."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (90000, "1 d 1 h"), (86410, "1 d")],
)
def test_a_span_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0.04, "0.0 ms"), (1.44, "1.4 ms"), (12.3, "12 ms"), (1234, "1.2 s")]
)
def test_a_latency_is_short(number: float, text: str) -> None:
    assert milliseconds({"p50_ms": number}, "p50_ms") == text


def test_what_is_not_known_is_a_dash() -> None:
    assert rate(None) == milliseconds(None, "p50_ms") == milliseconds({"p50_ms": None}, "p50_ms") == "-"
    assert rate({"rate": 12345.6}) == "12,346"


def test_services_are_a_table() -> None:
    down = service("mail", protocol="smtp", status="down", panic=True, recent=None, connections=9)
    assert list(services_table([service(), down])) == [
        "SERVICE  STATUS       USABLE  CLIENTS  ACTIVE  RATE/S  ERR/S     P50    P99  REQUESTS  ERRORS  "
        "PROTOCOL  LISTEN",
        "web      up              2/3        -       3    12.5    0.1  1.4 ms  1.2 s         7       2  "
        "http      127.0.0.1:8080",
        "mail     down, panic     2/3        9       3       -      -       -      -         7       2  "
        "smtp      127.0.0.1:8080",
    ]


def test_the_program_is_told_with_its_workers() -> None:
    reload = {"at": 60.0, "ok": False, "outcome": "the settings are wrong"}
    assert list(program_lines(status(reload=reload, welcoming=False))) == [
        "trackproxy 1.2.3, pid 10, up 1 h 2 min, since 1970-01-01 00:00:00",
        "clients      not welcome: it is about to start or to stop",
        "generation   2",
        "settings     /etc/t.toml",
        "state        /var/lib/t",
        "last reload  1970-01-01 00:01:00: failed: the settings are wrong",
        "",
        "WORKER              PID  GENERATION  CONNECTIONS  WAITING  ACCEPTED     LAG",
        "     1               11           2            5        0        77       -",
        "     2  none of its own           2            2        0        77  0.4 ms",
    ]


def test_an_event_is_a_line() -> None:
    line = "1970-01-01 00:00:07  warning  health          event 7"
    assert line_of(event(7, level="warning")) == line
    assert line_of(event(7, level="warning"), dated=False) == line.partition(" ")[2]
    assert line_of(event(7, level="warning"), colours=True) == f"\x1b[33m{line}\x1b[39m"
    assert line_of(event(7), as_json=True).count("\n") == 0


def test_what_nodes_say_does_not_steer_the_terminal() -> None:
    assert printable("503 \x1b[2Jé") == "503 �[2Jé"
    assert "\x1b" not in line_of(event(1, level="error") | {"text": "\x1b]0;x\x07"})
    assert "\x1b" not in "".join(aligned([("a", "\x1b[31m")]))


def test_the_last_events_are_the_last_ones_of_the_kinds_that_are_wanted() -> None:
    events = [event(1), event(2, "drain"), event(3), event(4, "drain"), event(5)]
    numbers = [one["id"] for one in Wanted(2, frozenset({"health"})).last_of(events)]
    assert numbers == [3, 5]
    assert [one["id"] for one in Wanted(1).last_of(events)] == [5]
    assert Wanted(0).last_of(events) == []


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("term", "no_color", "colours"), [("xterm", "", True), ("xterm", "1", False), ("dumb", "", False)]
)
def test_colours_are_for_terminals_that_have_them_and_people_who_want_them(
    monkeypatch: pytest.MonkeyPatch, term: str, no_color: str, colours: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", no_color)
    assert has_colours(Terminal()) is colours
    assert not has_colours(io.StringIO())


def test_characters_are_those_of_the_encoding() -> None:
    assert takes(Terminal(), "━")
    assert not takes(io.TextIOWrapper(io.BytesIO(), "ascii"), "━")
