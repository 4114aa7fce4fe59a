"""What a run is judged by: pure rules over what nodes recorded, the load counted and the wiretap saw."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.chaos.nodes import Received
from tests.chaos.tally import Tally

# A node counts as left alone once nothing was sent to it for so long, while the others got so many requests.
QUIET_S = 0.25
BUSY = 20


@dataclass(frozen=True, slots=True)
class Excuse:
    """Failures that the fault itself makes unavoidable: so many connections lost between two moments."""

    count: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of a fault.

    failed: requests other than POST, and connects. duplicated: POSTs that reached nodes more than once.
    moved: other requests that reached nodes more than once. detect_s: from the fault until the node was
    left alone; None if it was not, or that cannot be seen. back_s: from the end of the fault until the node
    got a request again; None if it did not. problems: what should not have been, a sentence each.
    """

    fault: str
    requests: int
    failed: int
    posts_failed: int
    duplicated: int
    moved: int
    detect_s: float | None
    back_s: float | None
    gap_s: float
    longest_s: float
    problems: list[str] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)


def repeated(received: Iterable[Received]) -> tuple[int, int]:
    """How many POSTs, and how many other requests, have arrived more than once."""
    arrivals = Counter((one.number, one.post) for one in received)
    posts = sum(count > 1 for (_, post), count in arrivals.items() if post)
    others = sum(count > 1 for (_, post), count in arrivals.items() if not post)
    return posts, others


def left_alone(attempts: Sequence[float], others: Sequence[float], begin: float, end: float) -> float | None:
    """Seconds from BEGIN until the last attempt before the node was left alone; None if it never was.

    END is that of the fault. attempts: times at which something was sent to it. others: at which the other
    nodes got requests; without those a silence says nothing: every client may be waiting. Both ascend.
    """
    marks = [begin, *(at for at in attempts if begin <= at < end), end]
    for last, following in pairwise(marks):
        quiet_until = last + QUIET_S
        while quiet_until <= following:
            if bisect(others, quiet_until) - bisect(others, quiet_until - QUIET_S) >= BUSY:
                return last - begin
            quiet_until += QUIET_S / 10
    return None


def first_after(received: Iterable[Received], moment: float, newest: int) -> float | None:
    """Seconds from MOMENT until a request arrived that was made later than number NEWEST; None if none was.

    What a stopped node finds in its buffers is older than that.
    """
    return min(
        (one.at - moment for one in received if one.at >= moment and one.number > newest), default=None
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


def unexcused(tally: Tally, excuses: Sequence[Excuse], posts_may_fail: bool) -> list[str]:
    """A sentence for each kind of failure that should not have been, with the first of them."""
    bad = [one for one in tally.failures if not (one["post"] and posts_may_fail)]
    for excuse in excuses:
        excused = [one for one in bad if _is_excused(one, excuse)]
        bad = [one for one in bad if not _is_excused(one, excuse)]
        if len(excused) > excuse.count:
            bad += excused[excuse.count :]
    kinds = Counter(one["how"] for one in bad)
    first = {one["how"]: one for one in reversed(bad)}
    sentences = [f"{count} × {how}; the first: {first[how]}" for how, count in kinds.items()]
    untold = tally.failed + tally.posts_failed - len(tally.failures)
    return [*sentences, f"{untold} more failures, of which nothing was kept"] if untold else sentences


def _is_excused(failure: dict[str, Any], excuse: Excuse) -> bool:
    return failure["how"] == "lost" and bool(excuse.begin <= failure["at"] <= excuse.end)
