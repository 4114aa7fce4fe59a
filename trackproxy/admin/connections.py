"""Connections to the admin endpoint: every wait for a client has an end, and there are only so many of them.

    no request     nothing, or a head that trickles or never ends: closed `request_s` after the connection was
                   made, or after the last answer
    no reader      answers or events that are not taken: closed once something was left at every look for
                   `unsent_s`, however little has gone meanwhile
    too many       answered with 503 and closed; who is there stays, and each listener counts its own

What is left is bounded where it is read: heads by the server (their lines and their number), bodies in
`bodies`, requests that are sent before the answers to those before them (the server stops reading).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import cast

from aiohttp import web

from trackproxy.admin.guard import SERVER_LOG, add_headers_to
from trackproxy.admin.problems import Problem, answer

log = logging.getLogger(__name__)

WARN_S = 60.0  # from one warning to the next
LINE_BYTES = 8190  # of a request line or a field, as browsers and other servers have it
REFUSAL = b"too many connections to the admin endpoint\n"
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Retry-After: 10\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%b" % (len(REFUSAL), REFUSAL)
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """most: connections at once. look_s: from one look at what is unsent to the next. Others: see above."""

    most: int = 128
    request_s: float = 30.0
    unsent_s: float = 30.0
    look_s: float = 5.0


BOUNDS = Bounds()


class Connections:
    """Makes the protocols of one listener, for the loop to call; SERVER answers their requests."""

    def __init__(self, server: web.Server, bounds: Bounds = BOUNDS) -> None:
        self.server = server
        self.bounds = bounds
        self._loop = asyncio.get_running_loop()
        self._open: dict[asyncio.Transport, float | None] = {}  # since when something is unsent
        self._looking: asyncio.TimerHandle | None = None
        self._warned = float("-inf")

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of one connection."""
        if len(self._open) < self.bounds.most:
            return _Connection(self, self._loop)
        if self._loop.time() - self._warned >= WARN_S:
            self._warned = self._loop.time()
            log.warning("the admin endpoint has %d connections, and refuses others", len(self._open))
        return _Refusal()

    def add(self, transport: asyncio.Transport) -> None:
        """A connection was made."""
        self._open[transport] = None
        if self._looking is None:
            self._looking = self._loop.call_later(self.bounds.look_s, self._look)

    def remove(self, transport: asyncio.Transport) -> None:
        """A connection is gone."""
        self._open.pop(transport, None)

    def _look(self) -> None:
        """End connections whose other end takes nothing."""
        now = self._loop.time()
        for transport, since in [*self._open.items()]:
            if not transport.get_write_buffer_size():
                self._open[transport] = None
            elif since is None:
                self._open[transport] = now
            elif now - since >= self.bounds.unsent_s:
                transport.abort()
        again = bool(self._open)
        self._looking = self._loop.call_later(self.bounds.look_s, self._look) if again else None


class _Connection(web.RequestHandler):
    """The server's own protocol, with an eye on its transport, and with errors as ours are."""

    def __init__(self, connections: Connections, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            connections.server,
            loop=loop,
            # It counts from the connection or the last answer to the end of the next head.
            keepalive_timeout=connections.bounds.request_s,
            access_log=None,  # type: ignore[arg-type]  # none, as `web.AppRunner` has it
            logger=SERVER_LOG,
            max_line_size=LINE_BYTES,
            max_field_size=LINE_BYTES,
        )
        self._connections = connections
        self._wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wire = cast(asyncio.Transport, transport)  # uvloop's are none by their class
        self._connections.add(self._wire)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._wire is not None:
            self._connections.remove(self._wire)
            self._wire = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what is no HTTP, or could not be answered."""
        super().handle_error(request, status, exc, message)  # logs it; raises if an answer has begun
        response = answer(Problem(status, "this is no HTTP" if status == 400 else "an unexpected error"))
        add_headers_to(response)
        response.force_close()
        return response


class _Refusal(asyncio.Protocol):
    """What is told to who is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        told = cast(asyncio.Transport, transport)
        told.write(TOO_MANY)
        told.close()
