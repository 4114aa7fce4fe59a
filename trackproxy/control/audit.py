"""The audit: one event for each change that somebody asks for.

It says who, what, where, from what to what, and with which outcome, also if nothing has come of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from trackproxy.errors import ConfigError, TrackproxyError
from trackproxy.telling import tell

log = logging.getLogger(__name__)

LOCAL = "local socket"  # whoever may open it; see `admin.unix_socket`
SIGNAL = "signal"  # whoever may send us one
WATCH = "watch of the file"

Entry = dict[str, object]


@contextmanager
def audited(who: str, what: str, **fields: object) -> Iterator[Entry]:
    """Tell what comes of a change that WHO asks for; yields the fields, for what is known only inside."""
    entry: Entry = {"outcome": "broken off", **fields}
    try:
        yield entry
        entry["outcome"] = "done"
    except KeyError:
        entry["outcome"] = "not done: there is no such node"
        raise
    except TrackproxyError as error:
        entry["outcome"] = f"not done: {reason_of(error)}"
        raise
    finally:
        audit(who, what, **entry)


def audit(who: str, what: str, **fields: object) -> None:
    """Tell of a change that WHO asks for."""
    place = "/".join(str(fields[key]) for key in ("service", "node") if fields.get(key))
    change = " ".join(f"{key} {fields[key]}" for key in ("from", "to") if fields.get(key))
    outcome = f": {fields['outcome']}" if "outcome" in fields else ""
    text = f"{what}{place and f' {place}'}{change and f', {change}'}{outcome}"
    tell(log, logging.INFO, "audit", "audit: %s: %s", who, text, who=who, what=what, **fields)


@contextmanager
def telling_failure(kind: str, undone: str, who: str) -> Iterator[None]:
    """Tell, as an event of this KIND, why something has not been done; it is raised all the same."""
    try:
        yield
    except (TrackproxyError, OSError) as error:
        wrong = ", the settings are wrong" if isinstance(error, ConfigError) else ""
        reason = reason_of(error)
        tell(log, logging.ERROR, kind, "%s%s: %s", undone, wrong, reason, reason=reason, who=who)
        raise


def reason_of(error: Exception) -> str:
    """Return what is wrong, in one line."""
    return "; ".join(error.problems) if isinstance(error, ConfigError) else str(error)
