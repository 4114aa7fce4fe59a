"""Log lines: whatever others put into them, each record is one line, and a program reads it back."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trackproxy.logs import INDENT, JsonLines, TextLines, handing_on, log_to_stderr, log_what_nobody_catches
from trackproxy.telling import (
    MOST_CHARACTERS,
    MOST_FIELDS,
    MOST_IN_FIELD,
    Event,
    event,
    event_of,
    read,
    tell,
    visible,
)

HOSTILE = "\x1b[31m\nfake line"
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

texts = st.text() | st.text(alphabet="\x00\x07\x1b\x7f\x9b\ud800\udfff\u202e\u200b\r\n\u2028%s\\\"'{}a")
log = logging.getLogger("tests.unit.test_logs")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the process' log as it was."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    hooks = sys.excepthook, sys.unraisablehook
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    sys.excepthook, sys.unraisablehook = hooks
    root.setLevel(level)


def record(text: str, *args: object, error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    caught = (type(error), error, error.__traceback__) if error else None
    one = logging.LogRecord("name", logging.WARNING, __file__, 1, text, args, caught)
    one.__dict__.update(extra)
    return one


def raised(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


# --- what is seen of a text ---


@given(texts)
@example(HOSTILE)
def test_what_is_seen_of_a_text_has_no_control_character_and_no_line_end(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert shown.splitlines() in ([], [shown])
    assert shown == text or not text.isprintable()


# --- as text ---


@given(texts, texts)
@example("%s", HOSTILE)
def test_a_record_is_one_line_of_text(text: str, given: str) -> None:
    for one in (record(text), record("a: %s", given)):
        assert TextLines("worker 1").format(one).isprintable()


def test_a_line_of_text_is_as_people_know_it() -> None:
    line = TextLines("worker 1").format(record("%s is down: %s", "node1", "refused"))
    assert line.partition(" WARNING ")[2] == "worker 1: node1 is down: refused"
    assert TextLines().format(record("that is it")).endswith(" WARNING that is it")


@given(texts)
@example(HOSTILE)
def test_a_traceback_as_text_is_indented_whatever_its_message_is(text: str) -> None:
    first, *lines = TextLines().format(record("failed", error=raised(text))).split("\n")
    assert first.endswith(" WARNING failed")
    assert lines
    for line in lines:
        assert line.startswith(INDENT)
        assert line.isprintable()


# --- as JSON ---


@given(texts, st.dictionaries(texts, texts | st.integers() | st.floats() | st.none(), max_size=30), texts)
@example(HOSTILE, {"reason": HOSTILE}, HOSTILE)
def test_a_record_is_one_line_of_json_and_is_read_back(text: str, fields: dict[str, Any], bad: str) -> None:
    one = record("%s", text, error=raised(bad), kind="health", fields=fields)
    line = JsonLines("worker 1").format(one)
    assert line.isascii()
    assert line.isprintable()
    tree = json.loads(line, parse_constant=pytest.fail)
    assert (tree["process"], tree["level"], tree["kind"]) == ("worker 1", "warning", "health")
    assert tree["text"] == visible(text)
    assert tree["at"] == pytest.approx(one.created, abs=0.001)
    assert tree["traceback"][-1].isprintable()
    assert all(value.isprintable() for value in tree.values() if isinstance(value, str))


def test_a_line_that_is_no_event_is_a_log_line_of_the_supervisor_as_json() -> None:
    tree = json.loads(JsonLines().format(record("that is it")))
    del tree["at"]
    assert tree == {"level": "warning", "process": "supervisor", "kind": "log", "text": "that is it"}


def test_fields_do_not_replace_what_is_ours() -> None:
    fields = {"at": 1, "process": "eve", "kind": "stop", "text": "lies", "level": "debug", "node": "a"}
    tree = json.loads(JsonLines().format(record("truth", kind="health", fields=fields)))
    assert (tree["process"], tree["kind"], tree["text"], tree["level"]) == (
        "supervisor",
        "health",
        "truth",
        "warning",
    )
    assert tree["node"] == "a"


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("form", [TextLines(), JsonLines()], ids=["text", "json"])
def test_arguments_that_do_not_fit_are_no_reason_for_no_line(form: logging.Formatter) -> None:
    for one in (record("%d of %d", 1), record("%s", Broken())):
        assert "of no use" in form.format(one)


# --- where they go ---


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_level_and_form_can_be_changed_while_the_handlers_of_others_stay(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    log_to_stderr("warning")
    log.info("not this")
    log.warning("this")
    log_to_stderr("debug", "json", "worker 2")
    log.debug("and this")
    first, second = lines_of(capsys)
    assert first.endswith("WARNING this")
    assert json.loads(second)["text"] == "and this"
    assert [one.message for one in caplog.records] == ["not this", "this", "and this"]


def test_what_python_would_print_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("info", "json")
    log_what_nobody_catches()
    error = raised(HOSTILE)
    sys.excepthook(type(error), error, error.__traceback__)
    [line] = lines_of(capsys)
    tree = json.loads(line)
    assert tree["level"] == "error"
    assert tree["text"] == f"this process ends: {visible(HOSTILE)}"
    assert "Traceback" in tree["traceback"][0]


# --- events ---


async def test_events_are_handed_on_whatever_level_the_log_has_and_other_lines_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken: list[Event] = []
    log_to_stderr("error")
    with handing_on(taken.append):
        tell(log, logging.INFO, "health", "node %s is up: %s", "a", HOSTILE, node="a", reason=HOSTILE)
        log.warning("this is no event")
    tell(log, logging.INFO, "health", "this is too late")
    [one] = taken
    assert one.pop("at") > 0
    assert one == {
        "level": "info",
        "kind": "health",
        "text": f"node a is up: {visible(HOSTILE)}",
        "node": "a",
        "reason": visible(HOSTILE),
    }
    assert lines_of(capsys) == []


async def test_events_of_other_threads_are_handed_on_in_the_loop_s() -> None:
    threads: list[int] = []
    came = asyncio.Event()

    def take(event: Event) -> None:
        threads.append(threading.get_ident())
        came.set()

    with handing_on(take):
        await asyncio.to_thread(tell, log, logging.WARNING, "health", "from elsewhere")
        async with asyncio.timeout(5):
            await came.wait()
    assert threads == [threading.get_ident()]


@given(texts, st.dictionaries(texts, texts, max_size=40))
@example("x" * 5000, {str(number): "y" * 5000 for number in range(40)})
def test_an_event_is_bounded_and_fits_one_line_to_the_supervisor(text: str, fields: dict[str, str]) -> None:
    one = event_of(record("%s", text, kind="health", fields=fields))
    assert one is not None
    assert len(one["text"]) <= MOST_CHARACTERS
    assert len(one) <= MOST_FIELDS + 4
    assert all(len(one[key]) <= MOST_IN_FIELD for key in one.keys() - {"text", "at"})
    line = json.dumps(one, ensure_ascii=False).encode()
    assert len(line) < 1 << 16  # what a stream of asyncio takes as a line
    assert read(line) == one


GOOD = event(1.5, "info", "health", "a", {"node": "b"})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b"\xff",
        b"[" * 5000,
        json.dumps(GOOD | {"at": "now"}).encode(),
        json.dumps(GOOD | {"at": float("inf")}).encode(),
        json.dumps(GOOD | {"level": "loud"}).encode(),
        json.dumps(GOOD | {"level": []}).encode(),
        json.dumps(GOOD | {"kind": "health\nevent: stop"}).encode(),
        json.dumps({key: GOOD[key] for key in ("at", "level", "kind")}).encode(),
    ],
)
def test_what_is_no_event_is_read_as_none(line: bytes) -> None:
    assert read(line) is None


def test_what_another_version_says_is_cleaned_and_kept() -> None:
    said = GOOD | {"kind": "comet", "text": HOSTILE, "new": [1, "\n"], "id": 7}
    assert read(json.dumps(said).encode()) == GOOD | {
        "kind": "comet",
        "text": visible(HOSTILE),
        "new": r"[1, '\n']",
    }
