"""Clients that want nothing, too much or too many things of the admin endpoint."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from aiohttp import web

from trackproxy.admin.connections import Bounds
from trackproxy.admin.listener import AdminListener
from trackproxy.admin_sections import Admin

DEADLINE_S = 30.0
BOUNDS = Bounds(most=3, request_s=0.4, unsent_s=0.4, look_s=0.05)
LARGE = b"x" * 8_000_000  # more than two sockets take
ALIVE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Place:
    """An admin endpoint with tight bounds. answered: how many said that it is alive. go_on: ends streams."""

    def __init__(self) -> None:
        self.answered = 0
        self.go_on = asyncio.Event()
        application = web.Application()
        application.router.add_get("/healthz", self._alive)
        application.router.add_get("/large", self._large)
        application.router.add_get("/stream", self._stream)
        self.listener = AdminListener(application, BOUNDS)

    async def _alive(self, request: web.Request) -> web.Response:
        self.answered += 1
        return web.json_response({"status": "alive"})

    async def _large(self, request: web.Request) -> web.Response:
        return web.Response(body=LARGE)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        await self.go_on.wait()
        await response.write(b"last")
        return response

    @asynccontextmanager
    async def client(self, received_bytes: int = 0) -> AsyncIterator[Streams]:
        """A connection; RECEIVED_BYTES: of its buffer in the kernel, if it matters."""
        host, _, port = self.listener.addresses[0].rpartition(":")
        sock = socket.socket()
        if received_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**16)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def status(self) -> int:
        """The status that one more client gets."""
        async with self.client() as (reader, writer):
            writer.write(ALIVE)
            head = await reader.readuntil(b"\r\n\r\n")
            return int(head.split()[1])


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of the next answer, which is read to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    await reader.readexactly(length)
    return int(head.split()[1])


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    async with asyncio.timeout(DEADLINE_S):
        await place.listener.move(place.listener.prepare(Admin.model_validate({"listen": "127.0.0.1:0"})))
        yield place
        place.go_on.set()
        await place.listener.close()


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, however it does."""
    came = b""
    with suppress(ConnectionError):
        while piece := await reader.read(2**16):
            came += piece
    return came


# --- no request ---


@pytest.mark.parametrize("beginning", [b"", b"GET", ALIVE[:-2]])
async def test_a_connection_without_a_whole_request_is_closed(place: Place, beginning: bytes) -> None:
    async with place.client() as (reader, writer):
        writer.write(beginning)
        assert await end_of(reader) == b""


async def test_a_connection_is_closed_that_comes_to_nothing_after_an_answer(place: Place) -> None:
    async with place.client() as (reader, writer):
        writer.write(ALIVE)
        assert await status_of(reader) == 200
        writer.write(b"GET /")
        assert await end_of(reader) == b""


async def test_a_head_that_trickles_buys_no_time(place: Place) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(ALIVE[:-2])
        while True:
            writer.write(b"a: b\r\n")
            await asyncio.sleep(0.01)

    async with place.client() as (reader, writer):
        trickling = asyncio.create_task(trickle(writer))
        # So many fields do not come in time; if they do, they are too many.
        assert (await end_of(reader))[:12] in (b"", b"HTTP/1.1 400")
        trickling.cancel()
    assert place.answered == 0


async def test_an_answer_may_take_as_long_as_it_likes(place: Place) -> None:
    async with place.client() as (reader, writer), place.client() as (silent, _):
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"first")
        assert await end_of(silent) == b""  # as long as a connection without a request is kept
        place.go_on.set()
        await reader.readuntil(b"last")


# --- no HTTP ---


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /" + b"a" * 20_000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200,
        b"GET / HTTP/1.1\r\na: " + b"b" * 20_000,
    ],
    ids=["TLS", "no field", "a long target", "many fields", "a long field"],
)
async def test_what_is_no_http_or_too_much_is_answered_with_a_problem(place: Place, head: bytes) -> None:
    async with place.client() as (reader, writer):
        writer.write(head)
        came = await end_of(reader)
    status, _, rest = came.partition(b"\r\n")
    fields, _, body = rest.partition(b"\r\n\r\n")
    assert status.endswith(b" 400 Bad Request")
    assert b"Content-Type: application/problem+json" in fields
    assert b"Cache-Control: no-store" in fields
    assert b"Server: trackproxy" in fields
    assert json.loads(body)["status"] == 400


@pytest.mark.parametrize(
    ("head", "endless"),
    [
        (b"GET /", b"a" * 1000),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 100),
        (b"GET / HTTP/1.1\r\na: ", b"b" * 1000),
    ],
    ids=["target", "fields", "field"],
)
async def test_a_head_without_end_ends_its_connection(place: Place, head: bytes, endless: bytes) -> None:
    async with place.client() as (reader, writer):
        ending = asyncio.create_task(end_of(reader))
        with suppress(ConnectionError):
            writer.write(head)
            while not ending.done():
                writer.write(endless)
                await writer.drain()
                await asyncio.sleep(0)
        await ending


# --- no reader ---


async def test_who_does_not_read_a_large_answer_is_left(place: Place) -> None:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(place.client(4096)) for _ in range(BOUNDS.most)]
        for _, writer in streams:
            writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await place.status() == 503
        while await place.status() == 503:
            pass
        for reader, _ in streams:
            assert len(await end_of(reader)) < len(LARGE)


async def test_who_reads_a_large_answer_gets_it_all(place: Place) -> None:
    async with place.client() as (reader, writer):
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await end_of(reader)).endswith(LARGE)


async def test_who_sends_requests_and_reads_no_answers_is_left_and_not_listened_to_for_ever(
    place: Place,
) -> None:
    async with place.client(received_bytes=4096) as (_, writer):
        sent = 0
        with suppress(ConnectionError):
            while True:
                writer.write(ALIVE * 100)
                sent += 100
                await writer.drain()
    assert place.answered < sent


# --- too many ---


async def test_who_is_one_too_many_is_told_so_and_who_is_there_stays(place: Place) -> None:
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(BOUNDS.most):
            reader, writer = await stack.enter_async_context(place.client())
            writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"first")
            streams.append(reader)
        async with place.client() as (reader, _):
            assert (await end_of(reader)).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        place.go_on.set()
        for reader in streams:
            await reader.readuntil(b"last")


async def test_there_is_room_again_once_connections_are_closed_for_want_of_requests(place: Place) -> None:
    async with AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(place.client()) for _ in range(BOUNDS.most)]
        for reader, _ in silent:
            assert await end_of(reader) == b""
        assert await place.status() == 200
