"""The admin API: what operators may ask and say, as JSON over HTTP.

    GET    /healthz                        200 while the supervisor's loop turns
    GET    /readyz                         200 while new clients are welcome, else 503
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

Only POST, PATCH and DELETE change anything, and only while we serve: a start or a stop is not to be
disturbed. What does not fit is answered with 422, and everything is as before. Errors are problem details
(RFC 9457). Who may ask is decided by where it is reached, not here.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from trackproxy.admin.metrics.exposition import Metrics
from trackproxy.admin.metrics.seen import Measured
from trackproxy.admin.nodes import describe
from trackproxy.admin.overview import services, status
from trackproxy.admin.problems import Problem, answer_problems
from trackproxy.control.changes import Changes, Values
from trackproxy.control.drain import Drain, Sticky
from trackproxy.errors import ConfigError, Conflict, NotChanged, TrackproxyError
from trackproxy.explain import problems_of, unknown_key
from trackproxy.units import Address, Count, Name, NodeAddress, Pause, Weight

BODY_BYTES = 64 * 1024
BODY_S = 10.0  # for a body to arrive


class Operated(Measured, Protocol):
    """What operators work on: the supervisor. See there."""

    changes: Changes

    def look(self) -> None: ...
    async def reload(self) -> str: ...
    async def drain(self, node: str, timeout_s: float, sticky: Sticky = ...) -> Drain: ...
    async def disable(self, node: str) -> None: ...
    async def ready(self, node: str) -> None: ...
    async def set_values(self, node: str, values: Values, service: str = ...) -> None: ...
    async def add_node(self, name: str, address: str, settings: Mapping[str, Any]) -> None: ...
    async def remove_node(self, name: str) -> None: ...


class Nothing(BaseModel):
    """The body of a request that needs none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DrainOrder(Nothing):
    """How a node is to be drained. timeout: seconds until what is left is ended."""

    timeout: Pause = 30.0
    sticky: Sticky = "keep"


class ValuesOrder(Nothing):
    """What is to hold for a node; what is left out stays as it is, null is as configured."""

    weight: Weight | None = None
    max_connections: Count | None = None


class NodeOrder(Nothing):
    """A node to be added. services: what it changes there, as the settings' file has it."""

    name: Name
    address: NodeAddress
    weight: Weight | None = None
    max_connections: Count | None = None
    services: dict[str, dict[str, Any]] | None = None


Body = TypeVar("Body", bound=Nothing)
Answer = Callable[[web.Request], Awaitable[web.Response]]


def application(operated: Operated) -> web.Application:
    """Return the API over OPERATED."""
    api = Api(operated)
    app = web.Application(middlewares=[answer_problems], client_max_size=BODY_BYTES)
    node = "/api/v1/nodes/{name}"
    app.add_routes(
        [
            web.get("/healthz", api.healthz),
            web.get("/readyz", api.readyz),
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
        ]
    )
    return app


class Api:
    """The answers to all routes."""

    def __init__(self, operated: Operated) -> None:
        self._operated = operated
        self._metrics = Metrics(operated)

    async def healthz(self, request: web.Request) -> web.Response:
        """Answer: that is all there is to it."""
        return web.json_response({"status": "alive"})

    async def metrics(self, request: web.Request) -> web.Response:
        """Return all metrics, for Prometheus."""
        body, content_type = await self._metrics.answer(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def readyz(self, request: web.Request) -> web.Response:
        """Say whether new clients are welcome."""
        self._must_be_welcoming()
        return web.json_response({"status": "ready"})

    async def status(self, request: web.Request) -> web.Response:
        """Return what is known of the program itself."""
        return web.json_response(status(self._operated, os.getpid()))

    async def services(self, request: web.Request) -> web.Response:
        """Return all services, in the order of the settings."""
        self._operated.look()
        return web.json_response({"services": services(self._operated)})

    async def service(self, request: web.Request) -> web.Response:
        """Return one service, with its endpoints."""
        name = request.match_info["service"]
        self._must_be_service(name)
        self._operated.look()
        return web.json_response(services(self._operated, only=name)[0])

    async def nodes(self, request: web.Request) -> web.Response:
        """Return all nodes, in the order of the settings."""
        return web.json_response({"nodes": self._describe(*self._operated.cluster.states)})

    async def node(self, request: web.Request) -> web.Response:
        """Return one node."""
        return self._one(self._known(request))

    async def drain(self, request: web.Request) -> web.Response:
        """Begin to drain a node, or change how; what comes of it is seen in the node."""
        name, order = await self._order(request, DrainOrder)
        await self._operated.drain(name, order.timeout, order.sticky)
        return self._one(name)

    async def disable(self, request: web.Request) -> web.Response:
        """Send nothing to a node any more."""
        name, _ = await self._order(request, Nothing)
        await self._operated.disable(name)
        return self._one(name)

    async def ready(self, request: web.Request) -> web.Response:
        """Let a node take part again; one that was disabled is probed first."""
        name, _ = await self._order(request, Nothing)
        try:
            await self._operated.ready(name)
        except KeyError:
            raise self._unknown(name) from None  # a reload has dropped it while it was probed
        return self._one(name)

    async def change(self, request: web.Request) -> web.Response:
        """Change weight or limit of a node, in all services or in one; it goes on if whoever asked goes."""
        service = request.match_info.get("service", "")
        self._must_be_service(service)
        name, order = await self._order(request, ValuesOrder)
        values = order.model_dump(include=order.model_fields_set)
        if not values:
            raise Problem(400, "nothing is to be changed: give weight, max_connections or both")
        await _changed(self._operated.set_values(name, values, service))
        return self._one(self._known(request))

    async def add(self, request: web.Request) -> web.Response:
        """Serve with one node more."""
        self._must_be_welcoming()
        order = await _body(request, NodeOrder)
        settings = order.model_dump(exclude={"name", "address"}, exclude_none=True)
        await _changed(self._operated.add_node(order.name, _as_written(order.address), settings))
        response = self._one(self._still_known(order.name))
        response.set_status(201)
        response.headers["Location"] = f"/api/v1/nodes/{quote(order.name, safe='')}"
        return response

    async def remove(self, request: web.Request) -> web.Response:
        """Serve without a node that was added at run time."""
        name, _ = await self._order(request, Nothing)
        await _changed(self._operated.remove_node(name))
        return web.json_response({"outcome": f"removed: {name}"})

    async def reload(self, request: web.Request) -> web.Response:
        """Read the settings again and serve them; it goes on even if whoever asked goes away."""
        self._must_be_welcoming()
        await _body(request, Nothing)
        try:
            outcome = await self._operated.reload()
        except ConfigError as error:
            raise Problem(422, "not reloaded, the settings are wrong", error.problems) from error
        except TrackproxyError as error:
            raise Problem(422, "not reloaded", [str(error)]) from error
        return web.json_response({"outcome": outcome})

    def _must_be_welcoming(self) -> None:
        if not self._operated.welcoming:
            raise Problem(503, "this trackproxy is about to start or to stop")

    def _must_be_service(self, name: str) -> None:
        services = {row.watched.key.service for row in self._operated.cluster.rows()}
        if name and name not in services:
            raise Problem(404, str(unknown_key((name,), services, "service")))

    async def _order(self, request: web.Request, kind: type[Body]) -> tuple[str, Body]:
        """Return the node that is meant, and what is to be done with it."""
        self._known(request)
        body = await _body(request, kind)
        self._must_be_welcoming()
        return self._known(request), body  # still, after the wait for the body

    def _known(self, request: web.Request) -> str:
        return self._still_known(request.match_info["name"])

    def _still_known(self, name: str) -> str:
        if name not in self._operated.cluster.states:
            raise self._unknown(name)
        return name

    def _unknown(self, name: str) -> Problem:
        return Problem(404, str(unknown_key((name,), self._operated.cluster.states, "node")))

    def _one(self, name: str) -> web.Response:
        return web.json_response(self._describe(name)[0])

    def _describe(self, *names: str) -> list[dict[str, Any]]:
        operated = self._operated
        operated.look()
        return describe(operated.cluster, operated.drains, operated.changes, operated.looks, names)


def _as_written(address: Address) -> str:
    """Return the address of a node as settings have it: without a port if it has none."""
    return str(address) if address.path or address.port else str(address).removesuffix(":0")


async def _changed(work: Awaitable[None]) -> None:
    """Wait for a change; what has not been changed is a problem."""
    try:
        await work
    except NotChanged as error:
        status = 409 if isinstance(error, Conflict) else 422
        raise Problem(status, "; ".join(error.problems), error.problems) from error
    except TrackproxyError as error:
        raise Problem(422, "not changed", [str(error)]) from error


async def _body(request: web.Request, kind: type[Body]) -> Body:
    """Return the request's body as KIND; an empty one is {}."""
    try:
        async with asyncio.timeout(BODY_S):
            text = await request.read()
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {BODY_S:g} s") from None
    try:
        tree = json.loads(text or b"{}")
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise Problem(400, 'the body must be a JSON object, such as {"timeout": "30s"}')
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = [str(problem) for problem in problems_of(error, kind)]
        raise Problem(400, "; ".join(problems), problems) from None
