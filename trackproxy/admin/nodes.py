"""What is told of nodes: everything that an operator decides by, as it is at this moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from trackproxy.admin.versions import version_of
from trackproxy.board import GAUGES, Counter, State
from trackproxy.control.changes import Changes
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drains
from trackproxy.control.overrides import VALUES
from trackproxy.control.recent import Looks
from trackproxy.control.views import Key, Row
from trackproxy.session_sections import SessionService

HEALTHS = ("up", "down", "starting")  # by their number on the board

_NAMES = {cell: "requests" if cell is Counter.TOTAL else cell.name.lower() for cell in Counter}
_TOTALS = [cell for cell in Counter if cell not in GAUGES and cell < Counter.CONNECT_TIME]
_TOTAL_NAMES = [_NAMES[cell] for cell in _TOTALS]
_totals_in = itemgetter(*_TOTALS)
_GAUGES = (Counter.ACTIVE, Counter.TUNNELS, Counter.IDLE)


def describe(
    cluster: Cluster, drains: Drains, changes: Changes, looks: Looks, names: Iterable[str]
) -> list[dict[str, Any]]:
    """Return what is known of each of these nodes, as JSON has it; durations in seconds unless named.

    version: see `versions`. sources: whose a value is, see `control.changes.Origin`; "address" is there if
    the node was added.
    """
    names = list(names)
    left, totals, ejected = cluster.left(names), cluster.totals(), out_now(cluster)
    found = healths(cluster)
    rows: dict[str, list[Row]] = {name: [] for name in names}
    for row in cluster.rows():
        if row.config.node in rows:
            rows[row.config.node].append(row)
    nodes: dict[str, dict[str, Any]] = {
        name: {
            "name": name,
            "state": cluster.states[name].value,
            "drain": _drain(drains, name),
            "left": left[name],
            "version": version_of(cluster, drains, changes, name, rows[name]),
            "sources": _sources(changes, name, cluster.states[name].value),
            "services": {},
        }
        for name in names
    }
    for name, own in rows.items():
        for row in own:
            key = row.watched.key
            service = describe_endpoint(row, found[key], totals[key]) | {"ejected": key in ejected}
            service["recent"] = _recent(looks, row)
            service["sources"] = _endpoint_sources(changes, row)
            nodes[name]["services"][key.label] = service
    return list(nodes.values())


def _sources(changes: Changes, name: str, state: str) -> dict[str, Any]:
    origins = {"state": changes.of_state(name, state)}
    origins |= {key: changes.of_value(name, key) for key in VALUES}
    if added := changes.of_address(name):
        origins["address"] = added
    return {key: origin.tree() for key, origin in origins.items()}


def _endpoint_sources(changes: Changes, row: Row) -> dict[str, Any]:
    service, config = row.watched.key.service, row.config
    return {
        key: changes.of_endpoint(config.node, service, key, getattr(config, key)).tree() for key in VALUES
    }


def _drain(drains: Drains, name: str) -> dict[str, object] | None:
    """Return the drain that is under way, or how the last one ended."""
    drain = drains.of.get(name)
    if drain is None:
        return None
    return {"seconds_left": drains.time_left(name), "sticky": drain.sticky, "outcome": drain.outcome}


def _recent(looks: Looks, row: Row) -> dict[str, Any] | None:
    recent = looks.of([row.watched.key], sessions=isinstance(row.service, SessionService))
    return recent._asdict() if recent else None


def describe_endpoint(row: Row, health: str, counts: list[int]) -> dict[str, Any]:
    """Return what is known of one endpoint, whose HEALTH and COUNTS are these."""
    return {
        "address": row.watched.key.address,
        "health": health,
        "weight": row.config.weight,
        "priority": row.config.priority,
        "probe": _probe(row),
    } | counted(counts)


def counted(counts: list[int]) -> dict[str, dict[str, int]]:
    """Return gauges and totals by name of what was COUNTED of one endpoint, or of several together."""
    totals = dict(zip(_TOTAL_NAMES, _totals_in(counts), strict=True))
    totals["ejections"] = sum(counts[Counter.EJECTED_CONNECT : Counter.EJECTED_STATUS + 1])
    return {"gauges": {_NAMES[cell]: counts[cell] for cell in _GAUGES}, "totals": totals}


def _probe(row: Row) -> dict[str, object] | None:
    """Return the last probe; None if there was none yet, or if there is none to be."""
    result = row.watched.last
    if result is None or row.service.probe.type == "off":
        return None
    return {
        "passed": result.passed,
        "reason": result.reason,
        "took_ms": round(result.took_s * 1000, 3),
        "at": round(row.watched.last_at, 3),
    }


def healths(cluster: Cluster) -> Mapping[Key, str]:
    """Return what the newest board says of each endpoint."""
    return {
        row.watched.key: HEALTHS[view.board.state(index)[State.HEALTH]]
        for view in cluster.views[-1:]
        for index, row in enumerate(view.rows)
    }


def out_now(cluster: Cluster) -> set[Key]:
    """Return the endpoints that live traffic has taken out, at any worker, for now."""
    now_ms = asyncio.get_running_loop().time() * 1000
    return {
        row.watched.key
        for view in cluster.views
        for row, until_ms in zip(view.rows, view.board.ejected_until(), strict=True)
        if until_ms > now_ms
    }
