"""Numbers as people read them in tables; "-" is what is not known."""

from __future__ import annotations

from datetime import datetime
from typing import Any

NONE = "-"
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def rate(recent: dict[str, Any] | None, key: str = "rate") -> str:
    """Return how many a second; RECENT as the admin API has it."""
    if recent is None or recent.get(key) is None:
        return NONE
    number = float(recent[key])
    return f"{number:.1f}" if number < 100 else f"{number:,.0f}"


def milliseconds(recent: dict[str, Any] | None, key: str) -> str:
    """Return a latency, "1.4 ms" or "2.5 s"."""
    if recent is None or recent.get(key) is None:
        return NONE
    number = float(recent[key])
    if number >= 1000:
        return f"{number / 1000:.1f} s"
    return f"{number:.1f} ms" if number < 10 else f"{number:.0f} ms"


def span(seconds: float) -> str:
    """Return a duration by its two largest units: "3 d 4 h", "12 s"."""
    left = int(seconds)
    parts: list[str] = []
    for size, unit in UNITS:
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
        elif parts:
            break
        left %= size
    return " ".join(parts[:2])


def moment(at: float) -> str:
    """Return a time of the wall clock."""
    return datetime.fromtimestamp(at).isoformat(" ", "seconds")
