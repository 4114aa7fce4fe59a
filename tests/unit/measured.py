"""What metrics are made from, made up: every kind of service, each cell with a number of its own."""

from __future__ import annotations

from itertools import count

from trackproxy.admin.metrics.ends import End, Served
from trackproxy.admin.metrics.filling import fill
from trackproxy.admin.metrics.processes import Usage
from trackproxy.admin.metrics.seen import SUPERVISOR, Beats, Endpoint, Seen
from trackproxy.admin.metrics.sheet import Sheet
from trackproxy.board import ROW, TRAFFIC_ROW
from trackproxy.control.reloads import Outcome
from trackproxy.control.traffic import RouteKey
from trackproxy.control.views import Key, Probed

ODD = 'a "quoted\\name\nof two lines, é'  # what labels have to cope with


def endpoint(service: str, node: str, counts: list[int], *, greets: bool | None = None) -> Endpoint:
    return Endpoint(
        key=Key(service, node, "10.0.0.1:80"),
        counts=counts,
        health="up",
        ejected=False,
        eligible=True,
        weight=1,
        greets=greets,
        probed=Probed(5, 2, 1, 0.125),
        passed=True,
    )


def seen(services: int = 2, nodes: int = 2) -> Seen:
    """So many services of HTTP and NODES each, and one of sessions."""
    numbers = count(3, 7)

    def row(cells: int) -> list[int]:
        return [next(numbers) for _ in range(cells)]

    web = [f"web{number}" for number in range(services)]
    endpoints = [endpoint(name, f"node{number}", row(ROW)) for name in web for number in range(nodes)]
    endpoints.append(endpoint("news", "node0", row(ROW), greets=True))
    return Seen(
        routes={RouteKey(name, route): row(TRAFFIC_ROW) for name in [*web, "news"] for route in (ODD, "")},
        endpoints=endpoints,
        panic={("web0", ""): True},
        states={f"node{number}": "ready" for number in range(nodes)} | {"old": "drain"},
        drains={"old": 12.5},
        beats=[Beats(("3", "1"), 1000, 2_500_000, 40_000)],
        pids={},
        deaths=2,
        generation=3,
        reloads={True: 2, False: 1},
        reloaded=Outcome(1.7e9, False, "wrong"),
        certificates={"web0": Served(2, [End("a.example", 1.8e9), End(ODD, 1.9e9)])},
    )


USAGES = {
    SUPERVISOR: Usage(1.25, 50_000_000, 20, 1024, 1.7e9),
    ("worker", "3", "1"): Usage(2.5, 60_000_000, 200, 1024, 1.7e9),
}


def filled(services: int = 2, nodes: int = 2) -> Sheet:
    return fill(seen(services, nodes), USAGES, "1.2.3")
