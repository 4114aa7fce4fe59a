"""What the sessions of one service share, and how each finds its node.

`seek` finds an endpoint for a session, `release` is the only place that gives one back. Between the two the
session is counted there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from trackproxy.board import TRAFFIC_ROW, Counter, Traffic, no_row
from trackproxy.dialects import Reason
from trackproxy.health.ejections import Ejections
from trackproxy.pool.admission import Admission
from trackproxy.pool.balancer import Balancer
from trackproxy.pool.endpoints import Health
from trackproxy.proxy_protocol import header
from trackproxy.sockets.entrance import Entrance
from trackproxy.sockets.listening import Listening
from trackproxy.tcp.arrivals import Arrivals
from trackproxy.tcp.dial import Failed
from trackproxy.tcp.session import Session, Stage
from trackproxy.tcp.way import Way

if TYPE_CHECKING:
    from trackproxy.pool.endpoints import Endpoint
    from trackproxy.session_sections import SessionService
    from trackproxy.settings import EndpointConfig
    from trackproxy.tcp.access import SessionAccess
    from trackproxy.tcp.relay import Tools

log = logging.getLogger(__name__)

REPORT_S = 1.0  # how often running sessions tell how much they have passed on


class Forwarder:
    """One NNTP, SMTP or TCP service in one process.

    open: sessions, and clients that have none yet. waiting: sessions for which there is room elsewhere only.
    cells: see `served.Route`: it has one only, itself. access: tells of sessions at their end, if that is
    wanted. alert, on_open, refresh: see `served.Served`.
    """

    def __init__(
        self,
        name: str,
        settings: SessionService,
        endpoints: list[Endpoint],
        configs: list[EndpointConfig],
        tools: Tools,
        admission: Admission,
    ) -> None:
        self.name = name
        self.settings = settings
        self.dialect = settings.dialect
        self.idle_s = settings.idle_s
        self.endpoints = endpoints
        self.tools = tools
        self.sweep = tools.sweep
        self.ways = {
            one: Way(one, config, tools.sweep) for one, config in zip(endpoints, configs, strict=True)
        }
        self.balancer = Balancer(endpoints, settings.balance, settings.panic_threshold)
        self.ejections = Ejections(name, self.balancer, settings.outliers, tools.sweep, self.wake)
        self.ejections.alert = lambda endpoint: self.alert(endpoint.index)
        self.groups = (self,)
        self.routes = (self,)
        self.cells = no_row(TRAFFIC_ROW)
        self.alert: Callable[[int], None] = _nobody
        self.on_open: Callable[[], None] = _nothing
        self.refresh: Callable[[], None] = _nothing
        self.open: set[Session | Entrance] = set()
        self.waiting: dict[Session, None] = {}
        self.access: SessionAccess | None = None
        self.loop = asyncio.get_running_loop()
        self._waking = False
        self._draining = False
        self._arrivals = Arrivals(self, admission)
        self._on_end: Callable[[], None] = _nothing
        self._tasks: set[asyncio.Task[object]] = set()
        self.deadline = self.sweep.now + REPORT_S
        self.sweep.add(self)

    def line(self, reason: Reason) -> bytes:
        """Return what a client is told."""
        return self.dialect.line(reason, self.settings.name or self.name)

    def count_in(self, cells: memoryview) -> None:
        """Count in CELLS from now on."""
        self.cells = cells

    # --- clients ---

    @property
    def connections(self) -> int:
        """How many file descriptors the connections of both sides, and pipes, take."""
        return 2 * (len(self.open) + self.tools.pipes.lent) + self._arrivals.handshakes

    async def listen(self, listener: socket.socket, *, tls: bool = False) -> Listening:
        """Take connections from LISTENER until what is returned is closed; the socket stays open."""
        return self._arrivals.listen(listener)

    def take(self, sock: socket.socket, peer: object = None, *, tls: bool = False) -> None:
        """Serve a client; PEER: its address, as `accept` returns it."""
        self._arrivals.take(sock, peer)
        self.on_open()

    def opened(self, session: Session) -> None:
        """The client of SESSION is connected, and speaks TLS if it has to: call `closed` at its end."""
        self.open.add(session)
        self.sweep.add(session)

    def closed(self, session: Session) -> None:
        """Everything of SESSION is closed."""
        self.open.discard(session)
        self.sweep.discard(session)
        self._arrivals.left(session)
        self.look_for_end()

    # --- the way of a session ---

    def seek(self, session: Session) -> None:
        """Find an endpoint for SESSION and have it dial there, wait for room, or tell that there is none."""
        self.waiting.pop(session, None)
        self.refresh()
        balancer = self.balancer
        if session.tried:
            endpoint = balancer.take_other(session.number, session.tried)
        else:
            endpoint = balancer.take(session.number)
        if not session.waited and self._room_comes(session, endpoint):
            if endpoint is not None:
                balancer.give(endpoint)
                endpoint.total -= 1  # nothing was sent there
            self.waiting[session] = None
            session.wait()
            return
        if endpoint is None:
            self.give_up(session)
            return
        endpoint.cells[Counter.ACTIVE] = endpoint.own
        if session.tried:
            endpoint.cells[Counter.RETRIES] += 1
            self.cells[session.failed_as] += 1
            self.cells[Traffic.REDISPATCHED] += 1
        endpoint.dials += 1
        session.dial(endpoint)

    def _room_comes(self, session: Session, found: Endpoint | None) -> bool:
        """Whether a better endpoint than FOUND has room, though other workers hold it now."""
        for endpoint, way in self.ways.items():
            if (
                way.limit
                and not endpoint.has_room
                and endpoint.active < way.limit
                and (found is None or endpoint.priority < found.priority)
                and endpoint not in session.tried
                and self.balancer.counts(endpoint)
            ):
                return True
        return False

    def try_failed(self, session: Session, failure: Failed) -> None:
        """The endpoint of SESSION has not taken it."""
        endpoint = session.endpoint
        assert endpoint is not None
        way = self.ways[endpoint]
        way.count(failure.counter)
        log.debug("%s: %s: %s", self.name, endpoint.address, failure)
        self.release(session)
        if failure.cause is not None and not failure.local:
            self.ejections.failed(endpoint, failure.cause, str(failure))
        session.tried = (*session.tried, endpoint)
        session.failed_as = failure.retried
        if session.may_try and not failure.local:
            self.seek(session)
        else:
            self.give_up(session)

    def give_up(self, session: Session) -> None:
        """The time of SESSION is over, which is not the fault of the node that it waits for."""
        self.cells[self._why_not(session)] += 1
        session.refuse(Reason.UNAVAILABLE)

    def _why_not(self, session: Session) -> Traffic:
        """Return why no node takes SESSION."""
        if session.tried or session.stage is Stage.DIALLING:
            return Traffic.REFUSED_FAILED
        if session.waited:
            return Traffic.REFUSED_QUEUE_TIMEOUT
        full = any(self.balancer.counts(endpoint) for endpoint in self.endpoints)
        return Traffic.REFUSED_QUEUE_FULL if full else Traffic.REFUSED_NO_NODE

    def joined(self, session: Session) -> None:
        """The node of SESSION has greeted."""
        endpoint = session.endpoint
        assert endpoint is not None
        endpoint.tunnels += 1
        if self.ejections.outliers[endpoint].failures:
            self.ejections.connected(endpoint)
            self.ejections.succeeded(endpoint)

    def release(self, session: Session) -> None:
        """Give the endpoint of SESSION back, if it has one, to whoever waits longest."""
        self.waiting.pop(session, None)
        endpoint = session.endpoint
        if endpoint is not None:
            session.endpoint = None
            if session.is_joined:
                endpoint.tunnels -= 1
            self.balancer.give(endpoint)
            endpoint.cells[Counter.ACTIVE] = endpoint.own
            if self.waiting:
                self.wake()

    def header(self, way: Way, session: Session) -> bytes:
        """Return what the node is told about the client before anything else."""
        if way.proxy_protocol == "off":
            return b""
        return header(way.proxy_protocol, session.source, session.destination)

    # --- what others say ---

    def idle(self, endpoint: Endpoint) -> tuple[()]:
        """Return its idle connections: sessions leave none."""
        return ()

    def wake(self) -> None:
        """There may be room now."""
        if self._waking:
            return  # whoever wakes goes on for as long as there is room
        self._waking = True
        try:
            for session in [*self.waiting]:
                if not any(one.has_room and self.balancer.counts(one) for one in self.endpoints):
                    break
                if session in self.waiting:
                    session.waited = False
                    self.seek(session)
        finally:
            self._waking = False

    def follow(self) -> None:
        """States have changed."""
        for endpoint in self.endpoints:
            if endpoint.own > endpoint.tunnels and endpoint.health is Health.DOWN:
                self.move_from(endpoint)
        self.wake()

    def move_from(self, endpoint: Endpoint) -> None:
        """ENDPOINT is down: who waits for its greeting goes to another one, if there is any."""
        if any(self.balancer.counts(other) for other in self.endpoints if other is not endpoint):
            self._move_all(
                endpoint, Failed(None, Counter.SILENT, "the node is down", retried=Traffic.RETRIED_DOWN)
            )

    def _move_all(self, endpoint: Endpoint, failure: Failed) -> None:
        for session in self._sessions_at(endpoint):
            if session.stage is Stage.DIALLING and session.endpoint is endpoint:
                session.move_on(failure)

    def end(self, endpoint: Endpoint) -> None:
        """End what is left at ENDPOINT."""
        taken_out = Failed(None, Counter.LOST, "the node was taken out", retried=Traffic.RETRIED_ENDED)
        self._move_all(endpoint, taken_out)
        for session in self._sessions_at(endpoint):
            if session in self.open and session.endpoint is endpoint:
                session.part(Reason.LEAVING)

    def _sessions_at(self, endpoint: Endpoint) -> list[Session]:
        return [one for one in self.open if isinstance(one, Session) and one.endpoint is endpoint]

    # --- time ---

    def expire(self) -> None:
        """Tell how much running sessions have passed on."""
        self.deadline = self.sweep.now + REPORT_S
        for one in self.open:
            if isinstance(one, Session):
                one.keep()

    # --- tasks and the end ---

    def spawn(self, work: Coroutine[object, object, object]) -> None:
        """Run WORK, keep it, and log what it should not have raised."""
        task = self.loop.create_task(work, name=f"{self.name}: session")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: unexpected error", self.name, exc_info=error)
        self.look_for_end()

    def look_for_end(self) -> None:
        """If nobody new comes, and nobody is left, say so."""
        if self._draining and self.is_over:
            self._on_end()

    @property
    def is_over(self) -> bool:
        """Whether no client is connected or about to be."""
        return not self.open and not self._tasks

    def drain(self, wait_s: float, on_end: Callable[[], None]) -> None:
        """No more clients come; ON_END is called, perhaps more than once, when the last one is gone."""
        self._draining = True
        self._on_end = on_end

    def abort(self) -> None:
        """End everything at once: with a farewell where that is certain to be understood."""
        if self.access is not None:
            self.access.stopping = True
        for task in self._tasks:
            task.cancel()
        self.waiting.clear()  # nobody is served any more, whatever room there will be
        for one in [*self.open]:
            if one not in self.open:
                continue
            if isinstance(one, Session):
                one.part(Reason.LEAVING)
            else:
                one.abort()


def _nobody(index: int) -> None:
    """Nobody probes yet."""


def _nothing() -> None:
    """Nobody wants to know yet."""
