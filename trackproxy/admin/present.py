"""What there is at this moment, for requests that name it: services and nodes, and how a node is told."""

from __future__ import annotations

from typing import Any, Protocol

from aiohttp import web

from trackproxy.admin.metrics.seen import Measured
from trackproxy.admin.nodes import describe
from trackproxy.admin.problems import Problem
from trackproxy.admin.versions import etag, version_of
from trackproxy.control.changes import Changes
from trackproxy.control.events import Events
from trackproxy.control.node_states import NodeStates
from trackproxy.control.node_values import NodeValues
from trackproxy.explain import unknown_key


class Operated(Measured, Protocol):
    """What operators work on: the supervisor. See there."""

    changes: Changes
    events: Events
    node_states: NodeStates

    @property
    def node_values(self) -> NodeValues: ...
    def look(self) -> None: ...


class Present:
    """Raises a Problem for what there is not."""

    def __init__(self, operated: Operated) -> None:
        self._operated = operated

    def must_know_nodes(self) -> None:
        """Say so while we start, before any settings are served, and after the last ones were."""
        if not self._operated.cluster.views:
            raise Problem(503, "this trackproxy is about to start or to stop")

    def must_be_welcoming(self) -> None:
        if not self._operated.welcoming:
            raise Problem(503, "this trackproxy is about to start or to stop")

    def must_be_service(self, name: str) -> None:
        self.must_know_nodes()
        services = {row.watched.key.service for row in self._operated.cluster.rows()}
        if name and name not in services:
            raise Problem(404, str(unknown_key((name,), services, "service")))

    def known(self, request: web.Request) -> str:
        return self.still_known(request.match_info["name"])

    def still_known(self, name: str) -> str:
        self.must_know_nodes()
        if name not in self._operated.cluster.states:
            raise self.unknown(name)
        return name

    def unknown(self, name: str) -> Problem:
        return Problem(404, str(unknown_key((name,), self._operated.cluster.states, "node")))

    def one(self, name: str) -> web.Response:
        response = web.json_response(self.describe(name)[0])
        response.headers["ETag"] = etag(self.version(name))
        return response

    def version(self, name: str) -> str:
        return version_of(self._operated.cluster, self._operated.drains, self._operated.changes, name)

    def describe(self, *names: str) -> list[dict[str, Any]]:
        operated = self._operated
        operated.look()
        return describe(operated.cluster, operated.drains, operated.changes, operated.looks, names)
