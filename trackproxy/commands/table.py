"""Nodes as an aligned table: one line for each endpoint, and below what was changed at run time.

A value that is not the configuration's is marked with a star.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from trackproxy.commands.aligned import aligned
from trackproxy.commands.figures import moment

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
    yield from aligned([HEAD, *(row for node in nodes for row in _rows(node))], NUMBERS)
    yield from (f"* changed at run time: {change}" for node in nodes for change in _changes(node))


def _rows(node: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    name, state = node["name"] + star(node, "address"), state_of(node)
    for service, endpoint in node["services"].items():
        totals = endpoint["totals"]
        yield (
            name,
            state,
            service,
            endpoint["address"],
            endpoint["health"] + (", ejected" if endpoint["ejected"] else ""),
            str(endpoint["weight"]) + star(endpoint, "weight"),
            str(endpoint["gauges"]["active"]),
            str(totals["requests"]),
            str(sum(totals[kind] for kind in ERRORS)),
            probe_of(endpoint["probe"]),
        )
    if not node["services"]:
        yield (name, state, *["-"] * (len(HEAD) - 2))


def state_of(node: dict[str, Any]) -> str:
    """Return a node's state, and how long its drain may last."""
    seconds = node["drain"] and node["drain"]["seconds_left"]
    state = node["state"] + star(node, "state")
    return state if seconds is None else f"{state}, {seconds:.0f} s left"


def star(described: dict[str, Any], key: str) -> str:
    """Return the mark of a value that is not the configuration's, of a node or an endpoint."""
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
    when = moment(one["changed_at"])
    if key == "address":
        return f"added, {one['value']}, by {one['changed_by']}, {when}"
    return f"{key} from {one['configured']} to {one['value']}, by {one['changed_by']}, {when}"


def probe_of(probe: dict[str, Any] | None) -> str:
    """Return what the last probe came to."""
    if probe is None:
        return "-"
    return f"{'passed' if probe['passed'] else 'failed'}: {probe['reason']}"
