"""What the connections of one HTTP service share, and the way of a request through it.

A request is `dispatch`ed once; from then on it is counted at one endpoint, or waits in the queue, or has
got its answer. `release` is the only place that gives an endpoint back. Who waits is in `queue`; what
becomes of failed attempts is in `second_tries`, and of endpoints that are taken out in `departures`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Sized
from functools import partial
from ipaddress import ip_address
from math import ceil

from trackproxy.clock import Sweep
from trackproxy.health.ejections import Ejections
from trackproxy.http import departures
from trackproxy.http.answers import local_answer, without_body
from trackproxy.http.channel import Channel
from trackproxy.http.edge import Edge
from trackproxy.http.framing import ChunkedReader, RequestBody
from trackproxy.http.heads import CLOSE, IDEMPOTENT, Request
from trackproxy.http.identity import RequestIds
from trackproxy.http.queue import Queue
from trackproxy.http.second_tries import SecondTries
from trackproxy.http_sections import HttpService
from trackproxy.pool.balancer import Balancer
from trackproxy.pool.endpoints import Endpoint
from trackproxy.tunnel import Linger, Tunnel, Waits

log = logging.getLogger(__name__)

BACKLOG = 4096


class Service:
    """One HTTP service in one process.

    open: connections of clients that are not over yet. upstreams: connections to nodes.
    draining: answers close their connections.
    alert: has the endpoint with this number on the board probed at once.
    waiting: requests for which every endpoint is full, oldest first.
    accepted: connections ever. refused, unavailable: requests that were answered here, with 4xx and 5xx.
    """

    def __init__(
        self,
        name: str,
        settings: HttpService,
        endpoints: list[Endpoint],
        loop: asyncio.AbstractEventLoop,
        sweep: Sweep,
    ) -> None:
        self.name = name
        self.settings = settings
        self.timeouts = settings.timeouts
        self.limits = settings.limits
        timeouts = settings.timeouts
        self._waits = Waits(timeouts.tunnel, timeouts.write, timeouts.linger)
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
        self.queue = Queue(self)
        self.waiting = self.queue.waiting
        self.waited_too_long = self.queue.waited_too_long
        self.ejections = Ejections(name, self.balancer, settings.outliers, sweep, self.queue.wake)
        self.ejections.alert = lambda endpoint: self.alert(endpoint.index)
        self.second_tries = SecondTries(self)
        self.channels = {endpoint: Channel(self, endpoint) for endpoint in endpoints}
        self.open: set[Edge | Tunnel | Linger] = set()
        self.upstreams = 0
        self.draining = False
        self._wait_s = 0.0
        self._on_end: Callable[[], None] = _nothing
        self.on_open: Callable[[], None] = _nothing
        self.refresh: Callable[[], None] = _nothing
        self.accepted = 0
        self.refused = self.unavailable = 0
        self.looks_at_clients = bool(settings.trusted_proxies) or settings.balance == "source_hash"
        self._tasks: set[asyncio.Task[object]] = set()

    # --- connections of clients ---

    async def listen(self, listener: socket.socket) -> asyncio.Server:
        """Take clients from LISTENER until what is returned is closed; the socket stays open."""
        unix = listener.family == socket.AF_UNIX
        create = self.loop.create_unix_server if unix else self.loop.create_server
        return await create(partial(Edge, self), sock=listener.dup(), backlog=BACKLOG)

    def take(self, sock: socket.socket, peer: object = None) -> None:
        """Serve a client that was accepted already."""
        sock.setblocking(False)
        self.spawn(self.loop.connect_accepted_socket(partial(Edge, self), sock))

    @property
    def connections(self) -> int:
        """How many file descriptors the connections of both sides take."""
        return len(self.open) + self.upstreams

    def opened(self, edge: Edge) -> None:
        self.accepted += 1
        self.open.add(edge)
        self.sweep.add(edge)
        self.on_open()
        if self.draining:
            edge.retire(self._wait_s)

    def linger(self, edge: Edge) -> None:
        """Let a connection end slowly; it is open until then."""
        lingering = Linger(edge.transport, self.sweep, self._waits, self.closed)
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
            self.queue.wait(edge, request)
            return
        channel = self.channels[endpoint]
        if channel.idle and request.method in IDEMPOTENT:  # `send` written out: this is what nearly all need
            request.endpoint = endpoint
            channel.idle.pop().send(edge, request)
        else:
            self.send(edge, request, endpoint)

    def send(self, edge: Edge, request: Request, endpoint: Endpoint) -> None:
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
                self.queue.wake()

    def forget(self, edge: Edge, request: Request) -> None:
        """Nobody waits for the answer any more: free everything that REQUEST holds."""
        if request.waiting:
            self.queue.leave(request)
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
            self.upstreams -= 1
            self.closed(tunnel)
            self.release(request)

        ends = (edge.transport, node)
        tunnel = Tunnel(ends, self.sweep, self._waits, over, client_stalled=edge.stalled)
        tunnel.endpoint = endpoint
        endpoint.tunnels += 1
        self.upstreams += 1  # its node's end, which is no Upstream any more
        self.open.add(tunnel)
        sent_ahead = edge.leave()
        if sent_ahead:
            node.write(sent_ahead)

    # --- answers of our own ---

    def answer(self, edge: Edge, request: Request, status: int, reason: str) -> None:
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

    # --- what others say ---

    def idle(self, endpoint: Endpoint) -> Sized:
        """Return the idle connections of an endpoint, as they change."""
        return self.channels[endpoint].idle

    def wake(self) -> None:
        """There may be room now."""
        self.queue.wake()

    def follow(self) -> None:
        """States of nodes and endpoints have changed."""
        departures.follow(self)

    def move_from(self, endpoint: Endpoint) -> None:
        """ENDPOINT is down: what may be sent again goes to another one."""
        departures.move_from(self, endpoint)

    def end(self, endpoint: Endpoint) -> None:
        """End what is left at ENDPOINT: move what may be moved, close the rest."""
        departures.end(self, endpoint)

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
        self.queue.leave_all()
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
