"""Routes: which requests fall under one, and what each may have of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Stage, until
from tests.integration.messages import answer, request
from tests.integration.nodes import Exchange, Script, breaking_off, silent
from tests.integration.sticky_stage import ANYBODY, Cluster, cluster, gated, naming, shared_board
from tests.integration.wire import settle
from tests.unit.test_certificates import put
from trackproxy.board import Counter, State
from trackproxy.http.group import Group
from trackproxy.pool.endpoints import Health
from trackproxy.pool.nodes import AdminState

Routes = list[dict[str, Any]]


async def plain(stage: Stage, nodes: int | list[Script | None], routes: Routes, **service: Any) -> Cluster:
    """A cluster without stickiness."""
    return await cluster(stage, nodes, sticky=False, routes=routes, **service)


async def names_of(where: Cluster, target: str, times: int = 1, **how: Any) -> list[str]:
    """Who answers new clients that ask for this."""
    names = []
    for _ in range(times):
        browser = await where.browser()
        await browser.get(target, **how)
        names.append(browser.node)
    return names


# --- which route ---


@pytest.mark.parametrize(
    ("target", "how", "node"),
    [
        ("/", {"host": "a.x.org"}, "n1"),
        ("/", {"host": "A.B.X.ORG:8080"}, "n1"),
        ("/t/1", {"host": "a.x.org"}, "n1"),
        ("/", {"host": "x.org"}, "n5"),
        ("/t/1", {}, "n2"),
        ("/t/1.gif", {"method": "POST"}, "n2"),
        ("/t%2F1", {}, "n2"),
        ("//t//1", {}, "n2"),
        ("/T/1", {}, "n5"),
        ("/t", {}, "n5"),
        ("/a?/t/", {}, "n5"),
        ("/a.gif", {}, "n3"),
        ("/a.gif?x", {}, "n3"),
        ("/a?x.gif", {}, "n5"),
        ("/", {"method": "POST"}, "n4"),
        ("/a.gif", {"method": "POST"}, "n3"),
        ("http://a.x.org/t/", {"host": "b"}, "n1"),
        ("http://b/t/", {"host": "a.x.org"}, "n2"),
        ("*", {"method": "OPTIONS"}, "n5"),
    ],
)
async def test_the_first_route_that_matches_takes_a_request(
    stage: Stage, target: str, how: dict[str, Any], node: str
) -> None:
    routes: Routes = [
        {"name": "host", "host": "*.x.org", "nodes": ["n1"]},
        {"name": "path", "path": "/t/", "nodes": ["n2"]},
        {"name": "regex", "regex": r"\.gif\Z", "nodes": ["n3"]},
        {"name": "method", "method": "POST", "nodes": ["n4"]},
        {"name": "rest", "nodes": ["n5"]},
    ]
    where = await plain(stage, 5, routes)
    assert await names_of(where, target, **how) == [node]


async def test_each_request_of_a_connection_falls_under_its_own_route(stage: Stage) -> None:
    where = await plain(
        stage, 3, [{"name": "a", "path": "/a", "nodes": ["n2"]}, {"name": "b", "path": "/b", "nodes": ["n3"]}]
    )
    client = await stage.connect(where.address)
    targets = ["/a", "/b", "/b", "/a"]
    await client.send(b"".join(map(request, targets)))
    assert [(await client.answer()).body for _ in targets] == [b"n2", b"n3", b"n3", b"n2"]


async def test_a_preset_sorts_the_hits_of_a_list_manager(stage: Stage) -> None:
    own: Routes = [{"name": "open", "nodes": ["n1"]}, {"name": "click", "nodes": ["n2"]}]
    own += [{"name": "unsubscribe", "nodes": ["n3"]}, {"name": "web", "nodes": ["n4"]}]
    where = await plain(stage, 4, own, preset="list-manager")
    found = {
        target: (await names_of(where, target))[0]
        for target in (
            "/db/1/2/1.gif",
            "/t/1/2/3/4/",
            "/u/1",
            "/u1",
            "/unsubscribe",
            "/u",
            "/users",
            "/",
            "/dbx/",
        )
    }
    assert found == {
        "/db/1/2/1.gif": "n1",
        "/t/1/2/3/4/": "n2",
        "/u/1": "n3",
        "/u1": "n3",
        "/unsubscribe": "n3",
        "/u": "n3",
        "/users": "n4",
        "/": "n4",
        "/dbx/": "n4",
    }


# --- nodes of its own ---


async def test_a_route_has_its_own_nodes_only(stage: Stage) -> None:
    where = await plain(stage, 3, [{"name": "own", "path": "/own", "nodes": ["n2", "n3"]}])
    assert set(await names_of(where, "/own", 6)) == {"n2", "n3"}
    assert set(await names_of(where, "/", 6)) == {"n1", "n2", "n3"}
    for node in ("n2", "n3"):
        where.set_state(node, AdminState.DISABLED)
    browser = await where.browser()
    assert (await browser.get("/own")).status == 503
    assert await names_of(where, "/") == ["n1"]


async def test_a_failure_is_not_tried_again_at_nodes_that_the_route_has_not(stage: Stage) -> None:
    routes: Routes = [{"name": "own", "path": "/own", "nodes": ["n1"]}]
    where = await plain(stage, [breaking_off(), None], routes, outliers=ANYBODY)
    assert (await (await where.browser()).get("/own")).status == 502
    assert where.nodes[1].received == b""


async def test_a_route_may_pick_nodes_by_another_policy(stage: Stage) -> None:
    routes: Routes = [{"name": "hashed", "path": "/own", "balance": "source_hash"}]
    where = await plain(stage, 4, routes, balance="round_robin")
    assert len(set(await names_of(where, "/own", 6))) == 1
    assert len(set(await names_of(where, "/", 4))) == 4


@pytest.mark.parametrize("first", [True, False])
async def test_a_route_with_a_probe_of_its_own_has_its_own_health(stage: Stage, first: bool) -> None:
    """The rows of the board are those of the shared group, then those of each route, in their order."""
    board = shared_board(6)
    own: dict[str, Any] = {"name": "own", "path": "/own", "probe": {"path": "/own"}}
    shared = {"name": "any", "path": "/any", "retry": {"tries": 1}}
    alone = {"name": "alone", "path": "/alone", "balance": "least_connections"}
    routes: Routes = [own, shared, alone] if first else [shared, own, alone]
    board.state(2)[State.HEALTH] = 1  # n1 for "own"
    board.state(5)[State.HEALTH] = 1  # n2 for "alone"
    board.publish()
    where = await plain(stage, 2, routes, board=board, panic_threshold=0)
    assert await names_of(where, "/own", 3) == ["n2"] * 3
    assert await names_of(where, "/alone", 3) == ["n1"] * 3
    assert set(await names_of(where, "/any", 4)) == {"n1", "n2"}
    board.state(2)[State.HEALTH], board.state(0)[State.HEALTH] = 0, 1
    board.publish()
    (_, own_group, _) = where.service.groups
    await until(lambda: own_group.endpoints[0].health is Health.UP)
    assert set(await names_of(where, "/own", 4)) == {"n1", "n2"}
    assert await names_of(where, "/any", 3) == ["n2"] * 3
    totals = [board.totals(row)[Counter.STATUS_2XX] for row in range(6)]
    assert totals == [2, 5, 2, 5, 3, 0]


async def test_ends_and_pardons_reach_the_group_that_they_are_for(stage: Stage) -> None:
    board = shared_board(4)
    routes: Routes = [{"name": "own", "path": "/own", "probe": {"path": "/own"}}]
    where = await plain(stage, [silent, None], routes, board=board, endpoints=[{}, {"priority": 1}])
    own, other = await where.browser(), await where.browser()
    await own.send("/own")
    await where.nodes[0].requested()
    await other.send("/")
    await where.nodes[0].requested(2)
    board.state(2)[State.HEALTH], board.state(2)[State.ENDS] = 1, 1
    board.publish()
    await own.read()
    assert own.node == "n2"
    await settle()
    assert not other.wire.received


# --- rules of its own ---


async def test_a_route_has_its_own_tries_and_statuses(stage: Stage) -> None:
    routes: Routes = [
        {"name": "once", "path": "/once", "retry": {"tries": 1}},
        {"name": "503", "path": "/503", "retry": {"statuses": [503]}},
        {"name": "none", "path": "/none", "retry": {"statuses": []}},
    ]
    failing = naming("n1", status="500 Oops")
    where = await plain(stage, [failing, None], routes, endpoints=[{}, {"priority": 1}], outliers=ANYBODY)
    statuses = [(await (await where.browser()).get(path)).status for path in ("/once", "/503", "/none", "/")]
    assert statuses == [500, 500, 500, 200]


async def test_the_budget_for_second_tries_is_one_for_all_routes_that_have_none_of_their_own(
    stage: Stage,
) -> None:
    """More routes must not add up to a storm."""
    names = ["a", "b", "c", "d"]
    routes: Routes = [{"name": name, "path": f"/{name}"} for name in names]
    routes += [{"name": "own", "path": "/own", "retry": {"budget_min": 2}}]
    where = await plain(
        stage,
        [naming("n1", status="503 Busy"), None],
        routes,
        endpoints=[{}, {"priority": 1}],
        outliers=ANYBODY,
        retry={"budget": 0, "budget_min": 1},
    )
    client = await where.browser()
    statuses = [(await client.get(f"/{name}")).status for _ in range(10) for name in names]
    assert 10 <= statuses.count(200) <= 15
    statuses = [(await client.get("/own")).status for _ in range(40)]
    assert 20 <= statuses.count(200) <= 30


async def test_a_route_has_its_own_wait_for_a_head(stage: Stage) -> None:
    routes: Routes = [
        {"name": "quick", "path": "/q", "timeouts": {"response_head": "60ms"}, "retry": {"tries": 1}}
    ]
    where = await plain(stage, [silent], routes, timeouts={"linger": "60ms"}, outliers=ANYBODY)
    quick, patient = await where.browser(), await where.browser()
    await patient.send("/")
    assert (await quick.get("/q")).status == 504
    assert not patient.wire.received


async def test_a_route_has_its_own_wait_inside_an_answer(stage: Stage) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.read_and_send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")

    routes: Routes = [{"name": "quick", "path": "/q", "timeouts": {"response": "60ms"}}]
    where = await plain(stage, [half], routes, timeouts={"linger": "60ms"})
    quick, patient = await stage.connect(where.address), await stage.connect(where.address)
    await patient.send(request("/"))
    await patient.saw(b"ab")
    await quick.send(request("/q"))
    await quick.rest()
    assert quick.ended == "reset"
    assert not patient.ended


# --- clients ---

CLOSED: Routes = [{"name": "admin", "path": "/admin/", "clients": ["10.0.0.0/8", "2001:db8::/32"]}]
SPELLINGS = [
    "/admin/",
    "/admin/x?y",
    "//admin/",
    "/./admin/",
    "/%61dmin/",
    "/%2Fadmin/",
    "/admin%2F",
    "/admin%2fx",
    "/admin;a=b/",
    "/;a/admin/",
    "/admin%3Bx/",
    "/x/../admin/",
    "/../admin/",
    "/%2e%2e/admin/",
    "/%2e/admin/",
    "/x/..%2Fadmin/",
    "/x/%2e%2e%5cadmin/",
    "/x/..;a/admin/",
    "/x\\..\\admin/",
    "/admin/../",
    "/admin/..%2f",
    "/admin/..;/",
    "http://a/admin/",
    "HTTP://a/%61dmin//",
    "http://b//admin/",
]


@pytest.mark.parametrize("target", SPELLINGS)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_spelling_carries_a_client_past_a_route_that_is_not_for_it(
    stage: Stage, target: str, method: str
) -> None:
    where = await plain(stage, 1, CLOSED)
    client = await where.browser()
    reply = await client.get(target, method=method, body=b"hello" if method == "POST" else b"")
    assert reply.status in (403, 400)
    assert where.nodes[0].received == b""
    assert (await client.get("/free")).status == 200  # the connection goes on


@pytest.mark.parametrize(
    ("trusted", "said", "status"),
    [
        (["127.0.0.1"], "10.1.2.3", 200),
        (["127.0.0.1"], "2001:db8::1", 200),
        (["127.0.0.1"], "::ffff:10.1.2.3", 200),
        (["127.0.0.1"], "192.0.2.1", 403),
        (["127.0.0.1"], "10.1.2.3, 192.0.2.1", 403),
        (["127.0.0.1"], "192.0.2.1, 10.1.2.3", 200),
        ([], "10.1.2.3", 403),
    ],
)
async def test_who_may_come_is_judged_by_the_client_behind_trusted_proxies(
    stage: Stage, trusted: list[str], said: str, status: int
) -> None:
    where = await plain(stage, 1, CLOSED, trusted_proxies=trusted)
    client = await where.browser()
    assert (await client.get("/admin/", f"X-Forwarded-For: {said}")).status == status
    assert (await client.get("/admin/")).status == 403  # each request speaks for itself
    assert (await client.get("/", f"X-Forwarded-For: {said}")).status == 200


async def test_those_a_route_is_for_are_served(stage: Stage) -> None:
    routes: Routes = [{"name": "admin", "path": "/admin/", "clients": ["127.0.0.0/8"]}]
    where = await plain(stage, 1, routes)
    assert await names_of(where, "/admin/x") == ["n1"]
    assert where.nodes[0].targets == [b"/admin/x"]


# --- https ---


def secured(folder: Path, listener: int = 443, **tls: Any) -> dict[str, Any]:
    put(folder / "a.pem", "a.org")
    return {"listen": [f"127.0.0.1:{listener}"], "folder": str(folder), **tls}


@pytest.mark.parametrize(
    ("raw", "port", "status", "location"),
    [
        (request("/x?y=1;z", host="a.org"), 443, 301, b"https://a.org/x?y=1;z"),
        (request("/x", host="a.org:8080"), 443, 301, b"https://a.org/x"),
        (request("/x", host="a.org:8080"), 8443, 301, b"https://a.org:8443/x"),
        (request("/", host="[2001:db8::1]"), 443, 301, b"https://[2001:db8::1]/"),
        (request("/", host="[2001:db8::1]:80"), 8443, 301, b"https://[2001:db8::1]:8443/"),
        (request("http://b.org:81/x", host="a.org"), 443, 301, b"https://b.org/x"),
        (request("http://b.org", host="a.org"), 443, 301, b"https://b.org/"),
        (request("//evil.org/", host="a.org"), 443, 301, b"https://a.org//evil.org/"),
        (request("/", host="a.org:"), 443, 301, b"https://a.org/"),
        (request("/", host=""), 443, 301, b"https://127.0.0.1/"),
        (request("/", host=":80"), 443, 301, b"https://127.0.0.1/"),
        (b"GET /x HTTP/1.0\r\n\r\n", 443, 301, b"https://127.0.0.1/x"),
        (request("/x", method="HEAD", host="a.org"), 443, 301, b"https://a.org/x"),
        (request("/x", method="POST", host="a.org", body=b"hello"), 443, 308, b"https://a.org/x"),
        (request("/x", method="PUT", host="a.org"), 443, 308, b"https://a.org/x"),
        (request("*", method="OPTIONS", host="a.org"), 443, 308, b"https://a.org"),
    ],
)
async def test_who_comes_without_tls_is_sent_to_the_same_url_with_it(
    stage: Stage, tmp_path: Path, raw: bytes, port: int, status: int, location: bytes
) -> None:
    where = await plain(stage, 1, [{"name": "web", "https": True}], tls=secured(tmp_path, port))
    client = await stage.connect(where.address)
    await client.send(raw)
    reply = await client.answer(raw.split(b" ")[0])
    assert (reply.status, reply.value("Location")) == (status, location)
    assert where.nodes[0].received == b""


async def test_the_port_of_https_urls_may_be_another_one(stage: Stage, tmp_path: Path) -> None:
    tls = secured(tmp_path, 8443, port=443)
    where = await plain(stage, 1, [{"name": "web", "https": True}], tls=tls)
    reply = await (await where.browser()).get("/x", host="a.org:8080")
    assert reply.value("Location") == b"https://a.org/x"


@pytest.mark.parametrize(
    ("trusted", "said", "status"),
    [
        (["127.0.0.1"], "https", 200),
        (["127.0.0.1"], "http", 301),
        (["192.0.2.1"], "https", 301),
        ([], "https", 301),
    ],
)
async def test_only_a_trusted_proxy_may_say_that_its_client_has_tls(
    stage: Stage, tmp_path: Path, trusted: list[str], said: str, status: int
) -> None:
    routes: Routes = [{"name": "web", "path": "/web", "https": True}]
    where = await plain(stage, 1, routes, tls=secured(tmp_path), trusted_proxies=trusted)
    client = await where.browser()
    assert (await client.get("/web", f"X-Forwarded-Proto: {said}")).status == status
    assert (await client.get("/web")).status == 301
    assert (await client.get("/t/", f"X-Forwarded-Proto: {said}")).status == 200


async def test_who_comes_with_tls_is_served(stage: Stage, certificate: str) -> None:
    https = {"certificates": [{"certificate": certificate}]}
    where = await plain(stage, 1, [{"name": "web", "https": True}], https=https)
    client = await stage.connect_securely()
    await client.send(request("/web", "X-Forwarded-Proto: http"))
    assert (await client.answer()).status == 200
    reply = await (await where.browser()).get("/web")
    assert reply.value("Location") == f"https://a:{stage.secure.rpartition(':')[2]}/web".encode()


async def test_a_connection_goes_on_after_a_redirect_also_of_a_post(stage: Stage, tmp_path: Path) -> None:
    routes: Routes = [{"name": "web", "path": "/web", "https": True}]
    where = await plain(stage, 1, routes, tls=secured(tmp_path))
    client = await stage.connect(where.address)
    await client.send(request("/web", method="POST", body=b"hello") + request("/web") + request("/t/"))
    assert [(await client.answer()).status for _ in range(3)] == [308, 301, 200]


async def test_a_redirect_before_the_whole_body_ends_its_connection(stage: Stage, tmp_path: Path) -> None:
    where = await plain(stage, 1, [{"name": "web", "https": True}], tls=secured(tmp_path))
    client = await stage.connect(where.address)
    await client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
    reply = await client.answer()
    assert (reply.status, reply.value("Connection")) == (308, b"close")
    await client.send(b"llo")
    await client.rest()
    assert client.ended == "eof"


# --- what routes share ---


async def test_routes_of_one_group_use_the_same_connections(stage: Stage) -> None:
    routes: Routes = [{"name": "a", "path": "/a", "retry": {"tries": 1}}, {"name": "b", "path": "/b"}]
    where = await plain(stage, 1, routes, keepalive={"connections": 1})
    client = await where.browser()
    for target in ("/a", "/b", "/", "/a"):
        await client.get(target)
    assert len(where.nodes[0].connections) == 1


def groups_of(where: Cluster) -> list[Group]:
    return where.service.groups


async def test_the_shared_group_comes_first_as_on_the_board(stage: Stage) -> None:
    routes: Routes = [
        {"name": "a", "path": "/a", "nodes": ["n2"]},
        {"name": "b", "path": "/b", "nodes": ["n1"]},
    ]
    where = await plain(stage, 2, routes)
    assert [group.label for group in groups_of(where)] == ["web", "web/a", "web/b"]
    indices = [endpoint.index for group in groups_of(where) for endpoint in group.endpoints]
    assert indices == list(range(4))


async def test_a_full_route_keeps_nobody_else_waiting(stage: Stage) -> None:
    gate = asyncio.Semaphore(0)
    routes: Routes = [{"name": "own", "path": "/slow", "nodes": ["n1"]}]
    limits = [{"max_connections": 1}, {}]
    where = await plain(stage, [gated("n1", gate), None], routes, endpoints=limits)
    slow = [await where.browser() for _ in range(2)]
    for browser in slow:
        await browser.send("/slow")
    await where.nodes[0].requested()
    await settle()
    assert [len(group.waiting) for group in groups_of(where)] == [0, 1]
    assert set(await names_of(where, "/", 2)) == {"n1", "n2"}
    for browser in slow:
        gate.release()
        await browser.read()


async def test_a_limit_is_shared_by_the_routes_as_leases_say(stage: Stage) -> None:
    board = shared_board(2)
    board.leases(0)[0], board.leases(0)[1] = 1, -1
    gate = asyncio.Semaphore(0)
    routes: Routes = [{"name": "own", "path": "/slow", "probe": {"path": "/x"}}]
    limits = [{"max_connections": 1}]
    where = await plain(stage, [gated("n1", gate)], routes, endpoints=limits, board=board)
    waiting = await where.browser()
    await waiting.send("/slow")
    wants, claims = board.wants(0), board.claims(0)
    await until(lambda: wants[1] == 1)
    assert where.nodes[0].received == b""
    assert await names_of(where, "/") == ["n1"]
    board.leases(0)[0], board.leases(0)[1] = -1, 1
    await where.nodes[0].requested(2)
    await until(lambda: claims[1] == 1 and claims[0] <= 0)
    other = await where.browser()
    await other.send("/")
    await until(lambda: wants[0] == 1)
    gate.release()
    await waiting.read()
    board.leases(0)[0], board.leases(0)[1] = 1, -1
    await other.read()
    assert (waiting.node, other.node) == ("n1", "n1")


async def test_least_connections_sees_the_load_of_other_routes(stage: Stage) -> None:
    gate = asyncio.Semaphore(0)
    routes: Routes = [{"name": "own", "path": "/slow", "nodes": ["n1"]}]
    where = await plain(stage, [gated("n1", gate), None], routes, balance="least_connections")
    slow = [await where.browser() for _ in range(3)]
    for browser in slow:
        await browser.send("/slow")
    await where.nodes[0].requested(3)
    shared = groups_of(where)[0]
    await until(lambda: [endpoint.active for endpoint in shared.endpoints] == [3, 0])
    assert await names_of(where, "/", 3) == ["n2"] * 3
    for _ in slow:
        gate.release()
    for browser in slow:
        await browser.read()
    await until(lambda: [endpoint.active for endpoint in shared.endpoints] == [0, 0])
    assert "n1" in await names_of(where, "/", 2)


async def test_services_end_with_all_their_groups(stage: Stage) -> None:
    routes: Routes = [{"name": "own", "path": "/own", "nodes": ["n1"]}]
    where = await plain(stage, 2, routes)
    browser = await where.browser()
    for target in ("/own", "/", "/"):
        await browser.get(target)
    service = where.service
    service.drain(0.0, lambda: None)
    for group in service.groups:
        assert not any(len(group.idle(endpoint)) for endpoint in group.endpoints)


async def test_errors_count_against_a_node_in_the_group_of_their_route(stage: Stage) -> None:
    async def bad_for_own(exchange: Exchange) -> None:
        while True:
            bad = (await exchange.request()).target == b"/own"
            await exchange.send(answer(status="503 Busy") if bad else answer(body=b"n1"))

    routes: Routes = [{"name": "own", "path": "/own", "probe": {"path": "/own"}}]
    outliers = {"failures": 2, "ejection": "30s"}
    where = await plain(
        stage, [bad_for_own, None], routes, endpoints=[{}, {"priority": 1}], outliers=outliers
    )
    client = await where.browser()
    for _ in range(4):
        assert (await client.get("/own")).body == b"n2"
    shared, own = groups_of(where)
    assert [endpoint.ejected for endpoint in own.endpoints] == [True, False]
    assert [endpoint.ejected for endpoint in shared.endpoints] == [False, False]
    assert await names_of(where, "/", 2) == ["n1"] * 2
