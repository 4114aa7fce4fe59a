"""The admin API as an OpenAPI 3.1 document: the routes that there are, by the table here and the models.

A route of the router that is not in the table is an error of ours, which a test finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from trackproxy.admin import answers, orders

Tree = dict[str, Any]

JSON = "application/json"
UNDESCRIBED = frozenset({"/", "/static/{path}"})  # the dashboard

NODE = "/api/v1/nodes/{name}"
SCHEMAS = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    answer: the model of what comes with `status`, or its media type. order: the model of the body. errors:
    those that it can have beside what all have. node: whether a version of a node comes with it, and if it
    changes anything, can be asked for. other: further media types of the body, or without one of the answer.
    """

    method: str
    path: str
    summary: str
    answer: type[BaseModel] | str
    order: type[BaseModel] | None = None
    errors: Sequence[int] = ()
    status: int = 200
    node: bool = False
    other: Sequence[str] = ()
    parameters: Sequence[Tree] = ()


def _query(name: str, schema: Tree, where: str = "query") -> Tree:
    return {"name": name, "in": where, "required": False, "schema": schema}


IF_MATCH = _query("If-Match", {"type": "string"}, "header") | {
    "description": "Change the node only if it still has one of these versions."
}
LAST = _query("last", {"type": "integer", "minimum": 0, "maximum": 1000})
CHANGED = (400, 404, 408, 413, 422, 503)  # of what changes a node

ROUTES = (
    Route("GET", "/healthz", "Whether the program lives.", answers.Alive),
    Route("GET", "/readyz", "Whether new clients are welcome.", answers.Alive, errors=(503,)),
    Route("GET", "/metrics", "Metrics for Prometheus.", "text/plain"),
    Route("GET", "/api/v1/openapi.json", "This document.", JSON),
    Route("GET", "/api/v1/session", "Who asks, and what for.", answers.Session),
    Route("GET", "/api/v1/status", "The program itself.", answers.Status),
    Route("GET", "/api/v1/services", "All services.", answers.Services, errors=(503,)),
    Route(
        "GET",
        "/api/v1/services/{service}",
        "One service, with its endpoints.",
        answers.Service,
        errors=(404, 503),
    ),
    Route("GET", "/api/v1/nodes", "All nodes.", answers.Nodes, errors=(503,)),
    Route("GET", NODE, "One node.", answers.Node, errors=(404, 503), node=True),
    Route(
        "GET",
        "/api/v1/events",
        "What has happened, or happens.",
        answers.Events,
        errors=(400, 503),
        other=("text/event-stream",),
        parameters=(
            LAST,
            _query("follow", {"enum": ["true", "false"]}),
            _query("probes", {"enum": ["all", "none"]}),
            _query("Last-Event-ID", {"type": "string"}, "header"),
        ),
    ),
    Route(
        "POST",
        "/api/v1/nodes",
        "Add a node.",
        answers.Node,
        orders.NodeOrder,
        errors=(400, 408, 409, 413, 422, 503),
        status=201,
    ),
    Route(
        "PATCH",
        NODE,
        "Change weight or limit of a node.",
        answers.Node,
        orders.ValuesOrder,
        errors=CHANGED,
        node=True,
    ),
    Route(
        "PATCH",
        "/api/v1/services/{service}/nodes/{name}",
        "Change weight or limit of a node in one service.",
        answers.Node,
        orders.ValuesOrder,
        errors=CHANGED,
        node=True,
    ),
    Route(
        "DELETE",
        NODE,
        "Remove a node that was added.",
        answers.Outcome,
        orders.Nothing,
        errors=(409, *CHANGED),
        node=True,
    ),
    Route(
        "POST",
        f"{NODE}/drain",
        "Send no new clients to a node, then nothing.",
        answers.Node,
        orders.DrainOrder,
        errors=CHANGED,
        node=True,
    ),
    Route(
        "POST",
        f"{NODE}/disable",
        "Send nothing to a node.",
        answers.Node,
        orders.Nothing,
        errors=CHANGED,
        node=True,
    ),
    Route(
        "POST",
        f"{NODE}/ready",
        "Let a node take part again.",
        answers.Node,
        orders.Nothing,
        errors=CHANGED,
        node=True,
    ),
    Route(
        "POST",
        "/api/v1/reload",
        "Read the settings again.",
        answers.Outcome,
        orders.Nothing,
        errors=(400, 408, 413, 422, 503),
    ),
    Route(
        "POST",
        "/api/v1/check",
        "Check a settings file.",
        answers.Checked,
        orders.TextOrder,
        errors=(400, 408, 413, 422, 503),
        other=("application/toml", "text/plain"),
    ),
)


def document(router: web.UrlDispatcher) -> Tree:
    """Return the document of the routes that ROUTER has."""
    there = set(routed(router))
    routes = [route for route in ROUTES if (route.method, route.path) in there]
    paths: dict[str, Tree] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "trackproxy", "version": "1", "description": "The admin API of a load balancer."},
        "paths": paths,
        "components": {
            "schemas": _schemas(routes),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}, {}],  # none where only this machine can ask
    }


def routed(router: web.UrlDispatcher) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route that is to be described; HEAD works where GET does."""
    for route in router.routes():
        path = route.resource.canonical if route.resource else ""
        if path not in UNDESCRIBED and route.method != "HEAD":
            yield route.method, path


def _schemas(routes: Sequence[Route]) -> Tree:
    bodies = [(route.order, "validation") for route in routes if route.order]
    told = [(one, "serialization") for route in routes if not isinstance(one := route.answer, str)]
    told.append((answers.Problem, "serialization"))
    _, made = models_json_schema(
        dict.fromkeys([*bodies, *told]),  # type: ignore[arg-type]  # of pairs, each once
        ref_template=f"{SCHEMAS}{{model}}",
    )
    return dict(made["$defs"])


def _operation(route: Route) -> Tree:
    errors = _errors(route)
    operation: Tree = {
        "operationId": _identifier(route),
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *route.parameters],
        "responses": {str(route.status): _answer(route)} | {str(code): _problem(code) for code in errors},
    }
    if route.order is not None:
        operation["requestBody"] = _body(route, route.order)
    if route.node and route.method != "GET":
        operation["parameters"].append(IF_MATCH)
    if route.path in ("/healthz", "/readyz"):
        operation["security"] = []
    return operation


def _identifier(route: Route) -> str:
    words = route.path.removeprefix("/api/v1").replace("{", "").replace("}", "").replace(".", "_")
    return f"{route.method.lower()}{words.replace('/', '_')}"


def _path_parameters(route: Route) -> Iterator[Tree]:
    for name in ("service", "name"):
        if f"{{{name}}}" in route.path:
            schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"}
            yield {"name": name, "in": "path", "required": True, "schema": schema}


def _answer(route: Route) -> Tree:
    if isinstance(route.answer, str):
        content: Tree = {route.answer: {}}
    else:
        content = {JSON: {"schema": {"$ref": f"{SCHEMAS}{route.answer.__name__}"}}}
    if route.order is None:
        content |= {kind: {} for kind in route.other}
    answer: Tree = {"description": route.summary, "content": content}
    if (route.node and route.method != "DELETE") or route.status == 201:
        answer["headers"] = {"ETag": {"description": "The node's version.", "schema": {"type": "string"}}}
    return answer


def _errors(route: Route) -> list[int]:
    """Return the statuses of all problems that a route may answer with."""
    codes = {*route.errors}
    if route.path not in ("/healthz", "/readyz"):
        codes |= {400, 401, 403, 421, 429}  # as `access` has it; 400: Host
    if route.order is not None:
        codes |= {415}
    if route.node and route.method != "GET":
        codes |= {412}
    return sorted(codes)


def _problem(code: int) -> Tree:
    content = {"application/problem+json": {"schema": {"$ref": f"{SCHEMAS}Problem"}}}
    problem: Tree = {"description": f"Not done ({code}), and why.", "content": content}
    if code == 401:
        problem["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return problem


def _body(route: Route, order: type[BaseModel]) -> Tree:
    content: Tree = {JSON: {"schema": {"$ref": f"{SCHEMAS}{order.__name__}"}}}
    content |= {kind: {"schema": {"type": "string"}} for kind in route.other}
    needed = any(field.is_required() for field in order.model_fields.values())
    return {"required": needed, "content": content}
