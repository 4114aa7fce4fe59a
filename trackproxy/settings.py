"""Every setting, in one place: what there is, its default, and what it means.

`load` reads one TOML file, lays `TRACKPROXY_…` environment variables over it and the command line's flags
over both; it returns frozen settings or raises ConfigError with every problem it found. Nothing else reads
the environment, and no default appears anywhere else. What services have is in `sections`, `http_sections`
and `session_sections`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from trackproxy.admin_sections import Admin
from trackproxy.errors import ConfigError
from trackproxy.explain import KeyPath, Problem, problems_of, unknown_key
from trackproxy.http_sections import HttpService
from trackproxy.sections import EndpointSettings, NodeSettings, Section
from trackproxy.session_sections import ProxyProtocol, SessionEndpointSettings, SessionService
from trackproxy.units import Address, Duration, Name, Pause, Workers, overlap, quoted

if TYPE_CHECKING:
    from trackproxy.sources import TomlFile

AnyService = HttpService | SessionService


def _state_dir(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError(f"must be an absolute path, not {quoted(text)}")
    return text


class Settings(Section):
    """The whole file."""

    workers: Workers = Field(
        default="auto",
        description='Processes that serve; "auto" is one for each CPU, 0 is none of their own.',
    )
    state_dir: Annotated[str, AfterValidator(_state_dir)] = Field(
        default="", description="Where state is kept; empty is a folder of the user's."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is worth a log line."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Log lines for people, or one JSON object a line."
    )
    grace: Duration = Field(
        default=30,
        description="How long what is open may go on after SIGTERM, or after a reload if it is no session.",
    )
    session_grace: Duration = Field(
        default=3600, description="How long sessions (NNTP, SMTP, TCP) may go on after a reload."
    )
    shutdown_delay: Pause = Field(
        default=0, description="On SIGTERM: how long to serve on, not ready any more, before that."
    )
    admin: Admin = Field(default=Admin(), description="The admin endpoint: API, dashboard, metrics.")
    nodes: dict[Name, NodeSettings] = Field(min_length=1, description="The cluster, for every service.")
    services: dict[Name, Annotated[AnyService, Field(discriminator="protocol")]] = Field(
        min_length=1, description="What clients connect to."
    )

    @property
    def lasting(self) -> float:
        """How long sessions may keep a worker alive after a reload, in seconds; 0 if there are none."""
        sessions = any(isinstance(service, SessionService) for service in self.services.values())
        return self.session_grace if sessions else 0.0


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One node as one service sees it, as configured.

    weight: share of traffic relative to its peers; 0 takes it out of balancing.
    priority: a higher number is used only when every lower one is down or full.
    max_connections: requests or sessions at once, over all workers; 0 means no limit.
    proxy_protocol: in which version the node is told who the client is.
    """

    node: str
    address: Address
    weight: int
    priority: int
    max_connections: int
    probe_timeout_s: float
    proxy_protocol: ProxyProtocol = "off"


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """The endpoints that one or several routes of a service share, and what these know and want of nodes.

    name: of the one route that has them for itself; empty for what all others share, and for sessions.
    service: as its routes see it.
    """

    name: str
    service: AnyService
    endpoints: list[EndpointConfig]


def groups_of(settings: Settings, service_name: str) -> list[GroupConfig]:
    """Return the groups of a service, the shared one first."""
    service = settings.services[service_name]
    groups = [GroupConfig("", service, endpoints_of(settings, service))]
    if isinstance(service, HttpService):
        for route in service.all_routes:
            if service.separates(route):
                seen = service.as_seen_by(route)
                groups.append(GroupConfig(route.name, seen, endpoints_of(settings, seen)))
    return groups


def routes_of(settings: Settings) -> list[tuple[str, str]]:
    """Return (service, route) of all services, in the order of the board; that for the rest has no name."""
    return [
        (name, route)
        for name, service in settings.services.items()
        for route in [*(one.name for one in getattr(service, "all_routes", ())), ""]
    ]


def endpoints_of(settings: Settings, service: AnyService) -> list[EndpointConfig]:
    """Return the endpoints of a service in the order of its own nodes, or of all nodes if it names none."""
    chosen = service.nodes or dict.fromkeys(settings.nodes, EndpointSettings())
    return [_endpoint(name, settings.nodes[name], changes, service) for name, changes in chosen.items()]


def _endpoint(
    name: str, node: NodeSettings, changes: EndpointSettings, service: AnyService
) -> EndpointConfig:
    limit = node.max_connections if changes.max_connections is None else changes.max_connections
    return EndpointConfig(
        node=name,
        address=_endpoint_address(node.address, changes, service.default_port),
        weight=node.weight if changes.weight is None else changes.weight,
        priority=changes.priority,
        max_connections=limit,
        probe_timeout_s=changes.probe_timeout or node.probe_timeout or service.probe.timeout,
        proxy_protocol=_proxy_protocol(service, changes),
    )


def _endpoint_address(own: Address, changes: EndpointSettings, default_port: int) -> Address:
    address = changes.address or own
    if address.path:
        return address
    return Address(address.host, changes.port or address.port or own.port or default_port)


def _proxy_protocol(service: AnyService, changes: EndpointSettings) -> ProxyProtocol:
    if isinstance(service, HttpService):
        return "off"
    own = changes.proxy_protocol if isinstance(changes, SessionEndpointSettings) else None
    return own or service.proxy_protocol


def load(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Return the settings of a file, with the environment over it and `overrides` (flags) over both.

    Raises ConfigError with a sentence for each problem, in the order of the file.
    """
    # Here, since workers get their settings ready made: they start a seventh sooner without.
    from trackproxy.sources import TomlFile, read_toml

    return settings_in(TomlFile() if path is None else read_toml(path), overrides or {})


def settings_in(file: TomlFile, overrides: dict[str, Any]) -> Settings:
    """Return the settings of a file that has been read, as `load` does."""
    from trackproxy.sources import Environment, Sources

    sources = Sources(file, Environment(), overrides)
    tree = sources.merged()
    strays = [unknown_key((key,), Settings.model_fields) for key in tree if key not in Settings.model_fields]
    known = {key: value for key, value in tree.items() if key in Settings.model_fields}
    try:
        settings = Settings.model_validate(known)
        problems = strays + list(contradictions(settings))
    except ValidationError as error:
        problems = strays + problems_of(error, Settings)
    if problems:
        problems.sort(key=lambda problem: file.line_of(problem.path))
        raise ConfigError([f"{sources.origin_of(problem.path)}{problem}" for problem in problems])
    return settings


def contradictions(settings: Settings) -> Iterator[Problem]:
    """Yield what is wrong between settings that are each right alone."""
    for name, service in settings.services.items():
        unknown = [node for node in service.nodes if node not in settings.nodes]
        for node in unknown:
            yield unknown_key(("services", name, "nodes", node), settings.nodes, "node")
        if not unknown:
            yield from _endpoint_problems(settings, ("services", name), service)
        if isinstance(service, HttpService):
            yield from _route_node_problems(settings, name, service)
        yield from (Problem(("services", name, *keys), text) for keys, text in service.contradictions())
    for (_, first), (path, second) in combinations(_listeners(settings), 2):
        if overlap(first, second):
            yield Problem(path, f'"{second}" is taken by the listener "{first}"')
    yield from _shared_ports(settings)
    yield from (Problem(path, text) for path, text in settings.admin.contradictions())


def _endpoint_problems(settings: Settings, path: KeyPath, service: AnyService) -> Iterator[Problem]:
    """Yield what is wrong with the endpoints of a service, or of one route of it; PATH is where it stands."""
    endpoints = endpoints_of(settings, service)
    if not any(endpoint.weight for endpoint in endpoints):
        yield Problem(path, "has no node with a weight above 0, so nobody would serve it")
    for endpoint in endpoints:
        if not endpoint.address.path and not endpoint.address.port:
            yield Problem(
                path,
                f"needs a port for {endpoint.node}, such as nodes.{endpoint.node}.port = 8000",
            )


def _route_node_problems(settings: Settings, name: str, service: HttpService) -> Iterator[Problem]:
    """Yield what is wrong with nodes that routes have for themselves."""
    for index, route in enumerate(service.routes):
        path: KeyPath = ("services", name, "routes", index)
        problems = [
            Problem((*path, "nodes", place), text)
            for place, node in enumerate(route.nodes)
            if (text := _no_node(settings, service, node))
        ]
        yield from problems
        if route.nodes and not problems:
            yield from _endpoint_problems(settings, path, service.as_seen_by(route))


def _no_node(settings: Settings, service: HttpService, node: str) -> str:
    """Return why a route of a service cannot have a node, if it cannot."""
    if node not in settings.nodes:
        return unknown_key((node,), settings.nodes, "node").text
    if service.nodes and node not in service.nodes:
        return f"{quoted(node)} is no node of the service, which has {', '.join(service.nodes)}"
    return ""


def _shared_ports(settings: Settings) -> Iterator[Problem]:
    """Yield nodes whose own port services of different protocols would all connect to."""
    for node, known in settings.nodes.items():
        users = {
            service.protocol: name
            for name, service in settings.services.items()
            if service.protocol != "tcp" and _uses(settings, name, node, known.address)
        }
        if (known.address.port or known.address.path) and len(users) > 1:
            names = " and ".join(f"{name} ({protocol})" for protocol, name in users.items())
            what = f"port {known.address.port}" if known.address.port else "a socket"
            yield Problem(
                ("nodes", node, "address"),
                f"names {what}, which {names} cannot share; leave it out, or give each service its own:"
                f" services.<name>.nodes.{node}",
            )


def _uses(settings: Settings, service: str, node: str, address: Address) -> bool:
    if settings.services[service].nodes.keys() - settings.nodes.keys():
        return False  # reported already
    return any(
        one.node == node and one.address == address
        for one in endpoints_of(settings, settings.services[service])
    )


def listeners_of(settings: Settings) -> Iterator[tuple[str, Address]]:
    """Yield where clients connect, and the name of the service; for those with TLS as of `tls_name`."""
    for name, service in settings.services.items():
        yield from ((name, address) for address in service.listen)
        if isinstance(service, HttpService):
            yield from ((tls_name(name), address) for address in service.tls.listen)


def tls_name(service_name: str) -> str:
    """Return what the listeners with TLS of a service go by, which no service can be called."""
    return f"{service_name} (TLS)"


def _listeners(settings: Settings) -> Iterator[tuple[KeyPath, Address]]:
    for name, service in settings.services.items():
        for index, address in enumerate(service.listen):
            yield ("services", name, "listen", index), address
        for index, address in enumerate(service.listeners[len(service.listen) :]):
            yield ("services", name, "tls", "listen", index), address
    if settings.admin.is_wanted and settings.admin.is_chosen:
        yield ("admin", "listen"), settings.admin.listen
