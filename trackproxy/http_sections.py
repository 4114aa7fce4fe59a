"""Settings of an HTTP service."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from trackproxy.explain import KeyPath
from trackproxy.presets import PRESETS, PresetRoute
from trackproxy.route_sections import (
    Agents,
    ClientQuota,
    Probe,
    Route,
    ServiceSticky,
    Sticky,
    merged,
)
from trackproxy.sections import AccessLog, EndpointSettings, Section, Service
from trackproxy.tls_sections import Tls, UpstreamTls
from trackproxy.units import (
    Address,
    Count,
    Duration,
    ListenAddress,
    Name,
    Network,
    PositiveSize,
    Size,
    SizeOrUnlimited,
    Token,
    quoted,
    whole,
)

if TYPE_CHECKING:
    from trackproxy.certificates.findings import Findings

KIB = 1024
BY_COOKIE = ("cookie", "app_cookie")
HTTP_PORT, HTTPS_PORT = 80, 443  # of a node that names none


class Timeouts(Section):
    """How long each wait of an HTTP service may last."""

    head: Duration = Field(default=10, description="Until a request's head is complete.")
    idle: Duration = Field(default=75, description="A client's keep-alive connection between requests.")
    body: Duration = Field(default=60, description="Silence inside a request body.")
    connect: Duration = Field(default=2, description="Until a node has taken a connection.")
    response_head: Duration = Field(default=60, description="Until the head of a node's answer is complete.")
    response: Duration = Field(default=60, description="Silence inside an answer.")
    tunnel: Duration = Field(default=3600, description="Silence of an upgraded connection (WebSocket).")
    write: Duration = Field(default=60, description="A client that takes no byte of its answer.")
    client_gone: Duration = Field(
        default=3, description="How long a request goes on after its client closed its sending side."
    )
    linger: Duration = Field(default=2, description="Reading on after a refusal, so that the client sees it.")
    tls_handshake: Duration = Field(default=10, description="Until a client's TLS handshake is complete.")
    proxy_header: Duration = Field(default=3, description="Until a trusted proxy has said who the client is.")


class Retry(Section):
    """When a request may be sent to another endpoint."""

    tries: Annotated[int, whole(1, 10)] = Field(default=3, description="Endpoints tried for one request.")
    deadline: Duration = Field(
        default=120, description="No further try begins later than this after the request's head."
    )
    budget: Annotated[int, whole(0, 100)] = Field(
        default=20, description="Percent of all requests that may be sent again."
    )
    budget_min: Count = Field(default=3, description="Such requests per second that are always allowed.")
    body: Size = Field(default=64 * KIB, description="Largest request body that is kept for sending again.")

    statuses: list[Annotated[int, whole(500, 599)]] = Field(
        default=[500, 502, 503, 504], description="Answers that are asked for again at another endpoint."
    )


class Limits(Section):
    """The largest messages that are accepted."""

    target: PositiveSize = Field(default=8 * KIB, description="Request target; a longer one gets 414.")
    head: PositiveSize = Field(default=32 * KIB, description="Head of a request; a larger one gets 431.")
    fields: Annotated[int, whole(1, 10_000)] = Field(default=100, description="Header fields; more get 431.")
    chunk_extension: Size = Field(default=256, description="Extensions of one chunk.")
    trailer: Size = Field(default=8 * KIB, description="Trailer section after a chunked body.")
    interim: Count = Field(default=16, description="Interim (1xx) answers to one request.")
    body_rate: Size = Field(
        default=100, description="Bytes a second, on average, of a body that comes slowly; 0 is not asked."
    )


class Queue(Section):
    """Requests that wait while every endpoint is full."""

    size: Count = Field(default=1000, description="How many may wait; the next one gets 503 at once.")
    timeout: Duration = Field(default=5, description="How long one may wait before it gets 503.")
    retry_after: Duration = Field(default=1, description="What Retry-After says in such a 503.")


class Keepalive(Section):
    """Connections to nodes that are kept for the next request."""

    connections: Count = Field(default=512, description="Idle connections kept for each endpoint.")
    idle: Duration = Field(default=30, description="How long each is kept; less than the node would.")


class HttpService(Service):
    """An HTTP service: tracking and web pages."""

    protocol: Literal["http"] = Field(description="What the service speaks.")
    listen: list[ListenAddress] = Field(
        default=[], description='":8080" (every interface), "[::1]:8080" or "unix:/path"; without TLS.'
    )
    preset: str = Field(default="", description="Routes for a list manager, after your own; see the README.")
    trusted_proxies: list[Network] = Field(default=[], description="Peers whose X-Forwarded-For is believed.")
    accept_proxy_protocol: bool = Field(
        default=False, description="Trusted proxies begin with a PROXY protocol header, v1 or v2."
    )
    max_connections: Count = Field(
        default=0, description="Connections of clients at once; the next one gets 503. 0 is no limit."
    )
    max_body: SizeOrUnlimited = Field(default=0, description="Largest request body; 0 is unlimited.")
    forwarded: bool = Field(default=False, description="Send Forwarded (RFC 7239) to nodes, too.")
    via: Token = Field(default="trackproxy", description="The proxy's name in Via (RFC 9110, 7.6.3).")
    probe: Probe = Field(default=Probe(), description="How endpoints are checked.")
    timeouts: Timeouts = Field(default=Timeouts(), description="How long each wait may last.")
    retry: Retry = Field(default=Retry(), description="When a request may be sent to another endpoint.")
    limits: Limits = Field(default=Limits(), description="The largest messages that are accepted.")
    queue: Queue = Field(default=Queue(), description="Requests that wait while every endpoint is full.")
    keepalive: Keepalive = Field(default=Keepalive(), description="Connections to nodes that are kept.")
    sticky: ServiceSticky = Field(default=Sticky(), description="How clients stay at one node.")
    tls: Tls = Field(default=Tls(), description="TLS towards clients.")
    upstream_tls: UpstreamTls = Field(default=UpstreamTls(), description="TLS towards nodes.")
    per_client: ClientQuota = Field(default=ClientQuota(), description="What one client may have.")
    access_log: AccessLog = Field(default=AccessLog(), description="One line for each request.")
    agents: Agents = Field(default=Agents(), description="Tags for scanners and prefetchers.")
    routes: list[Route] = Field(default=[], description="Traffic classes; the first that matches counts.")
    nodes: dict[Name, EndpointSettings] = Field(
        default={}, description="The nodes of this service, and what it changes about them; empty is all."
    )

    @property
    def probe_type(self) -> str:
        """What probes speak."""
        return self.probe.type

    @property
    def default_port(self) -> int:
        """The port of a node that names none."""
        return HTTPS_PORT if self.upstream_tls.enabled else HTTP_PORT

    @property
    def picks_by(self) -> str:
        """The policy by which endpoints are picked."""
        return "source_hash" if self.sticky.mode == "source_hash" else self.balance

    @property
    def listeners(self) -> list[Address]:
        """Where clients connect, those with TLS last."""
        return [*self.listen, *self.tls.listen]

    @property
    def all_routes(self) -> list[Route]:
        """Your routes, then those of the preset in its order.

        A route of yours with the name of a preset's is no route more: what it sets goes into that one.
        """
        own = {route.name: route for route in self.routes}
        preset = [_preset_route(row) for row in PRESETS.get(self.preset, ())]
        names = {route.name for route in preset}
        return [
            *(route for route in self.routes if route.name not in names),
            *(_changed(route, own[route.name]) if route.name in own else route for route in preset),
        ]

    def separates(self, route: Route) -> bool:
        """Whether what ROUTE needs to know of nodes, or how it picks them, differs from the rest."""
        return bool(route.nodes or route.probe) or self.as_seen_by(route).picks_by != self.picks_by

    def as_seen_by(self, route: Route) -> HttpService:
        """Return the service with what ROUTE has of its own."""
        changes = {
            "balance": route.balance or self.balance,
            "sticky": route.sticky or self.sticky,
            "probe": route.probe or self.probe,
            "timeouts": merged(self.timeouts, route.timeouts),
            "retry": merged(self.retry, route.retry),
        }
        if route.nodes:
            changes["nodes"] = {name: self.nodes.get(name, EndpointSettings()) for name in route.nodes}
        return self.model_copy(update=changes)

    def contradictions(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys whose values are right alone and wrong together, and why."""
        if not self.listeners:
            yield ("listen",), 'is required, such as [":80"]'
        if self.accept_proxy_protocol and not self.trusted_proxies:
            yield ("accept_proxy_protocol",), 'needs trusted_proxies, such as ["10.0.0.0/8"]'
        if self.preset and self.preset not in PRESETS:
            yield ("preset",), _unknown_preset(self.preset)
        for section in ("tls", "upstream_tls", "sticky", "per_client", "agents", "access_log"):
            for keys, text in getattr(self, section).contradictions():
                yield (section, *keys), text
        yield from self._route_problems()
        yield from self._order_problems()
        yield from self._name_problems()

    def _route_problems(self) -> Iterator[tuple[KeyPath, str]]:
        names: set[str] = set()
        for index, route in enumerate(self.routes):
            if route.name in names:
                yield ("routes", index, "name"), f"{quoted(route.name)} is taken by another route"
            names.add(route.name)
            if route.sticky is not None:
                for keys, text in route.sticky.contradictions():
                    yield ("routes", index, "sticky", *keys), text
            if route.https and not self.tls.listen and not self.trusted_proxies:
                yield ("routes", index, "https"), 'needs tls.listen = [":443"] in the service'
            if route.nodes and route.sticky is None and self.sticky and self.sticky.mode in BY_COOKIE:
                yield (
                    ("routes", index, "nodes"),
                    "would take clients away from their nodes elsewhere: give the route sticky = false,"
                    " or a stickiness by another cookie",
                )

    def _order_problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield routes that no request can reach, since one before them takes everything."""
        places = {route.name: index for index, route in enumerate(self.routes)}
        routes = iter(self.all_routes)
        wide = next((route for route in routes if route.takes_everything), None)
        behind = [route.name for route in routes]
        if wide is None or not behind:
            return
        for name in behind:
            if name in places:
                yield (
                    ("routes", places[name]),
                    f"{quoted(name)} comes after {quoted(wide.name)}, which takes everything",
                )
        if places.keys().isdisjoint(behind):
            names = ", ".join(behind)
            yield (
                ("routes", places[wide.name]),
                f"takes everything, so nothing is left for the preset's {names}",
            )

    def _name_problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield ways to stay that look for the same name in requests, and mean something else by it."""
        known: dict[tuple[bool, str], tuple[str, Sticky]] = {}  # cookies and parameters are apart
        own = [(route.sticky, f"route {quoted(route.name)}") for route in self.routes]
        for index, (sticky, whose) in enumerate([(self.sticky, "the service"), *own], -1):
            if sticky is None or not sticky.goes_by_name:
                continue
            first, other = known.setdefault((sticky.mode == "parameter", sticky.name), (whose, sticky))
            if key := sticky.difference(other):
                yield (
                    ("routes", index, "sticky", "name"),
                    f"{quoted(sticky.name)} is used by {first} too, with another {key}; take another name",
                )


def _unknown_preset(name: str) -> str:
    known = ", ".join(quoted(one) for one in PRESETS)
    near = difflib.get_close_matches(name.lower().replace("_", "-"), PRESETS, n=1)
    hint = f"; did you mean {quoted(near[0])}?" if near else ""
    return f"must be one of {known}, not {quoted(name)}{hint}"


def _preset_route(row: PresetRoute) -> Route:
    return Route(
        name=row.name,
        path=list(row.prefixes),
        regex=row.regex,
        method=list(row.methods),
        sticky=None if row.sticky else Sticky(),
    )


def _changed(route: Route, own: Route) -> Route:
    """Return a preset's route with what OWN sets."""
    return route.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def certificates_in(services: Mapping[str, object]) -> Iterator[tuple[str, Findings]]:
    """Yield where the certificates of each HTTP service are named, and what is to be said of them."""
    for name, service in services.items():
        if isinstance(service, HttpService):
            yield f"services.{name}.tls", service.tls.findings()
