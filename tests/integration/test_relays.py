"""Relays: bytes both ways as they are, each end of a stream as what it was, in bounded memory."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket

import pytest

from tests.integration.conftest import Stage
from tests.integration.sessions import GREETING, session
from tests.integration.wire import BODY_DEADLINE_S, Wire, settle
from trackproxy.board import Counter
from trackproxy.tcp import pipes, relay
from trackproxy.tcp.forwarder import Forwarder
from trackproxy.tcp.pipes import Pipes

MIB = 1024 * 1024
BLOCK = random.Random(1).randbytes(MIB)


def forwarder(stage: Stage) -> Forwarder:
    """The service of the stage."""
    (service,) = stage.workers[0].services.values()
    assert isinstance(service, Forwarder)
    return service


async def ended(stage: Stage) -> None:
    """Wait until no session is open; nothing may be held then."""
    async with asyncio.timeout(5):
        while forwarder(stage).open:
            await settle()
    assert forwarder(stage).tools.pipes.lent == 0
    assert all(endpoint.active == endpoint.tunnels == 0 for endpoint in forwarder(stage).endpoints)


async def test_lines_go_back_and_forth(stage: Stage) -> None:
    client, server, _ = await session(stage)
    for number in range(200):
        line = b"RCPT TO:<%d@example.com>\r\n" % number
        await client.send(line)
        assert await server.until(b"\r\n") == line
        await server.send(b"250 %d\r\n" % number)
        assert await client.until(b"\r\n") == b"250 %d\r\n" % number


@pytest.mark.parametrize("downwards", [True, False], ids=["to the client", "to the node"])
@pytest.mark.parametrize("piped", [True, False], ids=["piped", "copied"])
async def test_64_mib_arrive_byte_for_byte(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, downwards: bool, piped: bool
) -> None:
    if not piped:
        monkeypatch.setattr(Pipes, "lend", lambda self: None)
    client, server, _ = await session(stage)
    source, sink = (server, client) if downwards else (client, server)
    sending = asyncio.create_task(_send_blocks(source, 64))
    digest = hashlib.sha256()
    for _ in range(64):
        digest.update(await sink.exactly(MIB, BODY_DEADLINE_S))
        sink.forget()
    await sending
    expected = hashlib.sha256()
    for _ in range(64):
        expected.update(BLOCK)
    assert digest.digest() == expected.digest()
    assert forwarder(stage).tools.pipes.lent == 0


async def _send_blocks(wire: Wire, count: int) -> None:
    for _ in range(count):
        await wire.send(BLOCK, BODY_DEADLINE_S)


@pytest.mark.parametrize("size", [1, 2, relay.PIECE_BYTES - 1, relay.PIECE_BYTES, relay.PIECE_BYTES + 1,
                                  pipes.SIZE_BYTES, 3 * pipes.SIZE_BYTES + 7])  # fmt: skip
async def test_pieces_of_any_size_arrive_in_order(stage: Stage, size: int) -> None:
    client, server, _ = await session(stage)
    data = (BLOCK * (size // MIB + 1))[:size]
    for source, sink in ((client, server), (server, client)):
        for _ in range(3):
            await source.send(data)
            assert await sink.exactly(size) == data


async def test_a_reader_that_stalls_holds_the_writer_in_bounded_memory(stage: Stage) -> None:
    client, server, _ = await session(stage)
    client.pause()
    sent = 0
    server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    loop = asyncio.get_running_loop()
    try:
        while sent < 256 * MIB:
            async with asyncio.timeout(0.5):
                await loop.sock_sendall(server.sock, BLOCK)
            sent += MIB
    except TimeoutError:
        pass
    assert sent < 64 * MIB  # what the kernel's buffers and one pipe hold
    assert forwarder(stage).tools.pipes.lent <= 1
    client.reset()
    server.close()
    await ended(stage)


async def test_a_slow_reader_and_a_slow_writer_meet_no_loss(stage: Stage) -> None:
    client, server, _ = await session(stage)

    async def write_slowly() -> None:
        rng = random.Random(2)
        at = 0
        while at < MIB:
            step = rng.randrange(1, 40_000)
            await server.send(BLOCK[at : at + step])
            at += step
            await asyncio.sleep(0)

    writing = asyncio.create_task(write_slowly())
    taken = b""
    while len(taken) < MIB:
        taken += await client.exactly(min(10_000, MIB - len(taken)))
    await writing
    assert taken == BLOCK


async def test_a_half_close_is_passed_on_after_everything_before_it(stage: Stage) -> None:
    client, server, _ = await session(stage)
    await client.send(BLOCK)
    client.half_close()
    assert await server.rest(BODY_DEADLINE_S) == BLOCK
    assert server.ended == "eof"
    await server.send(BLOCK[::-1])
    assert await client.exactly(MIB) == BLOCK[::-1]
    server.half_close()
    assert await client.rest() == b""
    assert client.ended == "eof"
    await ended(stage)


async def test_a_half_close_of_the_node_leaves_the_client_talking(stage: Stage) -> None:
    client, server, _ = await session(stage)
    server.half_close()
    assert await client.rest() == b""
    await client.send(b"still here")
    assert await server.exactly(10) == b"still here"
    client.half_close()
    assert await server.rest() == b""
    await ended(stage)


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "node"])
async def test_a_reset_is_passed_on_as_one(stage: Stage, by_client: bool) -> None:
    client, server, _ = await session(stage)
    breaking, other = (client, server) if by_client else (server, client)
    breaking.reset()
    await other.rest()
    assert other.ended == "reset"
    await ended(stage)


async def test_a_reset_after_a_half_close_is_passed_on_too(stage: Stage) -> None:
    client, server, _ = await session(stage)
    client.half_close()
    assert await server.rest() == b""
    client.reset()
    await ended(stage)


async def test_the_last_words_of_a_node_that_resets_reach_the_client(stage: Stage) -> None:
    client, server, _ = await session(stage)
    await server.send(b"421 too many errors\r\n")
    await client.send(b"x" * 1000)  # unread, so that closing resets
    await server.until(b"x")
    await server.send(b"421 bye\r\n")
    server.reset()
    assert (await client.rest()).startswith(b"421 too many errors\r\n")
    await ended(stage)


async def test_a_silent_session_ends_after_its_time_with_the_protocols_words(stage: Stage) -> None:
    client, server, _ = await session(stage, timeouts={"idle": "200ms"})
    assert await client.rest() == b"421 mail Timeout, closing transmission channel\r\n"
    assert await server.rest() == b""
    await ended(stage)


async def test_a_session_that_is_silent_inside_a_message_is_just_ended(stage: Stage) -> None:
    client, server, _ = await session(stage, timeouts={"idle": "200ms"})
    await client.send(b"DATA\r\n")
    await server.until(b"\r\n")
    await server.send(b"354 go on\r\n")
    await client.until(b"\r\n")
    await client.send(b"Subject: x\r\n")
    assert await client.rest() == b""
    await ended(stage)


async def test_traffic_keeps_a_session_alive(stage: Stage) -> None:
    client, server, _ = await session(stage, timeouts={"idle": "400ms"})
    for _ in range(8):
        await asyncio.sleep(0.1)  # the passing of time is the subject
        await client.send(b"NOOP\r\n")
        await server.until(b"\r\n")
        await server.send(b"250 ok\r\n")
        await client.until(b"\r\n")
    assert not client.ended


async def test_a_half_closed_session_has_a_time_of_its_own(stage: Stage) -> None:
    client, server, _ = await session(stage, timeouts={"half_closed": "100ms"})
    client.half_close()
    assert await server.rest() == b""
    await client.rest()
    await ended(stage)


async def test_bytes_are_counted_both_ways(stage: Stage) -> None:
    client, server, _ = await session(stage)
    await client.send(b"u" * 100_000)
    await server.exactly(100_000)
    await server.send(b"d" * 50)
    await client.exactly(50)
    service = forwarder(stage)
    client.close()
    server.close()
    await settle()
    await ended(stage)
    (way,) = service.ways.values()
    assert way.cells[Counter.BYTES_UP] == 100_000
    assert way.cells[Counter.BYTES_DOWN] == 50 + len(GREETING)


async def test_a_session_with_nothing_in_flight_holds_no_pipe(stage: Stage) -> None:
    client, server, _ = await session(stage)
    await server.send(BLOCK)
    assert await client.exactly(MIB) == BLOCK
    await settle()
    assert forwarder(stage).tools.pipes.lent == 0
