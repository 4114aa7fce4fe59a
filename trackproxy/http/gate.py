"""The gate: whether a request may come in at all, before it takes anything from a node."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trackproxy.access.names import End
from trackproxy.addresses import Trust
from trackproxy.http.agents import RULES, AgentRule, Agents, user_agent_in
from trackproxy.http.matching import climbs

if TYPE_CHECKING:
    from trackproxy.http.edge import Edge
    from trackproxy.http.heads import Request
    from trackproxy.http.quotas import Quotas
    from trackproxy.http.route import Route
    from trackproxy.http_sections import HttpService


class Gate:
    """Looks at each request of one service. needed: whether there is anything to look for."""

    def __init__(self, settings: HttpService, routes: Sequence[Route], quotas: Quotas | None) -> None:
        self._quotas = quotas if quotas is not None and quotas.limits_rate else None
        self._public_port = settings.tls.public_port
        self._access = {
            route: Trust(route.config.clients) for route in routes if route.config and route.config.clients
        }
        self._https = {route for route in routes if route.config and route.config.https}
        own = [AgentRule(rule.tag, rule.user_agent, rule.rate) for rule in settings.agents.rules]
        self._agents = Agents([*own, *RULES]) if settings.agents.tag else None
        self._rates = Speeds() if settings.agents.tag and any(rule.rate for rule in own) else None
        self.needed = bool(self._quotas or self._access or self._https or self._agents)

    def passes(self, edge: Edge, request: Request) -> bool:
        """Return whether REQUEST may go on; if not, it has got its answer."""
        route = request.route
        if self._access and climbs(request.line):
            request.fails(End.BAD_REQUEST)
            edge.service.refuse_request(edge, request, 400, "dot segments are read in more than one way")
            return False
        if route in self._access and not self._access[route].trusts(edge.host):
            request.fails(End.DENIED)
            edge.service.refuse_request(edge, request, 403, "this page is not for your network")
            return False
        if self._quotas is not None:
            wait_s = self._quotas.wait_s(edge.host, time.monotonic())
            if wait_s:
                request.fails(End.LIMITED)
                edge.service.refuse_request(edge, request, 429, "too many requests", math.ceil(wait_s))
                return False
        if route in self._https and not edge.is_secure(request):
            request.fails(End.REDIRECTED)
            edge.service.redirect(edge, request, self._secure_url(edge, request))
            return False
        if self._agents is not None:
            request.tag = self._tag(self._agents, edge, request)
        return True

    def _tag(self, agents: Agents, edge: Edge, request: Request) -> bytes:
        speed = self._rates.speed(edge.host, edge.service.sweep.now) if self._rates else 0.0
        return agents.rate_tag(speed) or agents.tag(user_agent_in(request.fields.forward))

    def _secure_url(self, edge: Edge, request: Request) -> bytes:
        """Return the same URL with https (RFC 9110, 4.2.2)."""
        name = _name_in(request.host or b"") or _name_in(edge.own_authority())
        port = b"" if self._public_port == 443 else b":%d" % self._public_port
        target = request.line.split(b" ", 2)[1]
        return b"https://%b%b%b" % (name, port, b"" if target == b"*" else target)


def _name_in(authority: bytes) -> bytes:
    """Return the host in what has perhaps a port (RFC 3986, 3.2)."""
    if authority.startswith(b"["):
        return authority[: authority.find(b"]") + 1]
    return authority.partition(b":")[0]


class Speeds:
    """How many requests each client has made in the last full second, in this worker. Bounded."""

    MOST = 8192

    def __init__(self) -> None:
        self._now = 0
        self._here: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def speed(self, host: str, now: float) -> float:
        """Count a request of HOST, and return how many a second it makes."""
        second = int(now)
        if second != self._now:
            self._before = self._here if second == self._now + 1 else {}
            self._here, self._now = {}, second
        if len(self._here) < self.MOST or host in self._here:
            self._here[host] = self._here.get(host, 0) + 1
        return max(self._here.get(host, 0), self._before.get(host, 0))
