"""A look as text: the head of the live view, and the whole of it where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trackproxy.commands.aligned import aligned
from trackproxy.commands.events import line_of
from trackproxy.commands.figures import NONE, moment, span
from trackproxy.commands.services import services_table
from trackproxy.commands.top.look import Look
from trackproxy.commands.top.rows import COLUMNS, rows_of

EVENTS = 10


def snapshot(seen: Look) -> Iterator[str]:
    """Yield the lines of a look."""
    yield from head(seen.status)
    yield ""
    yield from services_table(seen.services)
    yield ""
    rows = [[column.text(row) for column in COLUMNS] for row in rows_of(seen.nodes, seen.services)]
    numbers = [place for place, column in enumerate(COLUMNS) if column.number]
    yield from aligned([[column.title for column in COLUMNS], *rows], numbers)
    if seen.events:
        yield ""
        yield from map(line_of, seen.events[-EVENTS:])


def head(status: dict[str, Any]) -> Iterator[str]:
    """Yield what is said of the program: a line, and one each for reload and journal, if any."""
    workers = status["workers"]
    parts = [
        f"trackproxy {status['version']}",
        f"up {span(status['uptime_s'])}",
        f"generation {status['generation'] or NONE}",
        f"{len(workers)} worker{'s' * (len(workers) != 1)}",
        f"{sum(worker['connections'] for worker in workers)} clients",
    ]
    if not status["welcoming"]:
        parts.append("about to start or to stop")
    yield "   ".join(parts)
    if (reload := status["reload"]) is not None:
        yield f"last reload {moment(reload['at'])}: {'' if reload['ok'] else 'failed: '}{reload['outcome']}"
    if (journal := status.get("journal")) is not None:
        yield f"journal: {_journal(journal)}"


def _journal(journal: Any) -> str:
    """Return whatever a trackproxy tells of its journal."""
    if isinstance(journal, dict):
        return ", ".join(f"{key} {value}" for key, value in journal.items())
    return str(journal)
