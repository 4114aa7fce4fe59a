"""Panic: when probes say that too much of a service is down, they are more likely to be wrong than right.

A whole cluster whose probes fail at once is usually one that is busy, or one whose probe is; sending
everything to the few that are left would bring these down too.
"""

from __future__ import annotations


def panics(up: int, all_: int, threshold: int) -> bool:
    """Whether probes are not to be believed: fewer than `threshold` percent are up; 0 is never.

    all_: the endpoints of a service that operators let take part. up: those of them that are not down.
    """
    return up * 100 < threshold * all_
