"""Connections without sockets: transports in memory, a loop that runs when told, a clock that tests move.

A `MemoryTransport` is one connection as its protocol sees it; the test is the peer: `receive` what the peer
sends, `taken` is what it was sent. Nothing is called back before `Stage.run`, except what a real transport
calls at once (`pause_writing` out of `write`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

from trackproxy.http.upstream import Upstream

HIGH_WATER = 64 * 1024

INET = {"peername": ("192.0.2.7", 50000), "sockname": ("198.51.100.1", 80)}
UNIX = {"peername": "", "sockname": "/run/web.sock"}


class MemoryTransport(asyncio.Transport):
    """One connection whose other end is the test.

    unsent: bytes that the peer has not taken; it takes everything at once unless `stuck`.
    end: how the protocol ended it: "", "close" or "abort". eof: it has closed its sending side.
    """

    def __init__(self, loop: FakeLoop, info: dict[str, Any]) -> None:
        super().__init__(info)
        self._loop = loop
        self._sent = bytearray()
        self._unread: list[bytes] = []
        self._paused_writing = False
        self.protocol: asyncio.Protocol = asyncio.Protocol()
        self.reading = True
        self.stuck = False
        self.unsent = 0
        self.end = ""
        self.eof = False
        self.gone = False

    # --- what a protocol calls ---

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._ensure_alive()
        if self.eof:
            raise RuntimeError("write after write_eof")
        if self.end or not data:
            return
        self._sent += data
        if self.stuck:
            self.unsent += len(data)
            if self.unsent > HIGH_WATER and not self._paused_writing:
                self._paused_writing = True
                self.protocol.pause_writing()

    def write_eof(self) -> None:
        self._ensure_alive()
        self.eof = True

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return bool(self.end)

    @property
    def aborted(self) -> bool:
        return self.end == "abort"

    def close(self) -> None:
        if not self.end:
            self.end = "close"
            if not self.unsent:
                self._loop.call_soon(self.lose)

    def abort(self) -> None:
        if self.end != "abort":
            self.end = "abort"
            self.unsent = 0
            self._loop.call_soon(self.lose)

    def pause_reading(self) -> None:
        self._ensure_alive()
        self.reading = False

    def resume_reading(self) -> None:
        self._ensure_alive()
        self.reading = True
        self._loop.call_soon(self._deliver)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast(asyncio.Protocol, protocol)

    # --- what the peer does ---

    def receive(self, data: bytes) -> None:
        """The peer sends DATA; it waits while the protocol does not read."""
        self._unread.append(data)
        self._deliver()

    def receive_eof(self) -> None:
        """The peer closes its sending side."""
        if not self.end and not self.protocol.eof_received():
            self.close()

    def taken(self) -> bytes:
        """Return what was sent to the peer since the last call."""
        sent = bytes(self._sent)
        self._sent.clear()
        return sent

    def drain(self, size: int | None = None) -> None:
        """The peer takes SIZE of the bytes that it has left lying, all by default."""
        self.unsent -= self.unsent if size is None else size
        if self._paused_writing and self.unsent <= HIGH_WATER // 4:
            self._paused_writing = False
            self.protocol.resume_writing()
        if self.end == "close" and not self.unsent:
            self._loop.call_soon(self.lose)

    def lose(self, error: Exception | None = None) -> None:
        """The connection is over, whoever ended it."""
        if not self.gone:
            self.gone = True
            self.end = self.end or "lost"
            self.protocol.connection_lost(error)

    def _deliver(self) -> None:
        while self._unread and self.reading and not self.end:
            self.protocol.data_received(self._unread.pop(0))

    def _ensure_alive(self) -> None:
        if self.gone:
            raise RuntimeError("the transport is closed")


class FakeTask:
    """A coroutine that `FakeLoop.run` runs from its beginning to its end."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = work
        self._callbacks: list[Callable[[FakeTask], None]] = []
        self._cancelled = False

    def run(self) -> None:
        if self._cancelled:
            self._work.close()
        else:
            with asyncio.Runner() as runner:  # for `asyncio.timeout`
                runner.run(self._work)
        for callback in self._callbacks:
            callback(self)

    def add_done_callback(self, callback: Callable[[FakeTask], None]) -> None:
        self._callbacks.append(callback)

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def exception(self) -> None:
        return None


class Timer:
    """A timer of `FakeLoop`; calling it is what the loop does when it is due."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def __call__(self) -> None:
        if not self._cancelled:
            self._callback()


class FakeLoop:
    """A loop without sockets. refusing: ports where connects fail. connected: those that worked."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.refusing: set[int] = set()
        self.connected: list[MemoryTransport] = []
        self._ready: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self._ready.append(lambda: callback(*args))

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: object) -> Timer:
        timer = Timer(lambda: callback(*args))
        self._timers.append((self.now_s + delay_s, timer))
        return timer

    def create_task(self, work: Coroutine[Any, Any, None], name: str) -> FakeTask:
        task = FakeTask(work)
        self._ready.append(task.run)
        return task

    async def create_connection(
        self, make: Callable[[], Upstream], host: str, port: int
    ) -> tuple[MemoryTransport, Upstream]:
        if port in self.refusing:
            raise ConnectionRefusedError(111, "Connection refused")
        upstream = make()
        transport = open_connection(self, upstream, {})
        self.connected.append(transport)
        return transport, upstream

    def run(self) -> None:
        """Call all that is ready, and what becomes ready by that."""
        due = [callback for at, callback in self._timers if at <= self.now_s]
        self._timers = [timer for timer in self._timers if timer[0] > self.now_s]
        self._ready.extend(due)
        while self._ready:
            self._ready.popleft()()


def open_connection(loop: FakeLoop, protocol: asyncio.BaseProtocol, info: dict[str, Any]) -> MemoryTransport:
    transport = MemoryTransport(loop, info)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return transport
