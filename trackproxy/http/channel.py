"""The way to one endpoint: its idle connections, last used first, and how new ones are made."""

from __future__ import annotations

import asyncio
import errno
import ssl
from bisect import bisect_left
from time import monotonic
from typing import TYPE_CHECKING, Any

from trackproxy.board import BUCKETS_S, Counter
from trackproxy.errors import ConnectFailed
from trackproxy.health.reasons import tls_reason
from trackproxy.http.upstream import Upstream

if TYPE_CHECKING:
    from trackproxy.health.outliers import Outlier
    from trackproxy.http.edge import Edge
    from trackproxy.http.group import Group
    from trackproxy.http.heads import Request
    from trackproxy.pool.endpoints import Endpoint

# What this machine, not the node, is short of.
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
MARGIN_S = 2.0  # an idle connection is given up this long before the node says that it would


class Channel:
    """Connections to one endpoint. idle: those that may be used, the last one first."""

    __slots__ = (
        "_idle_s",
        "_room",
        "_tls",
        "cells",
        "endpoint",
        "group",
        "idle",
        "outlier",
        "service",
    )

    def __init__(self, group: Group, endpoint: Endpoint) -> None:
        self.group = group
        self.service = service = group.service
        self.endpoint = endpoint
        self.cells = endpoint.cells
        self.outlier: Outlier = group.ejections.outliers[endpoint]
        self.idle: list[Upstream] = []
        named = group.settings.upstream_tls.server_name or endpoint.address.host or "localhost"
        self._tls: dict[str, Any] = {"ssl": group.tls, "server_hostname": named} if group.tls else {}
        self._idle_s = service.settings.keepalive.idle
        self._room = service.settings.keepalive.connections

    def learn(self, node_idle_s: float) -> None:
        """The node says how long it keeps idle connections: ours has to be the shorter wait.

        RFC 9112, 9.5: a request that meets a node's closing is lost or has to be sent again.
        """
        self._idle_s = min(self.service.settings.keepalive.idle, max(node_idle_s - MARGIN_S, node_idle_s / 2))

    def park(self, upstream: Upstream) -> None:
        """Keep a connection for the next request, if there is room for it."""
        if len(self.idle) < self._room and not self.service.draining:
            upstream.used = True
            upstream.deadline = self.service.sweep.now + self._idle_s
            self.idle.append(upstream)
        else:
            upstream.transport.close()

    def forget(self, upstream: Upstream) -> None:
        """A connection is gone, or about to go: nobody must get it any more."""
        if upstream in self.idle:
            self.idle.remove(upstream)

    def replace_oldest(self) -> None:
        """Make room for a connection that is opened beside idle ones, so that they do not grow in number."""
        self.idle[0].abandon()

    def close_idle(self) -> None:
        """Close all idle connections."""
        for upstream in self.idle[:]:
            upstream.abandon()

    def connect(self, edge: Edge, request: Request) -> None:
        """Send REQUEST over a new connection."""
        self.endpoint.dials += 1
        self.service.spawn(self._connect_and_send(edge, request))

    async def _connect_and_send(self, edge: Edge, request: Request) -> None:
        start = monotonic()
        request.began = request.began or start
        try:
            upstream = await self._connect()
        except ConnectFailed as error:
            request.route.second_tries.connect_failed(edge, request, self.endpoint, error)
            return
        except Exception as error:
            unforeseen = ConnectFailed(f"{type(error).__name__}: {error}", local=True)
            request.route.second_tries.connect_failed(edge, request, self.endpoint, unforeseen)
            raise
        took_s = monotonic() - start
        request.connect_s += took_s
        self._count(took_s)
        try:
            self._hand_over(upstream, edge, request)
        except Exception:
            edge.abort()  # rather than have its client wait for ever
            upstream.abandon()
            raise

    def _count(self, took_s: float) -> None:
        """Count a connect that worked."""
        self.cells[Counter.CONNECTS] += 1
        self.cells[Counter.CONNECT_SUM_US] += int(took_s * 1e6)
        self.cells[Counter.CONNECT_TIME + bisect_left(BUCKETS_S, took_s)] += 1
        if self.outlier.failures:
            self.group.ejections.connected(self.endpoint)

    def _hand_over(self, upstream: Upstream, edge: Edge, request: Request) -> None:
        """Send REQUEST, unless its client has left or it is elsewhere by now."""
        if edge.request is request and request.endpoint is self.endpoint:
            upstream.send(edge, request)
        elif self.endpoint.usable:
            self.park(upstream)
        else:
            upstream.abandon()

    async def _connect(self) -> Upstream:
        """Open a connection; raises ConnectFailed."""
        loop, address = self.service.loop, self.endpoint.address
        timeout_s = self.service.timeouts.connect
        try:
            async with asyncio.timeout(timeout_s):
                if address.path:
                    _, upstream = await loop.create_unix_connection(self._make, address.path, **self._tls)
                else:
                    _, upstream = await loop.create_connection(
                        self._make, address.host, address.port, **self._tls
                    )
        except TimeoutError as error:
            raise ConnectFailed(f"no connection within {timeout_s:g} s") from error
        except ssl.SSLError as error:
            raise ConnectFailed(tls_reason(error)) from error
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be looked up
            raise ConnectFailed(
                str(error), local=getattr(error, "errno", None) in OUT_OF_RESOURCES
            ) from error
        if upstream.transport.is_closing():
            raise ConnectFailed("the node closed the connection at once")
        return upstream

    def _make(self) -> Upstream:
        return Upstream(self)
