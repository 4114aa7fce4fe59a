"""The load, as a program: `python -m tests.chaos.client PORT CONNECTIONS busy|kept|fresh`.

Each connection sends a request, waits for the whole answer, checks it, and sends the next one. Between two of
them it pauses for up to PAUSE_S, so that some are idle at any moment; of "busy" connections only every fourth
does. "fresh" opens a connection for each request. A connection that ends while idle is no failure, one that
ends after a request was written to it is. Every tenth request is a small POST.

It says "ready" once every connection has had its first answer. Commands on stdin: `leave` (from now on a
connect may be refused; whoever is refused ends) is answered with "ok", and `stop` with the figures, as a
line of JSON, once nothing is on its way any more.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sys
import time
from dataclasses import asdict
from typing import cast

import uvloop

from tests.chaos.node import HEAD_END, NICE, body_of
from tests.chaos.tally import Head, Tally, read_head

LIMIT_S = 15.0  # a request that takes longer has failed
PAUSE_S = 0.05
AGAIN_S = 0.02  # after a connect that failed
SWEEP_S = 0.25
KEPT = 1000  # failures; heads


class Connection(asyncio.Protocol):
    """One connection to the proxy, with at most one request on its way. number: 0 between requests."""

    transport: asyncio.Transport

    def __init__(self, load: Load, place: int) -> None:
        self.load = load
        self.place = place
        self.number = 0
        self.post = False
        self.begun_at = 0.0
        self._rests = load.kind != "busy" or place % 4 == 3
        self._buffer = b""
        self._new = True  # nothing was answered on it yet
        self._pause: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.load.open.add(self)
        self._begin()

    def _begin(self) -> None:
        self._pause = None
        if self.load.stopping:
            self._end()
            return
        self.number = number = self.load.next_number()
        self.post = number % 10 == 0
        self.begun_at = time.monotonic()
        line = b"POST" if self.post else b"GET"
        ending = b"Connection: close\r\n" if self.load.fresh else b""
        body = b"Content-Length: 8\r\n\r\none=more" if self.post else b"\r\n"
        self.transport.write(
            b"%b /db/7/%d/1.gif HTTP/1.1\r\nHost: chaos.test\r\nX-Chaos-Id: %d\r\n%b%b"
            % (line, number, number, ending, body)
        )

    def data_received(self, data: bytes) -> None:
        if not self.number:
            self.load.fail(self, "unasked", repr(data[:200]))
            self._renew()
            return
        data = self._buffer + data
        size = data.find(HEAD_END) + 4
        if size < 4:
            self._buffer = data
            return
        head = self.load.head(data[:size])
        if head.length < 0 or len(data) >= size + head.length:
            self._answered(head, data[size:])
        else:
            self._buffer = data

    def _answered(self, head: Head, body: bytes) -> None:
        if not 200 <= head.status < 300:
            self.load.fail(self, f"status {head.status}", repr(body[:200]))
        elif body != body_of(self.number):
            self.load.fail(self, "wrong", repr(body[:200]))
        else:
            self._new = False
            self.load.answered(self, head)
        self.number, self._buffer = 0, b""
        if head.closes or self.load.fresh:
            self._renew()
        elif self._rests and not self.load.stopping:
            self._pause = self.load.loop.call_later(random.uniform(0, PAUSE_S), self._begin)
        else:
            self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        if self not in self.load.open:
            return
        if self.number and self._new and not self._buffer and self.load.leaving:
            self.load.tally.refused += 1  # the kernel took it, after the last look of who was leaving
            self._end()
            return
        if self.number:
            self.load.fail(self, "lost", f"{exc!r} after {len(self._buffer)} bytes")
        else:
            self.load.tally.closed_idle += 1
        self._renew()

    def expire(self) -> None:
        """The answer is not there in time."""
        self.load.fail(self, "late", f"{len(self._buffer)} bytes")
        self._renew()

    def settle(self) -> None:
        """Begin nothing more."""
        if not self.number:
            self._end()

    def _renew(self) -> None:
        """Give this connection up and go on with another one."""
        self._end()
        self.load.connect_again(self.place, random.uniform(0, PAUSE_S) if self.load.fresh else 0)

    def _end(self) -> None:
        self.number = 0
        self.load.open.discard(self)
        if self._pause is not None:
            self._pause.cancel()
        self.transport.close()


class Load:
    """All connections. open: those that are connected; connecting: how many others there are."""

    def __init__(self, port: int, connections: int, kind: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.tally = Tally()
        self.kind = kind
        self.fresh = kind == "fresh"
        self.open: set[Connection] = set()
        self.stopping = False
        self.leaving = False
        self.over = asyncio.Event()
        self._port = port
        self._connecting = 0
        self._number = 0
        self._last_answer_at = time.monotonic()
        self._unready = set(range(connections))
        self._heads: dict[bytes, Head] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        for place in range(connections):
            self.connect_again(place)
        self.sweep()

    def next_number(self) -> int:
        """The id of a new request."""
        self._number += 1
        self.tally.requests += 1
        self.tally.posts += self._number % 10 == 0
        return self._number

    def head(self, head: bytes) -> Head:
        """The head of an answer, taken apart; few differ."""
        known = self._heads.get(head)
        if known is None:
            known = read_head(head)
            if len(self._heads) < KEPT:
                self._heads[head] = known
        return known

    # --- the outcome of a request ---

    def answered(self, connection: Connection, head: Head) -> None:
        """A request has its right answer."""
        now, tally = time.monotonic(), self.tally
        tally.nodes[head.node] = tally.nodes.get(head.node, 0) + 1
        if now - self._last_answer_at > tally.gap_s:
            tally.gap_s, tally.gap_at = now - self._last_answer_at, now
        self._last_answer_at = now
        if now - connection.begun_at > tally.longest_s and not connection.post:
            tally.longest_s, tally.longest_at = now - connection.begun_at, now
            tally.longest_number = connection.number
        self._met(connection.place)

    def fail(self, connection: Connection, how: str, detail: str) -> None:
        """A request has failed."""
        if connection.post:
            self.tally.posts_failed += 1
        else:
            self.tally.failed += 1
        self._keep(how, detail, connection.number, connection.post, connection.begun_at)
        self._met(connection.place)

    def _keep(self, how: str, detail: str, number: int, post: bool, begun_at: float) -> None:
        if len(self.tally.failures) < KEPT:
            failure = {"how": how, "detail": detail, "number": number, "post": post}
            self.tally.failures.append({**failure, "begun_at": begun_at, "at": time.monotonic()})

    def _met(self, place: int) -> None:
        if self._unready:
            self._unready.discard(place)
            if not self._unready:
                self.tally.gap_s = self.tally.longest_s = 0.0  # of the start
                say("ready")

    # --- connecting ---

    def connect_again(self, place: int, pause_s: float = 0) -> None:
        """Open a connection after a pause; to a proxy that leaves, or at the end, none."""
        if self.stopping:
            self._check_over()
            return
        self._connecting += 1
        self.loop.call_later(pause_s, self._spawn, place)

    def _spawn(self, place: int) -> None:
        task = self.loop.create_task(self._connect(place))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, place: int) -> None:
        begun_at = time.monotonic()
        self.tally.connects += 1
        try:
            async with asyncio.timeout(LIMIT_S):
                await self.loop.create_connection(
                    lambda: Connection(self, place), "127.0.0.1", self._port, family=socket.AF_INET
                )
        except OSError as error:  # a TimeoutError is one, too
            self._not_connected(place, begun_at, error)
        finally:
            self._connecting -= 1
        self._check_over()

    def _not_connected(self, place: int, begun_at: float, error: OSError) -> None:
        if self.leaving and isinstance(error, ConnectionError):
            self.tally.refused += 1
            return
        self.tally.requests += 1
        self.tally.failed += 1
        self._keep("not connected", repr(error), 0, False, begun_at)
        self._met(place)
        self.connect_again(place, AGAIN_S)

    # --- the end ---

    def sweep(self) -> None:
        """Look for requests that take too long."""
        limit = time.monotonic() - LIMIT_S
        for connection in [*self.open]:
            if connection.number and connection.begun_at < limit:
                connection.expire()
        self._check_over()
        self.loop.call_later(SWEEP_S, self.sweep)

    def stop(self) -> None:
        """Begin nothing more; `over` is set once nothing is on its way."""
        self.stopping = True
        for connection in [*self.open]:
            connection.settle()
        self._check_over()

    def _check_over(self) -> None:
        if self.stopping and not self.open and not self._connecting:
            self.over.set()


def say(line: str) -> None:
    """Answer a command."""
    os.write(1, line.encode() + b"\n")


async def obey(load: Load) -> None:
    """Carry out what stdin says, until it ends or the load is over."""
    reader = asyncio.StreamReader(limit=1 << 20)
    await load.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        if line == b"leave\n":
            load.leaving = True
            say("ok")
        else:
            load.stop()
            await load.over.wait()
            say(json.dumps(asdict(load.tally)))
            return


async def run(port: int, connections: int, kind: str) -> None:
    """Run the load until it is told to stop."""
    await obey(Load(port, connections, kind))


if __name__ == "__main__":
    os.nice(NICE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
