"""Slow start: an endpoint that has come back gets its traffic in steps, while its caches and pools fill."""

from __future__ import annotations

STEP = 10  # percent


def share(since_s: float, slow_start_s: float) -> int:
    """Return how many percent of its weight an endpoint gets SINCE_S after it came back.

    From 10 to 100 in steps of 10; all of it once SLOW_START_S are over. 0 is no slow start.
    """
    if since_s >= slow_start_s:
        return 100
    steps = int(since_s / slow_start_s * (100 // STEP))
    return max(steps, 1) * STEP
