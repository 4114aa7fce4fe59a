"""What settings of all services have in common: nodes, outliers, the times of probes, and what a service is.

See `settings` for the whole, `http_sections` and `session_sections` for what differs between protocols.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from trackproxy.access.names import REQUEST_FIELDS, SESSION_FIELDS
from trackproxy.explain import KeyPath, unknown_key
from trackproxy.units import (
    Count,
    Duration,
    ListenAddress,
    Network,
    NodeAddress,
    Pause,
    Port,
    PositiveSize,
    Share,
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


def _log_path(text: str) -> str:
    if text not in ("", "-") and not text.startswith("/"):
        raise ValueError(f'must be an absolute path, or "-" for standard output, not {quoted(text)}')
    if "\0" in text:
        raise ValueError("must be a path without NUL")
    return text


class AnyAccessLog(Section):
    """One line for each of what clients do; off unless there is a path."""

    known: ClassVar[Sequence[str]] = REQUEST_FIELDS

    path: Annotated[str, AfterValidator(_log_path)] = Field(
        default="", description='File that lines are appended to; "-" is standard output, empty is no log.'
    )
    format: Literal["json", "combined", "fields"] = Field(
        default="json", description="JSON objects, Apache's Combined, or chosen fields with spaces between."
    )
    fields: list[str] = Field(
        default=[], description="What a line has, in this order; empty is all, for json."
    )
    sample: Share = Field(
        default=1, description="Share of requests that get a line; what fails always gets one."
    )
    max_pending: PositiveSize = Field(
        default=4 << 20, description="What may wait in one process for a slow disk; more is dropped."
    )

    def contradictions(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys whose values are right alone and wrong together, and why; looks at the file."""
        for index, name in enumerate(self.fields):
            if name not in self.known:
                yield ("fields", index), unknown_key((name,), self.known, "field").text
        if self.format == "fields" and not self.fields:
            yield ("fields",), 'is required with format = "fields", such as ["time", "client", "status"]'
        if self.format == "combined" and self.fields:
            yield ("fields",), 'means nothing with format = "combined"'
        from trackproxy.access.writer import unusable  # for the few who check

        if problem := unusable(self.path):
            yield ("path",), problem


class AccessLog(AnyAccessLog):
    """One line for each request; off unless there is a path."""

    query: bool = Field(default=True, description="Log the queries of URLs; they may hold what is private.")


class SessionAccessLog(AnyAccessLog):
    """One line for each session; off unless there is a path."""

    known: ClassVar[Sequence[str]] = SESSION_FIELDS

    format: Literal["json", "fields"] = Field(
        default="json", description="JSON objects, or chosen fields with spaces between."
    )
    sample: Share = Field(
        default=1, description="Share of sessions that get a line; what fails always gets one."
    )


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
