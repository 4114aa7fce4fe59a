"""The OpenAPI document: nothing that the API does is missing in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from tests.unit.test_api import Client, FakeSupervisor, client, supervisor
from trackproxy.admin.api import application
from trackproxy.admin.openapi import ROUTES, document, routed
from trackproxy.telling import event

__all__ = ["client", "supervisor"]


@pytest.fixture
def tree(supervisor: FakeSupervisor) -> dict[str, Any]:
    return document(application(supervisor).router)


async def test_every_route_is_described(supervisor: FakeSupervisor, tree: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, methods in tree["paths"].items() for method in methods}
    assert described == {*routed(application(supervisor).router)}


def test_no_route_is_described_twice() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


async def test_every_name_in_a_path_is_a_parameter(tree: dict[str, Any]) -> None:
    for path, methods in tree["paths"].items():
        for one in methods.values():
            described = {name["name"] for name in one["parameters"] if name["in"] == "path"}
            assert described == set(re.findall(r"\{(\w+)\}", path))


async def test_every_reference_leads_somewhere(tree: dict[str, Any]) -> None:
    names = set(re.findall(r"#/components/schemas/(\w+)", str(tree)))
    assert names
    assert names <= {*tree["components"]["schemas"]}


async def test_errors_are_problems_and_changes_of_nodes_take_versions(tree: dict[str, Any]) -> None:
    for path, method, one in operations(tree):
        for status, answer in one["responses"].items():
            if int(status) >= 400:
                assert [*answer["content"]] == ["application/problem+json"]
        takes = "If-Match" in {parameter["name"] for parameter in one["parameters"]}
        assert takes == ("{name}" in path and method != "get") == ("412" in one["responses"])
        assert ("401" in one["responses"]) == (path not in ("/healthz", "/readyz"))


def operations(tree: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in tree["paths"].items():
        for method, one in methods.items():
            yield path, method, one


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/healthz", "/healthz"),
        ("/api/v1/session", "/api/v1/session"),
        ("/api/v1/status", "/api/v1/status"),
        ("/api/v1/nodes", "/api/v1/nodes"),
        ("/api/v1/nodes/{name}", "/api/v1/nodes/node2"),
        ("/api/v1/services", "/api/v1/services"),
        ("/api/v1/events", "/api/v1/events"),
        ("/api/v1/services/{service}", "/api/v1/services/web"),
    ],
)
async def test_answers_are_what_is_described(
    client: Client, supervisor: FakeSupervisor, path: str, target: str
) -> None:
    supervisor.drains.begin("node2", 60)
    supervisor.events.take(event(1.0, "info", "node_state", "node2 drains", {"node": "node2"}))
    tree = await (await client.get("/api/v1/openapi.json")).json()
    schema = tree["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    response = await client.get(target)
    assert response.status == 200
    jsonschema_rs.validate({**schema, "components": tree["components"]}, await response.json())
