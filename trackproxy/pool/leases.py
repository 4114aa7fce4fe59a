"""Leases: how a limit on an endpoint is shared by workers that cannot ask each other.

For each worker there are three cells. Its lease is written by the supervisor: what the worker may have open.
Its claim is written by the worker: the larger of the lease that it has last read and of what it has open, so
what it may have open at most. Its want is written by the worker: what it has open and what waits for room.

Promise: the sum of max(lease, claim) over all workers never exceeds the limit, however late each side sees
the other's cells (one cell is never seen going back in time), so no locks are needed. The trick: a claim
answers a lease, and two rules keep the answers unambiguous.
- A lease is raised above all that its worker may hold, never up to it. So a claim that has reached the lease
  can only come from having read it.
- A lease is lowered only when its claim has reached it. So a worker never finds an old, larger lease after
  the supervisor has given the difference away. What was taken is free once the claim has come down too.

A worker lowers its own bound before it writes the lower claim. A worker that has died answers no more: when
it is over, the supervisor sets its cells to 0. If the limit itself is lowered, nothing is handed out until
enough has come back.
"""

from __future__ import annotations

from collections.abc import Sequence


def first_shares(limit: int, workers: int) -> list[int]:
    """Return the leases to start with, when nobody holds anything yet: an even split."""
    return _parts(limit, [limit] * workers, [0] * workers)


def share(
    limit: int,
    leases: Sequence[int],
    claims: Sequence[int],
    wants: Sequence[int],
    prefer: Sequence[int] | None = None,
) -> list[int]:
    """Return the next leases; call it again and again for as long as they change or anything is wanted.

    Each worker shall have its fair part of what is wanted (max-min: nobody gets more by others getting less
    than it), and what nobody wants is spread evenly on top, so that the next request finds room anywhere.
    prefer: who gets what does not divide, highest first; unless told otherwise, who has most already.
    Counts are plain here: a lease of 0 is no connection. Only running workers may be among them, since a
    raise is not taken back before it was answered.
    """
    aims, targets = _targets(limit, leases, wants, prefer or leases)
    held = [max(lease, claim) for lease, claim in zip(leases, claims, strict=True)]
    raised = held
    for wished in (aims, targets):  # who lacks what it wants comes before what is only handy
        raised = _raised(raised, wished, max(0, limit - sum(raised)))
    workers = zip(leases, claims, held, raised, targets, strict=True)
    return [
        after if after > before else min(lease, target) if claim >= lease else lease
        for lease, claim, before, after, target in workers
    ]


def _targets(
    limit: int, leases: Sequence[int], wants: Sequence[int], prefer: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the fair parts of what is wanted, and the same with the rest spread on top.

    What does not divide stays with who has it, so that targets rest when wants do.
    """
    aims = _parts(limit, wants, prefer)
    rest = limit - sum(aims)
    above = [lease - aim for lease, aim in zip(leases, aims, strict=True)]
    spare = _parts(rest, [rest] * len(aims), above)
    return aims, [aim + more for aim, more in zip(aims, spare, strict=True)]


def _raised(held: Sequence[int], aims: Sequence[int], free: int) -> list[int]:
    """Return what each holds after `free` was handed out to those who hold less than they should."""
    gaps = [max(0, aim - has) for aim, has in zip(aims, held, strict=True)]
    return [has + more for has, more in zip(held, _parts(free, gaps, gaps), strict=True)]


def _parts(amount: int, most: Sequence[int], prefer: Sequence[int]) -> list[int]:
    """Return the max-min fair parts of `amount`, none above its `most`; single ones go to the preferred."""
    left = amount
    level = 0
    among = len(most)
    for one in sorted(most):
        level = left // among
        if one > level:
            break
        left -= one
        among -= 1
    else:
        return list(most)
    parts = [min(one, level) for one in most]
    short = [index for index, one in enumerate(most) if one > level]
    short.sort(key=lambda index: -prefer[index])
    for index in short[: left - level * among]:
        parts[index] += 1
    return parts
