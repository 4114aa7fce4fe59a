"""A node in the test's own event loop, which does what it is told and writes down what reaches it."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.e2e.test_cli import DEADLINE_S

PROBE_PATH = "/probe"
SLOW = "/slow"
HARD_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


async def until(fact: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + deadline_s
    while not fact():
        assert time.monotonic() < deadline, "this has not come about"
        await asyncio.sleep(0.005)


@dataclass(slots=True, eq=False)
class Node:
    """One node. What it does may be changed at any time.

    status, body, delay_s: of its answers; probe_*: of those to probes. resets: closes instead of answering
    anything but probes. host: what Host must say in a probe; else 421. go_on: until then SLOW waits.

    seen: "probe" and "request", in order of arrival; times: of requests. open, most_open: requests at once.
    """

    name: str
    port: int
    status: int = 200
    delay_s: Callable[[], float] = lambda: 0.0
    probe_status: int = 200
    probe_body: str = "alive"
    probe_delay_s: float = 0.0
    resets: bool = False
    host: str = ""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    most_open: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def probes(self) -> int:
        return self.seen.count("probe")

    @property
    def requests(self) -> int:
        return self.seen.count("request")

    async def start(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)

    async def stop(self) -> None:
        """Refuse connections, and reset those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            _reset(writer)
        await until(lambda: not self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._answer((await reader.readuntil(b"\r\n\r\n")).decode(), writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection goes on."""
        target = head.split(" ")[1]
        if target == PROBE_PATH:
            self.seen.append("probe")
            await asyncio.sleep(self.probe_delay_s)
            wrong = self.host and not re.search(rf"\r\nHost: {self.host}\r\n", head, re.IGNORECASE)
            return self._write(writer, 421 if wrong else self.probe_status, self.probe_body)
        self.seen.append("request")
        self.times.append(time.monotonic())
        if self.resets:
            _reset(writer)
            return False
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await (self.go_on.wait() if target == SLOW else asyncio.sleep(self.delay_s()))
        finally:
            self.open -= 1
        return self._write(writer, self.status, self.name)

    def _write(self, writer: asyncio.StreamWriter, status: int, body: str) -> bool:
        if writer.transport.is_closing():
            return False
        head = f"HTTP/1.1 {status} X\r\nX-Node: {self.name}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body.encode())
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HARD_CLOSE)
    writer.transport.abort()
