"""Means: what the HTTP services of one worker share, made when the first one needs it."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from trackproxy.pool.learned import Learned
from trackproxy.telling import tell

if TYPE_CHECKING:
    from trackproxy.board import Board
    from trackproxy.certificates.index import Certificates
    from trackproxy.route_sections import Sticky
    from trackproxy.sockets.poller import Poller
    from trackproxy.tickets import Tickets
    from trackproxy.tls_sections import Tls

log = logging.getLogger(__name__)

LOOK_S = 1.0  # how often certificates are looked at
BEHIND_S = 0.02  # the same while there is much to do
FOREVER_S = 10 * 365 * 86400


class Means:
    """The board of a worker, its poller, and certificates; NUMBER is the worker's on the board."""

    def __init__(self, board: Board, number: int, poller: Callable[[], Poller]) -> None:
        self.board = board
        self.number = number
        self.poller = poller
        self._tickets: Tickets | None = None
        self._contexts: list[ssl.SSLContext] = []
        self._certificates: list[Certificates] = []
        self._timer: asyncio.TimerHandle | None = None

    def learned(self, sticky: Sticky) -> Learned | None:
        """Return what workers have learned of nodes' sessions, if clients stay by these."""
        if sticky.mode not in ("app_cookie", "parameter"):
            return None
        others = [number for number in range(self.board.workers) if number != self.number]
        idle_s = int(sticky.idle) or FOREVER_S
        return Learned(
            self.board.learned(self.number), [self.board.learned(other) for other in others], idle_s
        )

    def context(self, tls: Tls) -> ssl.SSLContext | None:
        """Return what the listeners of a service speak TLS with, None if it has none."""
        if not tls.listen:
            return None
        from trackproxy.certificates.index import Certificates  # few services need them
        from trackproxy.tickets import Tickets
        from trackproxy.tls import listener_context

        if self._tickets is None:
            self._tickets = Tickets(self.board.secret)
        certificates = Certificates([tls.source()])
        context = listener_context(
            certificates, minimum=tls.minimum, ciphers=tls.ciphers, tickets=self._tickets
        )
        self._certificates.append(certificates)
        self._contexts.append(context)
        self._look()
        return context

    def _look(self) -> None:
        """Notice new certificates, and change the keys of tickets when it is time; again and again."""
        self.stop()
        try:
            for certificates in self._certificates:
                for line in certificates.look():
                    self._tell(line)
            now_s = time.time()
            if self._tickets is not None and self._tickets.due(now_s):
                for context in self._contexts:
                    self._tickets.apply(context, now_s)
        finally:  # one failure must not be the end of all looking
            behind = any(certificates.behind for certificates in self._certificates)
            wait_s = BEHIND_S if behind else LOOK_S
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _tell(self, line: str) -> None:
        from trackproxy.certificates.index import Complaint

        wrong = isinstance(line, Complaint)
        state, level = ("wrong", logging.WARNING) if wrong else ("changed", logging.INFO)
        tell(log, level, "certificate", "%s", line, state=state, reason=line if wrong else None)

    def stop(self) -> None:
        """Look at nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
