"""The admin API: what operators may ask and say, as JSON over HTTP.

    GET  /healthz                        200 while the supervisor's loop turns
    GET  /readyz                         200 while new clients are welcome, else 503
    GET  /api/v1/nodes                   every node
    GET  /api/v1/nodes/{name}            one node, see `nodes.describe`
    POST /api/v1/nodes/{name}/drain      {"timeout": "30s", "sticky": "keep" or "move"}, both optional
    POST /api/v1/nodes/{name}/disable
    POST /api/v1/nodes/{name}/ready
    POST /api/v1/reload

Only POST changes anything, and only while we serve: a start or a stop is not to be disturbed. Errors are
problem details (RFC 9457). Who may ask is decided by where it is reached, not here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from trackproxy.admin.nodes import describe
from trackproxy.admin.problems import Problem, answer_problems
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drain, Drains, Sticky
from trackproxy.errors import ConfigError, TrackproxyError
from trackproxy.explain import problems_of, unknown_key
from trackproxy.units import Pause

BODY_BYTES = 64 * 1024
BODY_S = 10.0  # for a body to arrive


class Operated(Protocol):
    """What operators work on: the supervisor. See there."""

    cluster: Cluster
    drains: Drains
    welcoming: bool

    async def reload(self) -> str: ...
    def drain(self, node: str, timeout_s: float, sticky: Sticky = ...) -> Drain: ...
    def disable(self, node: str) -> None: ...
    async def ready(self, node: str) -> None: ...


class Nothing(BaseModel):
    """The body of a request that needs none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DrainOrder(Nothing):
    """How a node is to be drained. timeout: seconds until what is left is ended."""

    timeout: Pause = 30.0
    sticky: Sticky = "keep"


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
            web.get("/api/v1/nodes", api.nodes),
            web.get(node, api.node),
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

    async def healthz(self, request: web.Request) -> web.Response:
        """Answer: that is all there is to it."""
        return web.json_response({"status": "alive"})

    async def readyz(self, request: web.Request) -> web.Response:
        """Say whether new clients are welcome."""
        self._must_be_welcoming()
        return web.json_response({"status": "ready"})

    async def nodes(self, request: web.Request) -> web.Response:
        """Return all nodes, in the order of the settings."""
        return web.json_response({"nodes": self._describe(*self._operated.cluster.states)})

    async def node(self, request: web.Request) -> web.Response:
        """Return one node."""
        return self._one(self._known(request))

    async def drain(self, request: web.Request) -> web.Response:
        """Begin to drain a node, or change how; what comes of it is seen in the node."""
        name, order = await self._order(request, DrainOrder)
        self._operated.drain(name, order.timeout, order.sticky)
        return self._one(name)

    async def disable(self, request: web.Request) -> web.Response:
        """Send nothing to a node any more."""
        name, _ = await self._order(request, Nothing)
        self._operated.disable(name)
        return self._one(name)

    async def ready(self, request: web.Request) -> web.Response:
        """Let a node take part again; one that was disabled is probed first."""
        name, _ = await self._order(request, Nothing)
        try:
            await self._operated.ready(name)
        except KeyError:
            raise self._unknown(name) from None  # a reload has dropped it while it was probed
        return self._one(name)

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

    async def _order(self, request: web.Request, kind: type[Body]) -> tuple[str, Body]:
        """Return the node that is meant, and what is to be done with it."""
        self._known(request)
        body = await _body(request, kind)
        self._must_be_welcoming()
        return self._known(request), body  # still, after the wait for the body

    def _known(self, request: web.Request) -> str:
        name = request.match_info["name"]
        if name not in self._operated.cluster.states:
            raise self._unknown(name)
        return name

    def _unknown(self, name: str) -> Problem:
        return Problem(404, str(unknown_key((name,), self._operated.cluster.states, "node")))

    def _one(self, name: str) -> web.Response:
        return web.json_response(self._describe(name)[0])

    def _describe(self, *names: str) -> list[dict[str, Any]]:
        return describe(self._operated.cluster, self._operated.drains, names)


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
