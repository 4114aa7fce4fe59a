"""Nodes that do exactly what a test tells them, one script per connection.

A script is a coroutine function of one `Exchange`: it reads requests, sends bytes, closes, resets, or keeps
silent. When it returns, its connection stays open until the test ends.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.integration.messages import OK, Message
from tests.integration.wire import DEADLINE_S, Wire, WireEnded


class Node:
    """A listening socket on 127.0.0.1 that gives each connection to the script; close() ends it.

    connections: every connection so far. requests: every complete request, in order of completion.
    """

    def __init__(self, script: Script | None = None, *, reading: bool = True) -> None:
        self._script = script or answering()
        self._reading = reading
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._changed = asyncio.Event()
        self._scripts: list[asyncio.Task[None]] = []
        self._acceptor = asyncio.create_task(self._accept(), name="node acceptor")
        self.connections: list[Wire] = []
        self.requests: list[Message] = []

    @property
    def address(self) -> str:
        """Where it listens, as settings write it."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    @property
    def received(self) -> bytes:
        """Every byte that ever reached it."""
        return b"".join(bytes(wire.received) for wire in self.connections)

    @property
    def targets(self) -> list[bytes]:
        """The targets of the complete requests, in order."""
        return [message.target for message in self.requests]

    async def connected(self, count: int = 1) -> Wire:
        """Wait until so many connections were made; the last of them."""
        await self._wait(lambda: len(self.connections) >= count, f"not {count} connections")
        return self.connections[count - 1]

    async def requested(self, count: int = 1) -> Message:
        """Wait until so many requests were complete; the last of them."""
        await self._wait(lambda: len(self.requests) >= count, f"not {count} requests")
        return self.requests[count - 1]

    def took(self, message: Message) -> None:
        """A script has read a complete request."""
        self.requests.append(message)
        self._changed.set()

    async def close(self) -> None:
        """Stop; raise what a script raised."""
        self._acceptor.cancel()
        for task in self._scripts:
            task.cancel()
        results = await asyncio.gather(self._acceptor, *self._scripts, return_exceptions=True)
        self._listener.close()
        for wire in self.connections:
            wire.close()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _wait(self, ready: Callable[[], bool], problem: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not ready():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{problem}, but {self.targets} in {self.received[:300]!r}") from None

    async def _accept(self) -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            wire = Wire(sock, reading=self._reading)
            self.connections.append(wire)
            exchange = Exchange(self, wire, len(self.connections))
            self._scripts.append(asyncio.create_task(self._run(exchange), name="node script"))
            self._changed.set()

    async def _run(self, exchange: Exchange) -> None:
        # The proxy may end a connection at any time; a script that waits for more is then over.
        with suppress(WireEnded):
            await self._script(exchange)


class Exchange:
    """One connection of a node, as its script sees it; `number` counts from 1."""

    def __init__(self, node: Node, wire: Wire, number: int) -> None:
        self.node = node
        self.wire = wire
        self.number = number

    async def request(self) -> Message:
        """Read a complete request, however long the proxy takes to send one, and count it."""
        await self.wire.stirs()
        message = await self.wire.request()
        self.node.took(message)
        return message

    async def send(self, data: bytes) -> None:
        """Send bytes to the proxy."""
        await self.wire.send(data)

    async def read_and_send(self, *pieces: bytes) -> Message:
        """Read a request, then send these pieces one after the other."""
        message = await self.request()
        for piece in pieces:
            await self.send(piece)
        return message


Script = Callable[[Exchange], Awaitable[None]]


def answering(*answers: bytes) -> Script:
    """Answer each request of a connection in turn; the last answer repeats."""

    async def script(exchange: Exchange) -> None:
        texts = list(answers) or [OK]
        while True:
            await exchange.read_and_send(texts.pop(0) if len(texts) > 1 else texts[0])

    return script


def echoing() -> Script:
    """Answer each request with its own target."""

    async def script(exchange: Exchange) -> None:
        while True:
            target = (await exchange.request()).target
            await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(target), target))

    return script


def breaking_off(*pieces: bytes, reset: bool = False) -> Script:
    """Read one request, send these pieces, then close (or reset)."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_and_send(*pieces)
        if reset:
            exchange.wire.reset()
        else:
            exchange.wire.close()

    return script


async def silent(exchange: Exchange) -> None:
    """Read requests and never answer."""
    while True:
        await exchange.request()
