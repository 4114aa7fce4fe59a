"""What clients may ask, and in which form it reaches a node."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import OK, answer, chunked, request
from tests.integration.nodes import Exchange, echoing

CHUNKED_HEAD = b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECTING = b"POST /up HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
A_MOMENT_S = 0.1


@pytest.mark.parametrize(
    "method",
    ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "FOO-BAR", "M-SEARCH", "get", "X!#$%&'*+.^`|~"],
)
async def test_any_method_reaches_the_node_as_it_was_written(stage: Stage, method: str) -> None:
    client, node = await stage.through()
    await client.send(request("/m", method=method))
    assert (await client.answer()).body == b"ok"
    assert (await node.requested()).line == f"{method} /m HTTP/1.1".encode()


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//double//slash/",
        "/a/../b/./c",
        "/%2F%2e%2E/",
        "/%",
        "/%zz?%",
        "/a;b=c;d",
        "/?",
        "/?a=b&a=b?c",
        "/'quotes'\"double\"",
        "/{braces}|pipe\\backslash^`<>[]",
        "/t/12/345/6/7/?x=http://b/c?d=e&f=%20",
        "/http://b/c",
        "//b/c",
        "/@:!$&*,",
        "/" + "x" * (8 * 1024 - 1),
    ],
    ids=lambda target: target[:24],
)
async def test_a_target_reaches_the_node_byte_for_byte(stage: Stage, target: str) -> None:
    client, node = await stage.through()
    await client.send(request(target))
    assert (await client.answer()).status == 200
    assert (await node.requested()).line == f"GET {target} HTTP/1.1".encode()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("GET http://site.example/x?y", "GET /x?y"),
        ("GET HTTP://site.example/x", "GET /x"),
        ("GET http://site.example", "GET /"),
        ("GET http://site.example?q", "GET /?q"),
        ("OPTIONS http://site.example", "OPTIONS *"),
    ],
)
async def test_the_host_of_an_absolute_target_wins_over_the_host_field(
    stage: Stage, line: str, expected: str
) -> None:
    client, node = await stage.through()
    await client.send(f"{line} HTTP/1.1\r\nHost: other.example\r\n\r\n".encode())
    assert (await client.answer()).status == 200
    seen = await node.requested()
    assert seen.line == f"{expected} HTTP/1.1".encode()
    assert seen.value("Host") == b"site.example"


async def test_options_of_the_whole_server_is_passed_on(stage: Stage) -> None:
    client, node = await stage.through()
    await client.send(request("*", method="OPTIONS"))
    assert (await client.answer()).status == 200
    assert (await node.requested()).line == b"OPTIONS * HTTP/1.1"


@pytest.mark.parametrize(
    "host", ["a.example:8080", "[::1]:80", "[::1]", "127.0.0.1", "a_b.example", "A.Example"]
)
async def test_the_host_field_is_preserved(stage: Stage, host: str) -> None:
    client, node = await stage.through()
    await client.send(request("/", host=host))
    assert (await client.answer()).status == 200
    assert (await node.requested()).value("Host") == host.encode()


async def test_empty_lines_before_a_request_are_passed_over(stage: Stage) -> None:
    client, node = await stage.through()
    await client.send(b"\r\n" + request("/1"))
    assert (await client.answer()).status == 200
    await client.send(b"\r\n" + request("/2"))
    assert (await client.answer()).status == 200
    assert node.targets == [b"/1", b"/2"]


async def test_a_request_may_come_byte_by_byte(stage: Stage) -> None:
    client, node = await stage.through()
    await client.drip(CHUNKED_HEAD + chunked(b"hel", b"lo") + request("/next"))
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 200
    assert [message.body for message in node.requests] == [b"hello", b""]


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n", True),
    ],
    ids=["1.1", "1.1 keep-alive", "1.1 close", "1.1 close in a list", "1.0", "1.0 keep-alive"],
)
async def test_a_connection_is_kept_exactly_when_the_client_wants_it(
    stage: Stage, head: bytes, kept: bool
) -> None:
    client, node = await stage.through(echoing())
    await client.send(head + head)
    assert (await client.answer()).body == b"/"
    if kept:
        assert (await client.answer()).body == b"/"
    else:
        assert await client.rest() == b""
        assert len(node.requests) == 1


async def test_the_answer_says_what_becomes_of_the_connection(stage: Stage) -> None:
    client, _ = await stage.through()
    await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"keep-alive" in (await client.answer()).tokens("Connection")
    await client.send(request("/", "Connection: close"))
    assert b"close" in (await client.answer()).tokens("Connection")
    assert await client.rest() == b""


@pytest.mark.parametrize("last", ["Connection: close", "Connection: upgrade", "Content-Length: x"])
async def test_what_one_client_says_has_no_effect_on_the_next_one(stage: Stage, last: str) -> None:
    node = await stage.start_node()
    proxy = await stage.start_proxy([node])
    for number in range(4):
        client = await stage.connect(proxy)
        await client.send(request("/", f"X-Number: {number}", last if number % 2 == 0 else "X: y"))
        status = (await client.answer()).status
        assert status == (400 if number % 2 == 0 and last.endswith(": x") else 200)


async def test_pipelined_requests_are_answered_in_their_order(stage: Stage) -> None:
    nodes = [await stage.start_node(echoing()) for _ in range(3)]
    client = await stage.connect(await stage.start_proxy(nodes))
    await client.send(b"".join(request(f"/{number}") for number in range(20)))
    answers = [(await client.answer()).body for _ in range(20)]
    assert answers == [f"/{number}".encode() for number in range(20)]


async def test_pipelined_requests_keep_their_order_when_the_first_answer_is_slow(stage: Stage) -> None:
    may_answer = asyncio.Event()

    async def slow_at_first(exchange: Exchange) -> None:
        while True:
            target = (await exchange.request()).target
            if target == b"/0":
                await may_answer.wait()
            await exchange.send(answer(body=target))

    client, node = await stage.through(slow_at_first)
    await client.send(b"".join(request(f"/{number}") for number in range(20)))
    await node.requested()
    assert not await client.ends_within(A_MOMENT_S)
    assert client.received == b""
    may_answer.set()
    assert [(await client.answer()).body for _ in range(20)] == [b"/%d" % number for number in range(20)]


@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "DELETE", "FOO"])
async def test_a_body_with_a_length_reaches_the_node(stage: Stage, method: str) -> None:
    client, node = await stage.through()
    await client.send(request("/", method=method, body=b"hello") + request("/next"))
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 200
    assert [message.body for message in node.requests] == [b"hello", b""]
    assert node.requests[0].value("Content-Length") == b"5"


async def test_an_empty_body_keeps_its_length(stage: Stage) -> None:
    client, node = await stage.through()
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert (await client.answer()).status == 200
    assert (await node.requested()).value("Content-Length") == b"0"


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (chunked(b"hello"), b"hello"),
        (chunked(b"h", b"e" * 5000, b"o"), b"h" + b"e" * 5000 + b"o"),
        (b"A;x=y;z\r\n0123456789\r\n00000\r\n\r\n", b"0123456789"),
        (b'5;x="quoted; \\" text"\r\nhello\r\n0;last\r\n\r\n', b"hello"),
        (chunked(b"hello", trailers=b"X-Sum: 7\r\n"), b"hello"),
        (chunked(), b""),
    ],
    ids=["one chunk", "several chunks", "extension", "quoted extension", "trailer", "empty"],
)
async def test_a_chunked_body_reaches_the_node(stage: Stage, raw: bytes, body: bytes) -> None:
    client, node = await stage.through()
    await client.send(CHUNKED_HEAD + raw + request("/next"))
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 200
    assert [message.body for message in node.requests] == [body, b""]


async def test_trailers_of_a_request_reach_the_node(stage: Stage) -> None:
    client, node = await stage.through()
    await client.send(CHUNKED_HEAD + chunked(b"hello", trailers=b"X-Sum: 7\r\nX-More: 8\r\n"))
    assert (await client.answer()).status == 200
    assert (await node.requested()).trailers == [(b"X-Sum", b"7"), (b"X-More", b"8")]


async def test_a_client_that_expects_100_gets_it_from_the_proxy_and_the_node_hears_nothing_of_it(
    stage: Stage,
) -> None:
    client, node = await stage.through()
    await client.send(EXPECTING)
    assert (await client.answer()).status == 100
    await client.send(b"hello")
    assert (await client.answer()).status == 200
    seen = await node.requested()
    assert (seen.body, seen.values("Expect")) == (b"hello", [])


@pytest.mark.parametrize(
    "raw",
    [EXPECTING + b"hello", EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0") + b"hello"],
    ids=["the body is there", "HTTP/1.0"],
)
async def test_no_100_is_sent_to_a_client_that_does_not_wait_for_it(stage: Stage, raw: bytes) -> None:
    client, node = await stage.through()
    await client.send(raw)
    assert (await client.answer()).status == 200
    assert (await node.requested()).values("Expect") == []


async def test_a_client_of_http_1_0_never_sees_100(stage: Stage) -> None:
    client, _ = await stage.through()
    await client.send(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert not await client.ends_within(A_MOMENT_S)
    assert client.received == b""
    await client.send(b"hello")
    assert (await client.answer()).status == 200


async def test_a_client_that_closes_its_sending_side_after_a_request_still_gets_the_answer(
    stage: Stage,
) -> None:
    may_answer = asyncio.Event()

    async def waiting(exchange: Exchange) -> None:
        await exchange.request()
        await may_answer.wait()
        await exchange.send(OK)

    client, node = await stage.through(waiting, timeouts={"client_gone": "5s"})
    await client.send(request("/"))
    await node.requested()
    client.half_close()
    may_answer.set()
    assert (await client.answer()).body == b"ok"
    assert await client.rest() == b""


async def test_a_client_on_ipv6_is_served(stage: Stage) -> None:
    node = await stage.start_node()
    client = await stage.connect(await stage.start_proxy([node], listen="::1"))
    await client.send(request("/"))
    assert (await client.answer()).status == 200
    assert (await node.requested()).value("X-Forwarded-For") == b"::1"
