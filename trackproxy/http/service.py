"""What the connections of one HTTP service share: who serves a request, who waits, who is tried next.

A request is `dispatch`ed once; from then on it is counted at one endpoint, or waits in the queue, or has
got its answer. `release` is the only place that gives an endpoint back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from math import ceil

from trackproxy.board import Counter
from trackproxy.clock import Sweep
from trackproxy.errors import ConnectFailed, Side
from trackproxy.health.outliers import Cause
from trackproxy.http.answers import local_answer, without_body
from trackproxy.http.channel import Channel
from trackproxy.http.edge import Edge
from trackproxy.http.ejections import Ejections
from trackproxy.http.framing import ChunkedReader, RequestBody
from trackproxy.http.heads import CLOSE, IDEMPOTENT, Request
from trackproxy.http.identity import RequestIds
from trackproxy.http.retry import Budget, Failure, may_retry
from trackproxy.http.tunnel import Linger, Tunnel
from trackproxy.pool.balancer import Balancer, Room
from trackproxy.pool.endpoints import Endpoint, Health
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import ServiceSettings

log = logging.getLogger(__name__)

UNAVAILABLE = frozenset({502, 503, 504})  # what says that the endpoint, not the request, is to blame

_COUNTERS = {
    Failure.LOST: Counter.LOST,
    Failure.SILENT: Counter.SILENT,
    Failure.STALLED: Counter.SILENT,
    Failure.DOWN: Counter.SILENT,
    Failure.MALFORMED: Counter.MALFORMED,
}
# No load for a node: nothing was sent, or the node that had it is gone.
_FREE = frozenset({Failure.CONNECT, Failure.DOWN, Failure.ENDED})


class Service:
    """One HTTP service in one process.

    open: connections of clients that are not over yet. upstreams: connections to nodes.
    draining: answers close their connections.
    alert: has the endpoint with this number on the board probed at once.
    waiting: requests for which every endpoint is full, oldest first.
    """

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        endpoints: list[Endpoint],
        loop: asyncio.AbstractEventLoop,
        sweep: Sweep,
    ) -> None:
        self.name = name
        self.settings = settings
        self.timeouts = settings.timeouts
        self.limits = settings.limits
        # Read for each request; an attribute of the settings takes several times as long to find.
        self.idle_s = settings.timeouts.idle
        self.response_head_s = settings.timeouts.response_head
        self.retry_deadline_s = settings.retry.deadline
        self.max_fields = settings.limits.fields
        self.max_head = settings.limits.head
        self.checked_size = min(settings.limits.target, settings.limits.head)
        self.loop = loop
        self.sweep = sweep
        self.ids = RequestIds()
        self.endpoints = endpoints
        self.balancer = Balancer(endpoints, settings.balance, settings.panic_threshold)
        self.alert: Callable[[int], None] = _nobody
        self.ejections = Ejections(name, self.balancer, settings.outliers, sweep, self.wake)
        self.ejections.alert = lambda endpoint: self.alert(endpoint.index)
        self.channels = {endpoint: Channel(self, endpoint) for endpoint in endpoints}
        self.open: set[Edge | Tunnel | Linger] = set()
        self.upstreams = 0
        self.draining = False
        self._wait_s = 0.0
        self._on_end: Callable[[], None] = _nothing
        self.on_open: Callable[[], None] = _nothing
        self.waiting: dict[Request, Edge] = {}
        self.accepted = self.refused = self.unavailable = (
            0  # connections; requests answered here, 4xx and 5xx
        )
        self.looks_at_clients = bool(settings.trusted_proxies) or settings.balance == "source_hash"
        self._budget = Budget(settings.retry.budget, settings.retry.budget_min, sweep.now)
        self._statuses = frozenset(settings.retry.statuses)
        self._tasks: set[asyncio.Task[object]] = set()

    # --- connections of clients ---

    @property
    def connections(self) -> int:
        """How many file descriptors the connections of both sides take."""
        return len(self.open) + self.upstreams + sum(endpoint.tunnels for endpoint in self.endpoints)

    def opened(self, edge: Edge) -> None:
        self.accepted += 1
        self.open.add(edge)
        self.sweep.add(edge)
        self.on_open()
        if self.draining:
            edge.retire(self._wait_s)

    def linger(self, edge: Edge) -> None:
        """Let a connection end slowly; it is open until then."""
        lingering = Linger(edge.transport, self.sweep, self.timeouts, self.closed)
        self.open.add(lingering)
        self.sweep.add(lingering)
        self.closed(edge)

    def closed(self, connection: Edge | Tunnel | Linger) -> None:
        self.open.discard(connection)
        self.sweep.discard(connection)
        if self.draining and not self.open:
            self._on_end()

    def look_at(self, peer: str) -> tuple[int, bool]:
        """Return the number of a client's address, and whether it is a trusted proxy."""
        address = ip_address(peer.partition("%")[0])
        return int(address), any(address in network for network in self.settings.trusted_proxies)

    def own_authority(self, sockname: object) -> bytes:
        """Return the authority that a client reached, for one that did not name any."""
        if not isinstance(sockname, tuple):
            return b"localhost"
        host = f"[{sockname[0]}]" if ":" in sockname[0] else sockname[0]
        return (host if sockname[1] == 80 else f"{host}:{sockname[1]}").encode()

    def new_body(self, length: int) -> RequestBody:
        """Return the reader of a body of LENGTH octets or CHUNKED; raises BadRequest if it is too large."""
        limits = self.limits
        reader = ChunkedReader(limits.chunk_extension, limits.trailer) if length < 0 else None
        return RequestBody(length, self.settings.max_body, self.settings.retry.body, reader)

    # --- the way of a request ---

    def dispatch(self, edge: Edge, request: Request) -> None:
        """Find an endpoint for a new request and send it there, queue it, or answer that nobody is there."""
        request.dispatched = True
        request.deadline = self.sweep.now + self.retry_deadline_s
        endpoint = self.balancer.take(edge.client)
        if endpoint is None:
            self._wait(edge, request)
            return
        self._send(edge, request, endpoint)

    def _send(self, edge: Edge, request: Request, endpoint: Endpoint) -> None:
        """Send REQUEST to ENDPOINT, which was taken for it.

        What may not be sent again is not risked on a connection that the node may just be closing, nor is
        what was lost that way already.
        """
        request.endpoint = endpoint
        channel = self.channels[endpoint]
        if not channel.idle:
            channel.connect(edge, request)
        elif request.method in IDEMPOTENT and not request.tried:
            channel.idle.pop().send(edge, request)
        else:
            channel.replace_oldest()
            channel.connect(edge, request)

    def release(self, request: Request) -> None:
        """Give the endpoint of REQUEST back, if it has one, to whoever waits longest."""
        endpoint = request.endpoint
        if endpoint is not None:
            request.endpoint = None
            self.balancer.give(endpoint)
            if self.waiting:
                self.wake()

    def forget(self, edge: Edge, request: Request) -> None:
        """Nobody waits for the answer any more: free everything that REQUEST holds."""
        if request.waiting:
            self._leave_queue(request)
        if edge.upstream is not None:
            edge.upstream.abandon()
            edge.upstream = None
        self.release(request)

    def open_tunnel(self, edge: Edge, request: Request, node: asyncio.Transport) -> None:
        """Join both connections after a switch of protocols; the request lasts as long as they do."""

        endpoint = request.endpoint
        assert endpoint is not None

        def over() -> None:
            endpoint.tunnels -= 1
            self.closed(tunnel)
            self.release(request)

        ends = (edge.transport, node)
        tunnel = Tunnel(ends, self.sweep, self.timeouts, over, client_stalled=edge.stalled)
        tunnel.endpoint = endpoint
        endpoint.tunnels += 1
        self.open.add(tunnel)
        sent_ahead = edge.leave()
        if sent_ahead:
            node.write(sent_ahead)

    # --- waiting for room ---

    def _wait(self, edge: Edge, request: Request) -> None:
        if not self._may_find_room(request):
            self._answer(edge, request, 503, "no node is available")
        elif len(self.waiting) >= self.settings.queue.size:
            self._answer(edge, request, 503, "every node is busy")
        else:
            request.waiting = True
            edge.deadline = self.sweep.now + self.settings.queue.timeout
            self.waiting[request] = edge

    def _leave_queue(self, request: Request) -> None:
        request.waiting = False
        del self.waiting[request]

    def _may_find_room(self, request: Request) -> bool:
        """Whether an endpoint that REQUEST has not tried is eligible, though full now."""
        full = [e for e in self.balancer.endpoints if self.balancer.counts(e) and not e.has_room]
        return any(endpoint not in request.tried for endpoint in full)

    def wake(self) -> None:
        """Hand the room that there is now to those who wait."""
        while self.balancer.room is Room.FREE and self._wake_one():
            pass

    def _wake_one(self) -> bool:
        """Serve the first who waits and has not tried what is free; return whether there was one."""
        for request, edge in self.waiting.items():
            endpoint = self.balancer.take_other(edge.client, request.tried)
            if endpoint is not None:
                self._leave_queue(request)
                edge.watch()
                self._send(edge, request, endpoint)
                return True
        return False

    def waited_too_long(self, edge: Edge, request: Request) -> None:
        self._leave_queue(request)
        self._answer(edge, request, 503, "every node is busy")

    # --- failures ---

    def failed(
        self, edge: Edge, request: Request, failure: Failure, *, reused: bool, detail: str = ""
    ) -> None:
        """An attempt failed: try another endpoint if the rules allow it, else answer.

        REUSED: on a connection that had served before; the node may just have closed it, so that the same
        endpoint may be tried once more if there is no other.
        """
        endpoint = request.endpoint
        assert endpoint is not None
        log.debug("%s: %s: %s %s", self.name, endpoint.address, failure.text, detail)
        if failure in _COUNTERS:
            endpoint.cells[_COUNTERS[failure]] += 1
        if failure.cause and failure is not Failure.CONNECT and not (reused and failure is Failure.LOST):
            self.ejections.failed(endpoint, failure.cause, detail)
        request.tried = (*request.tried, endpoint)
        if not self._may_retry(request, failure):
            self.release(request)
            self._answer(edge, request, failure.status, failure.text)
            return
        self._rewind(edge, request)
        other = self.balancer.take_other(edge.client, request.tried)
        if other is None and reused and failure is Failure.LOST:
            self._send(edge, request, endpoint)
            return
        self.release(request)
        if other is not None:
            self._resend(edge, request, other)
        elif self._may_find_room(request):
            self._wait(edge, request)
        else:
            self._answer(edge, request, failure.status, failure.text)

    def _may_retry(self, request: Request, failure: Failure) -> bool:
        """Ask the rules and the budget; who leaves a node that is gone has its share of traffic free."""
        if not may_retry(request, failure, self.settings.retry, self.sweep.now):
            return False
        return failure in _FREE or self._budget.take(self._sent(), self.sweep.now)

    def _rewind(self, edge: Edge, request: Request) -> None:
        if request.body is not None:
            request.body.rewind()
            if not request.body.complete:
                edge.hold()

    def _resend(self, edge: Edge, request: Request, other: Endpoint) -> None:
        other.cells[Counter.RETRIES] += 1
        self._send(edge, request, other)

    def _sent(self) -> int:
        return sum(endpoint.total for endpoint in self.balancer.endpoints)

    def asks_elsewhere(self, edge: Edge, request: Request, status: int) -> bool:
        """An endpoint answered with an error: send REQUEST to another one, if the rules allow it.

        If they do not, return False: the client gets this answer. An error counts against an endpoint once
        another one has answered better; what nobody can answer is the request's own fault.
        """
        endpoint = request.endpoint
        assert endpoint is not None
        request.tried = (*request.tried, endpoint)
        other = None
        if status in self._statuses and may_retry(
            request, Failure.STATUS, self.settings.retry, self.sweep.now
        ):
            other = self.balancer.take_other(edge.client, request.tried)
        if other is not None and not self._budget.take(self._sent(), self.sweep.now):
            self.balancer.give(other)
            other = None
        if other is None:
            if status in UNAVAILABLE and not request.doubted:
                self.ejections.failed(endpoint, Cause.STATUS, str(status))
            return False
        request.doubted = (*request.doubted, endpoint)
        self._rewind(edge, request)
        self.release(request)
        self._resend(edge, request, other)
        return True

    def answered_well(self, request: Request, endpoint: Endpoint) -> None:
        """ENDPOINT, or others before it, had failed, and now it has answered: that settles who is to blame."""
        self.ejections.succeeded(endpoint)
        for other in request.doubted:
            self.ejections.failed(other, Cause.STATUS, "another node answered better")

    def connect_failed(self, edge: Edge, request: Request, endpoint: Endpoint, error: ConnectFailed) -> None:
        """A connect failed: hold it against the endpoint, and try another one for REQUEST."""
        endpoint.cells[Counter.CONNECT_FAILURES] += 1
        if error.side is Side.NODE:
            self.ejections.failed(endpoint, Cause.CONNECT, str(error))
        if edge.request is request and request.endpoint is endpoint:
            self.failed(edge, request, Failure.CONNECT, reused=False, detail=str(error))

    # --- what becomes of endpoints ---

    def follow(self) -> None:
        """States have changed: end idle connections that nobody will use, and serve who waits."""
        for endpoint, channel in self.channels.items():
            if endpoint.node.state is AdminState.DISABLED or endpoint.health is Health.DOWN:
                channel.close_idle()
        self.wake()

    def move_from(self, endpoint: Endpoint) -> None:
        """ENDPOINT is down: what waits for its answer, and may be sent again, goes to another one."""
        for edge, request in self._requests_at(endpoint):
            if edge.upstream is not None and self._may_move(request, endpoint):
                edge.upstream.give_up(Failure.DOWN)

    def _may_move(self, request: Request, endpoint: Endpoint) -> bool:
        tried = (*request.tried, endpoint)
        others = any(self.balancer.counts(other) and other not in tried for other in self.endpoints)
        return others and may_retry(request, Failure.DOWN, self.settings.retry, self.sweep.now)

    def end(self, endpoint: Endpoint) -> None:
        """End what is left at ENDPOINT: move what may be moved, close the rest."""
        self.channels[endpoint].close_idle()
        for connection in [*self.open]:
            if isinstance(connection, Tunnel) and connection.endpoint is endpoint:
                connection.close()
        for edge, request in self._requests_at(endpoint):
            if edge.upstream is None:
                continue
            if request.answered:
                edge.upstream.abandon()
                self.release(request)
                edge.cut()
            else:
                edge.upstream.give_up(Failure.ENDED)

    def _requests_at(self, endpoint: Endpoint) -> list[tuple[Edge, Request]]:
        return [
            (edge, edge.request)
            for edge in self.open
            if isinstance(edge, Edge) and edge.request is not None and edge.request.endpoint is endpoint
        ]

    # --- answers of our own ---

    def _answer(self, edge: Edge, request: Request, status: int, reason: str) -> None:
        """Answer REQUEST here; its connection goes on if the request was complete."""
        if not request.complete or self.draining:
            request.ending = CLOSE
        self.unavailable += 1
        answer = self.local_answer(status, reason, request.ending)
        edge.transport.write(without_body(answer) if request.method == b"HEAD" else answer)
        edge.answered()

    def local_answer(self, status: int, reason: str, ending: bytes) -> bytes:
        log.debug("%s: %d %s", self.name, status, reason)
        retry_after_s = ceil(self.settings.queue.retry_after) if status == 503 else 0
        return local_answer(status, reason, ending, time.time(), retry_after_s)

    # --- tasks and the end ---

    def spawn(self, work: Coroutine[object, object, object]) -> None:
        """Run WORK, keep it, and log what it should not have raised."""
        task = self.loop.create_task(work, name=f"{self.name}: connect")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: unexpected error", self.name, exc_info=error)
        if self.draining and not self._tasks:
            self._on_end()

    @property
    def is_over(self) -> bool:
        """Whether no client is connected or about to be."""
        return not self.open and not self._tasks

    def drain(self, wait_s: float, on_end: Callable[[], None]) -> None:
        """Let each connection end with its next answer, and those between requests WAIT_S from now.

        ON_END is called, perhaps more than once, when the last one is gone. May be called again.
        """
        self.draining = True
        self.idle_s = self._wait_s = wait_s
        self._on_end = on_end
        for channel in self.channels.values():
            channel.close_idle()
        for connection in [*self.open]:
            connection.retire(wait_s)

    def abort(self) -> None:
        """End everything at once."""
        for task in self._tasks:
            task.cancel()
        for connection in [*self.open]:
            connection.abort()
        for channel in self.channels.values():
            channel.close_idle()


def _nobody(index: int) -> None:
    """Nobody probes yet."""


def _nothing() -> None:
    """Nobody waits for the end yet."""
