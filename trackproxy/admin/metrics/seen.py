"""What metrics are made from, as it is at one moment: read in the event loop, in one go.

It is all in memory, most of it on the boards: no worker hears of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import add
from typing import Protocol

from trackproxy.admin.metrics.ends import Served
from trackproxy.admin.nodes import healths, out_now
from trackproxy.admin.overview import Whole, is_eligible
from trackproxy.board import Process
from trackproxy.control.drain import Drains
from trackproxy.control.reloads import Outcome
from trackproxy.control.traffic import RouteKey
from trackproxy.control.views import Key, Probed, Row
from trackproxy.session_sections import SessionService

SUPERVISOR = ("supervisor", "", "")


class Measured(Whole, Protocol):
    """What is measured: the supervisor."""

    drains: Drains


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint, as newly configured. counts: by the board's Counter, those of its node's addresses before
    this one included. greets: None for HTTP; else whether a session begins with a greeting.
    """

    key: Key
    counts: list[int]
    health: str
    ejected: bool
    eligible: bool
    weight: int
    greets: bool | None
    probed: Probed
    passed: bool | None

    @property
    def labels(self) -> tuple[str, str, str]:
        return self.key.service, self.key.route, self.key.node


@dataclass(frozen=True, slots=True)
class Beats:
    """How late the beats of one worker were; labels: see the catalogue."""

    labels: tuple[str, str]
    beats: int
    late_us: int
    worst_us: int


@dataclass(frozen=True, slots=True)
class Seen:
    """All of it. panic: by service and route. pids: by the labels of a process."""

    routes: Mapping[RouteKey, list[int]]
    endpoints: list[Endpoint]
    panic: dict[tuple[str, str], bool]
    states: dict[str, str]
    drains: dict[str, float]
    beats: list[Beats]
    pids: dict[tuple[str, str, str], int]
    deaths: int
    generation: int
    reloads: Mapping[bool, int]
    reloaded: Outcome | None
    certificates: dict[str, Served] = field(default_factory=dict)


def see(measured: Measured, certificates: dict[str, Served]) -> Seen:
    """Read everything; call it in the event loop."""
    cluster, running = measured.cluster, measured.generations.running
    left = {node: measured.drains.time_left(node) for node in cluster.states}
    endpoints = list(_endpoints(measured))
    return Seen(
        routes=cluster.route_totals(),
        endpoints=endpoints,
        panic={one.labels[:2]: cluster.panics(one.key.label) for one in endpoints},
        states={node: state.value for node, state in cluster.states.items()},
        drains={node: seconds for node, seconds in left.items() if seconds is not None},
        beats=list(_beats(measured)),
        pids=dict(_pids(measured)),
        deaths=cluster.crashes,
        generation=running[-1].number if running else 0,
        reloads=dict(measured.reloads.counts),
        reloaded=measured.reloads.last,
        certificates=certificates,
    )


def _endpoints(measured: Measured) -> Iterator[Endpoint]:
    cluster = measured.cluster
    found, out = healths(cluster), out_now(cluster)
    counted = _by_node(cluster.totals())
    for row in cluster.rows():
        key = row.watched.key
        yield Endpoint(
            key=key,
            counts=counted[key.service, key.route, key.node],
            health=found[key],
            ejected=key in out,
            eligible=row.config.weight > 0 and is_eligible(cluster, row, found, out),
            weight=row.config.weight,
            greets=_greets(row),
            probed=row.watched.probed,
            passed=row.watched.last.passed if row.watched.last else None,
        )


def _by_node(totals: Mapping[Key, list[int]]) -> dict[tuple[str, str, str], list[int]]:
    """Add up what the addresses of a node have counted: the last one goes on with it; see `Cluster`."""
    added: dict[tuple[str, str, str], list[int]] = {}
    for key, counts in totals.items():
        labels = (key.service, key.route, key.node)
        before = added.get(labels)
        added[labels] = counts if before is None else [*map(add, before, counts)]
    return added


def _greets(row: Row) -> bool | None:
    return row.service.dialect.speaks_first if isinstance(row.service, SessionService) else None


def _beats(measured: Measured) -> Iterator[Beats]:
    for generation in measured.generations.running:
        for number, worker in enumerate(generation.crew):
            if not worker.death.done():
                cells = generation.view.board.process(number)
                labels = (str(generation.number), str(number + 1))
                late_us, worst_us = cells[Process.LATE_SUM_US], cells[Process.LATE_WORST_US]
                yield Beats(labels, cells[Process.BEATS], late_us, worst_us)


def _pids(measured: Measured) -> Iterator[tuple[tuple[str, str, str], int]]:
    yield SUPERVISOR, os.getpid()
    for generation in measured.generations.running:
        for number, worker in enumerate(generation.crew):
            if worker.pid and not worker.death.done():
                yield ("worker", str(generation.number), str(number + 1)), worker.pid
