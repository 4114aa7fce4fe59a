"""What settings of all services have in common: nodes, outliers, the times of probes, and what a service is.

See `settings` for the whole, `http_sections` and `session_sections` for what differs between protocols.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from trackproxy.units import (
    Count,
    Duration,
    ListenAddress,
    Network,
    NodeAddress,
    Pause,
    Port,
    Weight,
    quoted,
    whole,
)


def host_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]*", text):
        raise ValueError(f'must be a host such as "news.example.com" or "10.0.0.1:81", not {quoted(text)}')
    return text


class Section(BaseModel):
    """One table of the file: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


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


class ProbeTimes(Section):
    """When a probe comes, and what its results add up to."""

    port: Port | None = Field(default=None, description="Instead of the endpoint's own port.")
    interval: Duration = Field(default=2, description="From one probe to the next.")
    fast_interval: Duration = Field(default=0.5, description="The same while the state is changing.")
    timeout: Duration = Field(default=1, description="How long one probe may take.")
    rise: Annotated[int, whole(1, 100)] = Field(
        default=2, description="Good probes in a row that bring it up."
    )
    fall: Annotated[int, whole(1, 100)] = Field(default=3, description="Bad ones that take it down.")


class Service(Section):
    """Something that clients connect to, whatever it speaks."""

    protocol: str = Field(description="What the service speaks.")
    listen: list[ListenAddress] = Field(
        min_length=1, description='":8080" (every interface), "[::1]:8080" or "unix:/path".'
    )
    balance: Literal["round_robin", "least_connections", "random_two", "source_hash"] = Field(
        default="round_robin", description="How an endpoint is picked."
    )
    trusted_proxies: list[Network] = Field(default=[], description="Peers whose word on clients is believed.")
    slow_start: Pause = Field(
        default=0, description="How long an endpoint that is back takes to get its full share again."
    )
    panic_threshold: Annotated[int, whole(0, 100)] = Field(
        default=50, description="With fewer percent of the endpoints up, probes are not believed; 0 is off."
    )
    ready_needs_node: bool = Field(
        default=False, description="We are not ready (/readyz) while no endpoint of the service is eligible."
    )
    outliers: Outliers = Field(default=Outliers(), description="When live traffic takes an endpoint out.")
