"""Every setting, in one place: what there is, its default, and what it means.

`load` reads one TOML file, lays `TRACKPROXY_…` environment variables over it and the command line's flags
over both; it returns frozen settings or raises ConfigError with every problem it found. Nothing else reads
the environment, and no default appears anywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from trackproxy.errors import ConfigError
from trackproxy.explain import KeyPath, Problem, problems_of, unknown_key
from trackproxy.units import (
    Address,
    Count,
    Duration,
    ListenAddress,
    Name,
    Network,
    NodeAddress,
    Pause,
    Port,
    PositiveSize,
    Size,
    SizeOrUnlimited,
    Statuses,
    Token,
    Weight,
    Workers,
    overlap,
    quoted,
    whole,
)

KIB = 1024
DEFAULT_PORT = 80  # of a node that names none


def _target(text: str) -> str:
    if not re.fullmatch(r"/[!-~]*", text) or "#" in text:
        raise ValueError(f'must be a path such as "/health", in ASCII and without spaces, not {quoted(text)}')
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]*", text):
        raise ValueError(f'must be a host such as "news.example.com" or "10.0.0.1:81", not {quoted(text)}')
    return text


def _state_dir(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError(f"must be an absolute path, not {quoted(text)}")
    return text


class Section(BaseModel):
    """One table of the file: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


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


class Queue(Section):
    """Requests that wait while every endpoint is full."""

    size: Count = Field(default=1000, description="How many may wait; the next one gets 503 at once.")
    timeout: Duration = Field(default=5, description="How long one may wait before it gets 503.")
    retry_after: Duration = Field(default=1, description="What Retry-After says in such a 503.")


class Keepalive(Section):
    """Connections to nodes that are kept for the next request."""

    connections: Count = Field(default=512, description="Idle connections kept for each endpoint.")
    idle: Duration = Field(default=30, description="How long each is kept; less than the node would.")


class Probe(Section):
    """How endpoints are checked, whether there is traffic or not."""

    type: Literal["http", "tcp", "off"] = Field(
        default="http", description="An HTTP request, a connection alone, or nothing."
    )
    method: Token = Field(default="GET", description="Method of an HTTP probe.")
    path: Annotated[str, AfterValidator(_target)] = Field(
        default="/", description="Path and query of an HTTP probe."
    )
    host: Annotated[str, AfterValidator(_host)] = Field(
        default="", description="Host of an HTTP probe; empty is the endpoint's own address."
    )
    expect: list[Statuses] = Field(
        default=["200-499"], min_length=1, description="Statuses of a healthy answer to an HTTP probe."
    )
    text: str = Field(default="", description="Text that the first 64 KiB of such an answer must contain.")
    port: Port | None = Field(default=None, description="Instead of the endpoint's own port.")
    interval: Duration = Field(default=2, description="From one probe to the next.")
    fast_interval: Duration = Field(default=0.5, description="The same while the state is changing.")
    timeout: Duration = Field(default=1, description="How long one probe may take.")
    rise: Annotated[int, whole(1, 100)] = Field(
        default=2, description="Good probes in a row that bring it up."
    )
    fall: Annotated[int, whole(1, 100)] = Field(default=3, description="Bad ones that take it down.")


class Outliers(Section):
    """When live traffic alone takes an endpoint out for a while."""

    connects: Annotated[int, whole(0, 1000)] = Field(
        default=1, description="Failed connects in a row; 0 is never."
    )
    failures: Annotated[int, whole(0, 1000)] = Field(
        default=5, description="Resets, timeouts, bad answers and 502, 503, 504 in a row; 0 is never."
    )
    silence: Duration = Field(
        default=1, description="No answer to any open request for so long has the endpoint probed at once."
    )
    ejection: Duration = Field(
        default=1, description="The first time out; each further one is twice as long."
    )
    longest: Duration = Field(default=30, description="The longest time out.")
    max_ejected: Annotated[int, whole(0, 100)] = Field(
        default=50, description="Percent of endpoints that may be out for bad answers at once, at least one."
    )


class EndpointSettings(Section):
    """What one service changes about a node."""

    address: NodeAddress | None = Field(default=None, description="Instead of the node's own address.")
    port: Port | None = Field(default=None, description="Instead of the port that the address names.")
    weight: Weight | None = Field(default=None, description="Instead of the node's own weight.")
    priority: Count = Field(
        default=0, description="A higher number is used only when every lower one is down or full."
    )
    max_connections: Count | None = Field(default=None, description="Instead of the node's own limit.")
    probe_timeout: Duration | None = Field(default=None, description="Instead of the probe's own timeout.")


class NodeSettings(Section):
    """One machine of the cluster."""

    address: NodeAddress = Field(description='"host", "host:port", "[::1]:80" or "unix:/path".')
    weight: Weight = Field(default=1, description="Share of traffic relative to the other nodes; 0 is none.")
    max_connections: Count = Field(default=0, description="Requests at once; 0 is no limit.")
    probe_timeout: Duration | None = Field(
        default=None, description="How long a probe of this node may take, if it is a slow one."
    )


class ServiceSettings(Section):
    """Something that clients connect to."""

    protocol: Literal["http"] = Field(description="What the service speaks.")
    listen: list[ListenAddress] = Field(
        min_length=1, description='":8080" (every interface), "[::1]:8080" or "unix:/path".'
    )
    balance: Literal["round_robin", "least_connections", "random_two", "source_hash"] = Field(
        default="round_robin", description="How an endpoint is picked."
    )
    trusted_proxies: list[Network] = Field(default=[], description="Peers whose X-Forwarded-For is believed.")
    max_body: SizeOrUnlimited = Field(default=0, description="Largest request body; 0 is unlimited.")
    forwarded: bool = Field(default=False, description="Send Forwarded (RFC 7239) to nodes, too.")
    via: Token = Field(default="trackproxy", description="The proxy's name in Via (RFC 9110, 7.6.3).")
    slow_start: Pause = Field(
        default=0, description="How long an endpoint that is back takes to get its full share again."
    )
    panic_threshold: Annotated[int, whole(0, 100)] = Field(
        default=50, description="With fewer percent of the endpoints up, probes are not believed; 0 is off."
    )
    probe: Probe = Field(default=Probe(), description="How endpoints are checked.")
    outliers: Outliers = Field(default=Outliers(), description="When live traffic takes an endpoint out.")
    timeouts: Timeouts = Field(default=Timeouts(), description="How long each wait may last.")
    retry: Retry = Field(default=Retry(), description="When a request may be sent to another endpoint.")
    limits: Limits = Field(default=Limits(), description="The largest messages that are accepted.")
    queue: Queue = Field(default=Queue(), description="Requests that wait while every endpoint is full.")
    keepalive: Keepalive = Field(default=Keepalive(), description="Connections to nodes that are kept.")
    nodes: dict[Name, EndpointSettings] = Field(
        default={}, description="The nodes of this service, and what it changes about them; empty is all."
    )


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
    grace: Duration = Field(
        default=30, description="How long open requests and tunnels may go on after SIGTERM or a reload."
    )
    shutdown_delay: Pause = Field(
        default=0, description="On SIGTERM: how long to serve on, not ready any more, before that."
    )
    nodes: dict[Name, NodeSettings] = Field(min_length=1, description="The cluster, for every service.")
    services: dict[Name, ServiceSettings] = Field(min_length=1, description="What clients connect to.")


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One node as one service sees it, as configured.

    weight: share of traffic relative to its peers; 0 takes it out of balancing.
    priority: a higher number is used only when every lower one is down or full.
    max_connections: requests at once, over all workers; 0 means no limit.
    """

    node: str
    address: Address
    weight: int
    priority: int
    max_connections: int
    probe_timeout_s: float


def endpoints_of(settings: Settings, service_name: str) -> list[EndpointConfig]:
    """Return the endpoints of a service in the order of its own nodes, or of all nodes if it names none."""
    service = settings.services[service_name]
    chosen = service.nodes or dict.fromkeys(settings.nodes, EndpointSettings())
    timeout_s = service.probe.timeout
    return [_endpoint(name, settings.nodes[name], changes, timeout_s) for name, changes in chosen.items()]


def _endpoint(name: str, node: NodeSettings, changes: EndpointSettings, timeout_s: float) -> EndpointConfig:
    limit = node.max_connections if changes.max_connections is None else changes.max_connections
    return EndpointConfig(
        node=name,
        address=_endpoint_address(node.address, changes),
        weight=node.weight if changes.weight is None else changes.weight,
        priority=changes.priority,
        max_connections=limit,
        probe_timeout_s=changes.probe_timeout or node.probe_timeout or timeout_s,
    )


def _endpoint_address(own: Address, changes: EndpointSettings) -> Address:
    address = changes.address or own
    if address.path:
        return address
    return Address(address.host, changes.port or address.port or own.port or DEFAULT_PORT)


def load(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Return the settings of a file, with the environment over it and `overrides` (flags) over both.

    Raises ConfigError with a sentence for each problem, in the order of the file.
    """
    # Here, since workers get their settings ready made: they start a seventh sooner without.
    from trackproxy.sources import Environment, Sources, TomlFile, read_toml

    file = TomlFile() if path is None else read_toml(path)
    sources = Sources(file, Environment(), overrides or {})
    tree = sources.merged()
    strays = [unknown_key((key,), Settings.model_fields) for key in tree if key not in Settings.model_fields]
    known = {key: value for key, value in tree.items() if key in Settings.model_fields}
    try:
        settings = Settings.model_validate(known)
        problems = strays + list(_contradictions(settings))
    except ValidationError as error:
        problems = strays + problems_of(error, Settings)
    if problems:
        problems.sort(key=lambda problem: file.line_of(problem.path))
        raise ConfigError([f"{sources.origin_of(problem.path)}{problem}" for problem in problems])
    return settings


def _contradictions(settings: Settings) -> Iterator[Problem]:
    """Yield what is wrong between settings that are each right alone."""
    for name, service in settings.services.items():
        unknown = [node for node in service.nodes if node not in settings.nodes]
        for node in unknown:
            yield unknown_key(("services", name, "nodes", node), settings.nodes, "node")
        if not unknown and not any(endpoint.weight for endpoint in endpoints_of(settings, name)):
            yield Problem(("services", name), "has no node with a weight above 0, so nobody would serve it")
    for (_, first), (path, second) in combinations(_listeners(settings), 2):
        if overlap(first, second):
            yield Problem(path, f'"{second}" is taken by the listener "{first}"')


def _listeners(settings: Settings) -> Iterator[tuple[KeyPath, Address]]:
    for name, service in settings.services.items():
        for index, address in enumerate(service.listen):
            yield ("services", name, "listen", index), address
