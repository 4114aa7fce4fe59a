"""What is printed: aligned for the terminal, or Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchlib.bodies import Transfer
from benchlib.certificates import Loaded
from benchlib.idle import Idle
from benchlib.metrics import Looked
from benchlib.probing import Probing
from benchlib.rounds import Row, Turn
from benchlib.soak import Soaked
from benchlib.tcp import KINDS, TcpRow
from benchlib.tcp_idle import IdleSessions

TURN_HEADINGS = ["req/s", "p50 ms", "p99 ms", "user µs", "sys µs", "CPU µs/req"]
Cells = list[str]
REFERENCE_TITLES = {"haproxy": "HAProxy", "nginx": "nginx"}
TCP_REFERENCE_TITLES = {"haproxy": "HAProxy", "haproxy-splice": "its splice", "nginx": "nginx"}


def render_table(cells: Sequence[Cells], markdown: bool) -> str:
    """`cells[0]` are the headings; the first column is text, the others are numbers."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [_line(row, widths, markdown) for row in cells]
    rule = ["-" * (width - bool(column)) + ":" * bool(column) for column, width in enumerate(widths)]
    lines.insert(
        1, "| " + " | ".join(rule) + " |" if markdown else "  ".join("-" * width for width in widths)
    )
    return "\n".join(lines)


def _line(row: Cells, widths: Sequence[int], markdown: bool) -> str:
    padded = [row[0].ljust(widths[0])]
    padded += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "| " + " | ".join(padded) + " |" if markdown else "  ".join(padded)


def _turn_cells(turn: Turn) -> Cells:
    return [
        f"{turn.requests_per_s:,.0f}",
        f"{turn.p50_ms:.2f}",
        f"{turn.p99_ms:.2f}",
        f"{turn.user_us:.1f}",
        f"{turn.system_us:.1f}",
        f"{turn.total_us:.1f}",
    ]


def _tail_cells(turn: Turn) -> Cells:
    return [f"{turn.core_share:.0%}", f"{turn.rss_mib:.0f}", str(turn.errors)]


def rounds_cells(rows: Sequence[Row], references: Mapping[str, str] = REFERENCE_TITLES) -> list[Cells]:
    headings = [f"× {title}" for title in references.values()]
    cells = [["proxy", *TURN_HEADINGS, *headings, "core", "RSS MiB", "errors"]]
    for row in rows:
        times = _times_cells(row.times, references)
        cells.append([row.title, *_turn_cells(row.median), *times, *_tail_cells(row.median)])
    return cells


def _times_cells(times: Mapping[str, float], references: Iterable[str]) -> Cells:
    return [f"{times[name]:.2f}" if name in times else "–" for name in references]


def soak_cells(soaked: Sequence[Soaked]) -> list[Cells]:
    cells = [["proxy", "connections", *TURN_HEADINGS, "core", "RSS MiB", "errors"]]
    for one in soaked:
        cells.append([one.title, f"{one.connections:,}", *_turn_cells(one.turn), *_tail_cells(one.turn)])
    return cells


def bodies_cells(transfers: Sequence[Transfer]) -> list[Cells]:
    cells = [["proxy", "direction", "MB/s", "CPU ms/GiB", "growth MiB"]]
    for one in transfers:
        figures = [f"{one.mb_per_s:,.0f}", f"{one.cpu_ms_per_gib:,.0f}", f"{one.growth_mib:.1f}"]
        cells.append([one.title, one.direction, *figures])
    return cells


def idle_cells(found: Sequence[Idle]) -> list[Cells]:
    cells = [["proxy", "after", "connections", "bytes/connection", "RSS MiB", "lost"]]
    for one in found:
        figures = [
            f"{one.connections:,}",
            f"{one.bytes_per_connection:,.0f}",
            f"{one.rss_mib:.0f}",
            str(one.lost),
        ]
        cells.append([one.title, one.after, *figures])
    return cells


def tcp_cells(rows: Sequence[TcpRow]) -> list[Cells]:
    """Of rows of one kind."""
    kind = KINDS[rows[0].kind]
    headings = [f"× {title}" for title in TCP_REFERENCE_TITLES.values()]
    cells = [["proxy", "connections", f"{kind.unit}/s", kind.cost, *headings, "core", "errors"]]
    for row in rows:
        turn = row.median
        figures = [f"{turn.rate:,.{2 if turn.rate < 100 else 0}f}", f"{turn.cost:,.1f}"]
        tail = [f"{turn.core_share:.0%}", str(turn.errors)]
        cells.append([row.title, row.load, *figures, *_times_cells(row.times, TCP_REFERENCE_TITLES), *tail])
    return cells


def tcp_idle_cells(found: Sequence[IdleSessions]) -> list[Cells]:
    cells = [["proxy", "sessions", "bytes/session", "RSS MiB", "pipes before", "pipes", "lost"]]
    for one in found:
        figures = [f"{one.sessions:,}", f"{one.bytes_per_session:,.0f}", f"{one.rss_mib:.0f}"]
        cells.append([one.title, *figures, str(one.pipes_before), str(one.pipes), str(one.lost)])
    return cells


def probing_cells(found: Probing) -> list[Cells]:
    figures = [str(found.nodes), f"{found.supervisor:.2%}", f"{found.idle:.2%}"]
    return [["proxy", "nodes probed", "supervisor, of a core", "idle worker"], ["trackproxy", *figures]]


def certificates_cells(found: Loaded) -> list[Cells]:
    figures = [f"{found.count:,}", f"{found.seconds:.2f}", f"{found.known_bytes:,.0f}"]
    return [
        ["certificates", "s to load", "bytes each", "bytes each, all asked for"],
        [*figures, f"{found.asked_bytes:,.0f}"],
    ]


def metrics_cells(found: Sequence[Looked]) -> list[Cells]:
    head = ["GET", "KiB", "ms, the first", "median", "worst", "CPU ms", "flooded: /s", "lag ms", "worst"]
    return [head, *map(_looked, found)]


def _looked(one: Looked) -> Cells:
    times = (one.first_ms, one.median_ms, one.worst_ms, one.cpu_ms)
    lags = (one.lag_ms, one.worst_lag_ms)
    return [
        one.path,
        f"{one.size_bytes / 1024:,.0f}",
        *(f"{one_ms:.1f}" for one_ms in times),
        f"{one.flood:,.0f}",
        *(f"{one_ms:.1f}" for one_ms in lags),
    ]


def machine_line(machine: Mapping[str, str]) -> str:
    told = dict(machine)
    start = f"{told.pop('cpu')}, {told.pop('cores')} cores, Linux {told.pop('kernel')}"
    return ", ".join([start, *(f"{name} {version}" for name, version in told.items())])
