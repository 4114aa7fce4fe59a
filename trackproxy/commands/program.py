"""The running program as text: what it is, how its last reload went, and its workers as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trackproxy.commands.aligned import aligned
from trackproxy.commands.figures import NONE, moment, span

HEAD = ("WORKER", "PID", "GENERATION", "CONNECTIONS", "WAITING", "ACCEPTED", "LAG")


def program_lines(known: dict[str, Any]) -> Iterator[str]:
    """Yield the lines for a status, as the admin API describes it."""
    since = f"up {span(known['uptime_s'])}, since {moment(known['started_at'])}"
    yield f"trackproxy {known['version']}, pid {known['pid']}, {since}"
    yield from aligned(
        [
            ("clients", "welcome" if known["welcoming"] else "not welcome: it is about to start or to stop"),
            ("generation", str(known["generation"] or NONE)),
            ("settings", known["config"] or "given on the command line"),
            ("state", known["state_dir"]),
            ("last reload", _reload(known["reload"])),
            *([("journal", str(known["journal"]))] if known["journal"] else []),
        ]
    )
    yield ""
    yield from aligned([HEAD, *map(_worker, known["workers"])], range(len(HEAD)))


def _reload(reload: dict[str, Any] | None) -> str:
    if reload is None:
        return "none"
    return f"{moment(reload['at'])}: {'' if reload['ok'] else 'failed: '}{reload['outcome']}"


def _worker(worker: dict[str, Any]) -> tuple[str, ...]:
    lag_ms = worker["lag_ms"]
    return (
        str(worker["number"]),
        str(worker["pid"] or "none of its own"),
        str(worker["generation"]),
        *(str(worker[key]) for key in ("connections", "waiting", "accepted")),
        NONE if lag_ms is None else f"{lag_ms:.1f} ms",
    )
