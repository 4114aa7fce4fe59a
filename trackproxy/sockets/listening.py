"""Taking connections from one listening socket."""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from trackproxy.telling import tell

if TYPE_CHECKING:
    from trackproxy.sockets.poller import Poller

log = logging.getLogger(__name__)

AT_ONCE = 64  # connections taken in one turn of the loop
REST_S = 1.0  # after this machine had no files or memory for another one
SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listening:
    """Gives each connection, and its address, to TAKE, until it is closed; the listener stays open."""

    def __init__(
        self,
        listener: socket.socket,
        poller: Poller,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[socket.socket, object], None],
    ) -> None:
        self._listener = listener
        self._poller = poller
        self._loop = loop
        self._take = take
        self._closed = False
        self._rest: asyncio.TimerHandle | None = None
        self._watch()

    def _watch(self) -> None:
        self._rest = None
        self._poller.watch(self._listener, self._on_event, select.EPOLLIN)

    def _on_event(self, events: int) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in SHORT:
                    self._pause(error)
                return
            self._take(sock, peer)
            if self._closed:  # TAKE has found that there are too many
                return

    def _pause(self, error: OSError) -> None:
        text = "cannot accept connections, %g s until the next try: %s"
        tell(log, logging.ERROR, "worker", text, REST_S, error, state="not accepting", reason=str(error))
        self._poller.release(self._listener)
        self._rest = self._loop.call_later(REST_S, self._watch)

    def close(self) -> None:
        """Take no more."""
        self._closed = True
        if self._rest is None:
            self._poller.release(self._listener)
        else:
            self._rest.cancel()
