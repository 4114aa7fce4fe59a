"""Settings of an HTTP service."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trackproxy.sections import EndpointSettings, ProbeTimes, Section, Service, host_name
from trackproxy.units import (
    Count,
    Duration,
    Name,
    Network,
    PositiveSize,
    Size,
    SizeOrUnlimited,
    Statuses,
    Token,
    quoted,
    whole,
)

KIB = 1024
HTTP_PORT = 80  # of a node that names none


def _target(text: str) -> str:
    if not re.fullmatch(r"/[!-~]*", text) or "#" in text:
        raise ValueError(f'must be a path such as "/health", in ASCII and without spaces, not {quoted(text)}')
    return text


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


class Probe(ProbeTimes):
    """How endpoints are checked, whether there is traffic or not."""

    type: Literal["http", "tcp", "off"] = Field(
        default="http", description="An HTTP request, a connection alone, or nothing."
    )
    method: Token = Field(default="GET", description="Method of an HTTP probe.")
    path: Annotated[str, AfterValidator(_target)] = Field(
        default="/", description="Path and query of an HTTP probe."
    )
    host: Annotated[str, AfterValidator(host_name)] = Field(
        default="", description="Host of an HTTP probe; empty is the endpoint's own address."
    )
    expect: list[Statuses] = Field(
        default=["200-499"], min_length=1, description="Statuses of a healthy answer to an HTTP probe."
    )
    text: str = Field(default="", description="Text that the first 64 KiB of such an answer must contain.")


class HttpService(Service):
    """An HTTP service: tracking and web pages."""

    protocol: Literal["http"] = Field(description="What the service speaks.")
    trusted_proxies: list[Network] = Field(default=[], description="Peers whose X-Forwarded-For is believed.")
    max_body: SizeOrUnlimited = Field(default=0, description="Largest request body; 0 is unlimited.")
    forwarded: bool = Field(default=False, description="Send Forwarded (RFC 7239) to nodes, too.")
    via: Token = Field(default="trackproxy", description="The proxy's name in Via (RFC 9110, 7.6.3).")
    probe: Probe = Field(default=Probe(), description="How endpoints are checked.")
    timeouts: Timeouts = Field(default=Timeouts(), description="How long each wait may last.")
    retry: Retry = Field(default=Retry(), description="When a request may be sent to another endpoint.")
    limits: Limits = Field(default=Limits(), description="The largest messages that are accepted.")
    queue: Queue = Field(default=Queue(), description="Requests that wait while every endpoint is full.")
    keepalive: Keepalive = Field(default=Keepalive(), description="Connections to nodes that are kept.")
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
        return HTTP_PORT
