"""Where probes are not believed, since too many of them have failed at once; each change is told."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from trackproxy.control.views import Row
from trackproxy.pool.nodes import AdminState
from trackproxy.pool.panic import panics
from trackproxy.telling import tell

log = logging.getLogger(__name__)


class Panics:
    """The services, and the routes with endpoints of their own, whose probes are not believed now."""

    def __init__(self) -> None:
        self._labels: set[str] = set()

    def __contains__(self, label: str) -> bool:
        return label in self._labels

    def look(self, rows: Iterable[Row], states: Mapping[str, AdminState]) -> None:
        """Look at all endpoints, whose nodes are in these STATES."""
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.watched.key.label, []).append(row)
        for label, group in groups.items():
            taking = [
                row.watched.verdict.up
                for row in group
                if row.config.weight and states[row.config.node] is AdminState.READY
            ]
            panicking = panics(sum(taking), len(taking), group[0].service.panic_threshold)
            if panicking is not (label in self._labels):
                (self._labels.add if panicking else self._labels.discard)(label)
                _tell(label, sum(taking), len(taking), panicking=panicking)


def _tell(label: str, up: int, of: int, *, panicking: bool) -> None:
    text = "probes are not believed" if panicking else "probes are believed again"
    said = ("%s: %d of %d endpoints are up: %s", label, up, of, text)
    state = "begun" if panicking else "ended"
    tell(log, logging.WARNING, "panic", *said, service=label, state=state, reason=text)
