"""Learned stickiness: which node has which of the sessions that nodes begin themselves, over all workers.

Each worker writes down in a table of its own which node it saw give out a session's id, or answer for it;
whoever has to find a session's node looks into the tables of all, and believes the newest entry. One writer
per cell, so no locks. Promise: a session is never mistaken for another. Its node is found until it was not
seen for the idle time, unless newer sessions have taken its place: a worker's table has room for 16384 of
them, one bucket of it for 8.

A table is a hash table of buckets with a few slots each; a slot is two cells: the session's key, and its
node's number together with when it was last seen, so that an entry moves at once. Only when a slot goes over
to another session do two cells change: its entry is emptied first and written last, and who has found an
entry looks at its key again.

Nodes are numbered by their names, so that a table means the same after a reload, wherever endpoints lie then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

from trackproxy.board import LEARNED

SLOTS = 8  # in a bucket
CELLS = 2  # in a slot
BUCKET = SLOTS * CELLS
BUCKETS = LEARNED // BUCKET
KEY, ENTRY = range(CELLS)

_SEEN = 32  # bits of the time in an entry; 31 bits of the node's number are before it
_TIMES = (1 << _SEEN) - 1
_FRESH = 10  # an entry is written again after this part of the idle time


def key_of(service: str, session_id: bytes) -> int:
    """Return the key of a session of a service: the same in every process."""
    digest = blake2b(b"%b\0%b" % (service.encode(), session_id), digest_size=8).digest()
    return int.from_bytes(digest) >> 1 or 1  # fits a cell, and is not 0, which is an empty slot


def number_of(node: str) -> int:
    """Return the number of the node of this name: 31 bits, the same in every process and configuration."""
    return int.from_bytes(blake2b(node.encode(), digest_size=4).digest()) >> 1


class Learned:
    """The tables of all workers as one of them sees them."""

    def __init__(self, own: memoryview, others: Sequence[memoryview], idle_s: int) -> None:
        """OWN: the table that this worker writes. OTHERS: those that it reads. IDLE_S: 0 is no limit."""
        self._own = own
        self._all = [own, *others]
        self._idle_s = idle_s or _TIMES
        self._fresh_s = idle_s / _FRESH

    def find(self, key: int, now_s: int) -> int | None:
        """Return the number of the node that has the session KEY at NOW_S, or None if that is not known.

        now_s: whole seconds of one clock for all workers and boards, more than 0 and less than 2^32.
        """
        newest = self._newest(key)
        return newest >> _SEEN if newest and now_s - (newest & _TIMES) <= self._idle_s else None

    def learn(self, key: int, node: int, now_s: int) -> None:
        """Write down that the node of number NODE has the session KEY at NOW_S (see `find`).

        Call it for each answer of the session: what any worker has written is written again only after a
        tenth of the idle time. In a full bucket the session that was not seen for longest gives way.
        """
        newest = self._newest(key)
        fresh = now_s - (newest & _TIMES) < self._fresh_s
        if newest and newest >> _SEEN != node:  # of two within one second the later one has to win everywhere
            now_s = max(now_s, (newest & _TIMES) + 1)
        elif newest and fresh:
            return
        _put(self._own, key, node << _SEEN | now_s)

    def _newest(self, key: int) -> int:
        """Return the newest entry of KEY, our own one of two that are equally new, 0 if there is none."""
        newest = 0
        for table in self._all:
            entry = _entry(table, key)
            if entry & _TIMES > newest & _TIMES:
                newest = entry
        return newest


def carry(source: Sequence[memoryview], target: memoryview) -> None:
    """Add what the tables SOURCE say to the table TARGET, which has no other writer yet.

    Of each session the newest entry is kept, and of each bucket the newest sessions. Whoever wrote the tables
    SOURCE may go on meanwhile; what is learned there later is not carried.
    """
    newest: dict[int, int] = {}
    for table in (*source, target):
        for key, entry in _entries(table):
            if entry & _TIMES > newest.get(key, 0) & _TIMES:
                newest[key] = entry
    for key, entry in sorted(newest.items(), key=_seen):
        _put(target, key, entry)


def _seen(item: tuple[int, int]) -> int:
    """Return when the session of a key and its entry was last seen."""
    return item[1] & _TIMES


def _entry(table: memoryview, key: int) -> int:
    """Return the entry of KEY in one table, 0 if there is none."""
    start = key % BUCKETS * BUCKET
    cells = table[start : start + BUCKET].tolist()
    keys = cells[::CELLS]
    if key not in keys:
        return 0
    slot = keys.index(key) * CELLS
    return cells[slot + ENTRY] if table[start + slot + KEY] == key else 0


def _entries(table: memoryview) -> Iterator[tuple[int, int]]:
    """Return each key and its entry, but for slots that go over to another key meanwhile."""
    keys, entries = table[KEY::CELLS], table[ENTRY::CELLS]
    for key, entry, again in zip(keys.tolist(), entries.tolist(), keys.tolist(), strict=True):
        if entry and key == again:
            yield key, entry


def _put(table: memoryview, key: int, entry: int) -> None:
    """Write the entry of KEY where it is, or over an empty slot or the oldest one of its bucket."""
    start = key % BUCKETS * BUCKET
    cells = table[start : start + BUCKET].tolist()
    keys, entries = cells[KEY::CELLS], cells[ENTRY::CELLS]
    if key in keys:
        table[start + keys.index(key) * CELLS + ENTRY] = entry
        return
    oldest = min(range(SLOTS), key=lambda slot: entries[slot] & _TIMES)  # an empty slot is oldest of all
    slot = start + oldest * CELLS
    table[slot + ENTRY] = 0
    table[slot + KEY] = key
    table[slot + ENTRY] = entry
