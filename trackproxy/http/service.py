"""What the connections of one HTTP service share: who serves a request, who waits, who is tried next.

A request is `dispatch`ed once; from then on it is counted at one endpoint, or waits in the queue, or has
got its answer. `release` is the only place that gives an endpoint back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from ipaddress import ip_address
from math import ceil

from trackproxy.clock import Sweep
from trackproxy.errors import ConnectFailed, Side
from trackproxy.health.outliers import Outlier
from trackproxy.http.answers import local_answer, without_body
from trackproxy.http.channel import Channel
from trackproxy.http.edge import Edge
from trackproxy.http.framing import ChunkedReader, RequestBody
from trackproxy.http.heads import CLOSE, IDEMPOTENT, Request
from trackproxy.http.identity import RequestIds
from trackproxy.http.retry import Budget, Failure, may_retry
from trackproxy.http.tunnel import Linger, Tunnel
from trackproxy.pool.balancer import Balancer, Room
from trackproxy.pool.endpoints import Endpoint
from trackproxy.settings import ServiceSettings

log = logging.getLogger(__name__)


class Service:
    """One HTTP service in one process.

    open: connections of clients that are not over yet. draining: answers close their connections;
    `over` is set once none is open.
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
        self.balancer = Balancer(endpoints, settings.balance)
        self.channels = {endpoint: Channel(self, endpoint) for endpoint in endpoints}
        self.open: set[Edge | Tunnel | Linger] = set()
        self.draining = False
        self.over = asyncio.Event()
        self.waiting: dict[Request, Edge] = {}
        self.looks_at_clients = bool(settings.trusted_proxies) or settings.balance == "source_hash"
        self._budget = Budget(settings.retry.budget, settings.retry.budget_min, sweep.now)
        self._outliers = {endpoint: Outlier() for endpoint in endpoints}
        self._ends: dict[Endpoint, asyncio.TimerHandle] = {}  # of ejections
        self._tasks: set[asyncio.Task[None]] = set()

    # --- connections of clients ---

    def opened(self, edge: Edge) -> None:
        self.open.add(edge)
        self.sweep.add(edge)

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
            self.over.set()

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
                self._wake()

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

        def over() -> None:
            self.closed(tunnel)
            self.release(request)

        ends = (edge.transport, node)
        tunnel = Tunnel(ends, self.sweep, self.timeouts, over, client_stalled=edge.stalled)
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

    def _wake(self) -> None:
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
        request.tried = (*request.tried, endpoint)
        if not self._may_retry(request, failure):
            self.release(request)
            self._answer(edge, request, failure.status, failure.text)
            return
        if request.body is not None:
            request.body.rewind()
            if not request.body.complete:
                edge.hold()
        other = self.balancer.take_other(edge.client, request.tried)
        if other is None and reused and failure is Failure.LOST:
            self._send(edge, request, endpoint)
            return
        self.release(request)
        if other is not None:
            self._send(edge, request, other)
        elif self._may_find_room(request):
            self._wait(edge, request)
        else:
            self._answer(edge, request, failure.status, failure.text)

    def _may_retry(self, request: Request, failure: Failure) -> bool:
        if not may_retry(request, failure, self.settings.retry, self.sweep.now):
            return False
        return failure is Failure.CONNECT or self._budget.take(self._sent(), self.sweep.now)

    def _sent(self) -> int:
        return sum(endpoint.total for endpoint in self.balancer.endpoints)

    def connect_failed(self, edge: Edge, request: Request, endpoint: Endpoint, error: ConnectFailed) -> None:
        """A connect failed: leave the endpoint out for a while, and try another one for REQUEST."""
        blamed = error.side is Side.NODE
        ejection_s = self._outliers[endpoint].failed(self.sweep.now) if blamed else None
        if ejection_s is not None:
            log.warning(
                "%s: node %s (%s) takes no connection: %s; left out for %g s",
                *(self.name, endpoint.node.name, endpoint.address, error, ejection_s),
            )
            self.balancer.eject(endpoint)
            self._cancel_end(endpoint)
            self._ends[endpoint] = self.loop.call_later(ejection_s, self._readmit, endpoint)
        if edge.request is request and request.endpoint is endpoint:
            self.failed(edge, request, Failure.CONNECT, reused=False, detail=str(error))

    def connected(self, endpoint: Endpoint) -> None:
        if self._outliers[endpoint].succeeded():
            log.info("%s: node %s (%s) is back", self.name, endpoint.node.name, endpoint.address)
            self._cancel_end(endpoint)
            self._readmit(endpoint)

    def _cancel_end(self, endpoint: Endpoint) -> None:
        if endpoint in self._ends:
            self._ends.pop(endpoint).cancel()

    def _readmit(self, endpoint: Endpoint) -> None:
        self.balancer.readmit(endpoint)
        self._wake()

    # --- answers of our own ---

    def _answer(self, edge: Edge, request: Request, status: int, reason: str) -> None:
        """Answer REQUEST here; its connection goes on if the request was complete."""
        if not request.complete or self.draining:
            request.ending = CLOSE
        answer = self.local_answer(status, reason, request.ending)
        edge.transport.write(without_body(answer) if request.method == b"HEAD" else answer)
        edge.answered()

    def local_answer(self, status: int, reason: str, ending: bytes) -> bytes:
        log.debug("%s: %d %s", self.name, status, reason)
        retry_after_s = ceil(self.settings.queue.retry_after) if status == 503 else 0
        return local_answer(status, reason, ending, time.time(), retry_after_s)

    # --- tasks and the end ---

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run WORK, keep it, and log what it should not have raised."""
        task = self.loop.create_task(work, name=f"{self.name}: connect")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: unexpected error", self.name, exc_info=error)

    def drain(self, wait_s: float) -> None:
        """Let each connection end with its next answer, and those between requests WAIT_S from now."""
        self.draining = True
        self.idle_s = wait_s
        for channel in self.channels.values():
            for upstream in channel.idle[:]:
                upstream.abandon()
        for connection in [*self.open]:
            connection.retire(wait_s)
        if not self.open:
            self.over.set()

    def abort(self) -> None:
        """End everything at once."""
        for task in self._tasks:
            task.cancel()
        for connection in [*self.open]:
            connection.abort()
        for channel in self.channels.values():
            for upstream in channel.idle[:]:
                upstream.abandon()
