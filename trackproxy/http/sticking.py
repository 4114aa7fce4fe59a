"""Sticking: how requests find the node that their client belongs to, and how clients learn where they belong.

A client that cannot go to its node any more is served elsewhere at once, and belongs there then; why is
counted at the node that it has left. One whose node is full waits for it as the queue lets it.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trackproxy.board import Counter, Traffic
from trackproxy.http.cookies import parameter, set_cookie
from trackproxy.pool.endpoints import Health
from trackproxy.pool.learned import Learned, key_of, number_of
from trackproxy.pool.nodes import AdminState
from trackproxy.pool.stickiness import Flaw, Pass, Tokens
from trackproxy.route_sections import V4_BITS, V6_BITS

if TYPE_CHECKING:
    from trackproxy.http.edge import Edge
    from trackproxy.http.group import Group
    from trackproxy.http.heads import Answer, Request
    from trackproxy.http_sections import HttpService
    from trackproxy.pool.endpoints import Endpoint
    from trackproxy.route_sections import Sticky

FLAWS = {
    Flaw.FORGED: Traffic.STICKY_FORGED,
    Flaw.EXPIRED: Traffic.STICKY_EXPIRED,
    Flaw.UNKNOWN: Traffic.STICKY_UNKNOWN,
}
COOKIES = 8  # of one name that are looked at: browsers send few, and each costs hashes
PRIVATE = b"Cache-Control: private\r\n"
# RFC 9111, 5.2.2.5 and 5.2.2.7: said of the whole answer, not of some of its fields.
_UNSHARED = re.compile(rb"\ncache-control:(?:[^\r]*[, \t])?(?:private|no-store)[ \t]*[,\r]", re.IGNORECASE)


class Sticking(ABC):
    """The stickiness of one route. knows_clients: it can tell those that are new."""

    knows_clients = True

    def __init__(self, group: Group) -> None:
        self._group = group
        self._balancer = group.balancer
        self._by_name = {endpoint.node.name: endpoint for endpoint in group.endpoints}

    @abstractmethod
    def find(self, edge: Edge, request: Request) -> Endpoint | None:
        """Return where the client of REQUEST belongs, if that is known."""

    @abstractmethod
    def answered(self, edge: Edge, request: Request, endpoint: Endpoint, answer: Answer) -> bytes:
        """ENDPOINT has answered: return the lines that tell the client to come back, if it needs any."""

    def take(self, edge: Edge, request: Request) -> Endpoint | None:
        """Return an endpoint for REQUEST, counted, or None if it has to wait; see `Balancer.take`."""
        own = request.owner = self.find(edge, request)
        if own is None:
            return self._balancer.take(request.client)
        if self._balancer.claim(own):
            own.cells[Counter.STICKY_KEPT] += 1
            return own
        if self._balancer.may_claim(own):  # as soon as it has room
            request.wanted = own
            return None
        endpoint = self._balancer.take(request.client)
        if endpoint is not None:
            count_move(request, endpoint)
        return endpoint

    def settle(self, request: Request, endpoint: Endpoint, answer: Answer) -> Endpoint:
        """ENDPOINT has answered: count its client if that is new there, and return where it belongs now.

        What no endpoint can answer is the request's own fault: its client stays where it was.
        """
        own = request.owner
        if own is endpoint or (own is not None and own in request.doubted and answer.status >= 500):
            return own
        endpoint.cells[Counter.STICKY_NEW] += 1
        if own is not None and own in request.tried:
            own.cells[Counter.MOVED_FAILED] += 1
        return endpoint


def count_move(request: Request, endpoint: Endpoint) -> None:
    """ENDPOINT was taken for REQUEST: count why, if its client belongs to another one that it has not tried.

    Who has tried it is counted when another one has answered, see `Sticking.settle`.
    """
    own = request.owner
    if own is not None and own is not endpoint and own not in request.tried:
        cause = _cause(own)
        own.cells[cause] += 1
        request.moved = cause.name.removeprefix("MOVED_").lower()


def _cause(endpoint: Endpoint) -> Counter:
    """Return under what a client is counted that cannot stay at ENDPOINT."""
    if endpoint.node.state is AdminState.DISABLED or not endpoint.weight:
        return Counter.MOVED_DISABLED
    if endpoint.health is Health.DOWN or endpoint.ejected:
        return Counter.MOVED_DOWN
    if endpoint.node.state is AdminState.DRAIN:
        return Counter.MOVED_DRAIN
    return Counter.MOVED_FULL


class ByCookie(Sticking):
    """By a signed cookie of ours."""

    def __init__(self, group: Group, sticky: Sticky) -> None:
        super().__init__(group)
        self._name = sticky.name.encode()
        self._sticky = sticky
        self._tokens = Tokens(sticky.secrets, self._by_name, sticky.idle, sticky.lifetime)

    def find(self, edge: Edge, request: Request) -> Endpoint | None:
        flaw = None
        now_s = int(time.time())
        for value in request.fields.found.get(self._name, ())[:COOKIES]:
            found = self._tokens.read(value, now_s)
            if isinstance(found, Pass):
                request.pass_ = found
                request.fresh = not self._tokens.due(found, now_s)
                return self._by_name[found.node]
            flaw = flaw or found
        if flaw is not None:
            request.route.cells[FLAWS[flaw]] += 1
        return None

    def answered(self, edge: Edge, request: Request, endpoint: Endpoint, answer: Answer) -> bytes:
        """Caches must not give one client's cookie to another (RFC 9111, 5.2.2.7)."""
        home = self.settle(request, endpoint, answer)
        new = home is not request.owner
        if not new and request.fresh:
            return b""
        now_s, pass_ = int(time.time()), request.pass_
        started_s = None if new or pass_ is None else pass_.started_s
        value = self._tokens.make(home.node.name, now_s, started_s)
        line = set_cookie(self._name, value, self._sticky.path, self._sticky.domain, edge.is_secure(request))
        return line if _UNSHARED.search(answer.head) else line + PRIVATE


class ByNodesSession(Sticking):
    """By the node's own session id, learned from its answers; all workers know what one has learned."""

    def __init__(self, group: Group, settings: HttpService, learned: Learned) -> None:
        super().__init__(group)
        self._service = group.service.name
        self._name = settings.sticky.name.encode() if settings.sticky else b""
        self._learned = learned
        self._by_number = {number_of(name): endpoint for name, endpoint in self._by_name.items()}

    @abstractmethod
    def asked(self, request: Request) -> Sequence[bytes]:
        """Return the session ids in REQUEST; a browser may have several, for several paths."""

    @abstractmethod
    def told(self, answer: Answer) -> bytes | None:
        """Return the session id that a node gives to a client."""

    def find(self, edge: Edge, request: Request) -> Endpoint | None:
        now_s = int(time.time())
        for session in self.asked(request):
            number = self._learned.find(key_of(self._service, session), now_s)
            if number in self._by_number:
                return self._by_number[number]
        return None

    def answered(self, edge: Edge, request: Request, endpoint: Endpoint, answer: Answer) -> bytes:
        self.settle(request, endpoint, answer)
        told = self.told(answer)
        sessions = [told] if told else self.asked(request) if answer.status < 400 else ()
        number, now_s = number_of(endpoint.node.name), int(time.time())
        for session in sessions:
            self._learned.learn(key_of(self._service, session), number, now_s)
        return b""


class ByNodesCookie(ByNodesSession):
    """By a cookie that nodes set, such as JSESSIONID."""

    def asked(self, request: Request) -> Sequence[bytes]:
        return [value for value in request.fields.found.get(self._name, ())[:COOKIES] if value]

    def told(self, answer: Answer) -> bytes | None:
        return answer.fields.cookies.get(self._name)


class ByParameter(ByNodesSession):
    """By a parameter of URLs, such as ;jsessionid=… or ?sid=…."""

    def asked(self, request: Request) -> Sequence[bytes]:
        session = parameter(request.line.split(b" ", 2)[1], self._name)
        return [session] if session else ()

    def told(self, answer: Answer) -> bytes | None:
        location = answer.fields.location
        return parameter(location, self._name) if location else None


class BySource(Sticking):
    """By the network that a client comes from: its balancer does the rest."""

    knows_clients = False

    def find(self, edge: Edge, request: Request) -> Endpoint | None:
        bits = 32 - V4_BITS if edge.client < 1 << 32 else 128 - V6_BITS
        request.client = edge.client >> bits
        return None

    def answered(self, edge: Edge, request: Request, endpoint: Endpoint, answer: Answer) -> bytes:
        return b""


def make_sticking(group: Group, settings: HttpService, learn: Learned | None) -> Sticking | None:
    """Return the stickiness of a route with SETTINGS, None if it has none."""
    sticky = settings.sticky
    match sticky.mode if sticky else "off":
        case "cookie":
            assert sticky is not None
            return ByCookie(group, sticky)
        case "app_cookie":
            assert learn is not None
            return ByNodesCookie(group, settings, learn)
        case "parameter":
            assert learn is not None
            return ByParameter(group, settings, learn)
        case "source_hash":
            return BySource(group)
    return None
