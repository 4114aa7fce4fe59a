"""The admin API: what operators may ask and say, as JSON over HTTP.

    GET    /                               the dashboard, see `dashboard`
    GET    /healthz                        200 while the supervisor's loop turns
    GET    /readyz                         200 while new clients are welcome, and services that ask for it
                                           (ready_needs_node) have an eligible endpoint; else 503
    GET    /api/v1/openapi.json            all of this for programs, see `openapi`
    GET    /api/v1/session                 {"name", "role", "by"}: who asks, and what that one may do
    GET    /metrics                        for Prometheus, see `metrics`
    GET    /api/v1/status                  this trackproxy, see `overview.status`
    GET    /api/v1/services                every service, see `overview.services`
    GET    /api/v1/services/{service}      one service, with its endpoints
    GET    /api/v1/nodes                   every node
    POST   /api/v1/nodes                   201: one node more, {"name", "address"} and, if wanted, "weight",
                                           "max_connections", "services": {name: what it changes there}
    GET    /api/v1/nodes/{name}            one node, see `nodes.describe`
    PATCH  /api/v1/nodes/{name}            {"weight": n, "max_connections": n}; null is as configured
    DELETE /api/v1/nodes/{name}            only a node that was added here, else 409
    PATCH  /api/v1/services/{service}/nodes/{name}  the same as for a node, in one service
    POST   /api/v1/nodes/{name}/drain      {"timeout": "30s", "sticky": "keep" or "move"}, both optional
    POST   /api/v1/nodes/{name}/disable
    POST   /api/v1/nodes/{name}/ready
    POST   /api/v1/reload
    GET    /api/v1/events                  what has happened, or happens: see `event_stream`
    POST   /api/v1/check                   a settings file, as it is or as {"text"}: is it right?

Only POST, PATCH and DELETE change anything, and only while we serve: a start or a stop is not to be
disturbed. What does not fit is answered with 422, and everything is as before. Errors are problem details
(RFC 9457). Who may ask is decided by where it is reached, see `guard`.

A node has a version (ETag). A change with If-Match is made only if the node still has one of the versions
that are named there, else it is answered with 412.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, TypedDict
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic_core import to_json

from trackproxy.admin import check, dashboard, event_stream
from trackproxy.admin.bodies import BODY_BYTES, Body, body_of, read
from trackproxy.admin.check import Checks
from trackproxy.admin.guard import CALLER, add_headers, let_in
from trackproxy.admin.listing import Listing
from trackproxy.admin.metrics.exposition import Metrics
from trackproxy.admin.metrics.seen import Measured
from trackproxy.admin.nodes import describe
from trackproxy.admin.openapi import document
from trackproxy.admin.orders import DrainOrder, NodeOrder, Nothing, TextOrder, ValuesOrder
from trackproxy.admin.overview import services, status, without_nodes
from trackproxy.admin.problems import Problem, answer_problems
from trackproxy.admin.turns import OneByOne
from trackproxy.admin.versions import etag, expected, version_of
from trackproxy.control.changes import Changes
from trackproxy.control.events import Events
from trackproxy.control.node_states import NodeStates
from trackproxy.control.node_values import NodeValues
from trackproxy.control.turns import OnlyIf
from trackproxy.errors import ConfigError, Conflict, NotChanged, Outdated, TrackproxyError
from trackproxy.explain import unknown_key
from trackproxy.units import Address


class Operated(Measured, Protocol):
    """What operators work on: the supervisor. See there."""

    changes: Changes
    events: Events
    node_states: NodeStates

    @property
    def node_values(self) -> NodeValues: ...
    def look(self) -> None: ...


class Terms(TypedDict, total=False):
    """On which terms a node is changed: who has asked for it, and what must hold at that moment."""

    who: str
    only_if: OnlyIf


def application(operated: Operated, guard: Middleware = let_in) -> web.Application:
    """Return the API over OPERATED; GUARD decides who may ask."""
    api = Api(operated)
    app = web.Application(middlewares=[answer_problems, OneByOne().begin, guard], client_max_size=BODY_BYTES)
    app.on_response_prepare.append(add_headers)
    app.add_routes(dashboard.routes())
    node = "/api/v1/nodes/{name}"
    app.add_routes(
        [
            web.get("/api/v1/events", event_stream.answer(operated.events)),
            web.get("/healthz", api.healthz),
            web.get("/readyz", api.readyz),
            web.get("/api/v1/openapi.json", api.openapi),
            web.get("/api/v1/session", api.session),
            web.get("/metrics", api.metrics),
            web.get("/api/v1/status", api.status),
            web.get("/api/v1/services", api.services),
            web.get("/api/v1/services/{service}", api.service),
            web.get("/api/v1/nodes", api.nodes),
            web.post("/api/v1/nodes", api.add),
            web.get(node, api.node),
            web.patch(node, api.change),
            web.delete(node, api.remove),
            web.patch("/api/v1/services/{service}/nodes/{name}", api.change),
            web.post(f"{node}/drain", api.drain),
            web.post(f"{node}/disable", api.disable),
            web.post(f"{node}/ready", api.ready),
            web.post("/api/v1/reload", api.reload),
            web.post("/api/v1/check", api.check),
        ]
    )
    return app


class Api:
    """The answers to all routes."""

    def __init__(self, operated: Operated) -> None:
        self._operated = operated
        self._states = operated.node_states
        self._values = operated.node_values
        self._checks = Checks()
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
        self._must_be_welcoming()
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
        self._must_be_service(name)
        self._operated.look()
        return web.json_response(services(self._operated, only=name)[0])

    async def nodes(self, request: web.Request) -> web.Response:
        """Return all nodes, in the order of the settings."""
        return await self._nodes.answer(request)

    async def node(self, request: web.Request) -> web.Response:
        """Return one node."""
        return self._one(self._known(request))

    async def drain(self, request: web.Request) -> web.Response:
        """Begin to drain a node, or change how; what comes of it is seen in the node."""
        name, order = await self._order(request, DrainOrder)
        work = self._states.drain(name, order.timeout, order.sticky, **self._terms(request, name))
        return await self._changed(work, name)

    async def disable(self, request: web.Request) -> web.Response:
        """Send nothing to a node any more."""
        name, _ = await self._order(request, Nothing)
        return await self._changed(self._states.disable(name, **self._terms(request, name)), name)

    async def ready(self, request: web.Request) -> web.Response:
        """Let a node take part again; one that was disabled is probed first."""
        name, _ = await self._order(request, Nothing)
        try:
            return await self._changed(self._states.ready(name, **self._terms(request, name)), name)
        except KeyError:
            raise self._unknown(name) from None  # a reload has dropped it while it was probed

    async def change(self, request: web.Request) -> web.Response:
        """Change weight or limit of a node, in all services or in one; it goes on if whoever asked goes."""
        service = request.match_info.get("service", "")
        self._must_be_service(service)
        name, order = await self._order(request, ValuesOrder)
        values = order.model_dump(include=order.model_fields_set)
        if not values:
            raise Problem(400, "nothing is to be changed: give weight, max_connections or both")
        work = self._values.change(name, values, service, **self._terms(request, name))
        return await self._changed(work, name)

    async def add(self, request: web.Request) -> web.Response:
        """Serve with one node more."""
        self._must_be_welcoming()
        order = await body_of(request, NodeOrder)
        settings = order.model_dump(exclude={"name", "address"}, exclude_none=True)
        address = _as_written(order.address)
        work = self._values.add(order.name, address, settings, request[CALLER].who)
        response = await self._changed(work, order.name)
        response.set_status(201)
        response.headers["Location"] = f"/api/v1/nodes/{quote(order.name, safe='')}"
        return response

    async def remove(self, request: web.Request) -> web.Response:
        """Serve without a node that was added at run time."""
        name, _ = await self._order(request, Nothing)
        await _done(self._values.remove(name, **self._terms(request, name)))
        return web.json_response({"outcome": f"removed: {name}"})

    async def reload(self, request: web.Request) -> web.Response:
        """Read the settings again and serve them; it goes on even if whoever asked goes away."""
        self._must_be_welcoming()
        await body_of(request, Nothing)
        try:
            outcome = await self._operated.reloads.reload(request[CALLER].who)
        except ConfigError as error:
            raise Problem(422, "not reloaded, the settings are wrong", error.problems) from error
        except TrackproxyError as error:
            raise Problem(422, "not reloaded", [str(error)]) from error
        return web.json_response({"outcome": outcome})

    async def check(self, request: web.Request) -> web.Response:
        """Check a settings file that was sent, and change nothing."""
        request = request.clone(client_max_size=check.SIZE_BYTES)
        if request.content_type == "application/json":
            content = (await body_of(request, TextOrder)).text.encode()
        else:
            content = await read(request)
        return web.json_response(await self._checks.check(content))

    def _terms(self, request: web.Request, name: str) -> Terms:
        """Return who asks for a change of node NAME, and whether it depends on the node's version."""
        terms: Terms = {"who": request[CALLER].who}
        if lines := request.headers.getall("If-Match", []):
            terms["only_if"] = self._only_if(name, lines)
        return terms

    def _only_if(self, name: str, lines: Sequence[str]) -> OnlyIf:
        try:
            versions = expected(lines)
        except ValueError as error:
            raise Problem(400, str(error)) from None

        def check() -> None:
            there = name in self._operated.cluster.states
            version = self._version(name) if there else ""
            if there and (versions is None or version in versions):
                return
            now = f"its version is now {etag(version)}" if there else "it is gone"
            raise Outdated(f"{name} has been changed by somebody else meanwhile: {now}", version)

        return check

    def _must_know_nodes(self) -> None:
        """Say so while we start, before any settings are served, and after the last ones were."""
        if not self._operated.cluster.views:
            raise Problem(503, "this trackproxy is about to start or to stop")

    def _must_be_welcoming(self) -> None:
        if not self._operated.welcoming:
            raise Problem(503, "this trackproxy is about to start or to stop")

    def _must_be_service(self, name: str) -> None:
        self._must_know_nodes()
        services = {row.watched.key.service for row in self._operated.cluster.rows()}
        if name and name not in services:
            raise Problem(404, str(unknown_key((name,), services, "service")))

    async def _order(self, request: web.Request, kind: type[Body]) -> tuple[str, Body]:
        """Return the node that is meant, and what is to be done with it."""
        self._known(request)
        body = await body_of(request, kind)
        self._must_be_welcoming()
        return self._known(request), body  # still, after the wait for the body

    def _known(self, request: web.Request) -> str:
        return self._still_known(request.match_info["name"])

    def _still_known(self, name: str) -> str:
        self._must_know_nodes()
        if name not in self._operated.cluster.states:
            raise self._unknown(name)
        return name

    def _unknown(self, name: str) -> Problem:
        return Problem(404, str(unknown_key((name,), self._operated.cluster.states, "node")))

    async def _changed(self, work: Awaitable[object], name: str) -> web.Response:
        """Wait for a change of node NAME, and return what it is now."""
        await _done(work)
        return self._one(self._still_known(name))

    def _one(self, name: str) -> web.Response:
        response = web.json_response(self._describe(name)[0])
        response.headers["ETag"] = etag(self._version(name))
        return response

    def _version(self, name: str) -> str:
        return version_of(self._operated.cluster, self._operated.drains, self._operated.changes, name)

    def _all_nodes(self) -> dict[str, Any]:
        self._must_know_nodes()
        return {"nodes": self._describe(*self._operated.cluster.states)}

    def _all_services(self) -> dict[str, Any]:
        self._must_know_nodes()
        self._operated.look()
        return {"services": services(self._operated)}

    def _describe(self, *names: str) -> list[dict[str, Any]]:
        operated = self._operated
        operated.look()
        return describe(operated.cluster, operated.drains, operated.changes, operated.looks, names)


def _as_written(address: Address) -> str:
    """Return the address of a node as settings have it: without a port if it has none."""
    return str(address) if address.path or address.port else str(address).removesuffix(":0")


async def _done(work: Awaitable[object]) -> None:
    """Wait for a change; what has not been changed is a problem."""
    try:
        await work
    except Outdated as error:
        headers = {"ETag": etag(error.version)} if error.version else None
        raise Problem(412, str(error), headers=headers) from error
    except NotChanged as error:
        status = 409 if isinstance(error, Conflict) else 422
        raise Problem(status, "; ".join(error.problems), error.problems) from error
    except TrackproxyError as error:
        raise Problem(422, "not changed", [str(error)]) from error
