"""Nodes that die, hang or were never there: who is asked again, and what may not be sent twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import LAST_CHUNK, OK, answer, chunked, framing_of, post, request
from tests.integration.nodes import Exchange, Node, Script, answering, breaking_off, silent

IN_ORDER = [{"priority": 0}, {"priority": 1}]
HANGING = {"response_head": "150ms"}
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello")
KIB = 1024


def answering_then(die: Script) -> Script:
    """Answer the first request of a connection well, then go on with `die`."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_and_send(OK)
        await die(exchange)

    return script


DEATHS = {
    "new connection closes": breaking_off(),
    "new connection resets": breaking_off(reset=True),
    "used connection closes": answering_then(breaking_off()),
    "used connection resets": answering_then(breaking_off(reset=True)),
}


def is_late(death: Script) -> bool:
    """Does this node answer the first request of a connection?"""
    return death in (DEATHS["used connection closes"], DEATHS["used connection resets"])


deaths = pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS.keys())


async def two_nodes(stage: Stage, first: Script, **service: Any) -> tuple[str, Node, Node]:
    """A proxy that asks the first node as long as it can, and the second one otherwise."""
    dying, healthy = await stage.start_node(first), await stage.start_node()
    proxy = await stage.start_proxy([dying, healthy], endpoints=IN_ORDER, **service)
    return proxy, dying, healthy


@deaths
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_an_idempotent_request_is_asked_again_elsewhere_when_its_node_dies(
    stage: Stage, death: Script, method: str
) -> None:
    proxy, dying, healthy = await two_nodes(stage, death)
    client = await stage.connect(proxy)
    if is_late(death):
        await client.send(request("/warm"))
        assert (await client.answer()).status == 200
    await client.send(request("/again", method=method))
    assert (await client.answer(method.encode())).status == 200
    assert (dying.targets[-1], healthy.targets) == (b"/again", [b"/again"])


@deaths
@pytest.mark.parametrize("method", ["POST", "PATCH", "FOO"])
async def test_a_request_that_is_not_idempotent_reaches_one_node_at_most(
    stage: Stage, death: Script, method: str
) -> None:
    proxy, dying, healthy = await two_nodes(stage, death)
    client = await stage.connect(proxy)
    if is_late(death):
        await client.send(request("/warm"))
        assert (await client.answer()).status == 200
    await client.send(request("/once", method=method, body=b"hello"))
    reply = await client.answer()
    # It gets a connection of its own, since one that was used before may be about to end.
    assert reply.status == (200 if is_late(death) else 502)
    assert (dying.targets + healthy.targets).count(b"/once") == 1


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
async def test_the_only_node_is_asked_again_when_a_used_connection_ends(stage: Stage, reset: bool) -> None:
    client, node = await stage.through(answering_then(breaking_off(reset=reset)))
    for target in ("/1", "/2"):
        await client.send(request(target))
        assert (await client.answer()).status == 200
    assert node.targets == [b"/1", b"/2", b"/2"]


@pytest.mark.parametrize("raw", [request("/"), post("/"), CHUNKED_POST], ids=["GET", "POST", "chunked POST"])
async def test_any_request_goes_elsewhere_when_its_node_refuses_the_connection(
    stage: Stage, raw: bytes
) -> None:
    healthy = await stage.start_node()
    proxy = await stage.start_proxy([stage.refusing(), healthy], endpoints=IN_ORDER)
    client = await stage.connect(proxy)
    await client.send(raw)
    assert (await client.answer()).status == 200
    assert (await healthy.requested()).body in (b"", b"hello")


async def test_any_request_goes_elsewhere_when_its_node_does_not_take_the_connection(stage: Stage) -> None:
    healthy = await stage.start_node()
    proxy = await stage.start_proxy(
        [stage.deaf(), healthy], endpoints=IN_ORDER, timeouts={"connect": "150ms"}
    )
    client = await stage.connect(proxy)
    await client.send(post("/"))
    assert (await client.answer()).status == 200
    assert (await healthy.requested()).body == b"hello"


async def test_a_long_body_is_still_whole_after_a_refused_connection(stage: Stage) -> None:
    healthy = await stage.start_node()
    proxy = await stage.start_proxy([stage.refusing(), healthy], endpoints=IN_ORDER, retry={"body": 1024})
    client = await stage.connect(proxy)
    body = bytes(range(256)) * 2 * KIB
    await client.send(post("/", body))
    assert (await client.answer()).status == 200
    assert (await healthy.requested()).body == body


async def test_a_get_goes_elsewhere_when_its_node_keeps_silent(stage: Stage) -> None:
    proxy, hanging, healthy = await two_nodes(stage, silent, timeouts=HANGING)
    client = await stage.connect(proxy)
    await client.send(request("/"))
    assert (await client.answer()).status == 200
    assert (len(hanging.requests), len(healthy.requests)) == (1, 1)
    await hanging.connections[0].rest()


async def test_a_post_gets_504_when_its_node_keeps_silent(stage: Stage) -> None:
    proxy, hanging, healthy = await two_nodes(stage, silent, timeouts=HANGING)
    client = await stage.connect(proxy)
    await client.send(post("/"))
    assert (await client.answer()).status == 504
    assert (len(hanging.requests), len(healthy.requests)) == (1, 0)
    await hanging.connections[0].rest()


@pytest.mark.parametrize(
    "raw",
    [
        request("/", method="PUT", body=b"hello"),
        CHUNKED_POST.replace(b"POST", b"PUT"),
    ],
    ids=["length", "chunked"],
)
async def test_a_request_that_is_asked_again_brings_its_whole_body(stage: Stage, raw: bytes) -> None:
    proxy, dying, healthy = await two_nodes(stage, breaking_off())
    client = await stage.connect(proxy)
    await client.send(raw)
    assert (await client.answer()).status == 200
    assert [dying.requests[0].body, healthy.requests[0].body] == [b"hello", b"hello"]


async def test_a_body_that_was_too_long_to_keep_is_not_sent_again(stage: Stage) -> None:
    proxy, dying, healthy = await two_nodes(stage, breaking_off(), retry={"body": 1024})
    client = await stage.connect(proxy)
    await client.send(request("/", method="PUT", body=b"x" * 100 * KIB))
    assert (await client.answer()).status == 502
    assert (len(dying.requests), healthy.received) == (1, b"")


async def test_no_more_endpoints_are_tried_than_allowed(stage: Stage) -> None:
    nodes = [await stage.start_node(breaking_off(reset=True)) for _ in range(4)]
    client = await stage.connect(await stage.start_proxy(nodes, retry={"tries": 2}))
    await client.send(request("/"))
    assert (await client.answer()).status == 502
    assert sorted(len(node.requests) for node in nodes) == [0, 0, 1, 1]


async def test_without_a_retry_budget_nothing_is_sent_twice(stage: Stage) -> None:
    proxy, _, healthy = await two_nodes(stage, breaking_off(), retry={"budget": 0, "budget_min": 0})
    client = await stage.connect(proxy)
    await client.send(request("/"))
    assert (await client.answer()).status == 502
    assert healthy.received == b""


async def test_a_refused_connection_costs_nothing_of_the_retry_budget(stage: Stage) -> None:
    nodes: list[Node | str] = [stage.refusing(), await stage.start_node()]
    budget = {"budget": 0, "budget_min": 0}
    client = await stage.connect(await stage.start_proxy(nodes, endpoints=IN_ORDER, retry=budget))
    await client.send(request("/"))
    assert (await client.answer()).status == 200


async def test_an_answer_of_the_proxy_to_head_has_no_body(stage: Stage) -> None:
    client = await stage.connect(await stage.start_proxy([stage.refusing()]))
    await client.send(request("/", method="HEAD") * 2)
    for _ in range(2):
        assert (await client.answer(b"HEAD")).status in (502, 503)


async def test_all_tries_together_end_at_the_deadline(stage: Stage) -> None:
    nodes = [await stage.start_node(silent) for _ in range(6)]
    client = await stage.connect(
        await stage.start_proxy(nodes, timeouts=HANGING, retry={"tries": 6, "deadline": "400ms"})
    )
    await client.send(request("/"))
    assert (await client.answer()).status == 504
    assert sum(len(node.requests) for node in nodes) in (2, 3)


@pytest.mark.parametrize("raw", [request("/"), post("/")], ids=["GET", "POST"])
async def test_a_request_that_no_node_takes_gets_a_short_answer(stage: Stage, raw: bytes) -> None:
    client = await stage.connect(await stage.start_proxy([stage.refusing(), stage.refusing()]))
    await client.send(raw)
    reply = await client.answer()
    assert reply.status in (502, 503)
    assert len(reply.body) < KIB
    assert reply.status == 502 or reply.value("Retry-After")


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Busy"])
async def test_an_error_that_the_only_node_answers_is_its_answer(stage: Stage, status: str) -> None:
    client, node = await stage.through(answering(answer(status=status, body=b"sorry")))
    await client.send(request("/"))
    reply = await client.answer()
    assert (reply.line, reply.body) == (f"HTTP/1.1 {status}".encode(), b"sorry")
    assert len(node.requests) == 1


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CUT = {
    "inside a length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    "inside a chunk": CHUNKED + b"a\r\nhello",
    "between chunks": CHUNKED + b"5\r\nhello\r\n",
    "before the end of the trailers": CHUNKED + b"5\r\nhello\r\n0\r\n",
    "without a length": b"HTTP/1.1 200 OK\r\n\r\nhello",
}


@pytest.mark.parametrize("ask", [request("/"), b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"], ids=["1.1", "1.0"])
@pytest.mark.parametrize(
    ("part", "end"),
    [
        pytest.param(part, end, id=f"{name}, {end}")
        for name, part in CUT.items()
        for end in ("reset", "close", "silence")
        if (name, end) != ("without a length", "close")  # which is how that one ends
    ],
)
async def test_an_answer_that_breaks_off_never_looks_whole_and_is_never_begun_again(
    stage: Stage, part: bytes, end: str, ask: bytes
) -> None:
    seen = asyncio.Event()

    async def breaking(exchange: Exchange) -> None:
        await exchange.read_and_send(part)
        await seen.wait()
        if end != "silence":
            getattr(exchange.wire, end)()

    proxy, _, healthy = await two_nodes(stage, breaking, timeouts={"response": "150ms"})
    client = await stage.connect(proxy)
    await client.send(ask)
    await client.until(b"hello")
    seen.set()
    await client.rest()
    assert looks_cut(bytes(client.received), client.ended)
    assert healthy.received == b""


def looks_cut(stream: bytes, ended: str) -> bool:
    """Can a client tell that this answer is not whole?"""
    head, _, body = stream.partition(b"\r\n\r\n")
    fields = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    framing = framing_of([(name, value) for name, _, value in fields], b"close")
    if framing == b"chunked":
        return not body.endswith(LAST_CHUNK)
    return ended == "reset" if framing == b"close" else len(body) < int(framing)


async def test_the_node_is_let_go_when_its_client_has_closed_and_the_answer_takes_too_long(
    stage: Stage,
) -> None:
    client, node = await stage.through(silent, timeouts={"client_gone": "150ms"})
    await client.send(request("/"))
    await node.requested()
    client.half_close()
    await node.connections[0].rest()
    await client.rest()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_node_is_let_go_at_once_when_its_client_resets(stage: Stage, method: str) -> None:
    client, node = await stage.through(silent, timeouts={"client_gone": "60s"})
    await client.send(request("/", method=method))
    await node.requested()
    client.reset()
    await node.connections[0].rest()
    assert len(node.requests) == 1
