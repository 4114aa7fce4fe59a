"""Sticky clients: who gets which cookie when, and where a client goes when its node cannot have it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from tests.integration.conftest import Stage, until
from tests.integration.messages import answer, chunked, request
from tests.integration.nodes import Exchange, Script, answering, breaking_off, silent
from tests.integration.sticky_stage import (
    ANYBODY,
    OLDER,
    SECRET,
    STICKY,
    Browser,
    Cluster,
    cluster,
    cookie_in,
    gated,
    keeping_sessions,
    named_in,
    naming,
    shared_board,
    token,
)
from tests.integration.wire import settle
from trackproxy.board import Board, Counter, State
from trackproxy.pool.endpoints import Health
from trackproxy.pool.nodes import AdminState

NEW, KEPT = Counter.STICKY_NEW, Counter.STICKY_KEPT
FULL = {"max_connections": 1}


async def served_by(where: Cluster, cookie: bytes | None, times: int = 1) -> list[str]:
    """Who answers new clients that bring this cookie."""
    names = []
    for _ in range(times):
        browser = await where.browser(cookie)
        await browser.get()
        names.append(browser.node)
    return names


# --- the cookie ---


async def test_a_client_gets_a_cookie_once_and_stays_at_its_node(stage: Stage) -> None:
    where = await cluster(stage, 3)
    browser = await where.browser()
    await browser.get()
    first, cookie = browser.node, browser.cookie
    assert browser.renewed
    assert cookie is not None
    assert named_in(cookie) == first
    for _ in range(5):
        await browser.get()
        assert (browser.node, browser.renewed) == (first, False)
    assert await served_by(where, cookie, 6) == [first] * 6
    assert where.counted(first, NEW, KEPT) == [1, 11]


async def test_new_clients_are_spread(stage: Stage) -> None:
    where = await cluster(stage, 3)
    assert sorted(await served_by(where, None, 6)) == ["n1", "n1", "n2", "n2", "n3", "n3"]


@pytest.mark.parametrize(
    ("own", "attributes"),
    [
        ({}, [b"Path=/", b"HttpOnly", b"SameSite=Lax"]),
        (
            {"path": "/web", "domain": "example.com"},
            [b"Path=/web", b"HttpOnly", b"SameSite=Lax", b"Domain=example.com"],
        ),
    ],
)
async def test_the_cookie_says_where_it_belongs(
    stage: Stage, own: dict[str, str], attributes: list[bytes]
) -> None:
    where = await cluster(stage, 1, sticky={**STICKY, "name": "AT", **own})
    reply = await (await where.browser()).get()
    (line,) = reply.values("Set-Cookie")
    value, *rest = line.split(b"; ")
    assert value.startswith(b"AT=")
    assert sorted(rest) == sorted(attributes)
    assert b"n1" not in base64.urlsafe_b64decode(value[3:])


@pytest.mark.parametrize(
    ("trusted", "said", "secure"),
    [(True, "https", True), (True, "HTTPS", True), (True, "http", False), (False, "https", False)],
)
async def test_the_cookie_is_secure_where_the_client_speaks_tls(
    stage: Stage, trusted: bool, said: str, secure: bool
) -> None:
    where = await cluster(stage, 1, trusted_proxies=["127.0.0.1"] if trusted else ["192.0.2.1"])
    reply = await (await where.browser()).get("/", f"X-Forwarded-Proto: {said}")
    assert (b"; Secure" in (reply.value("Set-Cookie") or b"")) is secure


PROTOCOLS = {
    "head": (request("/", method="HEAD"), answer("Content-Length: 2")),
    "not modified": (request("/"), answer(status="304 Not Modified")),
    "no content": (request("/"), answer(status="204 No Content")),
    "redirect": (request("/"), answer("Location: /private/", status="302 Found")),
    "not found": (request("/"), answer(status="404 Not Found", body=b"?")),
    "post": (request("/", method="POST", body=b"hello"), answer(body=b"ok")),
    "chunked": (request("/"), answer("Transfer-Encoding: chunked", body=chunked(b"a", b"b"))),
    "until close": (request("/"), b"HTTP/1.1 200 OK\r\n\r\nok"),
    "after interim answers": (
        request("/"),
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(body=b"ok"),
    ),
    "1.0": (b"GET / HTTP/1.0\r\n\r\n", answer(body=b"ok")),
    "1.0 kept": (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", answer(body=b"ok")),
    "long": (request("/"), answer(body=b"x" * 300_000)),
}


@pytest.mark.parametrize(("raw", "text"), PROTOCOLS.values(), ids=PROTOCOLS)
async def test_every_kind_of_answer_brings_the_cookie_once(stage: Stage, raw: bytes, text: bytes) -> None:
    closing = [breaking_off(text)] if text == PROTOCOLS["until close"][1] else [answering(text)]
    where = await cluster(stage, closing)
    client = await stage.connect(where.address)
    method = raw.split(b" ")[0]
    await client.send(raw)
    reply = await client.answer(method)
    if reply.status == 103:
        assert not reply.values("Set-Cookie")
        reply = await client.answer(method)
    cookie = cookie_in(reply)
    assert cookie is not None
    assert named_in(cookie) == "n1"
    assert reply.values("Cache-Control") == [b"private"]
    again = await stage.connect(where.address)
    await again.send(raw.replace(b"\r\n\r\n", b"\r\nCookie: TPNODE=%b\r\n\r\n" % cookie, 1))
    reply = await again.answer(method)
    if reply.status == 103:
        reply = await again.answer(method)
    assert not reply.values("Set-Cookie")
    assert not reply.values("Cache-Control")


async def test_pipelined_requests_each_follow_their_own_cookie(stage: Stage) -> None:
    where = await cluster(stage, 3)
    client = await stage.connect(where.address)
    names = ["n2", "n3", "n2", "n1"]
    await client.send(b"".join(request("/", b"Cookie: TPNODE=" + token(name)) for name in names))
    replies = [await client.answer() for _ in names]
    assert [reply.body.decode() for reply in replies] == names
    assert not any(reply.values("Set-Cookie") for reply in replies)


async def test_a_switch_of_protocols_brings_the_cookie_and_not_the_nodes_own_of_its_name(
    stage: Stage,
) -> None:
    switch = answer("Connection: Upgrade", "Upgrade: x", "Set-Cookie: TPNODE=no", "Set-Cookie: A=1")
    switch = switch.replace(b"200 OK", b"101 Switching").replace(b"Content-Length: 0\r\n", b"")
    where = await cluster(stage, [answering(switch)])
    client = await stage.connect(where.address)
    await client.send(request("/", "Connection: Upgrade", "Upgrade: x"))
    reply = await client.answer()
    assert reply.status == 101
    cookie = cookie_in(reply)
    assert cookie is not None
    assert named_in(cookie) == "n1"
    assert reply.values("Set-Cookie")[0] == b"A=1"


async def test_interim_answers_do_not_pass_the_nodes_cookie_of_our_name(stage: Stage) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nSet-Cookie: TPNODE=no\r\nLink: </a>\r\n\r\n"
    where = await cluster(stage, [answering(hints + answer(body=b"n1"))])
    client = await stage.connect(where.address)
    await client.send(request())
    hints_seen, reply = await client.answer(), await client.answer()
    assert (hints_seen.status, hints_seen.fields) == (103, [(b"Link", b"</a>")])
    assert cookie_in(reply)


# --- what nodes see, and say ---


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ([b"Cookie: TPNODE=%b"], []),
        ([b'Cookie: a=1; TPNODE=%b; b="x y"'], [b'a=1; b="x y"']),
        ([b"Cookie: TPNODE=%b; a=1"], [b"a=1"]),
        ([b"cOoKiE: TPNODE=%b; a=1"], [b"a=1"]),
        ([b"COOKIE: TPNODE=%b"], []),
        ([b"Cookie: a=1;b=2;  c", b"Cookie: TPNODE=%b"], [b"a=1;b=2;  c"]),
        ([b"Cookie: XTPNODE=2; TPNODE=%b; tpnode=3"], [b"XTPNODE=2; tpnode=3"]),
        ([b'Cookie: TPNODE="%b"; a=%%\xe9'], [b"a=%\xe9"]),
    ],
)
@pytest.mark.parametrize("target", ["/", "/free/"])
async def test_nodes_never_see_our_cookie_and_others_byte_for_byte(
    stage: Stage, lines: list[bytes], left: list[bytes], target: str
) -> None:
    where = await cluster(stage, routes=[{"name": "free", "path": "/free/", "sticky": False}])
    for _ in range(4):  # also when its fields are remembered
        client = await where.browser()
        value = token("n2")
        await client.get(target, *(line % value if b"%b" in line else line for line in lines))
        if target == "/":
            assert (client.node, client.renewed) == ("n2", False)
    for node in where.nodes:
        for message in node.requests:
            assert message.values("Cookie") == left


async def test_a_route_without_stickiness_gives_no_cookie_and_drops_the_nodes_of_that_name(
    stage: Stage,
) -> None:
    scripts = [naming(f"n{n}", "Set-Cookie: TPNODE=mine", "Set-Cookie: A=1; Path=/") for n in (1, 2)]
    where = await cluster(stage, scripts, routes=[{"name": "free", "path": "/free/", "sticky": False}])
    names = []
    for _ in range(4):
        browser = await where.browser(token("n2"))
        reply = await browser.get("/free/")
        names.append(browser.node)
        assert reply.values("Set-Cookie") == [b"A=1; Path=/"]
        assert not reply.values("Cache-Control")
    assert sorted(names) == ["n1", "n1", "n2", "n2"]


@pytest.mark.parametrize("name", ["Set-Cookie", "set-cookie", "SET-COOKIE", "sEt-CoOkIe"])
async def test_a_nodes_cookie_of_our_name_is_dropped_and_its_others_stay(stage: Stage, name: str) -> None:
    fields = [f"{name}: TPNODE=mine; Path=/", f"{name}: a=1; Path=/x", f"{name}: b=TPNODE=2"]
    where = await cluster(stage, [naming("n1", *fields)])
    browser = await where.browser()
    reply = await browser.get()
    assert reply.values("Set-Cookie")[:2] == [b"a=1; Path=/x", b"b=TPNODE=2"]
    assert named_in(cookie_in(reply) or b"") == "n1"
    reply = await browser.get()
    assert reply.values("Set-Cookie") == [b"a=1; Path=/x", b"b=TPNODE=2"]


@pytest.mark.parametrize(
    ("fields", "added"),
    [
        ([], True),
        (["Cache-Control: public, max-age=60"], True),
        (["Cache-Control: no-cache"], True),
        (["X-Note: private, no-store"], True),
        (["Location: /private/"], True),
        (["Set-Cookie: private=no-store"], True),
        (["Cache-Control: max-age=9, x=private-ish"], True),
        (['Cache-Control: private="X-Name"'], True),
        (["Cache-Control: private"], False),
        (["cache-control: max-age=60,PRIVATE"], False),
        (["Cache-Control: no-store"], False),
        (["Cache-Control: public", "Cache-Control: No-Store , no-cache"], False),
    ],
)
async def test_caches_are_told_if_nobody_has_told_them(stage: Stage, fields: list[str], added: bool) -> None:
    where = await cluster(stage, [naming("n1", *fields)])
    browser = await where.browser()
    given = [field.partition(": ")[2].encode() for field in fields if field.lower().startswith("cache-")]
    reply = await browser.get()
    assert reply.values("Cache-Control") == given + [b"private"] * added
    reply = await browser.get()
    assert reply.values("Cache-Control") == given


async def test_our_own_answers_carry_no_cookie(stage: Stage) -> None:
    where = await cluster(stage, [breaking_off(), breaking_off()], outliers=ANYBODY)
    reply = await (await where.browser()).get()
    assert (reply.status, reply.values("Set-Cookie")) == (502, [])
    for node in ("n1", "n2"):
        where.set_state(node, AdminState.DISABLED)
    reply = await (await where.browser(token("n1"))).get()
    assert (reply.status, reply.values("Set-Cookie")) == (503, [])


# --- bad cookies ---

GOOD = token("n1")
FORGED = {
    "empty": b"",
    "truncated": GOOD[:-1],
    "longer": GOOD + b"A",
    "changed": GOOD[:-1] + (b"A" if GOOD[-1:] != b"A" else b"B"),
    "of a removed secret": token("n1", secret="a secret that nobody has"),
    "no base64": b"!" * 40,
    "padded": GOOD[:-1] + b"=",
    "huge": b"A" * 3000,
    "octets": b"\xff" * 40,
}


@pytest.mark.parametrize("value", FORGED.values(), ids=FORGED)
async def test_a_forged_cookie_is_a_new_client(stage: Stage, value: bytes) -> None:
    where = await cluster(stage, 2)
    browser = await where.browser(value)
    await browser.get()
    assert browser.renewed
    assert named_in(browser.cookie or b"") == browser.node
    assert where.flaws() == {"STICKY_FORGED": 1}


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        (token("n1", ago_s=1801), "STICKY_EXPIRED"),
        (token("n1", ago_s=5, started_ago_s=12 * 3600 + 1), "STICKY_EXPIRED"),
        (token("n9"), "STICKY_UNKNOWN"),
        (token("n1", ago_s=-1000), "STICKY_FORGED"),
    ],
    ids=["idle", "lifetime", "unknown node", "future"],
)
async def test_an_outdated_cookie_is_a_new_client(stage: Stage, value: bytes, flaw: str) -> None:
    where = await cluster(stage, 2)
    browser = await where.browser(value)
    await browser.get()
    assert browser.renewed
    assert named_in(browser.cookie or b"") == browser.node
    assert where.flaws() == {flaw: 1}
    assert where.moved("n1") == {}


@pytest.mark.parametrize("split", ["; ", "\r\nCookie: "])
async def test_of_two_cookies_the_good_one_counts(stage: Stage, split: str) -> None:
    where = await cluster(stage, 3)
    for good in ("n2", "n3"):
        browser = await where.browser()
        cookies = f"Cookie: TPNODE=bad{split}TPNODE={token(good).decode()}"
        reply = await browser.get("/", cookies)
        assert (browser.node, cookie_in(reply)) == (good, None)
    assert where.flaws() == {}


# --- renewal, lifetime, keys ---


@pytest.mark.parametrize(("ago_s", "renewed"), [(0, False), (170, False), (185, True), (1790, True)])
async def test_a_cookie_is_renewed_after_a_tenth_of_its_idle_time(
    stage: Stage, ago_s: int, renewed: bool
) -> None:
    where = await cluster(stage, 2)
    browser = await where.browser(token("n2", ago_s))
    await browser.get()
    assert (browser.node, browser.renewed) == ("n2", renewed)


async def test_renewals_do_not_prolong_a_lifetime(stage: Stage) -> None:
    where = await cluster(stage, 2, sticky={**STICKY, "lifetime": "1h", "idle": "100s"})
    browser = await where.browser(token("n2", ago_s=50, started_ago_s=3590))
    await browser.get()
    assert browser.renewed
    payload = base64.urlsafe_b64decode(browser.cookie or b"")
    started_s, seen_s = int.from_bytes(payload[9:13]), int.from_bytes(payload[13:17])
    assert 3588 <= seen_s - started_s <= 3600


async def test_a_move_begins_a_new_lifetime(stage: Stage) -> None:
    where = await cluster(stage, 2)
    where.set_state("n2", AdminState.DISABLED)
    browser = await where.browser(token("n2", ago_s=50, started_ago_s=3590))
    await browser.get()
    payload = base64.urlsafe_b64decode(browser.cookie or b"")
    assert payload[9:13] == payload[13:17]


async def test_a_cookie_of_an_older_secret_is_believed_and_signed_anew(stage: Stage) -> None:
    where = await cluster(stage, 3, sticky={**STICKY, "secrets": [SECRET, OLDER]})
    browser = await where.browser(token("n3", ago_s=1, started_ago_s=1000, secret=OLDER))
    await browser.get()
    assert (browser.node, browser.renewed) == ("n3", True)
    assert named_in(browser.cookie or b"") == "n3"
    await browser.get()
    assert (browser.node, browser.renewed) == ("n3", False)


# --- leaving a node ---


async def test_a_draining_node_keeps_its_clients_and_gets_no_new_ones(stage: Stage) -> None:
    where = await cluster(stage, 2)
    where.set_state("n1", AdminState.DRAIN)
    browser = await where.browser(token("n1"))
    for _ in range(3):
        await browser.get()
        assert (browser.node, browser.renewed) == ("n1", False)
    assert await served_by(where, None, 3) == ["n2"] * 3
    assert where.moved("n1") == {}


async def test_a_draining_node_renews_the_cookies_of_its_clients(stage: Stage) -> None:
    where = await cluster(stage, 2)
    where.set_state("n1", AdminState.DRAIN)
    browser = await where.browser(token("n1", ago_s=1000))
    await browser.get()
    assert (browser.node, browser.renewed) == ("n1", True)
    assert named_in(browser.cookie or b"") == "n1"


async def test_clients_of_nodes_that_all_drain_stay_while_new_ones_are_refused(stage: Stage) -> None:
    where = await cluster(stage, 2)
    for node in ("n1", "n2"):
        where.set_state(node, AdminState.DRAIN)
    assert await served_by(where, token("n1")) == ["n1"]
    assert (await (await where.browser()).get()).status == 503


def down(where: Cluster, node: str) -> None:
    where.group.balancer.set_health(where.endpoint(node), Health.DOWN)
    where.group.follow()


def ejected(where: Cluster, node: str) -> None:
    """On the board, as another worker's ejections come: this one's own would be followed at the next beat."""
    where.endpoint(node).cells[Counter.EJECTED_UNTIL] = 1 << 60
    where.group.ejections.follow(where.endpoint(node), ejected=True)


LEAVINGS: dict[str, Any] = {
    "MOVED_DRAIN": lambda where, node: where.set_state(node, AdminState.DRAIN, keeps=False),
    "MOVED_DISABLED": lambda where, node: where.set_state(node, AdminState.DISABLED),
    "MOVED_DOWN": down,
    "MOVED_DOWN (ejected)": ejected,
    "MOVED_DISABLED (weight)": lambda where, node: where.group.balancer.set_weight(where.endpoint(node), 0),
}


@pytest.mark.parametrize("cause", LEAVINGS)
async def test_a_client_whose_node_may_not_have_it_moves_at_once_and_stays_there(
    stage: Stage, cause: str
) -> None:
    where = await cluster(stage, 3, panic_threshold=0)
    browser = await where.browser(token("n1"))
    await browser.get()
    assert browser.node == "n1"
    LEAVINGS[cause](where, "n1")
    reply = await browser.get()
    moved_to = browser.node
    assert (reply.status, browser.renewed) == (200, True)
    assert moved_to in {"n2", "n3"}
    for _ in range(3):
        await browser.get()
        assert (browser.node, browser.renewed) == (moved_to, False)
    assert where.moved("n1") == {cause.split(" ")[0]: 1}
    assert where.counted(moved_to, NEW, KEPT) == [1, 3]


@pytest.mark.parametrize("cause", LEAVINGS)
async def test_who_was_not_served_elsewhere_has_not_moved(stage: Stage, cause: str) -> None:
    where = await cluster(stage, 2, panic_threshold=0)
    where.set_state("n2", AdminState.DISABLED)
    LEAVINGS[cause](where, "n1")
    reply = await (await where.browser(token("n1"))).get()
    if reply.status == 503:  # the only one that is in may be ejected and still serve
        assert where.moved("n1") == {}
    else:
        assert (cause, reply.status) == ("MOVED_DOWN (ejected)", 200)


async def test_in_panic_clients_stay_at_nodes_that_are_down(stage: Stage) -> None:
    where = await cluster(stage, 2, panic_threshold=50)
    for node in ("n1", "n2"):
        down(where, node)
    assert await served_by(where, token("n1"), 3) == ["n1"] * 3
    assert where.moved("n1") == {}


async def test_a_client_of_the_reserve_stays_there_when_the_first_ones_are_back(stage: Stage) -> None:
    where = await cluster(stage, 2, endpoints=[{"priority": 0}, {"priority": 9}])
    down(where, "n1")
    browser = await where.browser()
    await browser.get()
    where.group.balancer.set_health(where.endpoint("n1"), Health.UP)
    await browser.get()
    assert (browser.node, browser.renewed) == ("n2", False)
    assert await served_by(where, None) == ["n1"]


async def test_a_node_without_weight_from_the_start_gets_nobody(stage: Stage) -> None:
    where = await cluster(stage, 2, endpoints=[{"weight": 0}, {}])
    assert await served_by(where, token("n1"), 2) == ["n2"] * 2


# --- failures ---


@pytest.mark.parametrize(
    "first",
    [breaking_off(reset=True), breaking_off(b"HTTP/1.1 200"), answering(answer(status="503 Busy"))],
    ids=["reset", "half a head", "error"],
)
async def test_who_is_served_elsewhere_after_a_failure_belongs_there(stage: Stage, first: Script) -> None:
    where = await cluster(stage, [first, None], outliers=ANYBODY)
    browser = await where.browser(token("n1"))
    await browser.get()
    assert (browser.node, browser.renewed) == ("n2", True)
    assert named_in(browser.cookie or b"") == "n2"
    await browser.get()
    assert (browser.node, browser.renewed) == ("n2", False)
    assert where.moved("n1") == {"MOVED_FAILED": 1}
    assert len(where.nodes[0].requests) == 1


async def test_who_is_not_taken_by_its_node_is_served_elsewhere_whatever_it_asks(stage: Stage) -> None:
    node = await stage.start_node(naming("n2"))
    address = await stage.start_proxy([stage.refusing(), node], sticky=STICKY, outliers=ANYBODY)
    where = Cluster(stage, [node, node], address)
    browser = await where.browser(token("n1"))
    await browser.get(method="POST", body=b"hello")
    assert (browser.node, browser.renewed) == ("n2", True)
    assert where.moved("n1") == {"MOVED_FAILED": 1}


async def test_a_failure_of_another_node_is_not_held_against_the_one_that_was_left(stage: Stage) -> None:
    where = await cluster(
        stage, [None, breaking_off(reset=True), None], outliers=ANYBODY, balance="round_robin"
    )
    where.set_state("n1", AdminState.DISABLED)
    browser = await where.browser(token("n1"))
    await browser.get()
    assert browser.node in {"n3"}
    assert where.moved("n1") == {"MOVED_DISABLED": 1}


@pytest.mark.parametrize(
    "sticky", [STICKY, {"mode": "source_hash"}, {"mode": "app_cookie", "name": "TPNODE"}]
)
async def test_a_stale_connection_is_no_reason_to_leave_a_node(stage: Stage, sticky: dict[str, Any]) -> None:
    """Nodes close connections after a number of requests or a while, just when the next one may come."""

    def closing(name: str) -> Script:
        async def script(exchange: Exchange) -> None:
            await exchange.read_and_send(answer(body=name.encode()))
            if exchange.number == 1:
                await exchange.request()
                exchange.wire.close()
            while True:
                await exchange.read_and_send(answer(body=name.encode()))

        return script

    where = await cluster(stage, [closing(f"n{number}") for number in (1, 2, 3)], sticky=sticky)
    browser = await where.browser(token("n1"))
    await browser.get()
    first = browser.node
    for _ in range(3):
        await browser.get()
        assert (browser.node, browser.renewed) == (first, False)
    assert sorted(len(node.connections) for node in where.nodes) == [0, 0, 2]
    assert where.moved(first) == {}


@pytest.mark.parametrize("tries", [2, 3])
async def test_a_stale_connection_to_a_node_that_then_fails_moves_its_client(
    stage: Stage, tries: int
) -> None:
    async def once(exchange: Exchange) -> None:
        if exchange.number == 1:
            await exchange.read_and_send(answer(body=b"n1"))
        await exchange.request()
        exchange.wire.close()

    where = await cluster(stage, [once, None], outliers=ANYBODY, retry={"tries": tries})
    browser = await where.browser(token("n1"))
    await browser.get()
    await browser.get()
    assert (browser.node, browser.renewed) == ("n2", True)
    assert len(where.nodes[0].connections) == 2
    assert where.moved("n1") == {"MOVED_FAILED": 1}


@pytest.mark.parametrize("status", ["500 Oops", "503 Busy"])
async def test_what_no_node_can_answer_moves_nobody(stage: Stage, status: str) -> None:
    """A page that is broken everywhere must not cost its readers their sessions."""

    def with_a_bad_page(name: str) -> Script:
        async def script(exchange: Exchange) -> None:
            while True:
                bad = (await exchange.request()).target == b"/bad"
                await exchange.send(
                    answer(status=status, body=name.encode()) if bad else answer(body=name.encode())
                )

        return script

    where = await cluster(stage, [with_a_bad_page("n1"), with_a_bad_page("n2")], retry={"budget": 100})
    browser = await where.browser(token("n1"))
    for _ in range(4):
        assert (await browser.get("/bad")).status == int(status[:3])
        assert not browser.renewed
        await browser.get()
        assert (browser.node, browser.renewed) == ("n1", False)
    assert where.moved("n1") == {}


async def test_a_post_that_fails_leaves_its_client_where_it_is(stage: Stage) -> None:
    where = await cluster(stage, [breaking_off(reset=True), None], outliers=ANYBODY)
    browser = await where.browser(token("n1"))
    reply = await browser.get(method="POST", body=b"x")
    assert (reply.status, browser.renewed) == (502, False)
    assert where.nodes[1].received == b""
    assert where.moved("n1") == {}


async def test_a_client_of_a_silent_node_goes_on_elsewhere_when_that_is_found_out(stage: Stage) -> None:
    where = await cluster(stage, [silent, None])
    browser = await where.browser(token("n1"))
    await browser.send()
    await where.nodes[0].requested()
    down(where, "n1")
    where.group.move_from(where.endpoint("n1"))
    await browser.read()
    assert (browser.node, browser.renewed) == ("n2", True)
    assert where.moved("n1") == {"MOVED_FAILED": 1}


async def test_a_client_of_a_node_that_is_ended_goes_on_elsewhere(stage: Stage) -> None:
    where = await cluster(stage, [silent, None])
    browser = await where.browser(token("n1"))
    await browser.send()
    await where.nodes[0].requested()
    where.set_state("n1", AdminState.DISABLED)
    where.group.end(where.endpoint("n1"))
    await browser.read()
    assert (browser.node, browser.renewed) == ("n2", True)


# --- full nodes ---


async def full_cluster(
    stage: Stage, nodes: int = 2, **service: Any
) -> tuple[Cluster, asyncio.Semaphore, Any]:
    """A cluster whose n1 is full until the gate is released, and the browser that fills it."""
    gate = asyncio.Semaphore(0)
    scripts = [gated("n1", gate), *[None] * (nodes - 1)]
    endpoints = [FULL, *[{}] * (nodes - 1)]
    where = await cluster(stage, scripts, endpoints=endpoints, **service)
    filler = await where.browser(token("n1"))
    await filler.send("/slow")
    await where.nodes[0].requested()
    return where, gate, filler


async def test_a_client_waits_for_its_own_node_while_new_ones_are_served(stage: Stage) -> None:
    where, gate, filler = await full_cluster(stage)
    waiting = await where.browser(token("n1"))
    await waiting.send()
    await settle()
    assert len(where.group.waiting) == 1
    assert await served_by(where, None, 2) == ["n2"] * 2
    assert await served_by(where, token("n2")) == ["n2"]
    gate.release()
    await filler.read()
    await waiting.read()
    assert (waiting.node, waiting.renewed) == ("n1", False)
    assert not where.group.waiting
    assert where.moved("n1") == {}
    assert where.counted("n1", NEW, KEPT) == [0, 2]


async def test_who_waits_for_its_node_too_long_is_served_elsewhere(stage: Stage) -> None:
    where, gate, filler = await full_cluster(stage, queue={"timeout": "100ms"})
    waiting = await where.browser(token("n1"))
    await waiting.get()
    assert (waiting.node, waiting.renewed) == ("n2", True)
    assert where.moved("n1") == {"MOVED_FULL": 1}
    gate.release()
    await filler.read()
    assert filler.node == "n1"


@pytest.mark.parametrize("size", [0, 1])
async def test_who_finds_no_place_to_wait_for_its_node_is_served_elsewhere(stage: Stage, size: int) -> None:
    where, gate, filler = await full_cluster(stage, queue={"size": size})
    waiting = [await where.browser(token("n1")) for _ in range(size)]
    for browser in waiting:
        await browser.send()
        await settle()
    browser = await where.browser(token("n1"))
    await browser.get()
    assert (browser.node, browser.renewed) == ("n2", True)
    assert where.moved("n1") == {"MOVED_FULL": 1}
    gate.release()
    for browser in (filler, *waiting):
        await browser.read()
        assert browser.node == "n1"


async def test_with_every_node_full_and_no_place_to_wait_a_client_is_told(stage: Stage) -> None:
    where, _, _ = await full_cluster(stage, 1, queue={"size": 0})
    reply = await (await where.browser(token("n1"))).get()
    assert (reply.status, reply.values("Set-Cookie")) == (503, [])
    assert where.moved("n1") == {}


async def test_with_every_node_full_for_too_long_a_client_is_told(stage: Stage) -> None:
    where, _, _ = await full_cluster(stage, 1, queue={"timeout": "100ms"})
    reply = await (await where.browser(token("n1"))).get()
    assert (reply.status, reply.values("Set-Cookie")) == (503, [])
    assert where.moved("n1") == {}


async def test_a_client_waits_for_its_full_node_also_when_that_drains(stage: Stage) -> None:
    where, gate, filler = await full_cluster(stage)
    where.set_state("n1", AdminState.DRAIN)
    waiting = await where.browser(token("n1"))
    await waiting.send()
    await settle()
    gate.release()
    await filler.read()
    reply = await waiting.read()
    assert (reply.status, waiting.node, waiting.renewed) == (200, "n1", False)


@pytest.mark.parametrize("cause", LEAVINGS)
async def test_who_waits_for_a_node_that_is_taken_out_is_served_elsewhere_at_once(
    stage: Stage, cause: str
) -> None:
    where, _, _ = await full_cluster(stage, panic_threshold=0)
    waiting = await where.browser(token("n1"))
    await waiting.send()
    await settle()
    LEAVINGS[cause](where, "n1")
    where.group.follow()
    await waiting.read()
    assert (waiting.node, waiting.renewed) == ("n2", True)
    assert where.moved("n1") == {cause.split(" ")[0]: 1}


async def test_a_client_that_leaves_while_it_waits_for_its_node_leaves_nothing(stage: Stage) -> None:
    where, gate, filler = await full_cluster(stage)
    leaving = await where.browser(token("n1"))
    await leaving.send()
    await settle()
    leaving.wire.reset()
    await settle()
    assert not where.group.waiting
    assert where.group.queue._wanting == 0
    gate.release()
    await filler.read()
    assert await served_by(where, token("n1")) == ["n1"]


async def test_who_has_waited_for_its_node_and_fails_there_is_served_elsewhere(stage: Stage) -> None:
    gate = asyncio.Semaphore(0)

    async def then_dead(exchange: Exchange) -> None:
        if exchange.number == 1:
            await exchange.request()
            await gate.acquire()
            await exchange.send(answer("Connection: close", body=b"n1"))
        await exchange.request()
        exchange.wire.reset()

    where = await cluster(stage, [then_dead, None], endpoints=[FULL, FULL], outliers=ANYBODY)
    filler, waiting = await where.browser(token("n1")), await where.browser(token("n1"))
    await filler.send()
    await where.nodes[0].requested()
    await waiting.send()
    await settle()
    gate.release()
    await filler.read()
    await waiting.read()
    assert (waiting.node, waiting.renewed) == ("n2", True)
    assert where.moved("n1") == {"MOVED_FAILED": 1}
    assert where.group.queue._wanting == 0


async def test_who_waits_in_vain_and_must_wait_again_does_not_wait_for_the_node_it_has_tried(
    stage: Stage,
) -> None:
    gate = asyncio.Semaphore(0)
    dying = asyncio.Semaphore(0)

    async def first(exchange: Exchange) -> None:
        await exchange.request()
        if exchange.number == 1:
            await gate.acquire()
            await exchange.send(answer("Connection: close", body=b"n1"))
        elif exchange.number == 2:
            await dying.acquire()
            exchange.wire.reset()
        else:
            await exchange.send(answer(body=b"n1 once more"))

    where = await cluster(stage, [first, gated("n2", gate)], endpoints=[FULL, FULL], outliers=ANYBODY)
    filler, other, waiting = [await where.browser(token(name)) for name in ("n1", "n2", "n1")]
    await filler.send()
    await where.nodes[0].requested()
    await other.send("/slow")
    await where.nodes[1].requested()
    await waiting.send()
    await settle()
    gate.release()
    await filler.read()  # now the second one is at n1,
    await where.nodes[0].requested(2)
    dying.release()  # which fails, and n2 is full
    await settle()
    gate.release()
    await other.read()
    await waiting.read()
    assert (waiting.node, waiting.renewed) == ("n2", True)


@pytest.mark.parametrize("queue", [{"timeout": "100ms"}, {"size": 0}], ids=["too long", "no place"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "in two parts"])
async def test_a_body_that_waited_in_vain_for_its_node_reaches_another_one_whole(
    stage: Stage, queue: dict[str, Any], late: bool
) -> None:
    where, _, _ = await full_cluster(stage, queue=queue)
    browser = await where.browser()
    body = bytes(range(256)) * 1024
    raw = request("/", b"Cookie: TPNODE=" + token("n1"), method="POST", body=body)
    parts = [raw[:1000], raw[1000:]] if late else [raw]
    for part in parts:
        await browser.wire.send(part)
        await settle()
    await browser.read("POST")
    assert (browser.node, browser.renewed) == ("n2", True)
    assert [message.body for message in where.nodes[1].requests] == [body]
    assert where.moved("n1") == {"MOVED_FULL": 1}


async def test_who_has_sent_its_last_byte_may_wait_for_its_node(stage: Stage) -> None:
    where, gate, filler = await full_cluster(stage)
    waiting = await where.browser(token("n1"))
    await waiting.send()
    waiting.wire.half_close()
    await settle()
    gate.release()
    await filler.read()
    await waiting.read()
    assert (waiting.node, waiting.renewed) == ("n1", False)
    await waiting.wire.rest()
    assert waiting.wire.ended == "eof"


async def test_those_behind_who_wait_for_one_node_get_the_room_of_another(stage: Stage) -> None:
    gates = [asyncio.Semaphore(0), asyncio.Semaphore(0)]
    scripts = [gated("n1", gates[0]), gated("n2", gates[1])]
    where = await cluster(stage, scripts, endpoints=[FULL, FULL])
    fillers = [await where.browser(token(name)) for name in ("n1", "n2")]
    for node, browser in zip(where.nodes, fillers, strict=True):
        await browser.send("/slow")
        await node.requested()
    belongs, new = await where.browser(token("n1")), await where.browser()
    for browser in (belongs, new):
        await browser.send()
        await settle()
    gates[1].release()
    await new.read()
    assert (new.node, new.renewed) == ("n2", True)
    assert not belongs.wire.received
    gates[0].release()
    await belongs.read()
    assert belongs.node == "n1"


# --- the board ---


@pytest.mark.parametrize(("moves", "node"), [(0, "n1"), (1, "n2")])
async def test_a_worker_reads_whether_a_draining_node_keeps_its_clients(
    stage: Stage, moves: int, node: str
) -> None:
    board = shared_board(2)
    board.state(0)[State.ADMIN], board.state(0)[State.STICKY] = 1, moves
    board.publish()
    where = await cluster(stage, 2, board=board)
    assert await served_by(where, token("n1"), 2) == [node] * 2
    assert board.totals(0)[Counter.MOVED_DRAIN] == 2 * moves


async def test_what_becomes_of_clients_is_on_the_board(stage: Stage) -> None:
    board = shared_board(2)
    where = await cluster(stage, 2, board=board)
    browser = await where.browser()
    for _ in range(3):
        await browser.get()
    await served_by(where, b"forged")
    first = int(browser.node[1]) - 1
    assert board.totals(first)[KEPT] == 2
    assert sum(board.totals(index)[NEW] for index in range(2)) == 2
    assert where.flaws() == {"STICKY_FORGED": 1}


# --- stickiness of one route ---


@pytest.mark.parametrize("pattern", [{"path": "/app/"}, {"host": "app"}])
async def test_a_route_may_be_sticky_where_its_service_is_not(stage: Stage, pattern: dict[str, str]) -> None:
    where = await cluster(stage, 2, sticky=False, routes=[{"name": "app", "sticky": STICKY, **pattern}])
    browser = await where.browser()
    await browser.get("/app/", host="app")
    assert browser.renewed
    first = browser.node
    for _ in range(3):
        await browser.get("/app/", host="app")
        assert (browser.node, browser.renewed) == (first, False)
    free = await where.browser(browser.cookie)
    await free.get("/", host="b")
    assert not free.renewed
    assert all(not message.values("Cookie") for node in where.nodes for message in node.requests)


async def test_routes_may_have_cookies_of_their_own(stage: Stage) -> None:
    one, two = ({**STICKY, "name": name} for name in ("ONE", "TWO"))
    routes = [{"name": "one", "path": "/1", "sticky": one}, {"name": "two", "path": "/2", "sticky": two}]
    where = await cluster(stage, 2, sticky=False, routes=routes)
    browser = await where.browser()
    cookies = f"Cookie: ONE={token('n1').decode()}; TWO={token('n2').decode()}; x=1"
    for target, node in (("/1", "n1"), ("/2", "n2"), ("/1", "n1")):
        reply = await browser.get(target, cookies)
        assert (browser.node, reply.values("Set-Cookie")) == (node, [])
    assert {message.value("Cookie") for node in where.nodes for message in node.requests} == {b"x=1"}


async def test_the_hits_of_a_preset_are_not_sticky_and_its_pages_are(stage: Stage) -> None:
    where = await cluster(stage, 2, preset="list-manager")
    browser = await where.browser(token("n2"))
    for target in ("/db/1/2/1.gif", "/t/1/2/3/4/", "/u/1", "/u1"):
        names = set()
        for _ in range(2):
            await browser.get(target)
            names.add(browser.node)
            assert not browser.renewed
        assert names == {"n1", "n2"}
    for target in ("/", "/users/", "/upload", "/dbx"):
        await browser.get(target)
        assert browser.node == "n2"
    assert all(not message.values("Cookie") for node in where.nodes for message in node.requests)


# --- sessions of nodes ---

BY_APP_COOKIE = {"mode": "app_cookie", "name": "JSESSIONID"}
BY_PATH = {"mode": "parameter", "name": "jsessionid"}
BY_QUERY = {"mode": "parameter", "name": "sid"}


async def session_cluster(stage: Stage, sticky: dict[str, Any], nodes: int = 3, **service: Any) -> Cluster:
    scripts = [keeping_sessions(f"n{number}", set()) for number in range(1, nodes + 1)]
    return await cluster(stage, scripts, sticky=sticky, **service)


async def follows(where: Cluster, target: str, session: bytes, *, cookie: bool) -> bytes:
    """What a new client of this session is told."""
    client = await where.browser(session if cookie else None, "JSESSIONID")
    return (await client.get(target)).body


async def test_a_session_that_a_node_has_begun_by_a_cookie_stays_there(stage: Stage) -> None:
    where = await session_cluster(stage, BY_APP_COOKIE)
    for node in ("n1", "n2", "n3", "n1"):
        browser = await where.browser(name="JSESSIONID")
        reply = await browser.get()
        assert reply.body == node.encode()
        assert reply.values("Cache-Control") == []
        for _ in range(3):
            assert (await browser.get()).body == f"{node} knows".encode()
            assert await follows(where, "/", browser.cookie or b"", cookie=True) == f"{node} knows".encode()


async def test_nodes_see_their_own_cookie_and_clients_get_it(stage: Stage) -> None:
    where = await session_cluster(stage, BY_APP_COOKIE, 1)
    browser = await where.browser(name="JSESSIONID")
    reply = await browser.get()
    assert reply.values("Set-Cookie") == [b"JSESSIONID=n1-0; Path=/"]
    await browser.get("/", "Cookie: a=1")
    assert where.nodes[0].requests[1].values("Cookie") == [b"JSESSIONID=n1-0", b"a=1"]


@pytest.mark.parametrize(
    ("sticky", "target"),
    [
        (BY_PATH, "/next;jsessionid=%s?a=1"),
        (BY_PATH, "/a;x=1;jsessionid=%s/b"),
        (BY_PATH, "/?b&jsessionid=%s"),
    ],
)
async def test_a_session_that_a_node_has_begun_by_a_redirect_stays_there(
    stage: Stage, sticky: dict[str, Any], target: str
) -> None:
    where = await session_cluster(stage, sticky)
    for node in ("n1", "n2", "n3"):
        reply = await (await where.browser()).get("/")
        session = (reply.value("Location") or b"").partition(b"=")[2].partition(b"?")[0]
        assert session.decode().startswith(node)
        for _ in range(3):
            told = await follows(where, target % session.decode(), b"", cookie=False)
            assert told == f"{node} knows".encode()


@pytest.mark.parametrize(
    ("sticky", "target", "cookie"),
    [
        (BY_APP_COOKIE, "/", True),
        (BY_PATH, "/x;jsessionid=%s", False),
        (BY_QUERY, "/x?a&sid=%s", False),
    ],
)
async def test_a_session_that_nobody_knows_belongs_to_who_answers_it_well(
    stage: Stage, sticky: dict[str, Any], target: str, cookie: bool
) -> None:
    where = await cluster(stage, 3, sticky=sticky)
    for session, node in ((b"one", b"n1"), (b"two", b"n2"), (b"one", b"n1"), (b"two", b"n2")):
        asked = target % session.decode() if "%s" in target else target
        for _ in range(2):
            assert await follows(where, asked, session, cookie=cookie) == node


@pytest.mark.parametrize("cookies", ["s=1; S=gone; S=known", "S=known; S=gone", "S=; S=known"])
async def test_of_several_sessions_the_one_that_is_known_counts(stage: Stage, cookies: str) -> None:
    """The paths of cookies differ, and the first one may be of a session that is long over."""
    where = await cluster(stage, 3, sticky={"mode": "app_cookie", "name": "S"})
    browser = await where.browser()
    await browser.get("/", "Cookie: S=known")
    first = browser.node
    for _ in range(3):
        await browser.get("/", f"Cookie: {cookies}")
        assert browser.node == first


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "500 Oops"])
async def test_a_session_that_nobody_knows_is_not_learned_from_an_error(stage: Stage, status: str) -> None:
    scripts = [naming(f"n{number}", status=status) for number in (1, 2)]
    where = await cluster(stage, scripts, sticky=BY_APP_COOKIE, retry={"tries": 1}, outliers=ANYBODY)
    told = [await follows(where, "/", b"one", cookie=True) for _ in range(4)]
    assert sorted(told) == [b"n1", b"n1", b"n2", b"n2"]


@pytest.mark.parametrize(
    ("sticky", "target"), [(BY_APP_COOKIE, "/"), (BY_QUERY, "/?sid="), (BY_PATH, "/;jsessionid=")]
)
async def test_an_empty_session_is_none(stage: Stage, sticky: dict[str, Any], target: str) -> None:
    where = await cluster(stage, 2, sticky=sticky)
    told = [await follows(where, target, b"", cookie=True) for _ in range(4)]
    assert sorted(told) == [b"n1", b"n1", b"n2", b"n2"]


async def test_an_error_in_a_known_session_loses_nothing(stage: Stage) -> None:
    """A page of the session that is broken is asked for elsewhere, and the session stays where it was."""
    where = await cluster(
        stage,
        [keeping_sessions("n1", {b"s"}, error="500 Oops"), naming("n2", status="500 Oops")],
        sticky=BY_APP_COOKIE,
        outliers=ANYBODY,
    )
    where.set_state("n2", AdminState.DISABLED)
    await follows(where, "/", b"other", cookie=True)
    where.set_state("n2", AdminState.READY)
    told = [await follows(where, "/", b"n1-1", cookie=True) for _ in range(3)]
    assert told == [b"n2"] * 3  # n1 was asked first each time, and both have failed
    assert len(where.nodes[0].requests) == 4
    assert where.moved("n1") == {}


@pytest.mark.parametrize("cause", LEAVINGS)
async def test_a_session_whose_node_may_not_have_it_moves_and_is_learned_anew(
    stage: Stage, cause: str
) -> None:
    where = await cluster(stage, 3, sticky=BY_APP_COOKIE, panic_threshold=0)
    assert await follows(where, "/", b"s", cookie=True) == b"n1"
    LEAVINGS[cause](where, "n1")
    moved_to = await follows(where, "/", b"s", cookie=True)
    assert moved_to in {b"n2", b"n3"}
    for _ in range(3):
        assert await follows(where, "/", b"s", cookie=True) == moved_to
    assert where.moved("n1") == {cause.split(" ")[0]: 1}


async def test_a_session_on_a_full_node_waits_for_it(stage: Stage) -> None:
    gate = asyncio.Semaphore(0)
    where = await cluster(stage, [gated("n1", gate), None], endpoints=[FULL, {}], sticky=BY_APP_COOKIE)
    filler, waiting = await where.browser(b"s", "JSESSIONID"), await where.browser(b"s", "JSESSIONID")
    await filler.get()
    await filler.send("/slow")
    await where.nodes[0].requested(2)
    await waiting.send()
    await settle()
    assert await follows(where, "/", b"new", cookie=True) == b"n2"
    gate.release()
    await filler.read()
    await waiting.read()
    assert waiting.node == "n1"


async def second_worker(stage: Stage, first: Cluster, board: Board, sticky: dict[str, Any]) -> Cluster:
    """The same once more, in the second column of the board."""
    address = await stage.start_proxy(first.nodes, board=board, number=1, sticky=sticky)
    return Cluster(stage, first.nodes, address)


@pytest.mark.parametrize("sticky", [BY_APP_COOKIE, BY_PATH])
async def test_what_one_worker_has_learned_all_know(stage: Stage, sticky: dict[str, Any]) -> None:
    board = shared_board(3, workers=2)
    first = await session_cluster(stage, sticky, board=board)
    second = await second_worker(stage, first, board, sticky)
    cookie = sticky is BY_APP_COOKIE
    for here, there in ((first, second), (second, first), (first, second)):
        reply = await (await here.browser()).get()
        session = (reply.value("Location") or b"").partition(b"=")[2].partition(b"?")[0]
        target = "/" if cookie else f"/x;jsessionid={session.decode()}"
        for where in (there, here, there):
            told = await follows(where, target, session, cookie=cookie)
            assert told == reply.body + b" knows"


async def test_the_newest_word_on_a_session_counts_for_all_workers(stage: Stage) -> None:
    board = shared_board(2, workers=2)
    first = await cluster(stage, 2, sticky=BY_APP_COOKIE, board=board)
    second = await second_worker(stage, first, board, BY_APP_COOKIE)
    own = await follows(first, "/", b"s", cookie=True)
    assert await follows(second, "/", b"s", cookie=True) == own
    index = int(own[1:]) - 1
    board.state(index)[State.ADMIN] = 2
    board.publish()
    ends = [where.group.endpoints[index] for where in (first, second)]
    await until(lambda: all(endpoint.node.state is AdminState.DISABLED for endpoint in ends))
    other = await follows(second, "/", b"s", cookie=True)
    assert other != own
    assert await follows(first, "/", b"s", cookie=True) == other


async def test_thousands_of_sessions_are_each_found_again(stage: Stage) -> None:
    """How many there may be at most, and who gives way then, is up to `pool.learned`."""
    where = await cluster(stage, 3, sticky=BY_QUERY)
    client = await stage.connect(where.address)

    async def ask(numbers: range) -> list[bytes]:
        await client.send(b"".join(request(f"/?sid={number}") for number in numbers))
        return [(await client.answer()).body for _ in numbers]

    told = [await ask(range(start, start + 100)) for start in range(0, 3000, 100)]
    for start in (2900, 1500, 0):
        assert await ask(range(start, start + 100)) == told[start // 100]


# --- the client's network ---


@pytest.mark.parametrize(
    ("network", "others"),
    [
        ([f"198.51.100.{host}" for host in (0, 1, 77, 255)], [f"198.51.{net}.1" for net in range(20)]),
        (
            ["2001:db8:0:100::1", "2001:db8:0:1ff::1", "2001:db8:0:123:4:5:6:7"],
            [f"2001:db8:{net:x}:200::1" for net in range(20)],
        ),
        (["198.51.100.1", "::ffff:198.51.100.2"], [f"::ffff:198.51.{net}.1" for net in range(20)]),
    ],
    ids=["IPv4", "IPv6", "mapped"],
)
@pytest.mark.parametrize("route", [False, True], ids=["service", "route"])
async def test_neighbours_share_a_node(
    stage: Stage, network: list[str], others: list[str], route: bool
) -> None:
    sticky: Any = {"mode": "source_hash"}
    routes = [{"name": "own", "path": "/own", "sticky": sticky}] if route else []
    where = await cluster(
        stage, 4, sticky=False if route else sticky, routes=routes, trusted_proxies=["127.0.0.1"]
    )
    browser = await where.browser()
    names = []
    for host in [*network * 2, *others]:
        reply = await browser.get("/own", f"X-Forwarded-For: {host}")
        names.append(browser.node)
        assert not reply.values("Set-Cookie")
    assert len(set(names[: 2 * len(network)])) == 1
    assert len(set(names[2 * len(network) :])) > 1


# --- TLS, HTTP/1.0 ---


async def test_over_tls_the_cookie_is_secure(stage: Stage, certificate: str) -> None:
    https = {"certificates": [{"certificate": certificate}]}
    where = await cluster(stage, 1, https=https)
    secure = Browser(await stage.connect_securely())
    reply = await secure.get("/", "X-Forwarded-Proto: http")
    assert b"; Secure" in (reply.value("Set-Cookie") or b"")
    await secure.get()
    assert not secure.renewed
    assert b"; Secure" not in ((await (await where.browser()).get()).value("Set-Cookie") or b"")


async def test_an_upgrade_is_not_for_http_1_0_also_when_its_fields_are_remembered(stage: Stage) -> None:
    where = await cluster(stage, 2)
    block = b"Host: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nCookie: TPNODE=%b\r\n\r\n" % token("n1")
    for _ in range(4):
        await (await stage.connect(where.address)).send(b"GET /1 HTTP/1.1\r\n" + block)
    await where.nodes[0].requested(4)
    client = await stage.connect(where.address)
    await client.send(b"GET /0 HTTP/1.0\r\n" + block)
    await client.answer()
    seen = {message.target: message.value("Upgrade") for message in where.nodes[0].requests}
    assert seen == {b"/1": b"x", b"/0": None}


async def test_few_cookies_of_our_name_are_looked_at(stage: Stage) -> None:
    where = await cluster(stage, 2)
    browser = await where.browser()
    await browser.get("/", b"Cookie: " + b"TPNODE=" + b"; TPNODE=".join([b"A" * 40] * 100 + [token("n2")]))
    assert browser.renewed
    assert where.flaws() == {"STICKY_FORGED": 1}
