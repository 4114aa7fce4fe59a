"""The answers to GET: what is told, which changes nothing."""

from __future__ import annotations

import os
from typing import Any

from aiohttp import web
from pydantic_core import to_json

from trackproxy.admin.guard import CALLER
from trackproxy.admin.listing import Listing
from trackproxy.admin.metrics.exposition import Metrics
from trackproxy.admin.openapi import document
from trackproxy.admin.overview import services, status, without_nodes
from trackproxy.admin.present import Operated, Present
from trackproxy.admin.problems import Problem


class Reading:
    """The answers to all routes that tell."""

    def __init__(self, operated: Operated, present: Present) -> None:
        self._operated = operated
        self._present = present
        self._metrics = Metrics(operated)
        self._document = b""
        self._nodes = Listing(self._all_nodes)
        self._services = Listing(self._all_services)

    async def healthz(self, request: web.Request) -> web.Response:
        """Answer: that is all there is to it."""
        return web.json_response({"status": "alive"})

    async def metrics(self, request: web.Request) -> web.Response:
        """Return all metrics, for Prometheus."""
        body, content_type = await self._metrics.answer(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def readyz(self, request: web.Request) -> web.Response:
        """Say whether new clients are welcome, and can be served where that is asked for."""
        self._present.must_be_welcoming()
        if missing := without_nodes(self._operated):
            raise Problem(503, f"no node is eligible for {', '.join(missing)}", missing)
        return web.json_response({"status": "ready"})

    async def openapi(self, request: web.Request) -> web.Response:
        """Describe this API for programs."""
        if not self._document:
            self._document = to_json(document(request.app.router))
        return web.Response(body=self._document, content_type="application/json", charset="utf-8")

    async def session(self, request: web.Request) -> web.Response:
        """Say who asks."""
        caller = request[CALLER]
        return web.json_response({"name": caller.name, "role": caller.role, "by": caller.by})

    async def status(self, request: web.Request) -> web.Response:
        """Return what is known of the program itself."""
        return web.json_response(status(self._operated, os.getpid()))

    async def services(self, request: web.Request) -> web.Response:
        """Return all services, in the order of the settings."""
        return await self._services.answer(request)

    async def service(self, request: web.Request) -> web.Response:
        """Return one service, with its endpoints."""
        name = request.match_info["service"]
        self._present.must_be_service(name)
        self._operated.look()
        return web.json_response(services(self._operated, only=name)[0])

    async def nodes(self, request: web.Request) -> web.Response:
        """Return all nodes, in the order of the settings."""
        return await self._nodes.answer(request)

    async def node(self, request: web.Request) -> web.Response:
        """Return one node."""
        return self._present.one(self._present.known(request))

    def _all_nodes(self) -> dict[str, Any]:
        self._present.must_know_nodes()
        return {"nodes": self._present.describe(*self._operated.cluster.states)}

    def _all_services(self) -> dict[str, Any]:
        self._present.must_know_nodes()
        self._operated.look()
        return {"services": services(self._operated)}
