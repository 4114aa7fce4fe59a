"""What operators are answered, as far as programs may rely on it; an answer may hold more than is said here.

Nothing is made of these: they describe for `openapi` what `nodes` and `overview` tell, and a test holds the
answers against them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

State = Literal["ready", "drain", "disabled"]
Health = Literal["up", "down", "starting"]
Version = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Counts = dict[str, int]


class Problem(BaseModel):
    """Why something was not done (RFC 9457). problems: each reason, if there are several."""

    type: str
    title: str
    status: int
    detail: str
    problems: list[str] = []


class Alive(BaseModel):
    """That we are."""

    status: Literal["alive", "ready"]


class Session(BaseModel):
    """Who asks, and what for."""

    name: str | None
    role: Literal["read", "write"]
    by: Literal["token", "socket", "none"]


class Outcome(BaseModel):
    """What came of it, in words."""

    outcome: str


class Checked(BaseModel):
    """Settings that are right."""

    ok: Literal[True]
    services: int
    nodes: int
    warnings: list[str]


class Recent(BaseModel):
    """The last seconds. rate: requests or sessions a second, errors: of these; bytes: a second."""

    window_s: float
    rate: float
    errors: float
    p50_ms: float | None
    p99_ms: float | None
    bytes_up: float
    bytes_down: float


class Source(BaseModel):
    """A value and whose it is. changed_at: seconds since 1970."""

    value: Any
    configured: Any
    source: Literal["configuration", "run time"]
    changed_at: float | None
    changed_by: str | None


class Probe(BaseModel):
    """The last probe. at: when its result came, in seconds since 1970."""

    passed: bool
    reason: str
    took_ms: float
    at: float


class Endpoint(BaseModel):
    """One node as one service sees it."""

    address: str
    health: Health
    ejected: bool
    weight: int
    priority: int
    probe: Probe | None
    gauges: Counts
    totals: Counts
    recent: Recent | None = None
    sources: dict[str, Source] = {}


class Drain(BaseModel):
    """A drain that is under way, or how the last one ended."""

    seconds_left: float | None
    sticky: Literal["keep", "move"]
    outcome: str | None


class Node(BaseModel):
    """A node. services: its endpoints by label, "web" or "web/route". left: what is open there."""

    name: str
    state: State
    version: Version
    drain: Drain | None
    left: Counts
    sources: dict[str, Source]
    services: dict[str, Endpoint]


class Nodes(BaseModel):
    """All nodes."""

    nodes: list[Node]


class Service(BaseModel):
    """A service. endpoints: by node and label, if only one service was asked for."""

    name: str
    protocol: str
    listen: list[str]
    balance: str
    status: Literal["up", "degraded", "down"]
    nodes: Counts
    gauges: Counts
    totals: Counts
    recent: Recent | None
    panic: bool
    routes: list[str]
    groups: list[str]
    endpoints: dict[str, dict[str, Endpoint]] = {}


class Services(BaseModel):
    """All services."""

    services: list[Service]


class Worker(BaseModel):
    """A process that serves."""

    number: int
    pid: int | None
    generation: int
    connections: int
    waiting: int
    accepted: int
    lag_ms: float | None


class Reload(BaseModel):
    """What came of the last reload. at: seconds since 1970."""

    at: float
    ok: bool
    outcome: str


class Status(BaseModel):
    """The program itself. started_at: seconds since 1970."""

    version: str
    pid: int
    started_at: float
    uptime_s: float
    welcoming: bool
    generation: int | None
    config: str | None
    state_dir: str
    reload: Reload | None
    workers: list[Worker]
    journal: dict[str, Any] | None


class Event(BaseModel):
    """Something that has happened; more fields by its kind. at: seconds since 1970."""

    id: int | None
    at: float
    level: Literal["debug", "info", "warning", "error"]
    kind: str
    text: str


class Events(BaseModel):
    """What has happened, oldest first."""

    events: list[Event]
