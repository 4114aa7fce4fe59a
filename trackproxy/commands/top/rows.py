"""Nodes as rows, one for each endpoint: what stands in each column, in which order, and which are wanted.

It is pure: what the admin API has said comes in, text and order go out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from trackproxy.commands.figures import NONE, milliseconds, rate
from trackproxy.commands.table import probe_of, star, state_of
from trackproxy.commands.terminal import printable

SESSION_PROTOCOLS = ("nntp", "smtp", "tcp")

Value = float | str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One node as one service sees it. endpoint: None for a node that no service has."""

    node: dict[str, Any]
    service: str
    endpoint: dict[str, Any] | None
    protocol: str

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node["name"])

    @property
    def key(self) -> str:
        """What this row is known by from one look to the next."""
        return f"{self.name}\n{self.service}"

    def of(self, *keys: str) -> Any:
        """Return what is known under these keys of the endpoint; None if nothing is."""
        value: Any = self.endpoint
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


@dataclass(frozen=True, slots=True)
class Column:
    """What a row says. text: as it is shown; value: to sort by; number: flush right, largest first."""

    title: str
    text: Callable[[Row], str]
    value: Callable[[Row], Value]
    number: bool = False


def rows_of(nodes: Iterable[dict[str, Any]], services: Iterable[dict[str, Any]]) -> list[Row]:
    """Return a row for each endpoint, in the order of the settings."""
    protocols = {service["name"]: service["protocol"] for service in services}
    return [row for node in nodes for row in _rows(node, protocols)]


def _rows(node: dict[str, Any], protocols: dict[str, str]) -> Iterator[Row]:
    for label, endpoint in node["services"].items():
        yield Row(node, label, endpoint, protocols.get(label.partition("/")[0], ""))
    if not node["services"]:
        yield Row(node, NONE, None, "")


# --- columns ---


def _is_of_sessions(row: Row) -> bool:
    return row.protocol in SESSION_PROTOCOLS


def _requests(row: Row) -> Value:
    requests: Value = None if _is_of_sessions(row) else row.of("gauges", "active")
    return requests


def _sessions(row: Row) -> Value:
    sessions: Value = row.of("gauges", "active" if _is_of_sessions(row) else "tunnels")
    return sessions


def _count(value: Callable[[Row], Value]) -> Callable[[Row], str]:
    return lambda row: NONE if value(row) is None else str(value(row))


def _known(*keys: str) -> Callable[[Row], Value]:
    return lambda row: row.of(*keys)


def _health(row: Row) -> str:
    if row.endpoint is None:
        return NONE
    return str(row.endpoint["health"]) + (", ejected" if row.endpoint["ejected"] else "")


def _weight(row: Row) -> str:
    return NONE if row.endpoint is None else f"{row.endpoint['weight']}{star(row.endpoint, 'weight')}"


def _name(row: Row) -> str:
    return row.name + star(row.node, "address")


def _service(row: Row) -> str:
    return row.service


def _state(row: Row) -> str:
    return state_of(row.node)


def _probe(row: Row) -> str:
    return printable(probe_of(row.of("probe")))


COLUMNS = (
    Column("NODE", _name, _name),
    Column("STATE", _state, _state),
    Column("SERVICE", _service, _service),
    Column("HEALTH", _health, _health),
    Column("WEIGHT", _weight, _known("weight"), number=True),
    Column("ACTIVE", _count(_requests), _requests, number=True),
    Column("RATE/S", lambda row: rate(row.of("recent")), _known("recent", "rate"), number=True),
    Column("ERR/S", lambda row: rate(row.of("recent"), "errors"), _known("recent", "errors"), number=True),
    Column(
        "P50", lambda row: milliseconds(row.of("recent"), "p50_ms"), _known("recent", "p50_ms"), number=True
    ),
    Column(
        "P99", lambda row: milliseconds(row.of("recent"), "p99_ms"), _known("recent", "p99_ms"), number=True
    ),
    Column("SESSIONS", _count(_sessions), _sessions, number=True),
    Column("LAST PROBE", _probe, _probe),
)


# --- order and choice ---


@dataclass(frozen=True, slots=True)
class Order:
    """By which column rows are sorted. column: None is as the settings have them."""

    column: int | None = None
    reverse: bool = False

    @property
    def next(self) -> Order:
        """The same by the next column; behind the last one comes the settings' order again."""
        if self.column is None:
            return Order(0)
        return Order(self.column + 1) if self.column + 1 < len(COLUMNS) else Order()

    @property
    def turned(self) -> Order:
        """The other way round."""
        return Order(self.column, not self.reverse)

    @property
    def mark(self) -> str:
        """What stands behind the column's title."""
        descending = self.column is not None and COLUMNS[self.column].number != self.reverse
        return "▼" if descending else "▲"

    def of(self, rows: Iterable[Row]) -> list[Row]:
        """Return rows in this order; those of which nothing is known come last either way."""
        rows = list(rows)
        if self.column is None:
            return rows[::-1] if self.reverse else rows
        column = COLUMNS[self.column]
        known = [row for row in rows if column.value(row) is not None]
        known.sort(key=_sortable(column), reverse=column.number != self.reverse)
        return known + [row for row in rows if column.value(row) is None]


def _sortable(column: Column) -> Callable[[Row], Any]:
    return lambda row: column.value(row)


def matching(rows: Iterable[Row], text: str) -> list[Row]:
    """Return rows that have all words of TEXT somewhere, in whatever case."""
    words = text.lower().split()
    return [row for row in rows if all(word in _searched(row) for word in words)]


def _searched(row: Row) -> str:
    cells = [_name(row), _state(row), row.service, _health(row), str(row.of("address") or "")]
    return " ".join(cells).lower()


def left_without(nodes: Iterable[dict[str, Any]], name: str) -> list[str]:
    """Return the services that no other node could serve if NAME did not."""
    able: dict[str, set[str]] = {}
    for node in nodes:
        for label, endpoint in node["services"].items():
            if _is_eligible(node, endpoint):
                able.setdefault(label, set()).add(node["name"])
    return [label for label, names in able.items() if names == {name}]


def _is_eligible(node: dict[str, Any], endpoint: dict[str, Any]) -> bool:
    usable = endpoint["health"] != "down" and not endpoint["ejected"] and endpoint["weight"] > 0
    return node["state"] == "ready" and usable
