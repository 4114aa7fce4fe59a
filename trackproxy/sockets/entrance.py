"""The entrance: what a trusted proxy says about its client (PROXY protocol), before that has a session."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from trackproxy.proxy_protocol import MAX_BYTES, ProxyHeader, ProxyProtocolError, parse
from trackproxy.sockets.poller import ENDING, READABLE

if TYPE_CHECKING:
    from trackproxy.sockets.poller import Poller


class Entrance:
    """Reads one header from SOCK, which the poller watches from now on, and not a byte more.

    deadline: by then the header has to be there; the owner's sweep looks after it.
    """

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        deadline: float,
        heard: Callable[[ProxyHeader], None],
        closed: Callable[[Entrance, str], None],
    ) -> None:
        """HEARD takes the header; SOCK is no longer watched then. CLOSED: it was none, and SOCK is closed."""
        self.deadline = deadline
        self._sock = sock
        self._poller = poller
        self._heard = heard
        self._closed = closed
        poller.watch(sock, self._on_event)

    def _on_event(self, events: int) -> None:
        if events & READABLE:
            try:
                self._look(ending=events & ENDING != 0)
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, ProxyProtocolError) as error:
                self._end(str(error))

    def _look(self, *, ending: bool) -> None:
        """Look at what has come without taking it: what follows the header is for the session."""
        seen = self._sock.recv(MAX_BYTES, socket.MSG_PEEK)
        found = parse(seen)
        if found is None:
            if ending:
                raise ProxyProtocolError("the connection ended inside the PROXY header")
            return
        header, size_bytes = found
        self._sock.recv(size_bytes)
        self._poller.release(self._sock)
        self._heard(header)

    def _end(self, reason: str) -> None:
        self._poller.close(self._sock)
        self._closed(self, reason)

    def expire(self) -> None:
        """The deadline has passed."""
        self._end("no PROXY header in time")

    def abort(self) -> None:
        """Nobody is served any more."""
        self._end("the service ends")
