"""Services as an aligned table, one line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from trackproxy.commands.aligned import aligned
from trackproxy.commands.figures import NONE, milliseconds, rate
from trackproxy.commands.table import ERRORS

HEAD = (
    "SERVICE",
    "STATUS",
    "USABLE",
    "CLIENTS",
    "ACTIVE",
    "RATE/S",
    "ERR/S",
    "P50",
    "P99",
    "REQUESTS",
    "ERRORS",
    "PROTOCOL",
    "LISTEN",
)
NUMBERS = range(2, 11)


def services_table(services: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table of SERVICES, as the admin API describes them."""
    return aligned([HEAD, *map(service_row, services)], NUMBERS)


def service_row(service: dict[str, Any]) -> tuple[str, ...]:
    """Return a service's cells, as HEAD names them."""
    nodes, totals, recent = service["nodes"], service["totals"], service["recent"]
    return (
        service["name"],
        service["status"] + (", panic" if service["panic"] else ""),
        f"{nodes['eligible']}/{nodes['total']}",
        str(service.get("connections", NONE)),
        str(service["gauges"]["active"]),
        rate(recent),
        rate(recent, "errors"),
        milliseconds(recent, "p50_ms"),
        milliseconds(recent, "p99_ms"),
        str(totals["requests"]),
        str(sum(totals[kind] for kind in ERRORS)),
        service["protocol"],
        ", ".join(service["listen"]),
    )
