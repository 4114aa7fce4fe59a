"""Shares: turns in proportion to weight, exactly, at a cost that does not grow with the number of endpoints.

Endpoints of equal weight form one share and take its turns in a ring. Each share with any members has turns
at equal distances (strides) on a virtual clock, and whichever is due first goes next. All strides divide the
same unit, so turns are whole numbers and nothing is rounded away: over sum(weights) / gcd(weights) picks each
endpoint gets its exact part. Shares start half a stride out, so that their turns interleave.

When members come or go, strides change; what a share has left of its wait is kept as a part of its stride,
also while it has no members. So nobody gains or loses a turn by leaving and coming back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import lcm
from typing import TypeVar

# When strides change waits are rounded up, by at most this part of the shortest stride.
_FINENESS = 1 << 16


@dataclass(slots=True, eq=False)
class Share:
    """What the endpoints of one weight get together.

    size: how many members it has now.
    due: when its next turn is, on the clock of its policy; while it has no members, what is left to wait.
    stride: clock time between two turns.
    """

    weight: int
    size: int = 0
    due: int = 1
    stride: int = 2


ShareT = TypeVar("ShareT", bound=Share)


def plan(known: Iterable[ShareT], planned: Iterable[ShareT], now: int) -> list[ShareT]:
    """Space the turns of all shares that have members, and return these; the clock starts again at 0.

    planned: what the plan before this one returned. now: the clock of that plan.
    """
    for share in planned:
        share.due -= now
    shares = [share for share in known if share.size]
    unit = lcm(*(share.weight * share.size for share in shares)) * _FINENESS
    for share in shares:
        stride = unit // (share.weight * share.size)
        share.due = max(1, -(-share.due * stride // share.stride))
        share.stride = stride
    return shares
