"""Telling: a change of state is logged once, as a line that people read and as an event that programs read.

`tell` logs the line with a kind and fields. From the record, `logs` writes stderr in either form, and a
handler makes the event that followers see; so there is no second account of what has happened.

Clients and nodes have their words in what is told (the reason of a failed probe, a target): `visible` makes
sure that these words are no more than words.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

MOST_CHARACTERS = 1000  # of an event's text
MOST_IN_FIELD = 300  # characters of one of its fields
MOST_FIELDS = 20

PLAIN = "log"  # the kind of a line that tells of no change of state
LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning"}

Event: TypeAlias = dict[str, Any]

_KIND = re.compile(r"[a-z_]{1,30}")
_OURS = ("id", "at", "level", "kind", "text")


def tell(log: logging.Logger, level: int, kind: str, text: str, /, *args: object, **fields: object) -> None:
    """Log TEXT % ARGS as an event of this KIND; FIELDS: the same for programs, as JSON has it.

    One of them is none: exc_info, an exception whose traceback the log is to have.
    """
    error = fields.pop("exc_info", None)
    caught = error if isinstance(error, BaseException) else None
    log.log(level, text, *args, extra={"kind": kind, "fields": fields}, exc_info=caught, stacklevel=2)


def visible(text: str) -> str:
    """Return TEXT with an escape for all that is no character to look at: controls, line ends, surrogates."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")


def level_of(record: logging.LogRecord) -> str:
    """Return its level in the words of the settings."""
    return LEVELS.get(record.levelno, "error")


def text_of(record: logging.LogRecord) -> str:
    """Return what it says, visible; raises nothing, whatever its arguments are."""
    try:
        return visible(record.getMessage())
    except Exception:  # noqa: BLE001 - of the arguments, which may be anybody's objects
        return visible(f"{record.msg} {type(record.args).__name__} of no use")


def fields_of(record: logging.LogRecord) -> Event:
    """Return its fields, visible and of bounded size; none if it is no event."""
    return _clean(getattr(record, "fields", {}) if hasattr(record, "kind") else {})


def event_of(record: logging.LogRecord) -> Event | None:
    """Return the event that it tells of, None if it tells of none. at: seconds since 1970."""
    kind = getattr(record, "kind", None)
    if not isinstance(kind, str):
        return None
    return event(record.created, level_of(record), kind, text_of(record), fields_of(record))


def event(at: float, level: str, kind: str, text: str, fields: Mapping[str, Any]) -> Event:
    """Return an event, visible and of bounded size."""
    shown = _cut(visible(text), MOST_CHARACTERS)
    return {"at": round(at, 3), "level": level, "kind": kind, "text": shown} | _clean(fields)


def read(line: bytes) -> Event | None:
    """Return the event that another process has written as JSON; None if that is none."""
    try:
        tree = json.loads(line)
        at, level, kind, text = (tree.pop(key) for key in _OURS[1:])
        if not (math.isfinite(at) and level in {*LEVELS.values(), "error"} and _KIND.fullmatch(kind)):
            return None
        return event(at, level, kind, str(text), tree)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _clean(fields: Mapping[str, Any]) -> Event:
    kept = [(key, value) for key, value in fields.items() if key not in _OURS][:MOST_FIELDS]
    return {_cut(visible(key), MOST_IN_FIELD): _plain(value) for key, value in kept}


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _cut(visible(str(value)), MOST_IN_FIELD)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
