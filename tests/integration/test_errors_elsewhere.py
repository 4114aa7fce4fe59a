"""Errors that nodes answer: what is asked for again at another node, and what that says of the nodes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import OK, Message, answer, chunked, post, request
from tests.integration.nodes import Exchange, Node, Script, answering, echoing
from tests.integration.wire import Wire

IN_ORDER = [{"priority": 0}, {"priority": 1}]
STATUSES = ["500 Oops", "502 Bad Gateway", "503 Busy", "504 Late"]
BUSY = answer("X-Node: first", status="503 Busy", body=b"sorry")
PATIENT = {"failures": 0}  # nobody is left out


async def two_nodes(stage: Stage, first: Script, second: Script | None = None, **service: Any) -> Any:
    """A proxy that asks the first node as long as it can, and the second one otherwise."""
    failing, other = await stage.start_node(first), await stage.start_node(second)
    proxy = await stage.start_proxy([failing, other], endpoints=IN_ORDER, **service)
    return await stage.connect(proxy), failing, other


async def ask(client: Wire, raw: bytes = request("/")) -> Message:
    """Send a request, and read the answer."""
    await client.send(raw)
    return await client.answer(raw.split(b" ")[0])


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_an_error_is_asked_for_again_elsewhere_and_the_client_sees_the_good_answer(
    stage: Stage, method: str, status: str
) -> None:
    first = answering(answer("X-Node: first", status=status, body=b"" if method == "HEAD" else b"sorry"))
    client, failing, other = await two_nodes(stage, first, outliers=PATIENT)
    for _ in range(2):
        reply = await ask(client, request("/", method=method))
        assert (reply.status, reply.value("X-Node")) == (200, None)
    assert (len(failing.requests), len(other.requests)) == (2, 2)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_error_of_all_nodes_is_passed_on_as_a_node_gave_it(stage: Stage, method: str) -> None:
    size = "Content-Length: 5"
    body = b"" if method == "HEAD" else b"sorry"
    errors = [answer(f"X-Node: {name}", "Retry-After: 7", size, status="503 Busy") for name in ("a", "b")]
    client, first, second = await two_nodes(stage, *(answering(error + body) for error in errors))
    for _ in range(2):
        reply = await ask(client, request("/", method=method))
        assert (reply.line, reply.body) == (b"HTTP/1.1 503 Busy", body)
        assert reply.fields[:3] == [(b"X-Node", b"b"), (b"Retry-After", b"7"), (b"Content-Length", b"5")]
    assert (len(first.requests), len(second.requests)) == (2, 2)


@pytest.mark.parametrize("method", ["POST", "PATCH", "FOO"])
async def test_an_error_to_what_is_not_idempotent_is_its_answer(stage: Stage, method: str) -> None:
    client, failing, other = await two_nodes(stage, answering(BUSY))
    reply = await ask(client, request("/", method=method, body=b"hello"))
    assert (reply.status, reply.value("X-Node"), reply.body) == (503, b"first", b"sorry")
    assert (len(failing.requests), other.received) == (1, b"")


@pytest.mark.parametrize(
    "raw",
    [
        request("/", method="PUT", body=b"hello"),
        request("/", "Transfer-Encoding: chunked", method="PUT", body=chunked(b"he", b"llo")),
    ],
    ids=["length", "chunked"],
)
async def test_a_body_that_was_kept_is_sent_again_whole(stage: Stage, raw: bytes) -> None:
    client, failing, other = await two_nodes(stage, answering(BUSY))
    assert (await ask(client, raw)).status == 200
    assert [failing.requests[0].body, other.requests[0].body] == [b"hello", b"hello"]


async def test_an_error_to_a_body_that_was_too_long_to_keep_is_its_answer(stage: Stage) -> None:
    client, failing, other = await two_nodes(stage, answering(BUSY), retry={"body": 1024})
    assert (await ask(client, request("/", method="PUT", body=b"x" * 2048))).status == 503
    assert (len(failing.requests), other.received) == (1, b"")


async def test_an_error_that_comes_before_the_whole_body_is_asked_for_again_with_all_of_it(
    stage: Stage,
) -> None:
    async def hasty(exchange: Exchange) -> None:
        await exchange.wire.until(b"he")
        await exchange.send(BUSY)

    client, _, other = await two_nodes(stage, hasty)
    await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
    await other.connected()
    await client.send(b"llo")
    assert (await client.answer()).status == 200
    assert other.requests[0].body == b"hello"


@pytest.mark.parametrize(("statuses", "elsewhere"), [([], []), ([503], [503]), ([500, 504], [500, 504])])
async def test_only_the_statuses_that_are_set_are_asked_for_again(
    stage: Stage, statuses: list[int], elsewhere: list[int]
) -> None:
    seen = []
    for status in STATUSES:
        first = answering(answer(status=status))
        client, _, _ = await two_nodes(stage, first, retry={"statuses": statuses})
        if (await ask(client)).status == 200:
            seen.append(int(status[:3]))
    assert seen == elsewhere


async def test_without_a_retry_budget_an_error_is_its_answer(stage: Stage) -> None:
    client, _, other = await two_nodes(stage, answering(BUSY), retry={"budget": 0, "budget_min": 0})
    assert (await ask(client)).value("X-Node") == b"first"
    assert other.received == b""


async def test_errors_are_asked_for_again_as_far_as_the_budget_goes(stage: Stage) -> None:
    """A minimum of one per second may be saved for ten seconds."""
    budget = {"budget": 0, "budget_min": 1}
    client, failing, other = await two_nodes(stage, answering(BUSY), retry=budget, outliers=PATIENT)
    statuses = [(await ask(client)).status for _ in range(20)]
    assert 10 <= statuses.count(200) <= 15
    assert (len(failing.requests), len(other.requests)) == (20, statuses.count(200))


async def test_no_more_nodes_are_asked_than_allowed(stage: Stage) -> None:
    nodes = [await stage.start_node(answering(BUSY)) for _ in range(4)]
    client = await stage.connect(await stage.start_proxy(nodes, retry={"tries": 2}))
    assert (await ask(client)).status == 503
    assert sorted(len(node.requests) for node in nodes) == [0, 0, 1, 1]


# --- what it says of nodes ---


def left_out(stage: Stage) -> list[bool]:
    """Which endpoints of the last proxy are ejected."""
    return [endpoint.ejected for endpoint in stage.workers[-1].services["web"].groups[0].endpoints]


async def test_a_node_that_answers_errors_where_another_one_does_not_is_left_out(stage: Stage) -> None:
    rules = {"failures": 3, "ejection": "30s"}
    client, failing, other = await two_nodes(stage, answering(BUSY), outliers=rules)
    for _ in range(10):
        assert (await ask(client)).status == 200
    assert (len(failing.requests), len(other.requests)) == (3, 10)
    assert left_out(stage) == [True, False]


@pytest.mark.parametrize("status", STATUSES)
async def test_what_no_node_can_answer_is_held_against_none(stage: Stage, status: str) -> None:
    def bad_for(target: bytes) -> Script:
        async def script(exchange: Exchange) -> None:
            while True:
                bad = (await exchange.request()).target == target
                await exchange.send(answer(status=status) if bad else OK)

        return script

    rules = {"failures": 2, "ejection": "30s"}
    client, first, second = await two_nodes(
        stage, bad_for(b"/bad"), bad_for(b"/bad"), outliers=rules, retry={"budget": 100}
    )
    for _ in range(8):
        assert (await ask(client, request("/bad"))).status == int(status[:3])
    assert left_out(stage) == [False, False]
    assert (len(first.requests), len(second.requests)) == (8, 8)
    assert (await ask(client)).status == 200


async def test_good_answers_in_between_keep_a_node_in(stage: Stage) -> None:
    errors_and_answers = [BUSY, OK] * 8
    client, failing, _ = await two_nodes(stage, answering(*errors_and_answers), outliers={"failures": 2})
    for _ in range(12):
        assert (await ask(client)).status == 200
    assert len(failing.requests) == 12
    assert left_out(stage) == [False, False]


# --- connections ---

CLOSING = answer("Connection: close", status="503 Busy", body=b"sorry")
CHUNKED = answer("Transfer-Encoding: chunked", status="503 Busy", body=chunked(b"sorry"))
UNFINISHED = answer("Content-Length: 10", status="503 Busy", body=b"sorry")
ENDLESS = b"HTTP/1.1 503 Busy\r\n\r\nsorry"


async def serve_ahead(stage: Stage, error: bytes, requests: int) -> tuple[Node, Node]:
    """Have a client send all its requests at once; each gets its own answer, from the second node."""
    client, failing, other = await two_nodes(stage, answering(error), echoing(), outliers=PATIENT)
    targets = [f"/{number}" for number in range(requests)]
    await client.send(b"".join(request(target) for target in targets))
    for target in targets:
        assert (await client.answer()).body == target.encode()
    assert other.targets == [target.encode() for target in targets]
    return failing, other


async def test_a_connection_on_which_an_error_came_whole_serves_on(stage: Stage) -> None:
    failing, _ = await serve_ahead(stage, BUSY, 6)
    assert (len(failing.connections), len(failing.requests)) == (1, 6)


@pytest.mark.parametrize("error", [CLOSING, CHUNKED, UNFINISHED, ENDLESS])
async def test_a_connection_on_which_an_error_left_anything_open_is_closed(
    stage: Stage, error: bytes
) -> None:
    failing, _ = await serve_ahead(stage, error, 6)
    assert (len(failing.connections), len(failing.requests)) == (6, 6)
    for wire in failing.connections:
        await wire.rest()


async def test_a_post_after_an_error_reaches_one_node_once(stage: Stage) -> None:
    client, failing, other = await two_nodes(stage, answering(BUSY, OK), outliers=PATIENT)
    await client.send(request("/1") + post("/2"))
    assert [(await client.answer()).status for _ in range(2)] == [200, 503]
    assert (failing.targets, other.targets) == ([b"/1", b"/2"], [b"/1"])
