"""What has gone through each endpoint in the last seconds: rates and latencies for people who watch.

Totals are looked at once a second, and only while somebody asks. What is said is the difference between the
newest look and the oldest that is kept.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from itertools import accumulate
from operator import add, sub
from typing import NamedTuple

from trackproxy.board import BUCKETS_S, HISTOGRAM, Counter
from trackproxy.control.views import Key

LOOK_S = 1.0  # from one look to the next
LOOKS = 6  # that are kept
TOTALS = slice(Counter.EJECTED_CONNECT, None)  # of a row: what only grows
ASKED_S = 30.0  # how long looks go on after somebody has asked

FAILED = (Counter.CONNECT_FAILURES, Counter.LOST, Counter.SILENT, Counter.MALFORMED, Counter.STATUS_5XX)

Totals = Mapping[Key, list[int]]


class Recent(NamedTuple):
    """What has come in WINDOW_S seconds.

    rate, errors: requests or sessions, and failed attempts and 5xx, a second. p50_ms, p99_ms: from the
    request to the end of its answer, for sessions from the connection to the greeting; None if none was seen.
    bytes_up, bytes_down: a second, of sessions.
    """

    window_s: float
    rate: float
    errors: float
    p50_ms: float | None
    p99_ms: float | None
    bytes_up: float
    bytes_down: float


class _Look(NamedTuple):
    at: float
    totals: Totals


class Looks:
    """The last looks at all totals."""

    def __init__(self, look: Callable[[], Totals]) -> None:
        """LOOK: returns the totals of all endpoints, by the board's Counter."""
        self._look = look
        self._kept: deque[_Look] = deque(maxlen=LOOKS)
        self._said: dict[tuple[bool, tuple[Key, ...]], Recent | None] = {}  # since the last look
        self._asked = float("-inf")
        self._taken = False  # somebody calls `take`

    def ask(self, now: float) -> bool:
        """Somebody wants to know; return whether `take` has to be called from now on, until it says no."""
        begins = not self._taken
        self._asked, self._taken = now, True
        return begins

    def take(self, now: float) -> bool:
        """Look; to be called every LOOK_S. Return whether anybody still wants to know."""
        if now - self._asked >= ASKED_S:
            self._kept.clear()
            self._said.clear()
            self._taken = False
            return False
        self._kept.append(_Look(now, self._look()))
        self._said.clear()
        return True

    def of(self, keys: Iterable[Key], *, sessions: bool = False) -> Recent | None:
        """Say what has gone through these endpoints together; None before the second look."""
        asked = sessions, tuple(keys)
        if asked not in self._said:
            self._said[asked] = self._find(*asked)
        return self._said[asked]

    def _find(self, sessions: bool, keys: Iterable[Key]) -> Recent | None:
        if len(self._kept) < 2:
            return None
        first, last = self._kept[0], self._kept[-1]
        common = [key for key in keys if key in first.totals and key in last.totals]
        if not common:
            return None
        pairs = [(last.totals[key], first.totals[key]) for key in common]
        rows = [_since(old, new) for new, old in pairs if new != old]
        window_s = last.at - first.at
        if not rows:
            return Recent(round(window_s, 3), 0.0, 0.0, None, None, 0.0, 0.0)
        return _recent(window_s, reduce(_added, rows), sessions=sessions)


def _since(old: list[int], new: list[int]) -> list[int]:
    """Return what was counted between two looks; of an endpoint that went and came back, since it is back."""
    moved = [*map(sub, new, old)]
    return moved if min(moved[TOTALS]) >= 0 else new


def _added(counts: list[int], others: list[int]) -> list[int]:
    return [*map(add, counts, others)]


def _recent(window_s: float, moved: list[int], *, sessions: bool) -> Recent:
    kinds = (Counter.FIRST_BYTE,) if sessions else (Counter.WHOLE, Counter.DURATION)
    times = reduce(_added, [moved[kind : kind + HISTOGRAM] for kind in kinds])
    return Recent(
        window_s=round(window_s, 3),
        rate=round(moved[Counter.TOTAL] / window_s, 3),
        errors=round(sum(moved[kind] for kind in FAILED) / window_s, 3),
        p50_ms=quantile_ms(times, 0.5),
        p99_ms=quantile_ms(times, 0.99),
        bytes_up=round(moved[Counter.BYTES_UP] / window_s, 1),
        bytes_down=round(moved[Counter.BYTES_DOWN] / window_s, 1),
    )


def quantile_ms(counts: list[int], share: float) -> float | None:
    """Return the time in ms that SHARE of what a histogram COUNTS did not exceed; None if it is empty.

    Within a bucket times are taken to be spread evenly; above the last bound there is only that.
    """
    sums = list(accumulate(counts))
    if sums[-1] == 0:
        return None
    wanted = share * sums[-1]
    index = bisect_left(sums, wanted)
    if index == len(BUCKETS_S):
        return BUCKETS_S[-1] * 1000
    low = BUCKETS_S[index - 1] if index else 0.0
    inside = (wanted - (sums[index] - counts[index])) / counts[index]
    return round((low + (BUCKETS_S[index] - low) * inside) * 1000, 3)
