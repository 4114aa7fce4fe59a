"""Views: the boards of the generations that run, what their rows stand for, and what their workers count.

An endpoint is the same one across reloads and upgrades as long as its service, node and address are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from operator import add
from typing import NamedTuple

from trackproxy.board import GAUGES, ROW, Board, Counter, Process
from trackproxy.health.checker import Checker
from trackproxy.health.looking import Result
from trackproxy.health.verdict import Verdict
from trackproxy.session_sections import SessionService
from trackproxy.settings import AnyService, EndpointConfig, Settings


class Key(NamedTuple):
    """What makes an endpoint the same one. route: if it belongs to one alone, else empty."""

    service: str
    node: str
    address: str
    route: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in self if part)

    @property
    def label(self) -> str:
        """What operators read: the service, and the route if it has the endpoint for itself."""
        return f"{self.service}/{self.route}" if self.route else self.service

    @property
    def shared(self) -> Key:
        """The same for all routes: what limits and loads are counted under."""
        return self._replace(route="")


@dataclass(slots=True)
class Probed:
    """The probes of one endpoint so far. local: those that say nothing about it. took_s: all together."""

    passed: int = 0
    failed: int = 0
    local: int = 0
    took_s: float = 0.0

    def count(self, result: Result) -> None:
        """Count the RESULT of a probe."""
        self.took_s += result.took_s
        self.passed += result.passed
        self.local += result.local
        self.failed += not result.passed and not result.local

    def add(self, other: Probed) -> None:
        """Count what OTHER has counted."""
        self.passed += other.passed
        self.failed += other.failed
        self.local += other.local
        self.took_s += other.took_s


@dataclass(slots=True, eq=False)
class Watched:
    """What is known of one endpoint.

    back: when it came back, for slow start; in the loop's seconds. pardons, ends: see the board's State.
    carried: totals of workers whose generation is gone. last: the result of its last probe,
    last_at: when it came, in seconds of the wall clock. probed: of all.
    """

    key: Key
    verdict: Verdict
    back: float = -1e9
    pardons: int = 0
    ends: int = 0
    carried: list[int] = field(default_factory=lambda: [0] * ROW)
    last: Result | None = None
    last_at: float = 0.0
    probed: Probed = field(default_factory=Probed)
    checker: Checker | None = None
    probed_as: object = None
    task: asyncio.Task[None] | None = None


class Row(NamedTuple):
    """One endpoint on the board of one generation."""

    watched: Watched
    config: EndpointConfig
    service: AnyService

    def weighing(self, weight: int) -> Row:
        """Return the same with another weight."""
        return self._replace(config=replace(self.config, weight=weight))


@dataclass(slots=True, eq=False)
class View:
    """The board of one generation of workers, and what its rows stand for.

    gone: numbers of workers that have ended and are not replaced. crashes: how many others have died.
    """

    board: Board
    rows: list[Row]
    settings: Settings
    gone: set[int] = field(default_factory=set)
    crashes: int = 0

    def bury(self, worker: int) -> None:
        """A worker has ended for good: it has nothing open, and takes no part in limits any more."""
        if worker not in self.gone:
            self.gone.add(worker)
            self.board.retire(worker)

    def beats(self) -> Iterator[tuple[memoryview, int]]:
        """Yield what each worker that runs says of itself, and its heartbeat now.

        Workers of another version, of which nothing is on this board, hear and tell nothing.
        """
        for number in range(self.board.workers if self.rows else 0):
            if number not in self.gone:
                process = self.board.process(number)
                yield process, process[Process.HEARTBEAT]

    def carry(self) -> None:
        """Add the totals of its workers, which are gone, to what is known of each endpoint."""
        for row, counts in zip(self.rows, self.board.all_totals(), strict=True):
            for gauge in GAUGES:
                counts[gauge] = 0
            row.watched.carried = [*map(add, row.watched.carried, counts)]


def left(views: Iterable[View], nodes: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return what is open on each of these NODES: requests, tunnels, sessions, idle connections."""
    wanted = {node: {"requests": 0, "tunnels": 0, "sessions": 0, "idle": 0} for node in nodes}
    for view in views:
        gauges = (view.board.of_kind(kind) for kind in (Counter.ACTIVE, Counter.TUNNELS, Counter.IDLE))
        for row, active, tunnels, idle in zip(view.rows, *gauges, strict=True):
            if (open_ := wanted.get(row.config.node)) is None:
                continue
            if isinstance(row.service, SessionService):
                open_["sessions"] += active
                continue
            open_["requests"] += active - tunnels
            open_["tunnels"] += tunnels
            open_["idle"] += idle
    return wanted


def totals(views: Iterable[View], known: Iterable[Watched]) -> dict[Key, list[int]]:
    """Return the counters of each endpoint over all workers that ever ran, by the board's Counter."""
    added = {watched.key: watched.carried for watched in known}
    for view in views:
        for (watched, _, _), counts in zip(view.rows, view.board.all_totals(), strict=True):
            before = added[watched.key]
            added[watched.key] = [*map(add, before, counts)] if any(before) else counts
    return added
