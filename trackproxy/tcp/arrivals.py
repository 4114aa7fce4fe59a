"""Arrivals: who a client is, whether it may come in, and its TLS if that ends here; then its session begins.

What a trusted proxy says of its client, and a handshake, have deadlines of their own. Whoever is one too many
is told so, or just closed where a handshake would come first.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import TYPE_CHECKING

from trackproxy.addresses import Trust, number_of
from trackproxy.board import Traffic
from trackproxy.dialects import Reason
from trackproxy.pool.admission import Admission, Quota
from trackproxy.pool.limits import Limits
from trackproxy.proxy_protocol import Peer, ProxyHeader
from trackproxy.sockets.entrance import Entrance
from trackproxy.sockets.listening import Listening
from trackproxy.tcp.clients import PlainClient
from trackproxy.tcp.session import Session
from trackproxy.tcp.tls_relay import TlsClient
from trackproxy.tcp.way import keep_alive
from trackproxy.tls import server_context, told_of

if TYPE_CHECKING:
    from trackproxy.tcp.forwarder import Forwarder

log = logging.getLogger(__name__)


class Arrivals:
    """The way into one service. handshakes: clients whose TLS handshake is under way."""

    def __init__(self, service: Forwarder, admission: Admission) -> None:
        self._service = service
        self._settings = settings = service.settings
        self._trust = Trust(settings.trusted_proxies)
        client = settings.per_client
        self._limits = Limits(
            service.name,
            Quota(client.max_connections, client.max_connection_rate),
            Quota(settings.max_connections, settings.max_connection_rate),
            admission,
        )
        self._held: dict[Session, tuple[int, ...]] = {}
        self._looks_at_clients = settings.balance == "source_hash"
        self._tells_nodes = any(way.proxy_protocol != "off" for way in service.ways.values())
        self._tls = (
            server_context(settings.certificate, settings.private_key)
            if settings.tls == "terminate"
            else None
        )
        self.handshakes = 0

    def listen(self, listener: socket.socket) -> Listening:
        """Take connections from LISTENER until what is returned is closed; the socket stays open."""
        listener.setblocking(False)
        keep_alive(listener)  # connections inherit it
        if listener.family != socket.AF_UNIX:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Listening(listener, self._service.tools.poller, self._service.loop, self._service.take)

    def take(self, sock: socket.socket, peer: object) -> None:
        """Serve a client; PEER: its address, as `accept` returns it."""
        sock.setblocking(False)
        self._service.cells[Traffic.ACCEPTED] += 1
        source = (peer[0], peer[1]) if isinstance(peer, tuple) else None
        if self._settings.accept_proxy_protocol and source is not None and self._trust.trusts(source[0]):
            self._await_header(sock, source)
        else:
            own = sock.getsockname() if self._tells_nodes and source is not None else None
            self._welcome(sock, source, own[:2] if own else None)

    def _await_header(self, sock: socket.socket, source: Peer) -> None:
        def heard(said: ProxyHeader) -> None:
            self._drop(entrance)
            self._welcome(sock, said.source or source, said.destination or sock.getsockname()[:2])

        deadline = self._service.sweep.now + self._settings.timeouts.proxy_header
        entrance = Entrance(sock, self._service.tools.poller, deadline, heard, self._turned_away)
        self._service.open.add(entrance)
        self._service.sweep.add(entrance)

    def _turned_away(self, entrance: Entrance, reason: str) -> None:
        log.info("%s: a trusted proxy was turned away: %s", self._service.name, reason)
        self._service.cells[Traffic.REFUSED_PROXY_HEADER] += 1
        self._drop(entrance)
        self._service.look_for_end()

    def _drop(self, entrance: Entrance) -> None:
        self._service.open.discard(entrance)
        self._service.sweep.discard(entrance)

    def _welcome(self, sock: socket.socket, source: Peer | None, destination: Peer | None) -> None:
        """Begin the session of a client whose address is known."""
        number = number_of(source[0]) if self._looks_at_clients and source is not None else 0
        session = Session(self._service, number, source, destination)
        admitted = not self._limits.limits or self._admit(session)
        self._service.cells[Traffic.REFUSED_CONNECTIONS] += not admitted
        if self._tls is not None:
            if admitted:
                self._service.spawn(self._secure(sock, session, self._tls))
            else:
                session.turned_away()
                sock.close()  # rather than shake hands with a flood
            return
        client = PlainClient(sock, self._service.tools, session.client_gone, session.over)
        self._service.opened(session)
        self._service.tools.poller.watch(sock, client.early)
        if admitted:
            session.begin(client)
        else:
            session.refuse_at_once(client, Reason.CROWDED)

    async def _secure(self, sock: socket.socket, session: Session, context: ssl.SSLContext) -> None:
        """Shake hands with the client, then begin."""
        linger_s = self._settings.timeouts.linger
        client = TlsClient(self._service.tools, self._service.spawn, linger_s)
        self.handshakes += 1
        try:
            await self._service.loop.connect_accepted_socket(
                lambda: client,
                sock,
                ssl=context,
                ssl_handshake_timeout=self._settings.timeouts.tls_handshake,
                ssl_shutdown_timeout=linger_s,
            )
        except (OSError, asyncio.CancelledError) as error:
            log.debug("%s: no TLS with a client: %s", self._service.name, error)
            self.left(session)
            if isinstance(error, asyncio.CancelledError):
                raise
            self._service.cells[Traffic.REFUSED_HANDSHAKE] += 1
            return
        finally:
            self.handshakes -= 1
        if client.lost or client.transport.is_closing():
            self.left(session)
            client.transport.abort()
            return
        client.gone, client.over = session.client_gone, session.over
        secure = client.transport.get_extra_info("ssl_object")
        if session.story is not None and isinstance(secure, ssl.SSLObject):
            session.story.tls = told_of(secure)
        self._service.opened(session)
        session.begin(client)

    def _admit(self, session: Session) -> bool:
        """Count a session under all limits that it falls under, or under none if one of them is reached."""
        host = session.source[0] if session.source else ""
        refuses, held = self._limits.admit(host, int(self._service.loop.time()))
        if refuses is not None:
            log.debug("%s: %s has too many connections", self._service.name, session.source)
            return False
        self._held[session] = held
        return True

    def left(self, session: Session) -> None:
        """SESSION is over, and counts no more under any limit."""
        self._limits.leave(self._held.pop(session, ()))
