"""Nodes as an aligned table: one line for each endpoint, and below what was changed at run time.

A value that is not the configuration's is marked with a star.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
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
    nodes = list(nodes)
    rows = [HEAD, *(row for node in nodes for row in _rows(node))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    yield from (f"* changed at run time: {change}" for node in nodes for change in _changes(node))


def _rows(node: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    name, state = node["name"] + _star(node, "address"), _state(node)
    for service, endpoint in node["services"].items():
        totals = endpoint["totals"]
        yield (
            name,
            state,
            service,
            endpoint["address"],
            endpoint["health"] + (", ejected" if endpoint["ejected"] else ""),
            str(endpoint["weight"]) + _star(endpoint, "weight"),
            str(endpoint["gauges"]["active"]),
            str(totals["requests"]),
            str(sum(totals[kind] for kind in ERRORS)),
            _probe(endpoint["probe"]),
        )
    if not node["services"]:
        yield (name, state, *["-"] * (len(HEAD) - 2))


def _state(node: dict[str, Any]) -> str:
    seconds = node["drain"] and node["drain"]["seconds_left"]
    state = node["state"] + _star(node, "state")
    return state if seconds is None else f"{state}, {seconds:.0f} s left"


def _star(described: dict[str, Any], key: str) -> str:
    return "*" if key in _changed(described) else ""


def _changed(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what was changed of a node or an endpoint; a trackproxy before its upgrade tells of nothing."""
    sources = described.get("sources", {})
    return {key: one for key, one in sources.items() if one["source"] == "run time"}


def _changes(node: dict[str, Any]) -> Iterator[str]:
    """Yield what, from, to, by and when; of services what they do not have from the node."""
    own = _changed(node)
    for key, one in own.items():
        yield f"{node['name']} {_change(key, one)}"
    for service, endpoint in node["services"].items():
        for key, one in _changed(endpoint).items():
            if one["changed_at"] != own.get(key, {}).get("changed_at"):
                yield f"{node['name']} in {service} {_change(key, one)}"


def _change(key: str, one: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(one["changed_at"]).isoformat(" ", "seconds")
    if key == "address":
        return f"added, {one['value']}, by {one['changed_by']}, {when}"
    return f"{key} from {one['configured']} to {one['value']}, by {one['changed_by']}, {when}"


def _probe(probe: dict[str, Any] | None) -> str:
    if probe is None:
        return "-"
    return f"{'passed' if probe['passed'] else 'failed'}: {probe['reason']}"
