"""Bodies that end in no exact place, come too late, or are too large: no node gets a complete request.

A body is passed on while it comes, so a node may have seen its beginning. It must never see an end.
"""

from __future__ import annotations

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import LAST_CHUNK, OK, answers_in, chunked, post, request
from tests.integration.nodes import Exchange, Node
from tests.integration.wire import Wire, settle

HEAD = b"POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
BEHIND = request("/behind")
QUICK = {"head": "150ms", "body": "150ms", "linger": "150ms", "idle": "150ms"}
PAUSE_S = 0.02

BAD_CHUNKS = {
    "size with plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size with minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size with underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "space after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "tab after the size": b"5\t\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "no size but an extension": b";a=b\r\nhello\r\n0\r\n\r\n",
    "no digit": b"g\r\nhello\r\n0\r\n\r\n",
    "size beyond 64 bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "size of 64 bits": b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "size with endless zeros": b"0" * 40_000 + b"5\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": b"5\r\nhello!\r\n0\r\n\r\n",
    "no line end after a chunk": b"5\r\nhello0\r\n\r\n",
    "LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "LF after a chunk": b"5\r\nhello\n0\r\n\r\n",
    "CR after the size": b"5\rhello\r\n0\r\n\r\n",
    "CR after a chunk": b"5\r\nhello\r0\r\n\r\n",
    "LF after the last size": b"5\r\nhello\r\n0\n\r\n",
    "LF at the end": b"5\r\nhello\r\n0\r\n\n",
    "LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
    "an extension that is too long": b"5;" + b"x" * 20_000 + b"\r\nhello\r\n0\r\n\r\n",
    "trailer with a length": chunked(b"hello", trailers=b"Content-Length: 5\r\n"),
    "trailer with a coding": chunked(b"hello", trailers=b"Transfer-Encoding: chunked\r\n"),
    "trailer with a Host": chunked(b"hello", trailers=b"Host: b\r\n"),
    "trailer with a space before the colon": chunked(b"hello", trailers=b"X : y\r\n"),
    "trailer without a colon": chunked(b"hello", trailers=b"XY\r\n"),
    "trailer with a folded line": chunked(b"hello", trailers=b"X: y\r\n z\r\n"),
    "trailer with LF": chunked(b"hello", trailers=b"X: y\nZ: z\r\n"),
    "trailer with NUL": chunked(b"hello", trailers=b"X: \x00\r\n"),
    "trailers that are too large": chunked(b"hello", trailers=b"X: " + b"x" * 20_000 + b"\r\n"),
    "trailers without end": b"0\r\n" + b"X: y\r\n" * 4_000,
}


async def assert_never_complete(client: Wire, node: Node, statuses: set[int]) -> None:
    """One refusal came, then a close; no node has read a whole request, or anything of the next one."""
    reply = await client.rest()
    (status_line,) = answers_in(reply)
    assert int(status_line.split(b" ")[1]) in statuses
    assert client.ended == "eof"
    for wire in node.connections:
        await wire.rest()  # whoever has seen the beginning sees the connection end
    assert node.requests == []
    assert b"/behind" not in node.received
    assert not node.received.endswith(LAST_CHUNK)


@pytest.mark.parametrize("raw", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_a_body_with_a_bad_chunk_never_reaches_a_node_as_a_whole(stage: Stage, raw: bytes) -> None:
    client, node = await stage.through()
    await client.send(HEAD + raw + BEHIND)
    await assert_never_complete(client, node, {400, 413, 431})


@pytest.mark.parametrize("raw", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_a_bad_chunk_is_noticed_while_the_node_already_reads(stage: Stage, raw: bytes) -> None:
    client, node = await stage.through(retry={"body": 0})
    await client.send(HEAD + chunked(b"first")[: -len(LAST_CHUNK)])
    first = await node.connected()
    await first.saw(b"first")
    await client.send(raw + BEHIND)
    await assert_never_complete(client, node, {400, 413, 431})


async def test_a_bad_chunk_after_the_answer_has_begun_cuts_the_answer_off(stage: Stage) -> None:
    async def early(exchange: Exchange) -> None:
        await exchange.wire.until(b"\r\n\r\n")
        await exchange.send(OK.replace(b": 2", b": 10"))

    client, node = await stage.through(early)
    await client.send(HEAD + chunked(b"first")[: -len(LAST_CHUNK)])
    await client.saw(b"\r\n\r\nok")
    await client.send(b"x\r\n" + BEHIND)
    assert (await client.rest()).endswith(b"\r\n\r\nok")
    await node.connections[0].rest()
    assert b"/behind" not in node.received


@pytest.mark.parametrize(
    "raw",
    [post("/bad", b"x" * 1001), HEAD + chunked(b"x" * 600, b"x" * 401)],
    ids=["by its length", "in chunks"],
)
async def test_a_body_that_is_too_large_is_refused_with_413(stage: Stage, raw: bytes) -> None:
    client, node = await stage.through(max_body=1000)
    await client.send(raw + BEHIND)
    await assert_never_complete(client, node, {413})


async def test_a_length_that_is_too_large_is_refused_before_the_body_comes(stage: Stage) -> None:
    client, node = await stage.through(max_body=1000)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
    await assert_never_complete(client, node, {413})
    assert node.received == b""


async def test_a_client_that_sends_all_of_it_before_it_reads_still_sees_the_413(stage: Stage) -> None:
    node = await stage.start_node()
    client = await stage.connect(await stage.start_proxy([node], max_body=1000), reading=False)
    await client.send(HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 524288"))
    for _ in range(8):
        await settle()
        await client.send(b"x" * 64 * 1024)
    client.resume()
    await assert_never_complete(client, node, {413})
    assert not client.broken


@pytest.mark.parametrize("raw", [post("/", b"x" * 1000), HEAD + chunked(b"x" * 600, b"x" * 400)])
async def test_a_body_of_just_the_largest_size_is_served(stage: Stage, raw: bytes) -> None:
    client, node = await stage.through(max_body=1000)
    await client.send(raw)
    assert (await client.answer()).status == 200
    assert len((await node.requested()).body) == 1000


@pytest.mark.parametrize(
    "start", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r"]
)
async def test_a_head_that_is_not_complete_in_time_is_refused_with_408(stage: Stage, start: bytes) -> None:
    client, node = await stage.through(timeouts=QUICK)
    await client.send(start)
    await assert_never_complete(client, node, {408})
    assert node.received == b""


async def test_a_head_that_trickles_byte_by_byte_gets_no_more_time_than_another(stage: Stage) -> None:
    client, node = await stage.through(timeouts=QUICK)
    for byte in request("/slow", "X: " + "x" * 1000):
        await client.send(bytes([byte]))
        if await client.ends_within(PAUSE_S):
            break
    await assert_never_complete(client, node, {408})
    assert node.received == b""


async def test_empty_lines_without_end_gain_no_time(stage: Stage) -> None:
    client, _ = await stage.through(timeouts=QUICK)
    for _ in range(100):
        await client.send(b"\r\n")
        if await client.ends_within(PAUSE_S):
            break
    assert client.ended


@pytest.mark.parametrize(
    "start",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel",
        HEAD + b"5\r\nhel",
        HEAD + b"5\r\nhello\r\n",
    ],
    ids=["length", "inside a chunk", "between chunks"],
)
async def test_a_body_that_stops_coming_is_refused_with_408(stage: Stage, start: bytes) -> None:
    client, node = await stage.through(timeouts=QUICK)
    await client.send(start)
    await assert_never_complete(client, node, {408})


@pytest.mark.parametrize("before", [b"", request("/good")], ids=["new", "kept alive"])
async def test_a_client_that_says_nothing_more_is_let_go_in_time(stage: Stage, before: bytes) -> None:
    client, _ = await stage.through(timeouts=QUICK)
    await client.send(before)
    reply = await client.rest()
    assert reply.count(OK[-2:]) == (1 if before else 0)


async def test_a_client_that_breaks_off_inside_a_body_leaves_no_complete_request(stage: Stage) -> None:
    client, node = await stage.through()
    await client.send(HEAD + b"5\r\nhello\r\n")
    client.half_close()
    await client.rest()
    for wire in node.connections:
        await wire.rest()
    assert node.requests == []
