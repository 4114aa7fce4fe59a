"""Dialling: one try to get a session to one endpoint, from the first packet to a good greeting.

The client has not seen a byte yet, so whatever fails here may be tried elsewhere.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from trackproxy.board import Counter, Traffic
from trackproxy.health.outliers import Cause
from trackproxy.health.reasons import OUT_OF_RESOURCES
from trackproxy.sockets.poller import BROKEN, ENDING, READABLE, WRITABLE
from trackproxy.tcp.greeting import Greeting, judge

if TYPE_CHECKING:
    from trackproxy.dialects import Dialect
    from trackproxy.sockets.poller import Poller
    from trackproxy.tcp.way import Target, Way

RECEIVE_BYTES = 4096


class Caller(Protocol):
    """Who dials: hears once of the outcome, and sees to the deadline, which `await_node` moves."""

    def joined(self, dial: Dial, greeting: bytes) -> None: ...
    def failed(self, dial: Dial, failure: Failed) -> None: ...
    def await_node(self, *, connected: bool) -> None: ...


RETRIED = {cause: Traffic[f"RETRIED_{cause.name}"] for cause in Cause}


class Failed(Exception):
    """The endpoint has not taken the session.

    cause: what that says against it, if anything. local: for want of files or ports of this machine.
    retried: under what another try counts, by default what follows from the cause.
    """

    def __init__(
        self,
        cause: Cause | None,
        counter: Counter,
        detail: str,
        *,
        local: bool = False,
        retried: Traffic | None = None,
    ) -> None:
        super().__init__(detail)
        self.retried = retried or RETRIED[cause or Cause.CONNECT]
        self.cause = cause
        self.counter = counter
        self.local = local


class Dial:
    """One connection to the node behind WAY; DIALECT says what is a greeting.

    header: what is sent first (PROXY protocol). spoke: the node may have said, or ended, more than was read.
    connect_s, greeting_s: how long it took to be connected, and to be greeted after that.
    """

    __slots__ = (
        "_caller",
        "_connected",
        "_dialect",
        "_header",
        "_poller",
        "_said",
        "_sock",
        "_started",
        "_targets",
        "connect_s",
        "greeting_s",
        "spoke",
        "way",
    )

    def __init__(self, way: Way, dialect: Dialect, header: bytes, caller: Caller, poller: Poller) -> None:
        self.way = way
        self._caller = caller
        self._dialect = dialect
        self._header = header
        self._poller = poller
        self._targets: list[Target] = []
        self._sock: socket.socket | None = None
        self._connected = False
        self._said = b""
        self.spoke = False
        self._started = 0.0
        self.connect_s = self.greeting_s = 0.0

    @property
    def sock(self) -> socket.socket:
        """The node's, once there is one; it is the caller's once that has `joined`."""
        assert self._sock is not None
        return self._sock

    def start(self, targets: list[Target]) -> None:
        """Connect to the first of TARGETS that takes it."""
        self._targets = targets[1:]
        self._started = monotonic()
        family, address = targets[0]
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._caller.failed(self, _connect_failed(error.errno or 0))
            return
        self._sock = sock
        self._connected = False
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code in (0, errno.EINPROGRESS):
            self._poller.watch(sock, self._on_event)
            self._caller.await_node(connected=False)
        else:
            sock.close()
            self._fail_connect(code)

    def _fail_connect(self, code: int) -> None:
        """A connect has failed: try the next address of the node's name, if there is one."""
        if self._targets and code not in OUT_OF_RESOURCES:
            self.start(self._targets)
        else:
            self._caller.failed(self, _connect_failed(code))

    def _on_event(self, events: int) -> None:
        if not self._connected:
            if events & BROKEN and (code := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                self._poller.close(self.sock)
                self._fail_connect(code)
                return
            if not events & WRITABLE:
                return
            self._take_connection()
            if not self._dialect.speaks_first:
                self.spoke = events & READABLE != 0
                self._caller.joined(self, b"")
                return
        if events & READABLE:
            self.spoke = events & ENDING != 0
            self._receive()

    def _take_connection(self) -> None:
        self._connected = True
        self.connect_s = monotonic() - self._started
        self.way.connected(self.connect_s)
        if self._header:
            with suppress(OSError):  # it is gone already, which reading shows
                self.sock.send(self._header)  # an empty buffer takes it whole
        self._caller.await_node(connected=True)

    def _receive(self) -> None:
        while True:
            try:
                data = self.sock.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._end(Cause.LOST, Counter.LOST, os.strerror(error.errno or 0))
                return
            if not data:
                self._end(Cause.LOST, Counter.LOST, "closed without a greeting")
                return
            self._said += data
            found = judge(self._dialect, self._said)
            if found is not Greeting.PARTIAL:
                self.spoke = self.spoke or len(data) == RECEIVE_BYTES
                self._take_greeting(found)
                return
            self._caller.await_node(connected=True)

    def _take_greeting(self, found: Greeting) -> None:
        if found is Greeting.GOOD:
            took_s = monotonic() - self._started
            self.greeting_s = took_s - self.connect_s
            self.way.greeted(took_s)
            self._caller.joined(self, self._said)
            return
        line = self._said.split(b"\n")[0][:80].decode("ascii", "replace").strip()
        if found is Greeting.REFUSED:
            counter = Counter.STATUS_4XX if line.startswith("4") else Counter.STATUS_5XX
            self._end(Cause.STATUS, counter, repr(line))
        else:
            self._end(Cause.MALFORMED, Counter.MALFORMED, repr(line))

    @property
    def is_connected(self) -> bool:
        """Whether the node has taken the connection."""
        return self._connected

    def silent(self) -> None:
        """The deadline has passed."""
        if self._connected:
            self._end(Cause.SILENT, Counter.SILENT, "no greeting in time")
            return
        self.abandon()
        if self._sock is None:
            self._targets = []  # its name was not found in time
        self._fail_connect(errno.ETIMEDOUT)

    def _end(self, cause: Cause, counter: Counter, detail: str) -> None:
        """Give this endpoint up, and say why."""
        self.abandon()
        self._caller.failed(self, Failed(cause, counter, detail))

    def abandon(self) -> None:
        """Give it up; nobody hears of it."""
        if self._sock is not None:
            self._poller.close(self._sock)


def _connect_failed(code: int) -> Failed:
    local = code in OUT_OF_RESOURCES
    return Failed(Cause.CONNECT, Counter.CONNECT_FAILURES, os.strerror(code), local=local)
