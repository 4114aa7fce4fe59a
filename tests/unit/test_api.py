"""The admin API's routes and errors, over a cluster without workers."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from aiohttp.web import Application, Request
from pytest_aiohttp.plugin import AiohttpClient

from trackproxy.admin import bodies, check, listing
from trackproxy.admin.api import application
from trackproxy.admin.bodies import BODY_BYTES
from trackproxy.board import Counter
from trackproxy.check_process import MOST_LINES
from trackproxy.control.activation import Notifier
from trackproxy.control.changes import Changes
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drains
from trackproxy.control.events import Events
from trackproxy.control.generation import Generation
from trackproxy.control.generations import Generations
from trackproxy.control.listeners import Listeners
from trackproxy.control.node_states import NodeStates
from trackproxy.control.node_values import NodeValues
from trackproxy.control.recent import Looks
from trackproxy.control.reloads import Outcome
from trackproxy.control.tasks import Tasks
from trackproxy.control.turns import Turns
from trackproxy.errors import ConfigError, StartFailed
from trackproxy.health.looking import Result
from trackproxy.health.probes import open_session
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import Settings, load

Client = TestClient[Request, Application]

TREE: dict[str, Any] = {
    "nodes": {"node1": {"address": "127.0.0.1:9", "weight": 2}, "node2": {"address": "127.0.0.2:9"}},
    "services": {
        "web": {"protocol": "http", "listen": ["127.0.0.1:0"], "probe": {"type": "tcp"}},
        "sites": {
            "protocol": "http",
            "listen": ["127.0.0.1:0"],
            "probe": {"type": "off"},
            "nodes": {"node2": {"port": 81, "priority": 1}},
        },
    },
}
MUTATIONS = [
    "/api/v1/nodes/node1/drain",
    "/api/v1/nodes/node1/disable",
    "/api/v1/nodes/node1/ready",
    "/api/v1/reload",
]


class FakeGenerations(Generations):
    """Generations without workers. unable: what the next `switch` raises."""

    def __init__(self, cluster: Cluster, tasks: Tasks) -> None:
        super().__init__(cluster, tasks)
        self.cluster = cluster
        self.running = [Generation(1, load(None, TREE), cluster.views[-1], Listeners(), 1)]
        self.unable: Exception | None = None

    async def switch(self, settings: Settings) -> Generation:
        if self.unable:
            raise self.unable
        self.cluster.adopt(await self.cluster.view(settings, 1))
        self.serving.settings = settings
        return self.serving


class FakeReloads:
    """Reloads that read nothing. next: what the next one returns, or raises. asked: how many there were."""

    def __init__(self) -> None:
        self.next: str | Exception = "reloaded: generation 2 serves"
        self.asked = 0
        self.counts = {True: 0, False: 0}
        self.last: Outcome | None = None

    async def reload(self, who: str = "eve") -> str:
        self.asked += 1
        if isinstance(self.next, Exception):
            raise self.next
        return self.next


class FakeSupervisor:
    """What operators work on, without workers, signals and settings that could be read again."""

    def __init__(self, cluster: Cluster, changes: Changes) -> None:
        tasks = Tasks()
        self.cluster = cluster
        self.changes = changes
        self.drains = Drains(cluster)
        self.events = Events()
        self.welcoming = True
        self.generations = FakeGenerations(cluster, tasks)
        self.reloads = FakeReloads()
        turns = Turns(self.generations, tasks)
        self.node_states = NodeStates(cluster, self.drains, changes, turns, tasks)
        self.node_values = NodeValues(changes, self.generations, turns, Notifier({}))
        self.looks = Looks(cluster.totals)
        self.started_at = 1000.0
        self.config: str | None = "/etc/trackproxy.toml"
        self.state_dir = "/var/lib/trackproxy"
        self.looked = 0

    def look(self) -> None:
        self.looked += 1

    def count(self, row: int, cell: Counter, number: int) -> None:
        """Have a worker say so of an endpoint."""
        self.cluster.views[-1].board.counters(0, row)[cell] = number


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[FakeSupervisor]:
    async with open_session() as session:
        cluster = Cluster(tmp_path, session)
        cluster.adopt(await cluster.view(load(None, TREE), 1))
        changes = await Changes.open(tmp_path, load(None, TREE))
        yield FakeSupervisor(cluster, changes)
        cluster.stop()
        await changes.close()


@pytest.fixture
async def client(aiohttp_client: AiohttpClient, supervisor: FakeSupervisor) -> Client:
    return await aiohttp_client(application(supervisor))


async def problem(response: ClientResponse) -> dict[str, Any]:
    """The problem of an answer; it must be one, and agree with the status."""
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = await response.json(content_type=None)
    assert body["status"] == response.status
    assert body["type"] == "about:blank"
    assert body["title"]
    return body


async def node(client: Client, name: str) -> dict[str, Any]:
    response = await client.get(f"/api/v1/nodes/{name}")
    assert response.status == 200
    body: dict[str, Any] = await response.json()
    return body


# --- health of ourselves ---


async def test_we_are_alive_whether_clients_are_welcome_or_not(
    client: Client, supervisor: FakeSupervisor
) -> None:
    supervisor.welcoming = False
    assert (await client.get("/healthz")).status == 200


async def test_we_are_ready_while_clients_are_welcome(client: Client, supervisor: FakeSupervisor) -> None:
    assert (await client.get("/readyz")).status == 200
    supervisor.welcoming = False
    response = await client.get("/readyz")
    assert (await problem(response))["status"] == 503


# --- the whole ---


@pytest.mark.parametrize(
    "target", ["/api/v1/nodes", "/api/v1/nodes/node1", "/api/v1/services", "/api/v1/services/web"]
)
async def test_nobody_is_told_of_nodes_before_any_settings_are_served(
    client: Client, supervisor: FakeSupervisor, target: str
) -> None:
    views, supervisor.cluster.views = supervisor.cluster.views, []
    body = await problem(await client.get(target))
    assert (body["status"], body["detail"]) == (503, "this trackproxy is about to start or to stop")
    supervisor.cluster.views = views
    assert (await client.get(target)).status == 200


async def test_the_status_tells_of_the_program_and_its_workers(
    client: Client, supervisor: FakeSupervisor
) -> None:
    supervisor.reloads.last = Outcome(1001.0, ok=False, outcome="a typo")
    body = await (await client.get("/api/v1/status")).json()
    assert body["started_at"] == 1000.0
    assert body["uptime_s"] > 0
    assert (body["generation"], body["welcoming"], body["pid"]) == (1, True, os.getpid())
    assert (body["config"], body["state_dir"]) == ("/etc/trackproxy.toml", "/var/lib/trackproxy")
    assert body["reload"] == {"at": 1001.0, "ok": False, "outcome": "a typo"}
    assert body["workers"] == []
    assert body["journal"] is None


async def test_services_are_told_in_the_order_of_the_settings(
    client: Client, supervisor: FakeSupervisor
) -> None:
    supervisor.count(0, Counter.TOTAL, 7)
    supervisor.count(1, Counter.TOTAL, 5)
    body = await (await client.get("/api/v1/services")).json()
    assert [one["name"] for one in body["services"]] == ["web", "sites"]
    web = body["services"][0]
    assert (web["protocol"], web["balance"], web["groups"]) == ("http", "round_robin", ["web"])
    assert web["totals"]["requests"] == 12
    assert web["nodes"] == {"total": 2, "eligible": 0, "up": 0}  # nobody listens there
    assert (web["status"], web["panic"]) == ("down", True)
    assert web["recent"] is None
    assert "endpoints" not in web
    assert supervisor.looked == 1


async def test_a_service_of_which_some_nodes_are_out_is_degraded(
    client: Client, supervisor: FakeSupervisor
) -> None:
    for row in supervisor.cluster.rows():
        row.watched.verdict.up = True
    supervisor.cluster.publish()
    assert (await (await client.get("/api/v1/services/web")).json())["status"] == "up"
    await supervisor.node_states.disable("node2")
    web = await (await client.get("/api/v1/services/web")).json()
    assert (web["status"], web["nodes"]) == ("degraded", {"total": 2, "eligible": 1, "up": 2})


async def test_a_service_is_told_with_its_endpoints(client: Client) -> None:
    body = await (await client.get("/api/v1/services/sites")).json()
    assert body["name"] == "sites"
    assert body["endpoints"]["node2"]["sites"]["address"] == "127.0.0.2:81"
    assert [*body["endpoints"]] == ["node2"]


async def test_an_unknown_service_is_a_problem_that_names_the_nearest(client: Client) -> None:
    body = await problem(await client.get("/api/v1/services/wep"))
    assert body["status"] == 404
    assert 'did you mean "web"' in body["detail"]


# --- nodes ---


async def test_all_nodes_are_told_in_the_order_of_the_settings(client: Client) -> None:
    body = await (await client.get("/api/v1/nodes")).json()
    assert [one["name"] for one in body["nodes"]] == ["node1", "node2"]
    assert [list(one["services"]) for one in body["nodes"]] == [["web"], ["web", "sites"]]
    assert body["nodes"][1] == await node(client, "node2")


async def test_a_node_is_told_with_what_is_known_of_each_of_its_endpoints(
    client: Client, supervisor: FakeSupervisor
) -> None:
    [row] = supervisor.cluster.rows("node1")
    row.watched.last, row.watched.last_at = Result(False, "connection refused", 0.0015), 1000.25
    for cell, number in [(Counter.ACTIVE, 3), (Counter.TUNNELS, 1), (Counter.IDLE, 5)]:
        supervisor.count(0, cell, number)
    for cell, number in [(Counter.TOTAL, 70), (Counter.RETRIES, 2), (Counter.CONNECT_FAILURES, 4)]:
        supervisor.count(0, cell, number)
    body = await node(client, "node1")
    totals = body["services"]["web"].pop("totals")
    del body["version"], body["sources"], body["services"]["web"]["sources"]
    assert body == {
        "name": "node1",
        "state": "ready",
        "drain": None,
        "left": {"requests": 2, "tunnels": 1, "sessions": 0, "idle": 5},
        "services": {
            "web": {
                "address": "127.0.0.1:9",
                "health": "down",  # nobody listens there, as the first probe found
                "ejected": False,
                "weight": 2,
                "priority": 0,
                "probe": {"passed": False, "reason": "connection refused", "took_ms": 1.5, "at": 1000.25},
                "gauges": {"active": 3, "tunnels": 1, "idle": 5},
                "recent": None,
            }
        },
    }
    assert totals["requests"] == 70
    assert totals["retries"] == 2
    assert totals["connect_failures"] == 4
    assert totals["status_5xx"] == 0


async def test_gauges_and_histograms_are_not_among_the_totals(client: Client) -> None:
    totals = (await node(client, "node1"))["services"]["web"]["totals"]
    assert not {"active", "tunnels", "idle", "ejected_until", "connect_time", "first_byte"} & {*totals}


async def test_an_endpoint_that_nobody_probes_has_no_last_probe_and_is_up(client: Client) -> None:
    sites = (await node(client, "node2"))["services"]["sites"]
    assert (sites["probe"], sites["health"]) == (None, "up")
    assert (sites["address"], sites["priority"]) == ("127.0.0.2:81", 1)


async def test_the_first_probe_of_an_endpoint_is_told(client: Client) -> None:
    probe = (await node(client, "node1"))["services"]["web"]["probe"]
    assert (probe["passed"], probe["reason"]) == (False, "connection refused")
    assert 0 <= time.time() - probe["at"] < 60


async def test_an_endpoint_that_live_traffic_took_out_is_told_as_ejected(
    client: Client, supervisor: FakeSupervisor
) -> None:
    now_ms = int(asyncio.get_running_loop().time() * 1000)
    supervisor.count(0, Counter.EJECTED_UNTIL, now_ms + 60_000)
    supervisor.count(1, Counter.EJECTED_UNTIL, now_ms - 1)
    assert (await node(client, "node1"))["services"]["web"]["ejected"] is True
    assert (await node(client, "node2"))["services"]["web"]["ejected"] is False


# --- orders ---


async def test_disable_and_ready_change_the_state_and_return_the_node(client: Client) -> None:
    disabled = await client.post("/api/v1/nodes/node1/disable")
    assert (disabled.status, (await disabled.json())["state"]) == (200, "disabled")
    assert (await node(client, "node2"))["state"] == "ready"
    ready = await client.post("/api/v1/nodes/node1/ready", json={})
    assert (ready.status, (await ready.json())["state"]) == (200, "ready")


async def test_a_drain_without_a_body_keeps_sticky_clients_for_30_seconds(
    client: Client, supervisor: FakeSupervisor
) -> None:
    supervisor.count(0, Counter.ACTIVE, 1)
    body = await (await client.post("/api/v1/nodes/node1/drain")).json()
    assert body["state"] == "drain"
    assert 29 < body["drain"]["seconds_left"] <= 30
    assert (body["drain"]["sticky"], body["drain"]["outcome"]) == ("keep", None)


@pytest.mark.parametrize("duration", ["1m30s", "90", 90, 90.0])
async def test_a_drain_takes_a_duration_or_seconds_and_what_sticky_clients_do(
    client: Client, supervisor: FakeSupervisor, duration: object
) -> None:
    supervisor.count(0, Counter.ACTIVE, 1)
    order = {"timeout": duration, "sticky": "move"}
    body = await (await client.post("/api/v1/nodes/node1/drain", json=order)).json()
    assert 89 < body["drain"]["seconds_left"] < 90.001
    assert body["drain"]["sticky"] == "move"


@pytest.mark.parametrize(("active", "outcome"), [(0, "empty"), (1, "deadline")])
async def test_it_is_told_how_a_drain_ended(
    client: Client, supervisor: FakeSupervisor, active: int, outcome: str
) -> None:
    supervisor.count(0, Counter.ACTIVE, active)
    await client.post("/api/v1/nodes/node1/drain", json={"timeout": "200ms"})
    async with asyncio.timeout(5):
        await supervisor.drains.of["node1"].over.wait()
    body = await node(client, "node1")
    assert body["state"] == "disabled"
    assert body["drain"] == {"seconds_left": None, "sticky": "keep", "outcome": outcome}


async def test_a_reload_returns_what_came_of_it(client: Client) -> None:
    response = await client.post("/api/v1/reload")
    assert (response.status, await response.json()) == (200, {"outcome": "reloaded: generation 2 serves"})


@pytest.mark.parametrize(
    ("error", "problems"),
    [
        (ConfigError(["t.toml:1: a", "t.toml:2: b"]), ["t.toml:1: a", "t.toml:2: b"]),
        (StartFailed("c"), ["c"]),
    ],
)
async def test_a_reload_that_changed_nothing_returns_every_problem(
    client: Client, supervisor: FakeSupervisor, error: Exception, problems: list[str]
) -> None:
    supervisor.reloads.next = error
    response = await client.post("/api/v1/reload")
    assert response.status == 422
    assert (await problem(response))["problems"] == problems


async def test_a_drain_is_over_once_a_reload_has_dropped_its_node(
    client: Client, supervisor: FakeSupervisor
) -> None:
    supervisor.count(0, Counter.ACTIVE, 1)
    await client.post("/api/v1/nodes/node1/drain")
    without = {**TREE, "nodes": {"node2": TREE["nodes"]["node2"]}}
    supervisor.cluster.adopt(await supervisor.cluster.view(load(None, without), 1))
    drain = supervisor.drains.of["node1"]
    async with asyncio.timeout(5):
        await drain.over.wait()
    assert drain.outcome == "ended otherwise"
    assert (await client.get("/api/v1/nodes/node1")).status == 404


# --- values and nodes ---


async def weights(client: Client, name: str) -> dict[str, int]:
    return {label: one["weight"] for label, one in (await node(client, name))["services"].items()}


async def test_a_node_is_told_with_whose_its_values_are(client: Client) -> None:
    body = await node(client, "node2")
    plain = {"source": "configuration", "changed_at": None, "changed_by": None}
    assert body["sources"]["weight"] == {"value": 1, "configured": 1, **plain}
    assert body["services"]["web"]["sources"]["max_connections"] == {"value": 0, "configured": 0, **plain}
    await client.post("/api/v1/nodes/node2/disable")
    state = (await node(client, "node2"))["sources"]["state"]
    assert state.pop("changed_at") > 1e9
    assert state == {
        "value": "disabled",
        "configured": "ready",
        "source": "run time",
        "changed_by": "local socket",
    }


async def test_values_hold_in_all_services_until_null_gives_them_back(client: Client) -> None:
    response = await client.patch("/api/v1/nodes/node2", json={"weight": 5, "max_connections": 7})
    assert response.status == 200
    body = await response.json()
    assert await weights(client, "node2") == {"web": 5, "sites": 5}
    for described in (body, body["services"]["web"], body["services"]["sites"]):
        seen = {key: described["sources"][key] for key in ("weight", "max_connections")}
        assert {key: (one["value"], one["configured"]) for key, one in seen.items()} == {
            "weight": (5, 1),
            "max_connections": (7, 0),
        }
        assert {one["source"] for one in seen.values()} == {"run time"}
    body = await (await client.patch("/api/v1/nodes/node2", json={"weight": None})).json()
    assert (body["sources"]["weight"]["source"], body["sources"]["max_connections"]["value"]) == (
        "configuration",
        7,
    )
    assert await weights(client, "node2") == {"web": 1, "sites": 1}


async def test_one_service_may_have_a_value_of_its_own(client: Client) -> None:
    target = "/api/v1/services/sites/nodes/node2"
    assert (await client.patch(target, json={"weight": 5})).status == 200
    assert await weights(client, "node2") == {"web": 1, "sites": 5}
    body = await node(client, "node2")
    assert body["sources"]["weight"]["source"] == "configuration"
    assert body["services"]["sites"]["sources"]["weight"]["source"] == "run time"
    assert (await client.patch(target, json={"weight": None})).status == 200
    assert await weights(client, "node2") == {"web": 1, "sites": 1}


async def test_a_node_is_added_and_removed(client: Client) -> None:
    order = {"name": "node3", "address": "127.0.0.3", "weight": 4, "services": {"sites": {"priority": 2}}}
    response = await client.post("/api/v1/nodes", json=order)
    assert (response.status, response.headers["Location"]) == (201, "/api/v1/nodes/node3")
    body = await response.json()
    assert body["sources"]["address"]["value"] == "127.0.0.3"
    services = {label: (one["address"], one["weight"]) for label, one in body["services"].items()}
    assert services == {"web": ("127.0.0.3:80", 4), "sites": ("127.0.0.3:80", 4)}
    assert (await client.post("/api/v1/nodes", json=order)).status == 409
    assert (await client.patch("/api/v1/nodes/node3", json={"weight": 6})).status == 200
    removed = await client.delete("/api/v1/nodes/node3")
    assert (removed.status, await removed.json()) == (200, {"outcome": "removed: node3"})
    assert (await client.get("/api/v1/nodes/node3")).status == 404
    assert (await client.delete("/api/v1/nodes/node3")).status == 404


async def test_a_node_of_the_configuration_is_not_removed(client: Client) -> None:
    response = await client.delete("/api/v1/nodes/node1")
    assert response.status == 409
    assert (await problem(response))["detail"].startswith("node1: is in the configuration; ")
    assert (await node(client, "node1"))["state"] == "ready"


@pytest.mark.parametrize(
    ("method", "target", "order", "status", "detail"),
    [
        ("PATCH", "nodes/nod1", {"weight": 1}, 404, 'nod1: unknown node, did you mean "node1"?'),
        ("PATCH", "services/we/nodes/node1", {"weight": 1}, 404, 'we: unknown service, did you mean "web"?'),
        ("PATCH", "services/sites/nodes/node1", {"weight": 1}, 422, "service/sites/node/node1: there is no"),
        ("PATCH", "nodes/node1", {}, 400, "nothing is to be changed"),
        ("PATCH", "nodes/node1", {"weight": 257}, 400, "weight: must be a whole number from 0 to 256"),
        ("PATCH", "nodes/node1", {"weight": "two"}, 400, "weight: must be a whole number"),
        ("PATCH", "nodes/node2", {"weight": 0}, 422, "services.sites: has no node with a weight above 0"),
        ("POST", "nodes", {"name": "c"}, 400, "address: is required"),
        ("POST", "nodes", {"name": "a b", "address": "c"}, 400, "name: a name has at most 63"),
        ("POST", "nodes", {"name": "c", "address": "http://c"}, 400, "address: "),
        ("POST", "nodes", {"name": "node1", "address": "c"}, 409, "node1: there is a node of that name"),
        ("POST", "nodes", {"name": "c", "address": "c", "services": {"x": {}}}, 422, "x: unknown service"),
        (
            "POST",
            "nodes",
            {"name": "c", "address": "c", "services": {"web": {"prio": 1}}},
            422,
            "prio: unknown key",
        ),
    ],
)
async def test_what_does_not_fit_is_answered_with_why_and_changes_nothing(
    client: Client, method: str, target: str, order: dict[str, Any], status: int, detail: str
) -> None:
    before = await (await client.get("/api/v1/nodes")).json()
    response = await client.request(method, f"/api/v1/{target}", json=order)
    assert response.status == status
    assert (await problem(response))["detail"].startswith(detail)
    after = await (await client.get("/api/v1/nodes")).json()
    assert [(one["sources"], [*one["services"]]) for one in after["nodes"]] == [
        (one["sources"], [*one["services"]]) for one in before["nodes"]
    ]


async def test_a_change_that_cannot_be_served_leaves_nothing_behind(
    client: Client, supervisor: FakeSupervisor
) -> None:
    supervisor.generations.unable = StartFailed("no worker starts")
    response = await client.patch("/api/v1/nodes/node1", json={"weight": 5, "max_connections": 8})
    assert response.status == 422
    assert (await problem(response))["problems"] == ["no worker starts"]
    supervisor.generations.unable = None
    assert (await client.patch("/api/v1/nodes/node1", json={"max_connections": 9})).status == 200
    assert await weights(client, "node1") == {"web": 2}


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PATCH", "nodes/node1"),
        ("PATCH", "services/web/nodes/node1"),
        ("POST", "nodes"),
        ("DELETE", "nodes/a"),
    ],
)
async def test_neither_values_nor_nodes_change_during_a_start_or_a_stop(
    client: Client, supervisor: FakeSupervisor, method: str, target: str
) -> None:
    supervisor.welcoming = False
    name = target.replace("nodes/a", "nodes/node1")
    assert (await client.request(method, f"/api/v1/{name}", json={})).status == 503


# --- errors ---


@pytest.mark.parametrize("verb", ["", "/drain", "/disable", "/ready"])
async def test_an_unknown_node_is_answered_with_the_nearest_known_one(client: Client, verb: str) -> None:
    target = f"/api/v1/nodes/nod1{verb}"
    response = await (client.post(target) if verb else client.get(target))
    assert response.status == 404
    assert (await problem(response))["detail"] == 'nod1: unknown node, did you mean "node1"?'


async def test_nothing_else_is_there(client: Client) -> None:
    response = await client.get("/api/v2/nodes")
    assert response.status == 404
    assert (await problem(response))["detail"] == "there is nothing at /api/v2/nodes"


@pytest.mark.parametrize("target", MUTATIONS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_post_changes_anything(
    client: Client, supervisor: FakeSupervisor, method: str, target: str
) -> None:
    response = await client.request(method, target)
    assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert (await problem(response))["detail"] == f"{target} takes POST, not {method}"
    assert supervisor.cluster.states["node1"] is AdminState.READY
    assert supervisor.reloads.asked == 0


async def test_nodes_are_not_put(client: Client) -> None:
    response = await client.put("/api/v1/nodes", json={})
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD, POST")
    await problem(response)


@pytest.mark.parametrize("target", MUTATIONS)
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[" * 60_000, "the body is not JSON"),
        (b"[]", "the body must be a JSON object"),
        (b'{"timeoutt": 1}', "timeoutt: unknown key"),
    ],
)
async def test_a_wrong_body_changes_nothing(
    client: Client, supervisor: FakeSupervisor, target: str, body: bytes, detail: str
) -> None:
    response = await client.post(target, data=body)
    assert response.status == 400
    assert (await problem(response))["detail"].startswith(detail)
    assert supervisor.cluster.states["node1"] is AdminState.READY
    assert supervisor.reloads.asked == 0


@pytest.mark.parametrize(
    ("order", "problems"),
    [
        ({"timeout": "soon"}, ['timeout: must be a duration such as "5s", or "0s", not "soon"']),
        ({"timeout": True}, ['timeout: must be a duration such as "5s", or "0s", not true']),
        ({"timeout": -1}, ['timeout: must be a duration such as "5s", or "0s", not -1']),
        ({"timeout": None}, ['timeout: must be a duration such as "5s", or "0s", not None']),
        ({"sticky": 5}, ['sticky: must be "keep" or "move", not 5']),
        ({"stick": "keep"}, ['stick: unknown key, did you mean "sticky"?']),
    ],
)
async def test_a_wrong_order_is_answered_with_what_is_wrong_in_it(
    client: Client, supervisor: FakeSupervisor, order: dict[str, object], problems: list[str]
) -> None:
    response = await client.post("/api/v1/nodes/node1/drain", json=order)
    assert response.status == 400
    assert (await problem(response))["problems"] == problems
    assert supervisor.cluster.states["node1"] is AdminState.READY


async def test_a_body_beyond_the_bound_is_refused(client: Client) -> None:
    response = await client.post(MUTATIONS[0], data=b" " * (BODY_BYTES + 1))
    assert response.status == 413
    await problem(response)


async def test_a_body_that_does_not_come_is_not_waited_for(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.1)
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    async with asyncio.timeout(5):
        response = await client.post(MUTATIONS[0], data=body())
        assert (await problem(response))["status"] == 408
    response.close()


@pytest.mark.parametrize("target", MUTATIONS)
async def test_nothing_is_changed_during_a_start_or_a_stop(
    client: Client, supervisor: FakeSupervisor, target: str
) -> None:
    supervisor.welcoming = False
    response = await client.post(target)
    assert response.status == 503
    await problem(response)
    assert supervisor.cluster.states["node1"] is AdminState.READY
    assert supervisor.reloads.asked == 0
    assert (await client.get("/api/v1/nodes")).status == 200


async def test_an_error_of_ours_is_a_problem_that_gives_nothing_away(
    client: Client, supervisor: FakeSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor.reloads.next = RuntimeError("secret")
    response = await client.post("/api/v1/reload")
    assert response.status == 500
    assert "secret" not in str(await problem(response))
    assert "secret" in caplog.text


async def test_a_node_that_a_reload_drops_while_it_is_probed_is_unknown(
    client: Client, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ready(name: str, who: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(supervisor.node_states, "ready", ready)
    assert (await client.post("/api/v1/nodes/node1/ready")).status == 404


# --- who asks ---


async def test_over_the_control_socket_our_own_user_may_do_everything(client: Client) -> None:
    body = await (await client.get("/api/v1/session")).json()
    assert body == {"name": None, "role": "write", "by": "socket"}


async def test_every_answer_tells_browsers_to_keep_it_to_us(client: Client) -> None:
    for target in ("/healthz", "/api/v1/nodes", "/api/v1/nodes/nod1", "/nothing"):
        headers = (await client.get(target)).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Server"] == "trackproxy"
        assert "Access-Control-Allow-Origin" not in headers


async def test_head_is_answered_as_get_without_a_body(client: Client) -> None:
    for target in ("/healthz", "/api/v1/nodes", "/api/v1/nodes/node1", "/api/v1/openapi.json"):
        get, head = await client.get(target), await client.head(target)
        assert (head.status, head.headers["Content-Length"]) == (200, get.headers["Content-Length"])
        assert await head.read() == b""


# --- ready ---


async def test_we_are_not_ready_while_a_service_that_needs_a_node_has_none(
    client: Client, supervisor: FakeSupervisor
) -> None:
    tree = {**TREE, "services": {**TREE["services"]}}
    tree["services"]["web"] = {**tree["services"]["web"], "ready_needs_node": True}
    supervisor.generations.running = [
        Generation(1, load(None, tree), supervisor.cluster.views[-1], Listeners(), 1)
    ]
    body = await problem(await client.get("/readyz"))  # nobody listens there
    assert (body["status"], body["problems"]) == (503, ["web"])
    for row in supervisor.cluster.rows("node1"):
        row.watched.verdict.up = True
    supervisor.cluster.publish()
    assert (await client.get("/readyz")).status == 200
    await supervisor.node_states.disable("node1")
    assert (await client.get("/readyz")).status == 503
    assert (await client.get("/healthz")).status == 200


# --- versions ---

NODE1 = "/api/v1/nodes/node1"
CHANGES: list[tuple[str, str, Any]] = [
    ("POST", f"{NODE1}/drain", {"timeout": "1h"}),
    ("POST", f"{NODE1}/disable", None),
    ("POST", f"{NODE1}/ready", None),
    ("PATCH", NODE1, {"weight": 9}),
    ("PATCH", "/api/v1/services/web/nodes/node1", {"weight": 9}),
]


async def version(client: Client, target: str = NODE1) -> str:
    response = await client.get(target)
    etag = response.headers["ETag"]
    assert etag == f'"{(await response.json())["version"]}"'
    return etag


@pytest.mark.parametrize(("method", "target", "order"), CHANGES)
async def test_a_change_is_made_if_the_node_still_has_a_version_that_is_named(
    client: Client, supervisor: FakeSupervisor, method: str, target: str, order: Any
) -> None:
    supervisor.count(0, Counter.ACTIVE, 1)
    headers = {"If-Match": f'"0123456789abcdef", {await version(client)}'}
    response = await client.request(method, target, json=order or {}, headers=headers)
    assert response.status == 200
    assert response.headers["ETag"] == await version(client)


@pytest.mark.parametrize(("method", "target", "order"), [*CHANGES, ("DELETE", "/api/v1/nodes/added", None)])
async def test_a_change_is_not_made_if_somebody_else_has_changed_the_node_since(
    client: Client, supervisor: FakeSupervisor, method: str, target: str, order: Any
) -> None:
    await client.post("/api/v1/nodes", json={"name": "added", "address": "127.0.0.3"})
    node = "/api/v1/nodes/added" if "added" in target else NODE1
    seen = await version(client, node)
    await client.patch(node, json={"weight": 7, "max_connections": 3})
    before = await (await client.get(node)).json()
    response = await client.request(method, target, json=order or {}, headers={"If-Match": seen})
    assert response.status == 412
    now = await version(client, node)
    assert response.headers["ETag"] == now
    assert now in (await problem(response))["detail"]
    assert await (await client.get(node)).json() == before


async def test_any_version_will_do_for_a_star_and_a_weak_one_for_nothing(client: Client) -> None:
    weak = f"W/{await version(client)}"
    assert (await client.patch(NODE1, json={"weight": 3}, headers={"If-Match": weak})).status == 412
    assert (await client.patch(NODE1, json={"weight": 3}, headers={"If-Match": "*"})).status == 200


async def test_an_if_match_that_is_none_is_a_problem_and_changes_nothing(client: Client) -> None:
    seen = await version(client)
    response = await client.patch(NODE1, json={"weight": 3}, headers={"If-Match": seen.strip('"')})
    assert response.status == 400
    assert "in quotes" in (await problem(response))["detail"]
    assert await version(client) == seen


async def test_a_node_that_is_added_comes_with_its_version(client: Client) -> None:
    response = await client.post("/api/v1/nodes", json={"name": "node3", "address": "127.0.0.3"})
    assert response.headers["ETag"] == await version(client, "/api/v1/nodes/node3")


# --- settings that are sent ---

GOOD = '[nodes]\nn = { address = "10.0.0.1" }\n[services.web]\nprotocol = "http"\nlisten = [":80"]\n'
CHECK = "/api/v1/check"
TOML = {"Content-Type": "application/toml"}


async def test_settings_that_are_right_are_counted(client: Client) -> None:
    said = {"ok": True, "services": 1, "nodes": 1, "warnings": []}
    assert await (await client.post(CHECK, data=GOOD, headers=TOML)).json() == said
    assert await (await client.post(CHECK, json={"text": GOOD})).json() == said


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (GOOD.encode() + b"wieght = 3\n", ["posted:6: services.web.wieght: unknown key, "]),
        (b"[nodes", ["posted:1: Expected"]),
        (b"\xff", ["posted:1: is not UTF-8 text"]),
        (b"", ["nodes: is required", "services: is required"]),
        (b"a = " + b"[" * 100_000, ["posted: is too deep"]),
        (
            GOOD.encode()
            + b'[services.web.tls]\nlisten = [":443"]\ncertificates = [{certificate = "/none"}]\n',
            ["services.web.tls"],
        ),
    ],
    ids=["an unknown key", "no TOML", "no text", "nothing", "depth", "certificates"],
)
async def test_settings_that_are_wrong_are_answered_with_every_problem_and_its_line(
    client: Client, content: bytes, problems: list[str]
) -> None:
    response = await client.post(CHECK, data=content, headers=TOML)
    assert response.status == 422
    found = (await problem(response))["problems"]
    assert len(found) == len(problems)
    for said, expected in zip(found, problems, strict=True):
        assert expected in said


async def test_settings_may_be_large_but_not_without_end(client: Client) -> None:
    large = GOOD + "#" * (check.SIZE_BYTES - len(GOOD))
    for content, status in ((large, 200), (large + "#", 413)):
        assert (await client.post(CHECK, data=BytesIO(content.encode()), headers=TOML)).status == status


async def test_no_more_problems_are_told_than_anybody_reads(client: Client) -> None:
    content = "".join(f"x{number} = 1\n" for number in range(1000))
    found = (await problem(await client.post(CHECK, data=content, headers=TOML)))["problems"]
    assert len(found) == MOST_LINES + 1
    assert found[-1].startswith("and ")


async def test_what_takes_for_ever_to_check_is_given_up_and_the_next_one_is_checked(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "x = [\n" + "1,\n" * 200_000 + "]\n"  # to find its lines takes hours
    monkeypatch.setattr(check, "CHECK_S", 2.0)
    response = await client.post(CHECK, data=BytesIO(long.encode()), headers=TOML)
    assert response.status == 503
    assert "not checked within 2 s" in (await problem(response))["detail"]
    monkeypatch.setattr(check, "CHECK_S", 20.0)
    assert (await client.post(CHECK, data=GOOD, headers=TOML)).status == 200


# --- metrics ---


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
    ],
)
async def test_metrics_come_in_the_format_that_is_asked_for(client: Client, accept: str, kind: str) -> None:
    response = await client.get("/metrics", headers={"Accept": accept})
    assert (response.status, response.headers["Content-Type"]) == (200, kind)
    text = await response.text()
    assert text.endswith("# EOF\n") is kind.startswith("application")
    assert 'trackproxy_node_state{node="node1",state="ready"} 1.0' in text


async def test_metrics_tell_what_is_counted_and_known_of_endpoints(
    client: Client, supervisor: FakeSupervisor
) -> None:
    supervisor.count(0, Counter.TOTAL, 7)
    await supervisor.node_states.drain("node2", 600)
    text = await (await client.get("/metrics")).text()
    where = 'node="node1",route="",service="web"'
    assert f"trackproxy_endpoint_tries_total{{{where}}} 7.0\n" in text
    assert f"trackproxy_endpoint_eligible{{{where}}} 0.0\n" in text  # nobody listens there
    assert (
        'trackproxy_endpoint_info{address="127.0.0.2:81",node="node2",route="",service="sites"} 1.0' in text
    )
    assert 'trackproxy_node_state{node="node2",state="drain"} 1.0' in text
    assert re.search(r'trackproxy_node_drain_remaining_seconds{node="node2"} (599\.\d+|600\.0)\n', text)
    assert "\ntrackproxy_config_last_reload_timestamp_seconds" not in text


# --- packed answers ---


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1, GZIP; q=0.5", True),
        ("gzip;q=0", False),
        ("br, *", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("target", ["/api/v1/nodes", "/api/v1/services"])
async def test_long_lists_are_packed_for_who_takes_that(
    client: Client, monkeypatch: pytest.MonkeyPatch, target: str, accepted: str, packed: bool
) -> None:
    monkeypatch.setattr(listing, "PACKED_BYTES", 1)
    response = await client.get(target, headers={"Accept-Encoding": accepted})
    assert response.headers.get("Content-Encoding") == ("gzip" if packed else None)
    assert response.headers["Vary"] == "Accept-Encoding"
    assert [*await response.json()] == [target.rpartition("/")[2]]


async def test_short_lists_are_sent_as_they_are(client: Client) -> None:
    response = await client.get("/api/v1/nodes", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in response.headers
