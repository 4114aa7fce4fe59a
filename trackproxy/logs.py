"""Log lines: all processes write them to stderr, in one of two forms, and hand events on.

"text" is for people: a line for each record, and a traceback indented below it. "json" is for programs: one
object in a line, `at` in seconds since 1970, `level`, `process`, `kind` ("log" if it is no event), `text`,
the event's own fields, and `traceback` as a list of lines. Neither has a control character in it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from trackproxy.telling import PLAIN, Event, event_of, fields_of, level_of, text_of, visible

log = logging.getLogger(__name__)

INDENT = "    "  # of a traceback, so that no line of it looks like one of ours


class TextLines(logging.Formatter):
    """Lines for people."""

    def __init__(self, process: str = "") -> None:
        who = f" {process}:" if process else ""
        super().__init__(f"%(asctime)s %(levelname)s{who} %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.message = text_of(record)
        record.asctime = self.formatTime(record)
        lines = [self.formatMessage(record), *(INDENT + line for line in _traceback(self, record))]
        return "\n".join(lines)


class JsonLines(logging.Formatter):
    """Lines for programs."""

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process or "supervisor"

    def format(self, record: logging.LogRecord) -> str:
        tree: Event = {
            "at": round(record.created, 3),
            "level": level_of(record),
            "process": self._process,
            "kind": getattr(record, "kind", PLAIN),
            "text": text_of(record),
        }
        tree |= {key: value for key, value in fields_of(record).items() if key not in tree}
        if lines := _traceback(self, record):
            tree["traceback"] = lines
        return json.dumps(tree)  # ASCII, so that it does not matter what the terminal's encoding is


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    text = formatter.formatException(record.exc_info) if record.exc_info else ""
    return [visible(line) for line in [*text.split("\n"), *(record.stack_info or "").split("\n")] if line]


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """The handler that `log_to_stderr` replaces; those of others stay."""


def log_to_stderr(level: str, form: str = "text", process: str = "") -> None:
    """Write log lines of LEVEL and above to stderr; PROCESS names the process in each.

    FORM: "text" or "json". May be called again, for other settings. Events are made of all that is worth
    "info", whatever LEVEL is.
    """
    handler = _Stderr(sys.stderr)
    handler.setLevel(level.upper())
    handler.setFormatter(JsonLines(process) if form == "json" else TextLines(process))
    root = logging.getLogger()
    root.setLevel(min(handler.level, logging.INFO))
    for old in [one for one in root.handlers if isinstance(one, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)


def log_what_nobody_catches() -> None:
    """Have Python log what it would print: warnings, and exceptions that nobody could catch."""
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    log.critical("this process ends: %s", error, exc_info=(kind, error, traceback))


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    log.error("ignored in %r", what.object, exc_info=what.exc_value)


@contextmanager
def handing_on(take: Callable[[Event], None]) -> Iterator[None]:
    """Have TAKE called with each event inside this block, in the thread of the running loop."""
    handler = _HandsOn(take)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _HandsOn(logging.Handler):
    def __init__(self, take: Callable[[Event], None]) -> None:
        super().__init__()
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        event = event_of(record)
        if event is None:
            return
        if threading.get_ident() == self._thread:
            self._take(event)
            return
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._take, event)
