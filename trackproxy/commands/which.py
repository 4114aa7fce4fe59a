"""Which way a request would go: the service, the route and the nodes that settings have for a URL.

It asks what the data path asks, the same settings and the same `Matcher`, and knows nothing of a running
trackproxy: nodes are those of the file, up or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from trackproxy.addresses import is_ip
from trackproxy.http.heads import IDEMPOTENT
from trackproxy.http.matching import Matcher, Pattern, climbs
from trackproxy.http_sections import HttpService
from trackproxy.route_sections import Route, Sticky
from trackproxy.settings import EndpointConfig, Settings, endpoints_of
from trackproxy.units import EVERYWHERE, Address, format_duration, quoted

PORTS = {"http": 80, "https": 443}
SENT = "/%:;=@!$&'()*+,~[]"  # what stays as it is, beside letters and digits (RFC 3986, 3.3)

Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a URL leads. authority: what Host says; path: with the query, as a browser would send it."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str


def which(settings: Settings, url: str, method: str) -> list[str]:
    """Return the lines that say what becomes of a request; raises ValueError, with a sentence, for no URL."""
    rows = way(settings, url, method)
    width = max(len(label) for label, _ in rows)
    return [f"{label:<{width}}  {text}" for label, text in rows]


def tree(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Return rows as JSON has them: what is said under each label."""
    said: dict[str, list[str]] = {}
    for label, text in rows:
        name = label or next(reversed(said))
        said.setdefault(name, []).append(text)
    return said


def way(settings: Settings, url: str, method: str) -> list[Row]:
    """Return what becomes of a request, row by row; one without a label belongs to the row above."""
    target = _target(url)
    method = method.upper()
    name, how = _service_for(settings, target)
    service = settings.services[name]
    assert isinstance(service, HttpService)
    route = _route_for(service, target, method)
    rows = [("request", f"{method} {target.path}, Host: {target.authority}"), ("service", f"{name}, {how}")]
    rows += [("route", "no route: the service's own rules" if route is None else route.name)]
    rows += _rules(service, route, target, method)
    seen = service.as_seen_by(route) if route else service
    rows += _nodes(endpoints_of(settings, seen))
    return rows


# --- what is asked for ---


def _target(url: str) -> _Target:
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").encode("idna").decode()
    except ValueError as error:
        raise ValueError(f"{quoted(url)} is no URL: {error}") from error
    if parts.scheme not in PORTS or not host:
        raise ValueError(f'{quoted(url)} is no URL such as "http://news.example.com/t/1/2/3/4/"')
    shown = f"[{host}]" if ":" in host else host
    given = port or PORTS[parts.scheme]
    query = quote(parts.query, safe=f"{SENT}?")
    return _Target(
        scheme=parts.scheme,
        host=host,
        port=given,
        authority=shown if given == PORTS[parts.scheme] else f"{shown}:{given}",
        path=quote(parts.path or "/", safe=SENT) + (query and f"?{query}"),
    )


def _service_for(settings: Settings, target: _Target) -> tuple[str, str]:
    """Return the name of the service that a client with this URL reaches, and how that is known."""
    web = {name: one for name, one in settings.services.items() if isinstance(one, HttpService)}
    if not web:
        raise ValueError("there is no HTTP service in these settings")
    fitting = [
        (name, listener)
        for name, one in web.items()
        for listener in (one.tls.listen if target.scheme == "https" else one.listen)
        if _may_reach(listener, target)
    ]
    if not fitting:
        what = f"no listener is for {target.scheme} on port {target.port}"
        return next(iter(web)), f"though {what}" if len(web) == 1 else f"the first one, for {what}"
    name, listener = min(fitting, key=lambda one: one[1].host != target.host)
    others = [other for other in dict(fitting) if other != name]
    hint = f" (by the address that the host has, it may be {' or '.join(others)})" if others else ""
    return name, f'by its listener "{listener}"' + ("" if listener.host == target.host else hint)


def _may_reach(listener: Address, target: _Target) -> bool:
    """Return whether a client that connects to the target may come to a listener; names are any address."""
    if listener.path or listener.port != target.port:
        return False
    if listener.host in EVERYWHERE or listener.host == target.host:
        return True
    return not (is_ip(target.host) and is_ip(listener.host))


def _route_for(service: HttpService, target: _Target, method: str) -> Route | None:
    routes = service.all_routes
    patterns = [Pattern(tuple(one.host), tuple(one.path), one.regex, tuple(one.method)) for one in routes]
    line = f"{method} {target.path} HTTP/1.1".encode()
    found = Matcher(patterns).find(method.encode(), line, target.authority.encode())
    return None if found < 0 else routes[found]


# --- what is done with it ---


def _rules(service: HttpService, route: Route | None, target: _Target, method: str) -> Iterator[Row]:
    seen = service.as_seen_by(route) if route else service
    balances = seen if route and service.separates(route) else service  # the others share its balancer
    yield "policy", balances.picks_by
    yield "sticky", _stickiness(seen.sticky)
    yield "retry", _retry(seen, method)
    for key in type(seen.timeouts).model_fields:
        own, usual = getattr(seen.timeouts, key), getattr(service.timeouts, key)
        if own != usual:
            yield "timeout", f"{key} {format_duration(own)}, elsewhere {format_duration(usual)}"
    if any(one.clients for one in service.all_routes) and climbs(f"{method} {target.path} ".encode()):
        yield "refused", "400: dot segments are read in more than one way, and a route closes paths"
    if route and route.clients:
        yield "clients", f"{', '.join(map(str, route.clients))}; others get 403"
    if route and route.https and target.scheme == "http":
        yield "https", f"clients are sent to {_secure(service, target)}"


def _stickiness(sticky: Sticky) -> str:
    match sticky.mode:
        case "off":
            return "no"
        case "source_hash":
            return "by the client's network"
        case "cookie":
            return f"by our cookie {sticky.name}"
        case "app_cookie":
            return f"by the nodes' cookie {sticky.name}"
        case "parameter":
            return f"by the parameter {sticky.name} of URLs"


def _retry(seen: HttpService, method: str) -> str:
    tries = seen.retry.tries
    if tries == 1:
        return "1 try"
    text = f"{tries} tries, none begun after {format_duration(seen.retry.deadline)}"
    return text if method.encode() in IDEMPOTENT else f"{text}; {method}: only after failed connects"


def _secure(service: HttpService, target: _Target) -> str:
    port = service.tls.public_port
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"https://{host}{'' if port == PORTS['https'] else f':{port}'}{target.path}"


def _nodes(endpoints: list[EndpointConfig]) -> Iterator[Row]:
    names = max(len(one.node) for one in endpoints)
    addresses = max(len(str(one.address)) for one in endpoints)
    for number, one in enumerate(endpoints):
        label = "" if number else "nodes"
        yield (
            label,
            f"{one.node:<{names}}  {one.address!s:<{addresses}}"
            f"  weight {one.weight}, priority {one.priority}",
        )
