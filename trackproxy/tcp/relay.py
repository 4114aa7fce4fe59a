"""The relay: bytes both ways between two sockets, at the pace of whoever is slower.

Small pieces are received and sent on at once, since a line of a dialogue costs less that way. A piece that
fills the buffer is taken for the beginning of bulk: what follows goes through a pipe inside the kernel
(splice(2)), until it comes in small bursts again. Memory: at most one piece, or one pipe, for each direction,
and none of either while nothing is in flight.

Each end of a stream is passed on as what it was: a half-close as a half-close once all before it has been
sent, a reset as a reset.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from trackproxy.sockets.poller import ENDING, ERROR, READABLE, WRITABLE
from trackproxy.tcp.pipes import SIZE_BYTES, Pipe
from trackproxy.tcp.way import keep_alive
from trackproxy.tunnel import NO_LINGER

if TYPE_CHECKING:
    from trackproxy.clock import Sweep
    from trackproxy.sockets.poller import Poller
    from trackproxy.tcp.dialogue import Dialogue
    from trackproxy.tcp.pipes import Pipes

PIECE_BYTES = 16 * 1024
BURST_BYTES = 4 * PIECE_BYTES  # after so much at once, what comes next is likely to be bulk, too
ROUNDS = 16  # of bulk, until others have their turn
FLAGS = getattr(os, "SPLICE_F_MOVE", 1) | getattr(os, "SPLICE_F_NONBLOCK", 2)


class Owner(Protocol):
    """Who has the relay: hears of its end once, and when one side has ended."""

    def over(self) -> None: ...
    def half_closed(self) -> None: ...


class Tools:
    """What all relays of a process share."""

    __slots__ = ("pipes", "poller", "sweep")

    def __init__(self, poller: Poller, pipes: Pipes, sweep: Sweep) -> None:
        self.poller = poller
        self.pipes = pipes
        self.sweep = sweep


class Side:
    """One socket of a relay, and the direction that begins there.

    moved: bytes that came from here and have been sent on. ended: this side sends no more, and `other` knows.
    blocked: `other` takes no more for now; what came last waits in `_held` or in the pipe.
    """

    __slots__ = (
        "_before",
        "_bulk",
        "_fd",
        "_heard",
        "_held",
        "_in_pipe",
        "_pipe",
        "_queued",
        "_receive",
        "_relay",
        "_send",
        "_sweep",
        "blocked",
        "ended",
        "moved",
        "other",
        "sock",
    )

    other: Side

    def __init__(self, sock: socket.socket, relay: Relay, heard: Callable[[bytes], None] | None) -> None:
        """HEARD takes each small piece that comes from here."""
        self.sock = sock
        self.moved = 0
        self.ended = False
        self.blocked = False
        self._fd = sock.fileno()
        self._receive = sock.recv
        self._send = sock.send
        self._relay = relay
        self._sweep = relay.tools.sweep
        self._heard = heard
        self._held = b""
        self._bulk = False
        self._queued = False  # its turn is to come
        self._before = 0  # moved, when bulk began to move last
        self._pipe: Pipe | None = None
        self._in_pipe = 0

    def on_event(self, events: int) -> None:
        """Something has changed at the socket."""
        if self.ended and events & ERROR:  # reset after its end, which it had sent in good order
            self._relay.broke(self)
            return
        if events & READABLE and not self.blocked and not self.ended:
            if self._bulk:
                self._pump_bulk()
            else:
                self.pump(events & ENDING)
        if events & WRITABLE and self.other.blocked:
            self.other.unblock()

    def unblock(self) -> None:
        """The other side takes more: send what waits, then what may have come meanwhile."""
        if self._relay.is_over:
            return
        self.blocked = False
        if self._held:
            held, self._held = self._held, b""
            if not self._pass_on(held):
                return
        if self._bulk:
            self._pump_bulk()
        else:
            self.pump(ENDING)

    def pump(self, ending: int) -> None:  # noqa: C901 - in one piece: each call costs, for each line
        """Pass on what has come. ENDING: there may be more than one short piece, such as the stream's end."""
        while True:
            try:
                piece = self._receive(PIECE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._relay.broke(self)
                return
            if not piece:
                self._end()
                return
            self._relay.touched = self._sweep.now
            if self._heard is not None:
                self._heard(piece)
            size = len(piece)
            try:
                sent = self.other._send(piece)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._relay.broke(self.other)
                return
            self.moved += sent
            if sent < size:
                self._held = piece[sent:]
                self.blocked = True
                return
            if size == PIECE_BYTES:
                self._bulk = True
                self._pump_bulk()
                return
            if not ending:
                return

    def _pass_on(self, piece: bytes) -> bool:
        """Send a piece that waited; return whether all of it went."""
        try:
            sent = self.other._send(piece)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._relay.broke(self.other)
            return False
        self._relay.touched = self._sweep.now
        self.moved += sent
        self._held = piece[sent:]
        self.blocked = bool(self._held)
        return not self.blocked

    # --- bulk ---

    def _pump_bulk(self) -> None:
        """Pass on as much as both sides can, or as is this side's turn."""
        if self._queued or not self._bulk or self.blocked or self.ended or self._relay.is_over:
            return
        if self._pipe is None:
            self._pipe = self._relay.tools.pipes.lend()
            if self._pipe is None:
                self._copy_bulk()
                return
            self._relay.unseen()
        self._before = self.moved
        for _ in range(ROUNDS):
            if not self._fill(self._pipe) or not self._empty(self._pipe):
                return
        self._pump_later()

    def _pump_later(self) -> None:
        """Let others have their turn first."""
        self._queued = True
        self._relay.tools.poller.soon(self._pump_on)

    def _pump_on(self) -> None:
        self._queued = False
        self._pump_bulk()

    def _fill(self, pipe: Pipe) -> bool:
        """Fill the pipe; return whether there is anything in it."""
        try:
            count = os.splice(self._fd, pipe[1], SIZE_BYTES, flags=FLAGS)
        except (BlockingIOError, InterruptedError):
            count = -1  # there is no more, or the pipe is full
        except OSError:
            self._relay.broke(self)
            return False
        if count > 0:
            self._relay.touched = self._sweep.now
            self._in_pipe += count
        if self._in_pipe:
            return True
        self._bulk = self.moved - self._before >= BURST_BYTES
        self.let_go()
        if count == 0:
            self._end()
        return False

    def _empty(self, pipe: Pipe) -> bool:
        """Send what is in the pipe; return whether all of it went."""
        try:
            while self._in_pipe:
                count = os.splice(pipe[0], self.other._fd, self._in_pipe, flags=FLAGS)
                self._in_pipe -= count
                self.moved += count
                self._relay.touched = self._sweep.now
        except (BlockingIOError, InterruptedError):
            self.blocked = True
            return False
        except OSError:
            self._relay.broke(self.other)
            return False
        return True

    def _copy_bulk(self) -> None:
        """There is no pipe to be had: go on piece by piece, for as long as this side's turn is."""
        self._bulk = False
        for _ in range(ROUNDS):
            try:
                piece = self._receive(PIECE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._relay.broke(self)
                return
            if not piece:
                self._end()
                return
            if self._heard is not None:
                self._heard(piece)
            if not self._pass_on(piece):
                return
        self._bulk = True
        self._pump_later()

    def let_go(self) -> None:
        """Give the pipe back, and what is in it up."""
        if self._pipe is not None:
            self._relay.tools.pipes.give_back(self._pipe, empty=not self._in_pipe)
            self._pipe, self._in_pipe = None, 0

    def _end(self) -> None:
        """This side has sent its last byte, and all of them have been passed on."""
        self.ended = True
        if not self.other.ended:  # else both are about to be closed
            with suppress(OSError):  # gone meanwhile, which an event tells
                self.other.sock.shutdown(socket.SHUT_WR)
        self._relay.side_ended()

    def rescue(self) -> None:
        """The connection of this side has broken: pass on what it had sent before, as far as that goes."""
        with suppress(OSError):
            if self._held:
                sent = self.other._send(self._held)
                self.moved += sent
                if sent < len(self._held):
                    return  # what comes after a hole would be taken for something else
            elif self._in_pipe and self._pipe is not None:
                sent = os.splice(self._pipe[0], self.other._fd, self._in_pipe, flags=FLAGS)
                self.moved += sent
                if sent < self._in_pipe:
                    return
            while not self.ended and (piece := self._receive(PIECE_BYTES)):
                sent = self.other._send(piece)
                self.moved += sent
                if sent < len(piece):
                    return


class Relay:
    """Both sides of one session; is the one that closes the sockets.

    touched: when something was last passed on, in the sweep's seconds. lost: see `clients.Joined`.
    """

    __slots__ = ("_dialogue", "_owner", "client", "is_over", "lost", "node", "tools", "touched")

    def __init__(
        self,
        client: socket.socket,
        node: socket.socket,
        owner: Owner,
        tools: Tools,
        dialogue: Dialogue | None,
    ) -> None:
        """Take over two sockets that are watched already; call `begin`, and only then can it end."""
        self.tools = tools
        self.touched = tools.sweep.now
        self.is_over = False
        self.lost = ""
        self._owner = owner
        self._dialogue = dialogue
        self.client = Side(client, self, dialogue.asked if dialogue else None)
        self.node = Side(node, self, dialogue.answered if dialogue else None)
        self.client.other, self.node.other = self.node, self.client

    def begin(self, *, node_spoke: bool, client_spoke: bool) -> None:
        """Pass on what comes, and what has come before: who SPOKE has said, or ended, something unread."""
        hand_over = self.tools.poller.hand_over
        hand_over(self.node.sock, self.node.on_event)
        hand_over(self.client.sock, self.client.on_event)
        if node_spoke:
            self.node.pump(ENDING)
        if client_spoke and not self.is_over:
            self.client.pump(ENDING)

    @property
    def between_commands(self) -> bool:
        """Whether the client would take a line of ours for what it is."""
        client, node = self.client, self.node
        quiet = not (client.blocked or node.blocked or client.ended or node.ended)
        return self._dialogue is not None and quiet and self._dialogue.between_commands

    @property
    def half_closed(self) -> bool:
        """Whether one side has ended."""
        return self.client.ended or self.node.ended

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes passed on from the client, and from the node."""
        return self.client.moved, self.node.moved

    def keep_alive(self) -> None:
        """It lasts: have the kernel find out whether the node is still there."""
        keep_alive(self.node.sock)

    def unseen(self) -> None:
        """Bytes go by that nobody looks at."""
        if self._dialogue is not None:
            self._dialogue.unseen()

    # --- the end ---

    def side_ended(self) -> None:
        """One side has closed in good order; so have both, at the end."""
        self.touched = self.tools.sweep.now
        if self.client.ended and self.node.ended:
            self._finish()
        else:
            self._owner.half_closed()

    def broke(self, side: Side) -> None:
        """The connection of SIDE was reset, or died: the other side gets what is there, and the same end."""
        if not self.is_over:
            self.lost = "client" if side is self.client else "node"
            side.rescue()
            self.abort()

    def abort(self) -> None:
        """End both sides by a reset, which nobody takes for an orderly end."""
        if not self.is_over:
            for side in (self.client, self.node):
                with suppress(OSError):
                    side.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self._finish()

    def leave(self) -> None:
        """End the node's side; the client's socket is the caller's now, and watched still."""
        self._stop()
        self.tools.poller.close(self.node.sock)

    def _finish(self) -> None:
        client, node = self.client, self.node
        self._stop()
        self.tools.poller.close(client.sock)
        self.tools.poller.close(node.sock)
        self._owner.over()
        # So that memory is free now, not when the collector comes by.
        client.other = node.other = self.client = self.node = _NOBODY

    def _stop(self) -> None:
        self.is_over = True
        self.client.let_go()
        self.node.let_go()


def _nobody() -> Side:
    """Return what stands for the sides of a relay that is over."""
    side = Side.__new__(Side)
    side.blocked, side.ended, side.moved = False, True, 0
    return side


_NOBODY = _nobody()
