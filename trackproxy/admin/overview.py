"""What is told of the whole: this trackproxy, and each of its services."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from trackproxy.admin.nodes import counted, describe_endpoint, healths, out_now
from trackproxy.board import Counter, Process, Traffic
from trackproxy.control.cluster import Cluster
from trackproxy.control.generations import Generations
from trackproxy.control.recent import Looks
from trackproxy.control.reloads import Outcome
from trackproxy.control.traffic import RouteKey
from trackproxy.control.views import Key, Row
from trackproxy.http_sections import HttpService
from trackproxy.pool.nodes import AdminState
from trackproxy.session_sections import SessionService


class Reloading(Protocol):
    """Reads the settings again, see `control.reloads.Reloads`."""

    counts: dict[bool, int]
    last: Outcome | None

    async def reload(self, who: str) -> str: ...


class Whole(Protocol):
    """What is told of: the supervisor. See there."""

    cluster: Cluster
    looks: Looks
    welcoming: bool
    started_at: float
    config: str | None
    state_dir: str

    @property
    def generations(self) -> Generations: ...
    @property
    def reloads(self) -> Reloading: ...


@cache
def own_version() -> str:
    """Return the version that was installed when it was asked for first: ours."""
    try:
        return version("trackproxy")
    except PackageNotFoundError:
        return "not installed"


def status(whole: Whole, pid: int) -> dict[str, Any]:
    """Return what is known of the program itself, as JSON has it; times in seconds of the wall clock."""
    return {
        "version": own_version(),
        "pid": pid,
        "started_at": whole.started_at,
        "uptime_s": round(time.time() - whole.started_at, 3),
        "welcoming": whole.welcoming,
        "generation": whole.generations.running[-1].number if whole.generations.running else None,
        "config": whole.config,
        "state_dir": whole.state_dir,
        "reload": asdict(whole.reloads.last) if whole.reloads.last else None,
        "workers": list(_workers(whole.generations)),
        "journal": None,
    }


def _workers(generations: Generations) -> Iterable[dict[str, Any]]:
    for generation in generations.running:
        for number, worker in enumerate(generation.crew):
            if worker.death.done():
                continue
            board = generation.view.board
            rows = [board.traffic(number, route) for route in range(board.routes)]
            yield {
                "number": number + 1,
                "pid": worker.pid or None,
                "generation": generation.number,
                "connections": sum(row[Traffic.CONNECTED] for row in rows),
                "waiting": sum(row[Traffic.WAITING] for row in rows),
                "accepted": sum(row[Traffic.ACCEPTED] for row in rows),
                "lag_ms": board.process(number)[Process.LATE_WORST_US] / 1000,
            }


def services(whole: Whole, *, only: str = "") -> list[dict[str, Any]]:
    """Return what is known of each service, or of ONLY one, as JSON has it; its endpoints too then."""
    rows: dict[str, list[Row]] = {}
    for row in whole.cluster.rows():
        rows.setdefault(row.watched.key.service, []).append(row)
    now = _Now.of(whole.cluster)
    told = []
    for name, own in rows.items():
        if only and name != only:
            continue
        one = _service(whole, name, own, now)
        if only:
            one["endpoints"] = {}
            for row in own:
                key = row.watched.key
                endpoint = describe_endpoint(row, now.healthy[key], now.totals[key])
                endpoint["ejected"] = key in now.out
                one["endpoints"].setdefault(row.config.node, {})[key.label] = endpoint
        told.append(one)
    return told


def without_nodes(whole: Whole) -> list[str]:
    """Return the services that need an eligible endpoint for us to be ready, and have none."""
    configured = whole.generations.serving.settings.services if whole.generations.running else {}
    needing = [name for name, service in configured.items() if service.ready_needs_node]
    if not needing:
        return []
    healthy, out = healths(whole.cluster), out_now(whole.cluster)
    served = {
        row.watched.key.service
        for row in whole.cluster.rows()
        if row.config.weight and is_eligible(whole.cluster, row, healthy, out)
    }
    return [name for name in needing if name not in served]


@dataclass(frozen=True, slots=True)
class _Now:
    """What is known of all endpoints and routes at this moment."""

    totals: Mapping[Key, list[int]]
    routes: Mapping[RouteKey, list[int]]
    healthy: Mapping[Key, str]
    out: set[Key]

    @classmethod
    def of(cls, cluster: Cluster) -> _Now:
        return cls(cluster.totals(), cluster.route_totals(), healths(cluster), out_now(cluster))


def _service(whole: Whole, name: str, rows: list[Row], now: _Now) -> dict[str, Any]:
    config = whole.generations.serving.settings.services[name]
    keys = [row.watched.key for row in rows]
    counts = list(map(sum, zip(*(now.totals[key][: Counter.CONNECT_TIME] for key in keys), strict=True)))
    taking = [row for row in rows if row.config.weight]
    eligible = [row for row in taking if is_eligible(whole.cluster, row, now.healthy, now.out)]
    rest = now.routes[RouteKey(name, "")]  # it has what belongs to no route
    recent = whole.looks.of(keys, sessions=isinstance(config, SessionService))
    return {
        "name": name,
        "protocol": config.protocol,
        "listen": whole.generations.listeners.reached(name),
        "balance": config.balance,
        "status": _light(len(eligible), len(taking)),
        "nodes": {
            "total": len({row.config.node for row in rows}),
            "eligible": len({row.config.node for row in eligible}),
            "up": len({row.config.node for row in rows if now.healthy[row.watched.key] != "down"}),
        },
        "connections": rest[Traffic.CONNECTED],
        "waiting": rest[Traffic.WAITING],
        **counted(counts),
        "recent": recent._asdict() if recent else None,
        "panic": any(whole.cluster.panics(label) for label in {key.label for key in keys}),
        "routes": [route.name for route in config.all_routes] if isinstance(config, HttpService) else [],
        "groups": list(dict.fromkeys(key.label for key in keys)),
    }


def is_eligible(cluster: Cluster, row: Row, healthy: Mapping[Key, str], out: set[Key]) -> bool:
    """Whether an endpoint may get new clients now, as operators, probes and live traffic say."""
    ready = cluster.states[row.config.node] is AdminState.READY
    return ready and healthy[row.watched.key] != "down" and row.watched.key not in out


def _light(eligible: int, taking: int) -> str:
    """Say in one word how a service is."""
    if not eligible:
        return "down"
    return "up" if eligible == taking else "degraded"
