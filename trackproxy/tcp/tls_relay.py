"""Clients whose TLS ends here: the same as a plain client and its relay, over transports of the event loop.

The kernel cannot splice what has to be decrypted.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, cast

from trackproxy.access.names import End
from trackproxy.tcp.way import keep_alive
from trackproxy.tunnel import Tunnel, TunnelEnd, Waits

if TYPE_CHECKING:
    from trackproxy.tcp.clients import Joined
    from trackproxy.tcp.dialogue import Dialogue
    from trackproxy.tcp.relay import Owner, Tools

_LOST = {End.CLIENT_GONE: "client", End.NODE_LOST: "node"}

Spawn = Callable[[Coroutine[object, object, object]], None]


class TlsClient(asyncio.Protocol):
    """A client after its TLS handshake. It is not read before it is joined, or sent off.

    gone: called when its connection breaks before that. over: when everything of it is closed.
    """

    transport: asyncio.Transport

    def __init__(self, tools: Tools, spawn: Spawn, linger_s: float) -> None:
        self.gone: Callable[[], None] = _nobody
        self.over: Callable[[], None] = _nobody
        self._tools = tools
        self._spawn = spawn
        # The session looks after silence.
        self._waits = Waits(math.inf, linger_s, linger_s)
        self._leaving = False
        self.lost = False  # the connection is gone
        self._joined: TlsRelay | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """It has been sent off: what it says is of no interest."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._leaving:
            self.over()
        elif self._joined is not None:
            self._joined.client_lost()
        else:
            self.gone()

    def join(
        self, node: socket.socket, greeting: bytes, owner: Owner, dialogue: Dialogue | None
    ) -> TlsRelay | None:
        self._tools.poller.release(node)
        keep_alive(node)
        relay = TlsRelay(self.transport, node, owner, self._tools, dialogue, self._waits)
        relay.greet(greeting)
        self._joined = relay
        return relay

    def begin(self, joined: Joined, *, node_spoke: bool) -> None:
        assert isinstance(joined, TlsRelay)
        self._spawn(joined.start())

    def send_off(self, line: bytes) -> None:
        self._leaving = True
        if self.lost:
            self.over()
        elif not self.transport.is_closing():
            self.transport.write(line)
            self.transport.resume_reading()
            self.transport.close()

    def part(self, line: bytes, joined: Joined) -> None:
        assert isinstance(joined, TlsRelay)
        joined.close(line)

    def drop(self) -> None:
        self._leaving = True
        if self.lost:
            self.over()
        else:
            self.transport.abort()

    expire = drop


class TlsRelay:
    """Both sides of a session with TLS: a tunnel, once the node's socket has a transport of its own."""

    def __init__(
        self,
        client: asyncio.Transport,
        node: socket.socket,
        owner: Owner,
        tools: Tools,
        dialogue: Dialogue | None,
        waits: Waits,
    ) -> None:
        """Take over CLIENT and NODE; the node's socket is not watched any more."""
        self._waits = waits
        self.touched = tools.sweep.now
        self._client = client
        self._node = node
        self._owner = owner
        self._tools = tools
        self._dialogue = dialogue
        self._moved = [0, 0]
        self.lost = ""
        self._tunnel: _CountedTunnel | None = None
        self._over = False
        self._closing = False

    def greet(self, greeting: bytes) -> None:
        """Pass the node's greeting on."""
        self._moved[1] = len(greeting)
        if greeting:
            self._client.write(greeting)

    async def start(self) -> None:
        """Pass on bytes both ways."""
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(_Held, self._node)
        except BaseException:
            self._node.close()
            self.client_lost()
            raise
        if self._over or self._client.is_closing():
            transport.abort()
            self.client_lost()
            return
        ends = (self._client, transport)
        self._tunnel = _CountedTunnel(ends, self._tools.sweep, self._waits, self._end, client_stalled=False)
        self._tunnel.relay = self

    @property
    def between_commands(self) -> bool:
        """Whether the client would take a line of ours for what it is."""
        return self._tunnel is not None and self._dialogue is not None and self._dialogue.between_commands

    @property
    def half_closed(self) -> bool:
        """Whether one side has ended: TLS has no such thing, so the other one ends too."""
        return False

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes passed on from the client, and from the node."""
        up, down = self._moved
        return up, down

    def count(self, data: bytes, *, from_client: bool) -> None:
        """Take what is passed on."""
        self.touched = self._tools.sweep.now
        self._moved[0 if from_client else 1] += len(data)
        if self._dialogue is not None:
            (self._dialogue.asked if from_client else self._dialogue.answered)(data)

    def close(self, line: bytes) -> None:
        """Tell the client LINE, and end both sides in good order; at once, if asked again."""
        assert self._tunnel is not None
        if self._closing:
            self._tunnel.abort()
            return
        self._closing = True
        self._client.write(line)
        self._tunnel.close()

    def keep_alive(self) -> None:
        """The node's socket was told at once."""

    def abort(self) -> None:
        """End both sides at once."""
        if self._tunnel is not None:
            self._tunnel.abort()
        else:
            self.client_lost()

    def client_lost(self) -> None:
        """The client is gone: nothing will be heard of it, so this is the end."""
        if self._tunnel is not None:
            self._tunnel.abort()
        self._client.abort()
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            if self._tunnel is not None:
                self.lost = _LOST.get(self._tunnel.end, "")
            if self._tunnel is not None:
                self._tools.sweep.discard(self._tunnel)
            self._owner.over()


class _CountedTunnel(Tunnel):
    """A tunnel that tells what passes."""

    relay: TlsRelay

    def passing(self, end: TunnelEnd, data: bytes) -> None:
        self.relay.count(data, from_client=end is self.client)


class _Held(asyncio.Protocol):
    """A connection that is not read yet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).pause_reading()


def _nobody() -> None:
    """The client has no session yet."""
