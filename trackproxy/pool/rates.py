"""Rates: how many requests a client may make per second, with a burst, over all workers.

Time is cut into windows of some seconds, and each worker writes down in a table of its own how often a client
came in this window and in the one before. What all tables say of this window, and of the one before as far as
that is still in sight, is what the client had lately: it slides along without a list of times. Promise: in no
window has a client more than its allowance, so in the long run never more than its rate, and in any stretch
as long as a window never more than twice the allowance. One writer per cell, so no locks; a worker writes
first and looks then (see `pool.admission`), so that of two that allow the last one one sees the other.

A table is a hash table of buckets, each a cache line of four slots. A slot is two cells: the key, and the
second in which its window gets out of sight together with both counts, which therefore always fit each
other. That second names the window, and also tells limits with longer or shorter windows what must stay: they
may share the tables if their keys differ. A key that finds its bucket full of others that are still in sight
is not counted: that takes thousands of clients at once.
"""

from __future__ import annotations

from collections.abc import Sequence

SLOTS = 4  # in a bucket
CELLS = 2  # in a slot
BUCKET = SLOTS * CELLS
KEY, STATE = range(CELLS)

# A state, from the top: 23 bits of a second (they begin again after months), twice 20 of a count.
_COUNT = 20
_SECOND = 2 * _COUNT
_COUNTS = (1 << _COUNT) - 1
_SECONDS = (1 << 23) - 1
_BOTH = (1 << _SECOND) - 1
LONGEST_S = 3600  # of a window
_SIGHT_S = 2 * LONGEST_S + 2  # more than that no slot can have ahead, unless it is months old
MOST = _COUNTS - 1  # the largest allowance; the first one too many has to fit, too

# Added to what is to be waited: what is left must be less than a whole request, not equal to it.
_MARGIN_S = 0.001


class Rates:
    """The tables of all workers as one of them sees them, for one limit."""

    def __init__(self, own: memoryview, others: Sequence[memoryview], rate: int, burst: int) -> None:
        """OWN: the table that this worker writes; OTHERS: those that it reads; all as long as that.

        rate: requests per second. burst: what may come at once after a pause, if that is more.
        Raises ValueError if there is no rate, more than MOST of either, or a burst of more than LONGEST_S
        seconds' worth.
        """
        if rate < 1 or max(rate, burst) > MOST or burst > rate * LONGEST_S:
            raise ValueError(f"a rate is 1 to {MOST}, a burst at most that and {LONGEST_S} times the rate")
        self._own = own
        self._others = tuple(others)
        self._buckets = len(own) // BUCKET
        self._allowance = max(rate, burst)  # per window
        self._window_s = self._allowance / rate

    def take(self, key: int, now: float) -> float:
        """Count a request of KEY if it is allowed. NOW: seconds of a clock that all workers share.

        Returns 0.0 if it is, or after how many seconds it would be if nothing else came.
        """
        turn = now / self._window_s
        whole = int(turn)
        ends = self._ends(whole - 1), self._ends(whole), self._ends(whole + 1)
        start = key % self._buckets * BUCKET
        cell = self._cell(key, start, int(now))
        if cell is None:
            return 0.0
        before = self._own[cell]
        current, previous = _counts(before, ends)
        self._own[cell] = ends[1] << _SECOND | current + 1 << _COUNT | previous
        for table in self._others:
            for slot in range(start, start + BUCKET, CELLS):
                if table[slot] == key:
                    here, earlier = _counts(table[slot + STATE], ends)
                    current += here
                    previous += earlier
                    break
        # Whole requests alone are counted, or a client would never have the last one of its allowance.
        if current + 1 + int(previous * (1 - turn + whole)) <= self._allowance:
            return 0.0
        self._own[cell] = before
        return self._wait_s(current, previous, turn - whole)

    def _ends(self, window: int) -> int:
        """Return the first whole second in which a window is out of sight; no two windows have the same."""
        return int((window + 2) * self._window_s) + 1 & _SECONDS

    def _cell(self, key: int, start: int, now_s: int) -> int | None:
        """Return the state of KEY in our own table; a slot of which nothing is in sight may be taken."""
        own = self._own
        slots = range(start, start + BUCKET, CELLS)
        for slot in slots:
            if own[slot] == key:
                return slot + STATE
        for slot in slots:
            state = own[slot + STATE]
            if not state & _BOTH or ((state >> _SECOND) - now_s - 1) & _SECONDS >= _SIGHT_S:
                own[slot] = key
                return slot + STATE
        return None

    def _wait_s(self, current: int, previous: int, passed: float) -> float:
        """Return when one more is allowed; PASSED: the part of this window that is over.

        In this window, if it has room, when enough of the previous one is out of sight; otherwise in the
        next one, as soon as the first request of this one is not whole any more.
        """
        room = self._allowance - current
        at = 1 - room / previous if room > 0 else 1
        return max(at - passed, 0.0) * self._window_s + _MARGIN_S


def _counts(state: int, ends: tuple[int, int, int]) -> tuple[int, int]:
    """Return what STATE says of a window and of the one before; ENDS: of the one before, it, and the next."""
    end = state >> _SECOND
    if end == ends[1]:
        return state >> _COUNT & _COUNTS, state & _COUNTS
    if end == ends[0]:
        return 0, state >> _COUNT & _COUNTS
    if end == ends[2]:  # the clock of its worker is a little ahead: both windows are this one
        return min((state >> _COUNT & _COUNTS) + (state & _COUNTS), MOST), 0
    return 0, 0
