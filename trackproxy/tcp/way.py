"""The way to one endpoint: where it is, what it is told about clients, and what is counted there."""

from __future__ import annotations

import socket
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from trackproxy.addresses import is_ip
from trackproxy.board import BUCKETS_S, Counter
from trackproxy.health.connecting import look_up

if TYPE_CHECKING:
    from trackproxy.clock import Sweep
    from trackproxy.pool.endpoints import Endpoint
    from trackproxy.settings import EndpointConfig

KNOWN_S = 10.0  # how long the addresses of a name are used before it is looked up again

Target = tuple[int, Any]  # address family, and the address as sockets take it

# What ends connections that nobody ends: after 60 s of silence, 4 questions in 60 s.
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel find out whether the peer is still there."""
    if sock.family != socket.AF_UNIX:
        for level, option, value in KEEPALIVE:
            sock.setsockopt(level, option, value)


class Way:
    """What sessions need to know of one endpoint. limit: its max_connections, over all workers."""

    def __init__(self, endpoint: Endpoint, config: EndpointConfig, sweep: Sweep) -> None:
        self.endpoint = endpoint
        self.cells = endpoint.cells
        self.proxy_protocol = config.proxy_protocol
        self.limit = config.max_connections
        self._address = config.address
        self._sweep = sweep
        self._known_until = float("inf")
        self._targets: list[Target] = []
        if config.address.path:
            self._targets = [(socket.AF_UNIX, config.address.path)]
        elif is_ip(config.address.host):
            self._targets = [self._target(config.address.host)]
        else:
            self._known_until = float("-inf")

    def targets(self) -> list[Target]:
        """Return where to connect, in order; nothing if its name has to be looked up first."""
        return self._targets if self._sweep.now < self._known_until else []

    async def look_up(self) -> list[Target]:
        """Look its name up; raises OSError."""
        found = await look_up(self._address.host)
        self._targets = [self._target(host) for host in found]
        self._known_until = self._sweep.now + KNOWN_S
        return self._targets

    def _target(self, host: str) -> Target:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return family, (host, self._address.port)

    # --- counting ---

    def count(self, counter: Counter) -> None:
        self.cells[counter] += 1

    def connected(self, took_s: float) -> None:
        """Count a connect that worked."""
        self.cells[Counter.CONNECTS] += 1
        self._count_time(Counter.CONNECT_TIME, Counter.CONNECT_SUM_US, took_s)

    def greeted(self, took_s: float) -> None:
        """Count a good greeting, TOOK_S after the connection."""
        self.cells[Counter.STATUS_2XX] += 1
        self._count_time(Counter.FIRST_BYTE, Counter.FIRST_BYTE_SUM_US, took_s)

    def ended(self, lasted_s: float) -> None:
        """Count the end of a session."""
        self._count_time(Counter.DURATION, Counter.DURATION_SUM_US, lasted_s)

    def moved(self, up: int, down: int) -> None:
        """Count bytes that were passed on, to the node and from it."""
        self.cells[Counter.BYTES_UP] += up
        self.cells[Counter.BYTES_DOWN] += down

    def _count_time(self, histogram: Counter, sum_us: Counter, took_s: float) -> None:
        self.cells[histogram + bisect_left(BUCKETS_S, took_s)] += 1
        self.cells[sum_us] += int(took_s * 1e6)
