"""Settings of traffic classes: routes, and what each may have of its own."""

from __future__ import annotations

import re
import secrets as randomness
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from trackproxy.explain import KeyPath
from trackproxy.sections import ProbeTimes, Section, host_name
from trackproxy.units import (
    Count,
    Duration,
    Hidden,
    Method,
    Name,
    Network,
    Path,
    Regex,
    Span,
    Statuses,
    Target,
    Token,
    quoted,
    whole,
)

Balance = Literal["round_robin", "least_connections", "random_two", "source_hash"]
SECRET_CHARACTERS = 16  # of a secret, at least
PLACEHOLDER = "put a long random text here"  # in the example files: whoever knows it could forge cookies
BURST_S = 3600  # so many seconds' worth of requests may come at once; see pool.rates.LONGEST_S
V4_BITS, V6_BITS = 24, 56  # of an address: clients that source_hash takes for one


class Probe(ProbeTimes):
    """How endpoints are checked, whether there is traffic or not."""

    type: Literal["http", "tcp", "off"] = Field(
        default="http", description="An HTTP request, a connection alone, or nothing."
    )
    method: Method = Field(default="GET", description="Method of an HTTP probe.")
    path: Target = Field(default="/", description="Path and query of an HTTP probe.")
    host: Annotated[str, AfterValidator(host_name)] = Field(
        default="", description="Host of an HTTP probe; empty is the endpoint's own address."
    )
    expect: list[Statuses] = Field(
        default=["200-499"], min_length=1, description="Statuses of a healthy answer to an HTTP probe."
    )
    text: str = Field(default="", description="Text that the first 64 KiB of such an answer must contain.")


def _one_or_more(value: object) -> object:
    """Let one word stand for a list of it."""
    return [value] if isinstance(value, str) else value


def _off(value: object) -> object:
    """Let `false` stand for a section that is off; "false" is what the environment has."""
    if value in (False, "false"):
        return {"mode": "off"}
    if not isinstance(value, dict | Sticky):
        raise ValueError('must be false, or a table such as { mode = "cookie", secrets = ["…"] }')
    return value


def _off_or_unset(value: object) -> object:
    return None if value is None else _off(value)


def _secret(text: str) -> str:
    if text == PLACEHOLDER:
        raise ValueError(f"is still the example's; {_example()}")
    if len(text) < SECRET_CHARACTERS:
        raise ValueError(f"must have at least {SECRET_CHARACTERS} characters; {_example()}")
    return text


def _example() -> str:
    return f'a good one is "{randomness.token_urlsafe(24)}"'


def _host_pattern(text: str) -> str:
    host_name(text.removeprefix("*.") if text != "*" else "")
    if not text:
        raise ValueError('must be a host such as "news.example.com" or "*.example.com"')
    return text.lower()


def _cookie_path(text: str) -> str:
    if ";" in text:
        raise ValueError(f'must be a path without ";", where a cookie\'s path would end, not {quoted(text)}')
    return text


def _agent_regex(text: str) -> str:
    """Check what `http.agents` will make one expression of, with others."""
    try:
        re.compile(f"(?:{text})".encode())  # flags for the whole are none for a part
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{quoted(text)} cannot be a part of a regular expression: {error}") from error
    if re.compile(text.encode()).groups:
        raise ValueError(f"{quoted(text)} has a group that keeps what it matched: write (?:…) instead of (…)")
    return text


def _domain(text: str) -> str:
    if text and (host_name(text) != text or ":" in text):
        raise ValueError(f'must be a domain such as "example.com", not {quoted(text)}')
    return text


class Sticky(Section):
    """How clients stay at one node; off unless a mode is given."""

    mode: Literal["off", "cookie", "app_cookie", "parameter", "source_hash"] = Field(
        default="off",
        description="By a cookie of ours, a cookie or URL parameter of the node's, or the client's address.",
    )
    name: Token = Field(default="TPNODE", description="Of the cookie, or of the parameter.")
    secrets: Annotated[list[Annotated[str, AfterValidator(_secret)]], Hidden()] = Field(
        default=[], description="Sign our cookie: the first one signs, all are believed."
    )
    idle: Span = Field(default=1800, description="A client that is away longer is new; 0s is no limit.")
    lifetime: Span = Field(
        default=12 * 3600, description="So long a client stays with our cookie at most; 0s is no limit."
    )
    path: Annotated[Path, AfterValidator(_cookie_path)] = Field(
        default="/", description="Path of our cookie."
    )
    domain: Annotated[str, AfterValidator(_domain)] = Field(
        default="", description="Domain of our cookie; empty is the host that was asked for alone."
    )

    @property
    def goes_by_name(self) -> bool:
        """Whether it looks for something of that name in requests."""
        return self.mode in ("cookie", "app_cookie", "parameter")

    def contradictions(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys whose values are right alone and wrong together, and why."""
        if self.mode == "cookie" and not self.secrets:
            yield ("secrets",), f"is required to sign cookies, the same everywhere; {_example()}"
        if self.mode != "cookie" and self.secrets:
            yield ("secrets",), 'means nothing without mode = "cookie"'
        if self.mode in ("app_cookie", "parameter") and "name" not in self.model_fields_set:
            yield ("name",), 'is required: what the nodes call their session, such as "JSESSIONID"'

    def difference(self, other: Sticky) -> str:
        """Return the first key, if any, whose value is another one in OTHER."""
        keys = type(self).model_fields
        return next((key for key in keys if getattr(self, key) != getattr(other, key)), "")


ServiceSticky = Annotated[Sticky, BeforeValidator(_off)]
OptionalSticky = Annotated[Sticky | None, BeforeValidator(_off_or_unset)]
Paths = Annotated[list[Path], BeforeValidator(_one_or_more)]
Hosts = Annotated[list[Annotated[str, AfterValidator(_host_pattern)]], BeforeValidator(_one_or_more)]
Methods = Annotated[list[Method], BeforeValidator(_one_or_more)]


class RouteTimeouts(Section):
    """Waits of one route, where they differ from the service's."""

    response_head: Duration | None = Field(default=None, description="Until the head of an answer is there.")
    response: Duration | None = Field(default=None, description="Silence inside an answer.")


class RouteRetry(Section):
    """When requests of one route may be sent to another endpoint, where that differs from the service's."""

    tries: Annotated[int, whole(1, 10)] | None = Field(default=None, description="Endpoints tried.")
    deadline: Duration | None = Field(default=None, description="No further try begins later than this.")
    budget: Annotated[int, whole(0, 100)] | None = Field(
        default=None, description="Percent of the route's requests that may be sent again."
    )
    budget_min: Count | None = Field(default=None, description="Such requests per second always allowed.")
    statuses: list[Annotated[int, whole(500, 599)]] | None = Field(
        default=None, description="Answers that are asked for again elsewhere."
    )


class Route(Section):
    """One traffic class; the first route that matches a request takes it."""

    name: Name = Field(description="Of the class; that of a preset's route changes that one.")
    path: Paths = Field(default=[], description='Beginnings of paths, such as "/t/"; empty is any.')
    regex: Regex = Field(default="", description="Instead, or as well: what is found anywhere in the path.")
    host: Hosts = Field(default=[], description='Hosts, such as "*.example.com"; empty is any.')
    method: Methods = Field(default=[], description="Methods; empty is any.")
    balance: Balance | None = Field(default=None, description="Instead of the service's own.")
    sticky: OptionalSticky = Field(default=None, description="Instead of the service's own; false is none.")
    nodes: list[Name] = Field(default=[], description="Only these nodes of the service; empty is all.")
    clients: list[Network] = Field(default=[], description="Only from these networks; others get 403.")
    https: bool = Field(default=False, description="Send who comes without TLS to the same URL with it.")
    timeouts: RouteTimeouts = Field(default=RouteTimeouts(), description="Waits of its own.")
    retry: RouteRetry = Field(default=RouteRetry(), description="Retry rules of its own.")
    probe: Probe | None = Field(
        default=None, description="How nodes are checked for this class, instead of the service's own."
    )

    @property
    def takes_everything(self) -> bool:
        """Whether no request gets past it ("OPTIONS *" aside, which has no path)."""
        any_path = "/" in self.path or not (self.path or self.regex)
        return any_path and (not self.host or "*" in self.host) and not self.method


class AgentRule(Section):
    """Whose requests get a tag of your own."""

    tag: Token = Field(description="What X-Trackproxy-Agent says.")
    user_agent: Annotated[Regex, AfterValidator(_agent_regex)] = Field(
        default="", description="What is found in User-Agent, in any case of letters."
    )
    rate: Count = Field(default=0, description="Or: more requests a second from one client; 0 is not asked.")


class Agents(Section):
    """Tags for scanners and prefetchers; nothing is ever dropped for them."""

    tag: bool = Field(default=False, description="Tell nodes in X-Trackproxy-Agent what asks, if known.")
    rules: list[AgentRule] = Field(default=[], description="Your own rules, before those that are built in.")

    def contradictions(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys whose values are right alone and wrong together, and why."""
        if self.rules and not self.tag:
            yield ("rules",), "means nothing without tag = true"
        for index, rule in enumerate(self.rules):
            if bool(rule.user_agent) == bool(rule.rate):
                yield ("rules", index), f"the rule for {quoted(rule.tag)} needs either user_agent or rate"


class ClientQuota(Section):
    """What one client may have: an IPv4 address, or an IPv6 network of 64 bits."""

    max_connections: Count = Field(default=0, description="Connections at once; 0 is no limit.")
    max_request_rate: Count = Field(default=0, description="Requests a second; 0 is no limit.")
    burst: Count = Field(default=0, description="Requests that may come at once; 0 is those of a second.")

    def contradictions(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys whose values are right alone and wrong together, and why."""
        rate, most = self.max_request_rate, self.max_request_rate * BURST_S
        if self.burst and not rate:
            yield ("burst",), "means nothing without max_request_rate"
        elif 0 < self.burst < rate:
            yield ("burst",), f"must be at least max_request_rate, {rate}: so many may always come at once"
        elif self.burst > most:
            yield ("burst",), f"may be at most {BURST_S} times max_request_rate, {most}"


def merged(section: Section, own: Section) -> Any:
    """Return SECTION with what OWN sets."""
    return section.model_copy(update={key: value for key, value in own if value is not None})
