"""Coarse time and deadlines for many connections at once.

One sweep looks at every deadline a few times a second, so that a connection sets its deadline by
storing a number: no timer is made, moved or cancelled per request. A deadline passes at the earliest
when it is due and at the latest two intervals after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

NEVER = math.inf

MIN_INTERVAL_S = 0.02
MAX_INTERVAL_S = 0.5


class Timed(Protocol):
    """Something that waits: `expire` is called once `deadline` (the clock's seconds) has passed."""

    deadline: float

    def expire(self) -> None: ...


class Sweep:
    """The deadlines of one process.

    now: seconds, as old as the last tick at most; time(): exactly.
    interval_s: how often `tick` has to be called.
    """

    def __init__(self, time: Callable[[], float], shortest_s: float) -> None:
        """Take the source of TIME and the shortest wait that has to be kept well."""
        self.time = time
        self._timed: set[Timed] = set()
        self.interval_s = min(max(shortest_s / 4, MIN_INTERVAL_S), MAX_INTERVAL_S)
        self.now = time()
        self.add = self._timed.add
        self.discard = self._timed.discard

    def __len__(self) -> int:
        return len(self._timed)

    def tick(self) -> None:
        """Move the clock and call `expire` on all that is due; raises ExceptionGroup of what failed."""
        self.now = now = self.time()
        due = now - self.interval_s  # a deadline was set from a clock up to one interval old
        errors: list[Exception] = []
        for timed in [timed for timed in self._timed if timed.deadline <= due]:
            try:
                if timed in self._timed:
                    timed.expire()
            except Exception as error:  # noqa: BLE001 - raised below; the others must not wait for ever
                errors.append(error)
        if errors:
            raise ExceptionGroup("deadlines", errors)
