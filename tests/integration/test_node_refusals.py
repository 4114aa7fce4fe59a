"""Nodes are read as strictly as clients: a doubtful answer becomes 502, its connection is given up."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import OK, post, request
from tests.integration.nodes import Exchange, Script

KIB = 1024
STATUS = b"HTTP/1.1 200 OK\r\n"
CHUNKED = STATUS + b"Transfer-Encoding: chunked\r\n\r\n"

BAD_HEADS = {
    "length and coding": STATUS + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": STATUS + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "negative length": STATUS + b"Content-Length: -2\r\n\r\nok",
    "length with plus": STATUS + b"Content-Length: +2\r\n\r\nok",
    "length that is a word": STATUS + b"Content-Length: two\r\n\r\nok",
    "overflowing length": STATUS + b"Content-Length: 18446744073709551618\r\n\r\nok",
    "two codings": STATUS + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": STATUS + b"Transfer-Encoding: gzip\r\n\r\n",
    "folded line": STATUS + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "LF in a value": STATUS + b"X: a\nY: b\r\nContent-Length: 2\r\n\r\nok",
    "CR in a value": STATUS + b"X: a\rb\r\nContent-Length: 2\r\n\r\nok",
    "NUL in a value": STATUS + b"X: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    "space before the colon": STATUS + b"Content-Length : 2\r\n\r\nok",
    "no colon": STATUS + b"XY\r\nContent-Length: 2\r\n\r\nok",
    "LF everywhere": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "NULs": b"\x00" * 100 + b"\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "status that is a word": b"HTTP/1.1 OK 200\r\nContent-Length: 2\r\n\r\nok",
    "status with two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    "status with four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok",
    "CR in the reason": b"HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok",
    "two spaces": b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a huge head": STATUS + b"X: " + b"x" * 40 * KIB + b"\r\nContent-Length: 2\r\n\r\nok",
    "a head without end": STATUS + b"X: y\r\n" * 40 * KIB,
}
BAD_BODIES = {
    "size with 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "space after the size": CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
    "size beyond 64 bits": CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "LF after the size": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "bad trailer": CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
}


def at_first(raw: bytes) -> Script:
    """The first connection answers with these bytes and stays open; later ones answer well."""

    async def script(exchange: Exchange) -> None:
        while True:
            await exchange.read_and_send(raw if exchange.number == 1 else OK)

    return script


@pytest.mark.parametrize("raw", BAD_HEADS.values(), ids=BAD_HEADS.keys())
async def test_a_bad_head_becomes_502_and_its_connection_is_given_up(stage: Stage, raw: bytes) -> None:
    client, node = await stage.through(at_first(raw))
    await client.send(post("/1"))
    reply = await client.answer()
    assert reply.status == 502
    assert len(reply.body) < KIB
    await node.connections[0].rest()
    await client.send(post("/2"))
    assert (await client.answer()).body == b"ok"
    assert (len(node.requests), len(node.connections)) == (2, 2)


@pytest.mark.parametrize("raw", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_bad_body_is_cut_so_that_the_client_sees_it_is_not_whole(stage: Stage, raw: bytes) -> None:
    client, node = await stage.through(at_first(raw))
    await client.send(post("/1"))
    reply = await client.rest()
    assert not reply.endswith(b"\r\n0\r\n\r\n")
    assert b"Content-Length" not in reply or b" 502 " in reply
    await node.connections[0].rest()


@pytest.mark.parametrize(
    "extra",
    [b"x", b"\x00", OK, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nevil!"],
    ids=["a letter", "NUL", "an answer", "another answer"],
)
async def test_a_connection_with_bytes_after_its_answer_is_never_used_again(
    stage: Stage, extra: bytes
) -> None:
    client, node = await stage.through(at_first(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood" + extra))
    await client.send(request("/1"))
    assert (await client.answer()).body == b"good"
    await client.send(request("/2"))
    assert (await client.answer()).body == b"ok"
    await node.connections[0].rest()
    assert len(node.connections) == 2


async def test_a_connection_is_never_used_again_after_a_coding_in_http_1_0(stage: Stage) -> None:
    # RFC 9112, 6.1: its framing counts as faulty, whether its body is passed on or not.
    raw = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    client, node = await stage.through(at_first(raw))
    await client.send(request("/1"))
    assert (await client.answer()).status in (200, 502)
    await client.send(request("/2"))
    assert (await client.answer()).body == b"ok"
    assert len(node.connections) == 2


async def test_an_answer_that_nobody_asked_for_is_given_to_nobody(stage: Stage) -> None:
    client, node = await stage.through(at_first(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"))
    await client.send(request("/1"))
    assert (await client.answer()).body == b"good"
    await node.connections[0].send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nevil!")
    await node.connections[0].rest()
    await client.send(request("/2"))
    assert (await client.answer()).body == b"ok"


async def test_an_answer_to_head_with_a_body_gives_nothing_of_it_to_the_next_request(stage: Stage) -> None:
    client, _ = await stage.through(at_first(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nevil!"))
    await client.send(request("/1", method="HEAD"))
    assert (await client.answer(b"HEAD")).value("Content-Length") == b"5"
    await client.send(request("/2"))
    assert (await client.answer()).body == b"ok"
