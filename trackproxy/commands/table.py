"""Nodes as an aligned table: one line for each endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

HEAD = (
    "NODE",
    "STATE",
    "SERVICE",
    "ADDRESS",
    "HEALTH",
    "WEIGHT",
    "ACTIVE",
    "REQUESTS",
    "ERRORS",
    "LAST PROBE",
)
NUMBERS = range(5, 9)  # columns that are flush right
ERRORS = ("connect_failures", "lost", "silent", "malformed", "status_5xx")


def table(nodes: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table of NODES, as the admin API describes them."""
    rows = [HEAD, *(row for node in nodes for row in _rows(node))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _rows(node: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    name, state = node["name"], _state(node)
    for service, endpoint in node["services"].items():
        totals = endpoint["totals"]
        yield (
            name,
            state,
            service,
            endpoint["address"],
            endpoint["health"] + (", ejected" if endpoint["ejected"] else ""),
            str(endpoint["weight"]),
            str(endpoint["gauges"]["active"]),
            str(totals["requests"]),
            str(sum(totals[kind] for kind in ERRORS)),
            _probe(endpoint["probe"]),
        )
    if not node["services"]:
        yield (name, state, *["-"] * (len(HEAD) - 2))


def _state(node: dict[str, Any]) -> str:
    seconds = node["drain"] and node["drain"]["seconds_left"]
    return str(node["state"]) if seconds is None else f"{node['state']}, {seconds:.0f} s left"


def _probe(probe: dict[str, Any] | None) -> str:
    if probe is None:
        return "-"
    return f"{'passed' if probe['passed'] else 'failed'}: {probe['reason']}"
