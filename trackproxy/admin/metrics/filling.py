"""From what was seen to what is told: which cell of the board, or fact, each metric is."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from trackproxy.admin.metrics import catalogue as m
from trackproxy.admin.metrics.processes import Usage
from trackproxy.admin.metrics.seen import Endpoint, Seen
from trackproxy.admin.metrics.sheet import Sheet
from trackproxy.board import FAMILIES, HISTOGRAM, METHODS, Counter, Traffic
from trackproxy.control.traffic import RouteKey
from trackproxy.pool.nodes import AdminState

HEALTHS = ("up", "starting", "down")
CLASSES = tuple(f"{family}xx" for family in range(1, FAMILIES + 1))

# What is always told, though it be 0, so that the first one is seen to come.
USUAL = frozenset(("GET", family) for family in CLASSES[1:])


def _causes(kind: type[Counter] | type[Traffic], prefix: str) -> list[tuple[str, int]]:
    return [(cell.name.removeprefix(prefix).lower(), cell) for cell in kind if cell.name.startswith(prefix)]


_ANSWERS = [
    (method.decode(), family, Traffic.ANSWERS + row * FAMILIES + column)
    for row, method in enumerate(METHODS)
    for column, family in enumerate(CLASSES)
]
_BY_CAUSE = [
    (m.REFUSED, _causes(Traffic, "REFUSED_")),
    (m.RETRIES, _causes(Traffic, "RETRIED_")),
    (m.COOKIES_REJECTED, _causes(Traffic, "STICKY_")),
]
_OF_ENDPOINT = [
    (m.ACTIVE, Counter.ACTIVE),
    (m.TUNNELS, Counter.TUNNELS),
    (m.TRIES, Counter.TOTAL),
    (m.RETRIED, Counter.RETRIES),
    (m.CONNECTS, Counter.CONNECTS),
]
_OF_HTTP = [
    (m.IDLE, Counter.IDLE),
    (m.REUSED, Counter.REUSED),
    (m.STICKY_ASSIGNED, Counter.STICKY_NEW),
    (m.STICKY_KEPT, Counter.STICKY_KEPT),
]
_FAILURES = [
    ("connect", Counter.CONNECT_FAILURES),
    ("lost", Counter.LOST),
    ("silent", Counter.SILENT),
    ("malformed", Counter.MALFORMED),
]
_RESPONSES = [(family, Counter.STATUS_1XX + number) for number, family in enumerate(CLASSES)]
_EJECTIONS = [(cause, cell) for cause, cell in _causes(Counter, "EJECTED_") if cell != Counter.EJECTED_UNTIL]
_MOVED = _causes(Counter, "MOVED_")
# Histogram, its parts on the board, and the sums of these.
_TIMES = [
    (m.DURATION, (Counter.WHOLE, Counter.DURATION), (Counter.WHOLE_SUM_US, Counter.DURATION_SUM_US)),
    (m.FIRST_BYTE, (Counter.WHOLE, Counter.FIRST_BYTE), (Counter.WHOLE_SUM_US, Counter.FIRST_BYTE_SUM_US)),
    (m.CONNECT_TIME, (Counter.CONNECT_TIME,), (Counter.CONNECT_SUM_US,)),
]


def fill(seen: Seen, usages: Mapping[tuple[str, str, str], Usage], version: str) -> Sheet:
    """Return everything that was SEEN, and what the kernel says of our processes."""
    sheet = Sheet()
    for key, counts in seen.routes.items():
        _route(sheet, key, counts)
    for group, panics in seen.panic.items():
        sheet.put(m.PANIC, group, panics)
    for endpoint in seen.endpoints:
        _endpoint(sheet, endpoint)
        _probes(sheet, endpoint)
        if endpoint.greets is None:
            _http_endpoint(sheet, endpoint)
        else:
            _sessions(sheet, endpoint, greets=endpoint.greets)
    _nodes(sheet, seen)
    _certificates(sheet, seen)
    _program(sheet, seen, version)
    _processes(sheet, seen, usages)
    return sheet


def _route(sheet: Sheet, key: RouteKey, counts: list[int]) -> None:
    for method, family, cell in _ANSWERS:
        if counts[cell] or (method, family) in USUAL:
            sheet.put(m.REQUESTS, (*key, method, family), counts[cell])
    for metric, causes in _BY_CAUSE:
        for cause, cell in causes:
            sheet.put(metric, (*key, cause), counts[cell])
    sheet.put(m.REDISPATCHES, key, counts[Traffic.REDISPATCHED])
    sheet.put(m.BUDGET_EXHAUSTED, key, counts[Traffic.BUDGET_EXHAUSTED])
    if not key.route:
        sheet.put(m.CONNECTIONS_TOTAL, (key.service,), counts[Traffic.ACCEPTED])
        sheet.put(m.CONNECTIONS, (key.service,), counts[Traffic.CONNECTED])
        sheet.put(m.WAITING, (key.service,), counts[Traffic.WAITING])


def _endpoint(sheet: Sheet, endpoint: Endpoint) -> None:
    labels, counts = endpoint.labels, endpoint.counts
    sheet.put(m.INFO, (*labels, endpoint.key.address), 1)
    for health in HEALTHS:
        sheet.put(m.HEALTH, (*labels, health), endpoint.health == health)
    sheet.put(m.EJECTED, labels, endpoint.ejected)
    sheet.put(m.ELIGIBLE, labels, endpoint.eligible)
    sheet.put(m.WEIGHT, labels, endpoint.weight)
    for metric, cell in _OF_ENDPOINT:
        sheet.put(metric, labels, counts[cell])
    for metric, cells in ((m.RESPONSES, _RESPONSES), (m.FAILURES, _FAILURES), (m.EJECTIONS, _EJECTIONS)):
        for what, place in cells:
            sheet.put(metric, (*labels, what), counts[place])
    for metric, parts, sums in _TIMES:
        pieces = [counts[part : part + HISTOGRAM] for part in parts]
        buckets = [*map(sum, zip(*pieces, strict=True))] if len(pieces) > 1 else pieces[0]
        sheet.put_times(metric, labels, sum(counts[cell] for cell in sums) / 1e6, buckets)


def _http_endpoint(sheet: Sheet, endpoint: Endpoint) -> None:
    labels, counts = endpoint.labels, endpoint.counts
    for metric, cell in _OF_HTTP:
        sheet.put(metric, labels, counts[cell])
    for cause, place in _MOVED:
        sheet.put(m.STICKY_MOVED, (*labels, cause), counts[place])


def _sessions(sheet: Sheet, endpoint: Endpoint, *, greets: bool) -> None:
    """Where nobody greets, whoever is connected has a session."""
    labels, counts = (endpoint.key.service, endpoint.key.node), endpoint.counts
    sheet.put(m.SESSIONS, labels, counts[Counter.STATUS_2XX if greets else Counter.CONNECTS])
    sheet.put(m.OPEN_SESSIONS, labels, counts[Counter.TUNNELS])
    sheet.put(m.SESSION_BYTES, (*labels, "up"), counts[Counter.BYTES_UP])
    sheet.put(m.SESSION_BYTES, (*labels, "down"), counts[Counter.BYTES_DOWN])


def _probes(sheet: Sheet, endpoint: Endpoint) -> None:
    labels, probed = endpoint.labels, endpoint.probed
    for result in ("passed", "failed", "local"):
        sheet.put(m.PROBES, (*labels, result), getattr(probed, result))
    if endpoint.passed is not None:
        sheet.put(m.PROBE_SUCCESS, labels, endpoint.passed)
    sheet.put_times(m.PROBE_TIME, labels, probed.took_s, [probed.passed + probed.failed + probed.local])


def _nodes(sheet: Sheet, seen: Seen) -> None:
    for node, state in seen.states.items():
        for one in AdminState:
            sheet.put(m.NODE_STATE, (node, one.value), state == one.value)
    for node, seconds in seen.drains.items():
        sheet.put(m.DRAIN_LEFT, (node,), seconds)


def _certificates(sheet: Sheet, seen: Seen) -> None:
    for service, served in seen.certificates.items():
        sheet.put(m.CERTIFICATES, (service,), served.count)
        for end in served.soonest:
            sheet.put(m.CERTIFICATE_END, (service, end.name), end.at_s)


def _program(sheet: Sheet, seen: Seen, version: str) -> None:
    sheet.put(m.BUILD, (version, platform.python_version()), 1)
    sheet.put(m.RELOADS, ("ok",), seen.reloads.get(True, 0))
    sheet.put(m.RELOADS, ("failed",), seen.reloads.get(False, 0))
    if seen.reloaded is not None:
        sheet.put(m.RELOADED, (), seen.reloaded.at)
        sheet.put(m.RELOAD_OK, (), seen.reloaded.ok)
    sheet.put(m.GENERATION, (), seen.generation)
    sheet.put(m.WORKERS, (), len(seen.beats))
    sheet.put(m.DEATHS, (), seen.deaths)
    for beats in seen.beats:
        sheet.put_times(m.LAG, beats.labels, beats.late_us / 1e6, [beats.beats])
        sheet.put(m.LAG_WORST, beats.labels, beats.worst_us / 1e6)


def _processes(sheet: Sheet, seen: Seen, usages: Mapping[tuple[str, str, str], Usage]) -> None:
    for process, usage in usages.items():
        sheet.put(m.CPU, process, usage.cpu_s)
        sheet.put(m.MEMORY, process, usage.memory_bytes)
        sheet.put(m.FILES, process, usage.files)
        sheet.put(m.MOST_FILES, process, usage.most_files)
        sheet.put(m.STARTED, process, usage.started_s)
