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

from aiohttp import web
from aiohttp.typedefs import Middleware

from trackproxy.admin import dashboard, event_stream
from trackproxy.admin.bodies import BODY_BYTES
from trackproxy.admin.changing import Changing
from trackproxy.admin.check import Checks
from trackproxy.admin.guard import add_headers, let_in
from trackproxy.admin.present import Operated, Present
from trackproxy.admin.problems import answer_problems
from trackproxy.admin.reading import Reading
from trackproxy.admin.turns import OneByOne


def application(operated: Operated, guard: Middleware = let_in) -> web.Application:
    """Return the API over OPERATED; GUARD decides who may ask."""
    present = Present(operated)
    reading, changing = Reading(operated, present), Changing(operated, present)
    app = web.Application(middlewares=[answer_problems, OneByOne().begin, guard], client_max_size=BODY_BYTES)
    app.on_response_prepare.append(add_headers)
    app.add_routes(dashboard.routes())
    node = "/api/v1/nodes/{name}"
    app.add_routes(
        [
            web.get("/api/v1/events", event_stream.answer(operated.events)),
            web.get("/healthz", reading.healthz),
            web.get("/readyz", reading.readyz),
            web.get("/api/v1/openapi.json", reading.openapi),
            web.get("/api/v1/session", reading.session),
            web.get("/metrics", reading.metrics),
            web.get("/api/v1/status", reading.status),
            web.get("/api/v1/services", reading.services),
            web.get("/api/v1/services/{service}", reading.service),
            web.get("/api/v1/nodes", reading.nodes),
            web.post("/api/v1/nodes", changing.add),
            web.get(node, reading.node),
            web.patch(node, changing.change),
            web.delete(node, changing.remove),
            web.patch("/api/v1/services/{service}/nodes/{name}", changing.change),
            web.post(f"{node}/drain", changing.drain),
            web.post(f"{node}/disable", changing.disable),
            web.post(f"{node}/ready", changing.ready),
            web.post("/api/v1/reload", changing.reload),
            web.post("/api/v1/check", Checks().answer),
        ]
    )
    return app
