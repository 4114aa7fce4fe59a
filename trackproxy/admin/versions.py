"""Versions of nodes: what tells two operators that they would undo each other's changes (RFC 9110, 13.1.1).

A version stands for what operators decide of a node: its state and drain, its address, its weights and limits
in all services. Counters and health are none of it, so it holds for as long as nobody has decided anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence

from trackproxy.control.changes import Changes
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drains
from trackproxy.control.overrides import VALUES
from trackproxy.control.views import Row

_TAG = re.compile(r'(W/)?"([!#-~\x80-\U0010ffff]*)"')  # RFC 9110, 8.8.3
_TAGS = re.compile(rf"[ \t,]*(?:{_TAG.pattern}[ \t]*(?:,[ \t,]*|$))+")


def version_of(
    cluster: Cluster, drains: Drains, changes: Changes, name: str, rows: Iterable[Row] | None = None
) -> str:
    """Return the version of a node that there is; ROWS: its endpoints, for those who know them anyway."""
    drain = drains.of.get(name)
    address = changes.of_address(name)
    decided = [
        cluster.states[name].value,
        [drain.deadline, drain.sticky] if drain and drain.outcome is None else None,
        address.resolved.value if address else None,
        [changes.of_value(name, key).resolved.value for key in VALUES],
        [
            [row.watched.key.label, row.watched.key.address, *(getattr(row.config, key) for key in VALUES)]
            for row in (cluster.rows(name) if rows is None else rows)
        ],
    ]
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:16]


def etag(version: str) -> str:
    """Return a version as ETag has it."""
    return f'"{version}"'


def expected(lines: Sequence[str]) -> frozenset[str] | None:
    """Return the versions that the lines of If-Match name, None for any ("*"); raises ValueError.

    Weak ones are left out: they never match (RFC 9110, 13.1.1: the strong comparison).
    """
    text = ", ".join(lines).strip(" \t")
    if text == "*":
        return None
    if not _TAGS.fullmatch(text):
        raise ValueError('If-Match must be * or versions in quotes, as ETag has them: "0123456789abcdef"')
    return frozenset(tag for weak, tag in _TAG.findall(text) if not weak)
