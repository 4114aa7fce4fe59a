"""What is printed: a row for each fault, with its legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.chaos.figures import Figures, percentile

HEADINGS = [
    *("fault", "requests", "failed", "POSTs failed", "duplicated", "moved"),
    *("detect p50 ms", "p99", "back ms", "gap ms", "longest ms", ""),
]

LEGEND = """\
failed: requests other than POST without their right answer within 15 s, and connects that failed
duplicated: POSTs that reached nodes more than once; moved: other requests that did (sent again elsewhere)
detect: from the fault until the last connect or request before the node was left alone (nothing for
    250 ms while the others worked), probes' connects included; – if it never was, or without the right to
    look at the loopback interface (CAP_NET_RAW)
back: from the end of the fault until the node gets a request again (– if not before the run ended)
gap: the longest time without any answer over all connections; longest: the longest wait of one request, not
    a POST
a worker that is killed may lose what it had on its way: those count as failed, and the row is ok with them
several runs: sums, the worst gap and longest, percentiles of detect, the median of back"""


def render(found: Mapping[str, Sequence[Figures]]) -> str:
    """The table and its legend."""
    cells = [HEADINGS, *(_cells(name, runs) for name, runs in found.items())]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", LEGEND])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return [row[0].ljust(widths[0]), *padded[1:]]


def _cells(name: str, runs: Sequence[Figures]) -> list[str]:
    detects = [run.detect_s for run in runs if run.detect_s is not None]
    backs = [run.back_s for run in runs if run.back_s is not None]
    sums = [
        sum(getattr(run, key) for run in runs)
        for key in ("requests", "failed", "posts_failed", "duplicated", "moved")
    ]
    return [
        name,
        *(f"{number:,}" for number in sums),
        _ms(detects, 50),
        _ms(detects, 99),
        _ms(backs, 50),
        _ms([run.gap_s for run in runs], 100),
        _ms([run.longest_s for run in runs], 100),
        "NOT" if any(run.problems for run in runs) else "ok",
    ]


def _ms(seconds: Sequence[float], percent: int) -> str:
    return f"{percentile(seconds, percent) * 1000:,.0f}" if seconds else "–"
