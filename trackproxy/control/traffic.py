"""What is counted of routes and of crashes, over all generations and upgrades; and counts by name.

A route is the same one across reloads as long as its service and its name are. What was counted of it is
kept for as long as any generation names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from itertools import pairwise
from typing import Any, NamedTuple

from trackproxy.board import TRAFFIC_GAUGES, TRAFFIC_ROW, Traffic
from trackproxy.control.views import View
from trackproxy.settings import routes_of


class RouteKey(NamedTuple):
    """What makes a route the same one. route: its name, empty for what no route of the settings takes."""

    service: str
    route: str


class RouteTotals:
    """The totals of all routes, by the board's Traffic. crashes: workers that have died and were replaced."""

    def __init__(self) -> None:
        self._carried: dict[RouteKey, list[int]] = {}
        self._crashes = 0

    def crashes(self, views: Iterable[View]) -> int:
        """Return how many workers have died, those of VIEWS, which run, included."""
        return self._crashes + sum(view.crashes for view in views)

    def of(self, views: Iterable[View]) -> dict[RouteKey, list[int]]:
        """Return the row of each route over all workers that ever ran; VIEWS: of the generations that run."""
        added: dict[RouteKey, list[int]] = {}
        for view in views:
            for index, key in _routes(view):
                _add(
                    added.setdefault(key, [*self._carried.get(key, _nothing())]),
                    view.board.route_totals(index),
                )
        return added

    def carry(self, view: View) -> None:
        """Keep what the workers of VIEW, which are gone, have counted."""
        self._crashes += view.crashes
        for index, key in _routes(view):
            counts = view.board.route_totals(index)
            for cell in TRAFFIC_GAUGES:
                counts[cell] = 0
            _add(self._carried.setdefault(key, _nothing()), counts)

    def forget(self, views: Iterable[View]) -> None:
        """Forget routes that none of VIEWS names."""
        named = {key for view in views for _, key in _routes(view)}
        for key in [key for key in self._carried if key not in named]:
            del self._carried[key]

    # --- upgrades ---

    def hand_over(self, views: Iterable[View]) -> dict[str, Any]:
        """Return all of it for another program."""
        views = list(views)
        totals = self.of(views)
        return {
            "crashes": self.crashes(views),
            "routes": [
                [*key, by_name(Traffic, self._carried.get(key, _nothing())), by_name(Traffic, totals[key])]
                for key in totals
            ],
        }

    def take_over(self, handed: Mapping[str, Any], *, counted: bool) -> None:
        """Begin with what another program has HANDED over; counted: boards of its workers count on."""
        self._crashes = handed.get("crashes", 0)
        for service, route, carried, totals in handed.get("routes", ()):
            counts = from_names(Traffic, TRAFFIC_ROW, carried if counted else totals)
            for cell in TRAFFIC_GAUGES:
                counts[cell] = 0
            self._carried[RouteKey(service, route)] = counts


def _routes(view: View) -> Iterable[tuple[int, RouteKey]]:
    """Return the routes of a view with their places on its board, which has none if it could not be read."""
    return enumerate(RouteKey(*one) for one in routes_of(view.settings)[: view.board.routes])


def _nothing() -> list[int]:
    return [0] * TRAFFIC_ROW


def _add(sums: list[int], counts: list[int]) -> None:
    for cell, count in enumerate(counts):
        sums[cell] += count


# --- for another version, whose cells may be others ---


def by_name(kind: type[IntEnum], row: list[int]) -> dict[str, list[int]]:
    """Return the cells of a ROW by the names of KIND; a name has all up to the next one."""
    return {
        cell.name: row[cell:following]
        for cell, following in pairwise([*kind, len(row)])
        if isinstance(cell, IntEnum)
    }


def from_names(kind: type[IntEnum], length: int, named: object) -> list[int]:
    """Return a row of that LENGTH with what is NAMED as `by_name` names it; what is not known is left out."""
    row = [0] * length
    for cell, following in pairwise([*kind, length]):
        numbers = named.get(kind(cell).name) if isinstance(named, dict) else None
        if numbers is not None and len(numbers) == following - cell:
            row[cell:following] = numbers
    return row
