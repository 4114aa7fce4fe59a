"""How a client is told something, joined with a node, and left: over a plain socket.

`tls_relay` has the same for clients whose TLS ends here.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from trackproxy.sockets.poller import BROKEN, READABLE
from trackproxy.tcp.relay import Relay
from trackproxy.tunnel import NO_LINGER

if TYPE_CHECKING:
    from trackproxy.tcp.dialogue import Dialogue
    from trackproxy.tcp.relay import Owner, Tools

LINGER_BYTES = 1024 * 1024
PIECE_BYTES = 64 * 1024


class Joined(Protocol):
    """A client and a node, bytes going both ways. touched: when something last moved.

    between_commands: a line of ours would be understood. moved: bytes so far, from the client and to it.
    lost: whose connection has broken, "client" or "node"; empty if it ended in good order.
    """

    touched: float
    lost: str

    @property
    def between_commands(self) -> bool: ...
    @property
    def half_closed(self) -> bool: ...
    @property
    def moved(self) -> tuple[int, int]: ...
    def keep_alive(self) -> None: ...
    def abort(self) -> None: ...


class Client(Protocol):
    """One client; every method but `join` ends it, and calls back once it is over, perhaps at once."""

    def join(
        self, node: socket.socket, greeting: bytes, owner: Owner, dialogue: Dialogue | None
    ) -> Joined | None:
        """Pass GREETING on; return what passes bytes both ways once `begin` is called.

        NODE is watched by the poller. None if the client is gone: everything is closed then, and over.
        """
        ...

    def begin(self, joined: Joined, *, node_spoke: bool) -> None:
        """Let bytes pass. NODE_SPOKE: there may be more of the node that was not read yet."""
        ...

    def send_off(self, line: bytes) -> None:
        """Tell it LINE, wait a moment for it to read that, and close."""
        ...

    def part(self, line: bytes, joined: Joined) -> None:
        """End what it is joined in; tell it LINE, and close without waiting."""
        ...

    def drop(self) -> None:
        """Close at once."""
        ...

    def expire(self) -> None:
        """The moment that `send_off` waits is over."""
        ...


class PlainClient:
    """A client over a socket that the poller watches.

    gone: called when the client's connection breaks before it is joined. over: when it has been closed here.
    """

    __slots__ = ("_gone", "_left", "_over", "_spoke", "_tools", "sock")

    def __init__(
        self, sock: socket.socket, tools: Tools, gone: Callable[[], None], over: Callable[[], None]
    ) -> None:
        self.sock = sock
        self._tools = tools
        self._gone = gone
        self._over = over
        self._left = LINGER_BYTES
        self._spoke = False

    def early(self, events: int) -> None:
        """What the client says before its greeting waits in the kernel."""
        if events & BROKEN:
            self._gone()
        elif events & READABLE:
            self._spoke = True

    def join(
        self, node: socket.socket, greeting: bytes, owner: Owner, dialogue: Dialogue | None
    ) -> Relay | None:
        poller = self._tools.poller
        try:
            if greeting:
                self.sock.send(greeting)  # nothing was sent before, so the buffer takes it whole
        except OSError:
            poller.close(node)
            self.drop()
            return None
        relay = Relay(self.sock, node, owner, self._tools, dialogue)
        relay.node.moved = len(greeting)
        return relay

    def begin(self, joined: Joined, *, node_spoke: bool) -> None:
        assert isinstance(joined, Relay)
        joined.begin(node_spoke=node_spoke, client_spoke=self._spoke)

    def send_off(self, line: bytes) -> None:
        """Half-close first and read on: with unread bytes, closing would reset what was just sent."""
        poller = self._tools.poller
        try:
            if line:
                self.sock.send(line)
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.drop()
            return
        poller.hand_over(self.sock, self._read_on)
        self._read_on(READABLE)

    def _read_on(self, events: int) -> None:
        try:
            while self._left > 0 and (piece := self.sock.recv(PIECE_BYTES)):
                self._left -= len(piece)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.drop()
            return
        self.drop()

    def part(self, line: bytes, joined: Joined) -> None:
        assert isinstance(joined, Relay)
        joined.leave()
        with suppress(OSError):
            self.sock.send(line)
            while self._left > 0 and (piece := self.sock.recv(PIECE_BYTES)):
                self._left -= len(piece)  # what was not read would make a reset of the end
        self.drop()

    def drop(self) -> None:
        self._tools.poller.close(self.sock)
        self._over()

    def expire(self) -> None:
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.drop()
