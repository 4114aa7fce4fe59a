"""Admission: limits on what one client, or all of a service together, may have, over all workers.

Each worker writes down in a table of its own who has how many sessions open there, and how many have begun in
this second; whoever admits one more adds the tables up. One writer per cell, so no locks. Promise: a limit is
never exceeded, since a worker writes first and looks then: of two that admit at the same moment at least one
sees the other, and takes its own back. (A reload begins with empty tables.)

A table is a hash table of buckets with a few slots each; a slot is three cells: the key of who is counted,
how many are open, and the second of the last beginnings together with their number. A key that finds its
bucket full of others is not counted: that takes thousands of clients at once, which is for the service's own
limit to bound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from trackproxy.board import CLIENTS

SLOTS = 4  # in a bucket
CELLS = 3  # in a slot
BUCKET = SLOTS * CELLS
BUCKETS = CLIENTS // BUCKET

_BEGUN = 1 << 20  # beginnings of one second that can be told apart
KEY, OPEN, RATE = range(CELLS)


@dataclass(frozen=True, slots=True)
class Quota:
    """What one key may have. most: sessions at once; rate: beginnings in a second; 0 is no limit."""

    most: int = 0
    rate: int = 0

    @property
    def limits(self) -> bool:
        """Whether there is any limit."""
        return bool(self.most or self.rate)


def key_of(service: str, client: str = "") -> int:
    """Return the key of a client of a service, or of the service itself: the same in every process."""
    digest = hashlib.blake2b(f"{service}\0{client}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1 or 1  # fits a cell, and is not 0, which is an empty slot


class Admission:
    """The tables of all workers as one of them sees them."""

    def __init__(self, own: memoryview, others: Sequence[memoryview] = ()) -> None:
        """OWN: the table that this worker writes. OTHERS: those that it reads."""
        self._own = own
        self._all = [own, *others]

    def admit(self, key: int, quota: Quota, now_s: int) -> bool | None:
        """Count one more session of KEY, if QUOTA allows; NOW_S: the present second, for all workers alike.

        True: call `leave` when the session is over. False: it is one too many. None: it may come, uncounted.
        """
        slot = self._slot(key, now_s)
        if slot is None:
            return None
        open_, rate = slot + OPEN, slot + RATE
        before = self._own[rate]
        self._own[open_] += 1
        self._own[rate] = before + 1 if before // _BEGUN == now_s else now_s * _BEGUN + 1
        many, begun = self._sums(key, now_s)
        if (quota.most and many > quota.most) or (quota.rate and begun > quota.rate):
            self._own[rate] = before
            self._own[open_] -= 1
            return False
        return True

    def leave(self, key: int) -> None:
        """End one session of KEY that was admitted here."""
        start = key % BUCKETS * BUCKET
        for slot in range(start, start + BUCKET, CELLS):
            if self._own[slot + KEY] == key and self._own[slot + OPEN] > 0:
                self._own[slot + OPEN] -= 1
                return

    def _slot(self, key: int, now_s: int) -> int | None:
        """Return where KEY is counted in our own table; a slot that counts nobody any more may be taken."""
        start = key % BUCKETS * BUCKET
        free = None
        for slot in range(start, start + BUCKET, CELLS):
            if self._own[slot + KEY] == key:
                return slot
            if free is None and not self._own[slot + OPEN] and self._own[slot + RATE] // _BEGUN != now_s:
                free = slot
        if free is not None:
            self._own[free + RATE] = 0
            self._own[free + KEY] = key
        return free

    def _sums(self, key: int, now_s: int) -> tuple[int, int]:
        """Return how many sessions of KEY are open everywhere, and how many have begun in this second."""
        many = begun = 0
        start = key % BUCKETS * BUCKET
        for table in self._all:
            cells = table[start : start + BUCKET].tolist()
            for slot in range(0, BUCKET, CELLS):
                if cells[slot + KEY] == key:
                    many += cells[slot + OPEN]
                    second, count = divmod(cells[slot + RATE], _BEGUN)
                    begun += count if second == now_s else 0
        return many, begun
