"""Connections through which bytes go as they are: tunnels between two transports, and those that only end.

Each takes a transport over from the protocol that spoke on it before.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from trackproxy.access.names import End
from trackproxy.clock import Sweep
from trackproxy.pool.endpoints import Endpoint

LINGER_BYTES = 1024 * 1024
NO_LINGER = struct.pack("ii", 1, 0)  # struct linger: on, for no second


def reset(transport: asyncio.Transport) -> None:
    """End a connection with a reset, which nobody can take for an orderly end."""
    shown = transport.get_extra_info("socket")
    if shown is not None and not transport.is_closing():
        with suppress(OSError), shown.dup() as own:  # the loop's own object does not set options
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    transport.abort()


@dataclass(frozen=True, slots=True)
class Waits:
    """How long, in seconds: silence of a tunnel, a peer that takes nothing, reading on at the end."""

    silence_s: float
    write_s: float
    linger_s: float


class Linger(asyncio.Protocol):
    """Reads on for a while after the last answer, so that a reset does not take it from the client.

    RFC 9112, 9.6: half-close first, read until the client closes too, then close. Bounded by LINGER_BYTES and
    a deadline: the write timeout as long as the answer is on its way, then the linger timeout.
    """

    def __init__(
        self, transport: asyncio.Transport, sweep: Sweep, waits: Waits, on_end: Callable[[Linger], None]
    ) -> None:
        """Take over TRANSPORT, which is not closing; ON_END is called once, when it is gone."""
        self._transport = transport
        self._sweep = sweep
        self._waits = waits
        self._on_end = on_end
        self._left = LINGER_BYTES
        self._unsent = 0
        self._wait()
        transport.set_protocol(self)
        transport.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()

    def _wait(self) -> None:
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline = self._sweep.now + (self._waits.write_s if self._unsent else self._waits.linger_s)

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()

    def expire(self) -> None:
        if self._transport.get_write_buffer_size() < self._unsent:
            self._wait()
        else:
            self._transport.abort()

    def retire(self, wait_s: float) -> None:
        """It ends by itself."""

    def abort(self) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_end(self)


class TunnelEnd(asyncio.Protocol):
    """One side of a tunnel: bytes go to the other side as they are, at the pace at which it takes them."""

    other: TunnelEnd

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.at_end = False
        transport.set_protocol(self)
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.tunnel.passing(self, data)
        self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.at_end = True
        ends = (self.transport, self.other.transport)
        if self.other.at_end or not all(end.can_write_eof() for end in ends):  # TLS has no half-close
            return False
        self.other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.tunnel.touch()
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.tunnel.lost(self, failed=exc is not None)


class Tunnel:
    """Both ends of one tunnel, and its deadline: silence on both sides. endpoint: whose node it leads to.

    moved: bytes from the client, and from the node. end: how it ended, or would if nothing came between.
    """

    endpoint: Endpoint

    def __init__(
        self,
        ends: tuple[asyncio.Transport, asyncio.Transport],
        sweep: Sweep,
        waits: Waits,
        on_end: Callable[[], None],
        client_stalled: bool,
    ) -> None:
        """Take over ENDS, client and node; ON_END is called once, when both are gone.

        client_stalled: the client has not read what was written before; the node has to wait for that.
        """
        self._sweep = sweep
        self._waits = waits
        self._on_end = on_end
        self._silence_s = waits.silence_s
        self._open = 2
        self.moved = [0, 0]
        self.end = End.OK
        self.client, self.node = (TunnelEnd(self, end) for end in ends)
        self.client.other, self.node.other = self.node, self.client
        if client_stalled:
            ends[1].pause_reading()
        self.touch()
        sweep.add(self)

    def close(self) -> None:
        """End in good order: what is on its way still arrives."""
        self._silence_s = self._waits.write_s
        self._ends(End.TAKEN_OUT)
        self.touch()
        self.client.transport.close()
        self.node.transport.close()

    def touch(self) -> None:
        """Something moved: the silence starts anew."""
        self.deadline = self._sweep.now + self._silence_s

    def passing(self, end: TunnelEnd, data: bytes) -> None:
        """DATA has come from END."""
        self.moved[end is self.node] += len(data)
        self.touch()

    def retire(self, wait_s: float) -> None:
        """Tunnels go on; whoever drains has a deadline."""

    def abort(self) -> None:
        self._ends(End.SHUTDOWN)
        self.client.transport.abort()
        self.node.transport.abort()

    def expire(self) -> None:
        """Nothing has come for too long."""
        self._ends(End.IDLE)
        self.abort()

    def _ends(self, end: End) -> None:
        """The first reason counts."""
        self.end = end if self.end is End.OK else self.end

    def lost(self, end: TunnelEnd, failed: bool) -> None:
        """One end is gone; the other one still gets what is on its way, unless that was cut short."""
        self._open -= 1
        if not self._open:
            self._on_end()
        elif failed:
            self._ends(End.CLIENT_GONE if end is self.client else End.NODE_LOST)
            end.other.transport.abort()
        else:
            self.deadline = self._sweep.now + self._waits.write_s
            end.other.transport.close()
