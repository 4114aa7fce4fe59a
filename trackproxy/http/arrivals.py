"""Arrivals: clients that do not begin with HTTP, but with TLS or with what a trusted proxy says of them.

Each is accepted as a plain socket, so that who it is, and whether it may come at all, is known before a
handshake is paid for. Clients of other listeners never come through here.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from functools import partial
from typing import TYPE_CHECKING

from trackproxy.board import Traffic
from trackproxy.http.edge import Edge, SecureEdge
from trackproxy.proxy_protocol import ProxyHeader
from trackproxy.sockets.entrance import Entrance
from trackproxy.sockets.listening import Listening

if TYPE_CHECKING:
    from trackproxy.http.service import Service
    from trackproxy.sockets.poller import Poller

log = logging.getLogger(__name__)

LONG_S = 86_400.0  # the deadlines of a connection are the Edge's


class Arrivals:
    """The entrances of one service.

    context: for TLS, None without it.
    """

    def __init__(self, service: Service, poller: Poller, context: ssl.SSLContext | None) -> None:
        self._service = service
        self._poller = poller
        self._settings = service.settings
        self.context = context
        self._entrances: set[Entrance] = set()
        self._handshakes = 0

    @property
    def connections(self) -> int:
        """How many connections there are that no Edge has yet."""
        return len(self._entrances) + self._handshakes

    def listen(self, listener: socket.socket, *, tls: bool) -> Listening:
        """Take clients from LISTENER until what is returned is closed; the socket stays open."""
        listener.setblocking(False)
        return Listening(listener, self._poller, self._service.loop, partial(self.take, tls=tls))

    def take(self, sock: socket.socket, peer: object, *, tls: bool) -> None:
        """Serve a client; PEER: its address, as `accept` returns it."""
        sock.setblocking(False)
        host = peer[0] if isinstance(peer, tuple) else ""
        if self._settings.accept_proxy_protocol and host and self._service.trust.trusts(host):
            self._await_header(sock, host, tls)
        else:
            self._begin(sock, ProxyHeader(None, None), host, tls)
        self._service.on_open()

    def _await_header(self, sock: socket.socket, peer: str, tls: bool) -> None:
        def heard(said: ProxyHeader) -> None:
            self._drop(entrance)
            self._begin(sock, said, said.source[0] if said.source else peer, tls)

        deadline = self._service.sweep.now + self._settings.timeouts.proxy_header
        entrance = Entrance(sock, self._poller, deadline, heard, self._turned_away)
        self._entrances.add(entrance)
        self._service.sweep.add(entrance)

    def _turned_away(self, entrance: Entrance, reason: str) -> None:
        log.info("%s: a trusted proxy was turned away: %s", self._service.name, reason)
        self._service.count(Traffic.REFUSED_PROXY_HEADER)
        self._drop(entrance)
        self._service.look_for_end()

    def _drop(self, entrance: Entrance) -> None:
        self._entrances.discard(entrance)
        self._service.sweep.discard(entrance)

    def _begin(self, sock: socket.socket, said: ProxyHeader, host: str, tls: bool) -> None:
        """Go on with a client whose address is known."""
        held: tuple[int, ...] = ()
        if tls and self._service.limits_connections and self._service.quotas is not None:
            trusted = self._service.trust.trusts(host)
            refusal, held = self._service.quotas.admit(host, time.monotonic(), trusted=trusted)
            if refusal:
                self._service.count(Traffic.REFUSED_CONNECTIONS)
                sock.close()  # rather than shake hands with a flood
                self._service.look_for_end()
                return
        make = partial(SecureEdge if tls else Edge, self._service, said=said, tls=tls, held=held)
        self._service.spawn(self._connect(sock, make, tls))

    async def _connect(self, sock: socket.socket, make: partial[Edge], tls: bool) -> None:
        timeouts = self._settings.timeouts
        edge: Edge | None = None

        def made() -> Edge:
            nonlocal edge
            edge = make()
            return edge

        self._handshakes += 1
        try:
            if tls:
                await self._service.loop.connect_accepted_socket(
                    made,
                    sock,
                    ssl=self.context,
                    ssl_handshake_timeout=timeouts.tls_handshake,
                    ssl_shutdown_timeout=LONG_S,
                )
            else:
                await self._service.loop.connect_accepted_socket(made, sock)
        except OSError as error:
            if tls:
                self._service.count(Traffic.REFUSED_HANDSHAKE)
            log.debug("%s: no connection with a client: %s", self._service.name, error)
        finally:
            self._handshakes -= 1
            if edge is None:
                sock.close()
                self._service.leave(make.keywords["held"])
            elif not edge.began:
                edge.leave_quotas()

    def abort(self) -> None:
        """End all that wait in an entrance."""
        for entrance in [*self._entrances]:
            entrance.abort()
