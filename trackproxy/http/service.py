"""What the connections of one HTTP service share, and the way of a request through it.

A request is `dispatch`ed once; from then on it is counted at one endpoint, or waits in the queue, or has
got its answer. `release` is the only place that gives an endpoint back. Which class it falls under is found
by `matching`, how that is treated is in its `route`, and its endpoints are in that route's `group`. Who waits
is in `queue`; what becomes of failed attempts is in `second_tries`, and of endpoints that are taken out in
`departures`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from math import ceil

from trackproxy.addresses import Trust
from trackproxy.board import Traffic
from trackproxy.clock import Sweep
from trackproxy.http.access import Access
from trackproxy.http.answers import local_answer, without_body
from trackproxy.http.arrivals import Arrivals
from trackproxy.http.edge import Edge
from trackproxy.http.fields import PLAIN, RequestReader
from trackproxy.http.framing import ChunkedReader, RequestBody
from trackproxy.http.gate import Gate
from trackproxy.http.group import Group
from trackproxy.http.heads import CLOSE, IDEMPOTENT, Request
from trackproxy.http.identity import RequestIds
from trackproxy.http.matching import Matcher, Pattern
from trackproxy.http.means import Means
from trackproxy.http.quotas import Quotas
from trackproxy.http.route import Route
from trackproxy.http.sticking import make_sticking
from trackproxy.http_sections import HttpService
from trackproxy.pool.endpoints import Endpoint
from trackproxy.route_sections import Route as RouteConfig
from trackproxy.served import Listening
from trackproxy.tunnel import Linger, Tunnel, Waits

log = logging.getLogger(__name__)

BACKLOG = 4096

# Under what a request counts that is refused with a status; others are malformed.
REFUSED_AS = {
    403: Traffic.REFUSED_FORBIDDEN,
    405: Traffic.REFUSED_METHOD,
    408: Traffic.REFUSED_TIMEOUT,
    413: Traffic.REFUSED_TOO_LARGE,
    414: Traffic.REFUSED_TOO_LARGE,
    429: Traffic.REFUSED_RATE,
    431: Traffic.REFUSED_TOO_LARGE,
}


class Service:
    """One HTTP service in one process.

    open: connections of clients that are not over yet. upstreams: connections to nodes.
    draining: answers close their connections.
    access: tells of requests at their end, if that is wanted.
    routes: those of the settings, then the one for the rest. groups: their endpoints.
    """

    def __init__(
        self,
        name: str,
        settings: HttpService,
        groups: Mapping[str, list[Endpoint]],
        loop: asyncio.AbstractEventLoop,
        sweep: Sweep,
        means: Means | None = None,
    ) -> None:
        """GROUPS: the endpoints of each group, the shared one first, which has no name.

        MEANS: what it shares with other services of its worker; without them there is no TLS, PROXY protocol,
        limit of clients, nor learning of nodes' sessions.
        """
        self.name = name
        self.settings = settings
        self.timeouts = settings.timeouts
        self.limits = settings.limits
        timeouts = settings.timeouts
        self._waits = Waits(timeouts.tunnel, timeouts.write, timeouts.linger)
        # Read for each request; an attribute of the settings takes several times as long to find.
        self.idle_s = settings.timeouts.idle
        self.max_fields = settings.limits.fields
        self.max_head = settings.limits.head
        self.checked_size = min(settings.limits.target, settings.limits.head)
        self.loop = loop
        self.sweep = sweep
        self.ids = RequestIds()
        self._means = means
        self.access: Access | None = None
        self.routes = self._make_routes(groups)
        self._rest = self.routes[-1]  # what no route of the settings takes
        # In the order of their endpoints on the board, see `settings.groups_of`: the shared one first.
        self.groups = [*dict.fromkeys((self._rest.group, *(route.group for route in self.routes)))]
        self.cookie_names, asked = _cookies_of(route.settings for route in self.routes)
        self.reader = RequestReader(self.cookie_names, asked) if asked else PLAIN
        self.trust = Trust(settings.trusted_proxies)
        self.quotas = Quotas(name, settings, means.board, means.number) if means else None
        self.limits_connections = self.quotas is not None and self.quotas.limits_connections
        self._gate = Gate(settings, self.routes, self.quotas)
        self._gated = self._gate.needed
        self._strict = _strict_line(settings)
        self._special = bool(self._gated or self._strict or settings.trusted_proxies)
        self._arrivals: Arrivals | None = None
        if means is not None and (settings.tls.listen or settings.accept_proxy_protocol):
            self._arrivals = Arrivals(self, means.poller(), means.context(settings.tls))
        self._find = _finder(settings)
        self.open: set[Edge | Tunnel | Linger] = set()
        self.upstreams = 0
        self.draining = False
        self._wait_s = 0.0
        self._on_end: Callable[[], None] = _nothing
        self.on_open: Callable[[], None] = _nothing
        self.looks_at_clients = any(group.settings.picks_by == "source_hash" for group in self.groups)
        self._tasks: set[asyncio.Task[object]] = set()

    def _make_routes(self, endpoints: Mapping[str, list[Endpoint]]) -> list[Route]:
        """Return the routes of the settings in their order, and one for the rest of all requests."""
        shared = Group(self, self.name, self.settings, endpoints[""])
        routes = []
        for one in self.settings.all_routes:
            seen, group = self.settings.as_seen_by(one), shared
            if self.settings.separates(one):
                group = Group(self, f"{self.name}/{one.name}", seen, endpoints[one.name])
            routes.append(self._make_route(one, group, seen))
        return [*routes, self._make_route(None, shared, self.settings)]

    def _make_route(self, config: RouteConfig | None, group: Group, seen: HttpService) -> Route:
        learned = self._means.learned(seen.sticky) if self._means and seen.sticky else None
        return Route(config, group, seen, make_sticking(group, seen, learned))

    # --- connections of clients ---

    async def listen(self, listener: socket.socket, *, tls: bool = False) -> Listening:
        """Take clients from LISTENER until what is returned is closed; the socket stays open."""
        if self._arrivals is not None and (tls or self.settings.accept_proxy_protocol):
            return self._arrivals.listen(listener, tls=tls)
        unix = listener.family == socket.AF_UNIX
        create = self.loop.create_unix_server if unix else self.loop.create_server
        return await create(partial(Edge, self), sock=listener.dup(), backlog=BACKLOG)

    def take(self, sock: socket.socket, peer: object = None, *, tls: bool = False) -> None:
        """Serve a client that was accepted already."""
        if self._arrivals is not None and (tls or self.settings.accept_proxy_protocol):
            self._arrivals.take(sock, peer, tls=tls)
            return
        sock.setblocking(False)
        self.spawn(self.loop.connect_accepted_socket(partial(Edge, self), sock))

    @property
    def connections(self) -> int:
        """How many file descriptors the connections of both sides take."""
        return len(self.open) + self.upstreams + (self._arrivals.connections if self._arrivals else 0)

    def opened(self, edge: Edge) -> None:
        self.count(Traffic.ACCEPTED)
        self.open.add(edge)
        self.sweep.add(edge)
        self.on_open()
        if self.limits_connections and self.quotas is not None and not edge.held:
            refusal, edge.held = self.quotas.admit(edge.host, time.monotonic(), trusted=edge.trusted)
            if refusal:
                self.count(Traffic.REFUSED_CONNECTIONS)
                edge.turn_away(*refusal)
                return
        if self.draining:
            edge.retire(self._wait_s)

    def leave(self, held: tuple[int, ...]) -> None:
        """A connection counts no more under its limits."""
        if held and self.quotas is not None:
            self.quotas.leave(held)

    def count(self, cell: Traffic) -> None:
        """Count what belongs to no route."""
        self._rest.cells[cell] += 1

    def count_refusal(self, request: Request | None, status: int) -> None:
        """Count that REQUEST is answered here with a STATUS that is the client's fault.

        None: nobody could read its head.
        """
        route = request.route if request is not None and request.dispatched else self._rest
        route.cells[REFUSED_AS.get(status, Traffic.REFUSED_MALFORMED)] += 1
        self.count_answer(request, status)

    def count_answer(self, request: Request | None, status: int) -> None:
        """Count an answer of our own; REQUEST: as above."""
        route = request.route if request is not None and request.dispatched else self._rest
        route.answers[request.method if request is not None else b""][status // 100] += 1

    def linger(self, edge: Edge) -> None:
        """Let a connection end slowly; it is open until then."""

        def over(lingering: Linger) -> None:
            edge.leave_quotas()
            self.closed(lingering)

        lingering = Linger(edge.transport, self.sweep, self._waits, over)
        self.open.add(lingering)
        self.sweep.add(lingering)
        self.closed(edge)

    def closed(self, connection: Edge | Tunnel | Linger) -> None:
        self.open.discard(connection)
        self.sweep.discard(connection)
        if self.draining and not self.open:
            self._on_end()

    def look_for_end(self) -> None:
        """Something is over that `open` does not know."""
        if self.draining and self.is_over:
            self._on_end()

    def own_authority(self, sockname: object, tls: bool = False) -> bytes:
        """Return the authority that a client reached, for one that did not name any."""
        if not isinstance(sockname, tuple):
            return b"localhost"
        host = f"[{sockname[0]}]" if ":" in sockname[0] else sockname[0]
        return (host if sockname[1] == (443 if tls else 80) else f"{host}:{sockname[1]}").encode()

    def new_body(self, length: int) -> RequestBody:
        """Return the reader of a body of LENGTH octets or CHUNKED; raises BadRequest if it is too large."""
        limits = self.limits
        reader = ChunkedReader(limits.chunk_extension, limits.trailer) if length < 0 else None
        return RequestBody(length, self.settings.max_body, self.settings.retry.body, reader)

    # --- the way of a request ---

    def dispatch(self, edge: Edge, request: Request) -> None:
        """Find an endpoint for a new request and send it there, queue it, or answer that nobody is there."""
        request.dispatched = True
        find = self._find
        request.route = route = (
            self._rest if find is None else self.routes[find(request.method, request.line, request.host)]
        )
        request.deadline = self.sweep.now + route.retry_deadline_s
        request.client = edge.client
        if self._special and not self._prepare(edge, request):
            return
        sticking = route.sticking
        endpoint = route.take(edge.client) if sticking is None else sticking.take(edge, request)
        if endpoint is None:
            route.group.queue.wait(edge, request)
            return
        channel = route.channels[endpoint]
        if channel.idle and request.method in IDEMPOTENT:  # `send` written out: this is what nearly all need
            request.endpoint = endpoint
            channel.idle.pop().send(edge, request)
        else:
            self.send(edge, request, endpoint)

    def _prepare(self, edge: Edge, request: Request) -> bool:
        """Find out what routes need to know of REQUEST; return whether it may go on."""
        if edge.trusted:
            edge.resolve(request)
            request.client = edge.client
        if self._strict and edge.tls:
            request.extra = self._strict
        return not self._gated or self._gate.passes(edge, request)

    def send(self, edge: Edge, request: Request, endpoint: Endpoint) -> None:
        """Send REQUEST to ENDPOINT, which was taken for it.

        What may not be sent again is not risked on a connection that the node may just be closing, nor is
        what was lost that way already.
        """
        request.endpoint = endpoint
        channel = request.route.channels[endpoint]
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
            group = request.route.group
            group.balancer.give(endpoint)
            if group.waiting:
                group.queue.wake()

    def forget(self, edge: Edge, request: Request) -> None:
        """Nobody waits for the answer any more: free everything that REQUEST holds."""
        if request.waiting:
            request.route.group.queue.leave(request)
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
            if self.access is not None:
                self.access.tunnelled(edge, request, tunnel)
            edge.leave_quotas()
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

    def answer(self, edge: Edge, request: Request, status: int, reason: str, cause: Traffic) -> None:
        """Answer REQUEST here, for want of a node; its connection goes on if the request was complete.

        CAUSE: under which that counts.
        """
        request.route.cells[cause] += 1
        self.count_answer(request, status)
        self._answer(edge, request, self.local_answer(status, reason, self._ending(request)))

    def refuse_request(
        self, edge: Edge, request: Request, status: int, reason: str, retry_after_s: int = 0
    ) -> None:
        """Answer REQUEST here with an error that is the client's; its connection goes on."""
        self.count_refusal(request, status)
        self._answer(edge, request, self.local_answer(status, reason, self._ending(request), retry_after_s))

    def redirect(self, edge: Edge, request: Request, location: bytes) -> None:
        """Send the client of REQUEST to LOCATION, for good; methods other than GET keep theirs."""
        status = 301 if request.method in (b"GET", b"HEAD") else 308
        text = f"this is served at {location.decode()}"
        line = b"Location: %b\r\n" % location
        answer = local_answer(status, text, line + self._ending(request), time.time())
        self.count_answer(request, status)
        self._answer(edge, request, answer)

    def _ending(self, request: Request) -> bytes:
        if not request.complete or self.draining:
            request.ending = CLOSE
        return request.extra + request.ending

    def _answer(self, edge: Edge, request: Request, answer: bytes) -> None:
        if self.access is not None:
            self.access.local(edge, request, answer)
        edge.transport.write(without_body(answer) if request.method == b"HEAD" else answer)
        edge.answered()

    def local_answer(self, status: int, reason: str, ending: bytes, retry_after_s: int = 0) -> bytes:
        log.debug("%s: %d %s", self.name, status, reason)
        if status == 503:
            retry_after_s = ceil(self.settings.queue.retry_after)
        return local_answer(status, reason, ending, time.time(), retry_after_s)

    def waited_too_long(self, edge: Edge, request: Request) -> None:
        """No endpoint had room for REQUEST in time."""
        request.route.group.queue.waited_too_long(edge, request)

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
        return not self.open and not self._tasks and not (self._arrivals and self._arrivals.connections)

    def drain(self, wait_s: float, on_end: Callable[[], None]) -> None:
        """Let each connection end with its next answer, and those between requests WAIT_S from now.

        ON_END is called, perhaps more than once, when the last one is gone. May be called again.
        """
        self.draining = True
        self.idle_s = self._wait_s = wait_s
        self._on_end = on_end
        for group in self.groups:
            group.close_idle()
        for connection in [*self.open]:
            connection.retire(wait_s)

    def abort(self) -> None:
        """End everything at once."""
        if self.access is not None:
            self.access.stopping = True
        for group in self.groups:
            group.queue.leave_all()
        for task in self._tasks:
            task.cancel()
        if self._arrivals is not None:
            self._arrivals.abort()
        for connection in [*self.open]:
            connection.abort()
        for group in self.groups:
            group.close_idle()


def _cookies_of(settings: Iterable[HttpService]) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return the names of cookies of ours, and of all that tell where a request belongs."""
    named = {(one.sticky.mode, one.sticky.name.encode()) for one in settings if one.sticky}
    ours = frozenset(name for mode, name in named if mode == "cookie")
    return ours, ours | {name for mode, name in named if mode == "app_cookie"}


def _finder(settings: HttpService) -> Callable[[bytes, bytes, bytes | None], int] | None:
    """Return what finds the number of a request's route, see `Matcher.find`; None if there are no routes."""
    patterns = [
        Pattern(tuple(one.host), tuple(one.path), one.regex, tuple(one.method)) for one in settings.all_routes
    ]
    return Matcher(patterns).find if patterns else None


def _strict_line(settings: HttpService) -> bytes:
    """Return what tells browsers to come with TLS only (RFC 6797, 6.1), nothing unless that is wanted."""
    if not settings.tls.listen or not settings.tls.hsts:
        return b""
    return b"Strict-Transport-Security: max-age=%d\r\n" % settings.tls.hsts


def _nothing() -> None:
    """Nobody waits for the end yet."""
