"""Every metric there is: its name, what it says, and its labels. `conf/metrics.md` is made from this.

Labels: service and route are names of the settings; the route is empty for requests that no route of the
settings takes, and for endpoints that all routes share. node: a node's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "summary"]

ROUTE = ("service", "route")
ENDPOINT = ("service", "route", "node")
PROCESS = ("process", "generation", "worker")
COLUMN = ("generation", "worker")


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One family. name: of a counter with its _total."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    text: str


_all: list[Metric] = []


def _metric(kind: Kind, name: str, labels: tuple[str, ...], text: str) -> Metric:
    metric = Metric(f"trackproxy_{name}", kind, labels, text)
    _all.append(metric)
    return metric


def _counter(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return _metric("counter", f"{name}_total", labels, text)


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return _metric("gauge", name, labels, text)


def catalogue() -> Iterator[Metric]:
    """Yield all metrics in their order."""
    yield from _all


# --- services and routes ---

REQUESTS = _counter(
    "requests",
    (*ROUTE, "method", "class"),
    "Answers as clients got them, our own included; a method that is not usual is other.",
)
REFUSED = _counter(
    "refused",
    (*ROUTE, "cause"),
    "Requests, sessions and connections that got no node's answer, by cause.",
)
RETRIES = _counter("retries", (*ROUTE, "cause"), "Second tries by what went wrong before.")
REDISPATCHES = _counter("redispatches", ROUTE, "Second tries that went to another node than those before.")
BUDGET_EXHAUSTED = _counter(
    "retry_budget_exhausted", ROUTE, "Second tries that the rules allowed and the retry budget did not."
)
COOKIES_REJECTED = _counter(
    "sticky_cookies_rejected", (*ROUTE, "cause"), "Cookies of stickiness that were not heeded, by cause."
)
CONNECTIONS_TOTAL = _counter("connections", ("service",), "Connections of clients ever taken.")
CONNECTIONS = _gauge("open_connections", ("service",), "Connections of clients that are open.")
WAITING = _gauge("queue_length", ("service",), "Requests and sessions that wait for room at a node.")
PANIC = _gauge("panic", ROUTE, "1 while so few endpoints are up that probes are not believed.")

# --- endpoints ---

INFO = _gauge("endpoint_info", (*ENDPOINT, "address"), "Always 1: where the endpoint is.")
HEALTH = _gauge("endpoint_health", (*ENDPOINT, "state"), "1 for what probes say of it, 0 for the others.")
EJECTED = _gauge("endpoint_ejected", ENDPOINT, "1 while live traffic has it left out.")
ELIGIBLE = _gauge("endpoint_eligible", ENDPOINT, "1 while it may get new clients.")
WEIGHT = _gauge("endpoint_weight", ENDPOINT, "Its weight as configured or changed.")
ACTIVE = _gauge("endpoint_active", ENDPOINT, "Requests, tunnels and sessions in flight.")
TUNNELS = _gauge("endpoint_tunnels", ENDPOINT, "Of these, tunnels and sessions that a node has greeted.")
IDLE = _gauge("endpoint_idle_connections", ENDPOINT, "Connections that wait in the pool.")
TRIES = _counter("endpoint_tries", ENDPOINT, "Requests and sessions sent there, second tries included.")
RETRIED = _counter("endpoint_retries", ENDPOINT, "Of these, second tries.")
REUSED = _counter("endpoint_reused_connections", ENDPOINT, "Of these, over connections that had served.")
CONNECTS = _counter("endpoint_connects", ENDPOINT, "Connections opened to it.")
RESPONSES = _counter("endpoint_responses", (*ENDPOINT, "class"), "Its answers and greetings, by class.")
FAILURES = _counter("endpoint_failures", (*ENDPOINT, "cause"), "Tries without an answer, by cause.")
EJECTIONS = _counter("endpoint_ejections", (*ENDPOINT, "cause"), "Times that live traffic had it left out.")
DURATION = _metric(
    "histogram",
    "endpoint_duration_seconds",
    ENDPOINT,
    "To the end of an answer; how long sessions lasted.",
)
FIRST_BYTE = _metric(
    "histogram",
    "endpoint_first_byte_seconds",
    ENDPOINT,
    "To the head of an answer, or the greeting.",
)
CONNECT_TIME = _metric("histogram", "endpoint_connect_seconds", ENDPOINT, "To open a connection.")
STICKY_ASSIGNED = _counter("sticky_assigned", ENDPOINT, "Clients that were given to it for good.")
STICKY_KEPT = _counter("sticky_kept", ENDPOINT, "Requests that followed their stickiness to it.")
STICKY_MOVED = _counter("sticky_moved", (*ENDPOINT, "cause"), "Clients of it that were served elsewhere.")

# --- sessions ---

SESSIONS = _counter("sessions", ("service", "node"), "Sessions that a node has taken.")
OPEN_SESSIONS = _gauge("open_sessions", ("service", "node"), "Sessions that run.")
SESSION_BYTES = _counter(
    "session_bytes", ("service", "node", "direction"), "Bytes passed on, up to the node or down."
)

# --- probes and nodes ---

PROBES = _counter(
    "probes",
    (*ENDPOINT, "result"),
    "Probes; local: this machine could not, which says nothing of the node.",
)
PROBE_SUCCESS = _gauge("probe_success", ENDPOINT, "1 if the last probe has passed.")
PROBE_TIME = _metric("summary", "probe_duration_seconds", ENDPOINT, "How long probes took.")
NODE_STATE = _gauge("node_state", ("node", "state"), "1 for what operators want of it, 0 for the others.")
DRAIN_LEFT = _gauge("node_drain_remaining_seconds", ("node",), "Until its drain ends; not there without one.")

# --- TLS ---

CERTIFICATES = _gauge("certificates", ("service",), "Certificates that are served.")
CERTIFICATE_END = _gauge(
    "certificate_not_after_timestamp_seconds",
    ("service", "name"),
    "Until when they are good, by their first name; only those that end soonest.",
)

# --- this program ---

BUILD = _gauge("build_info", ("version", "python"), "Always 1.")
RELOADS = _counter("config_reloads", ("result",), "Reloads of the settings.")
RELOADED = _gauge("config_last_reload_timestamp_seconds", (), "When a reload was last tried.")
RELOAD_OK = _gauge("config_last_reload_successful", (), "1 if it went well; not there before the first.")
GENERATION = _gauge("generation", (), "The number of the generation of workers that serves.")
WORKERS = _gauge("workers", (), "Workers that run, those on their way out included.")
DEATHS = _counter("worker_deaths", (), "Workers that died, or hung and were killed, and were replaced.")
LAG = _metric("summary", "event_loop_lag_seconds", COLUMN, "How late the beats of workers came.")
LAG_WORST = _gauge("event_loop_lag_worst_seconds", COLUMN, "The same, the worst of the last 5 to 10 seconds.")
CPU = _counter("process_cpu_seconds", PROCESS, "CPU time of the supervisor and of each worker.")
MEMORY = _gauge("process_resident_memory_bytes", PROCESS, "Memory, shared memory included.")
FILES = _gauge("process_open_fds", PROCESS, "Open file descriptors.")
MOST_FILES = _gauge("process_max_fds", PROCESS, "As many as there may be.")
STARTED = _gauge("process_start_time_seconds", PROCESS, "When it started.")
