"""Events as the supervisor keeps them: the last ones by number, and who follows what comes.

Numbers go on for as long as the process lives, over upgrades too; the events themselves are lost with one,
and a `start` or `upgrade` tells that there is another program. A follower that does not take its events is
ended: nobody waits for it, and what it may hold is bounded.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import islice

from trackproxy import telling
from trackproxy.control.views import Key
from trackproxy.health.looking import Result

KEPT = 1000
MOST_WAITING = 2 * KEPT  # for one follower: all that are kept, and as many new ones
MOST_FOLLOWERS = 64


class Numbered:
    """An event with its number; None for one that is not kept, such as a single probe's result."""

    def __init__(self, number: int | None, event: telling.Event) -> None:
        self.number = number
        self.tree: telling.Event = {"id": number, **event}

    @cached_property
    def line(self) -> bytes:
        """The event as JSON in one line; made once, for all followers."""
        return json.dumps(self.tree, ensure_ascii=False).encode()


class TooMany(Exception):
    """As many follow as may."""


class Follower:
    """Somebody who follows. over: nothing comes any more; too_slow: since too much was not taken.

    probes: whether single probes' results are wanted. wake: called when there is something to take, or over.
    gone: whether nobody is there any more.
    """

    def __init__(self, wake: Callable[[], None], gone: Callable[[], bool], *, probes: bool = False) -> None:
        self.wake = wake
        self.gone = gone
        self.probes = probes
        self.over = self.too_slow = False
        self._waiting: list[Numbered] = []

    def offer(self, *events: Numbered) -> None:
        """Have these events taken, or end it if that would be too many."""
        if len(self._waiting) + len(events) > MOST_WAITING:
            self.too_slow = True
            self._waiting = []
            self.end()
        elif not self.over:
            self._waiting += events
            self.wake()

    def end(self) -> None:
        """Say that nothing comes any more."""
        self.over = True
        self.wake()

    def take(self) -> list[Numbered]:
        """Return what has come since."""
        taken, self._waiting = self._waiting, []
        return taken


class Events:
    """The last events, oldest first, and those who follow. All of it is for the loop's thread."""

    def __init__(self) -> None:
        self.number = 0  # of the last one
        self._kept: deque[Numbered] = deque(maxlen=KEPT)
        self._followers: set[Follower] = set()
        self._closed = False

    def take(self, event: telling.Event) -> None:
        """Take an event that has just happened."""
        self.number += 1
        numbered = Numbered(self.number, event)
        self._kept.append(numbered)
        for follower in [*self._followers]:
            follower.offer(numbered)

    def take_report(self, line: bytes, origin: Mapping[str, int]) -> None:
        """Take what a worker has reported; ORIGIN: fields that say whose it is."""
        if (event := telling.read(line)) is not None:
            self.take({**event, **origin})

    def take_probe(self, key: Key, result: Result) -> None:
        """Take a single probe's result: it is for those who want such, and is not kept."""
        wanting = [follower for follower in self._followers if follower.probes]
        if not wanting:
            return
        probed = Numbered(None, _of_probe(key, result))
        for follower in wanting:
            follower.offer(probed)

    def last(self, count: int) -> list[Numbered]:
        """Return the last COUNT events that are kept, oldest first."""
        return [*islice(self._kept, max(len(self._kept) - count, 0), None)]

    def after(self, number: int) -> list[Numbered]:
        """Return what is kept of the events after NUMBER; all, if that is another process's."""
        return self.last(self.number - number if number <= self.number else KEPT)

    def follow(self, follower: Follower) -> None:
        """Offer FOLLOWER what comes from now on, until `leave`; raises TooMany."""
        if len(self._followers) >= MOST_FOLLOWERS:
            for other in [one for one in self._followers if one.gone()]:
                other.end()
                self.leave(other)
        if len(self._followers) >= MOST_FOLLOWERS:
            raise TooMany(f"{MOST_FOLLOWERS} follow the events already")
        self._followers.add(follower)
        if self._closed:
            follower.end()

    def leave(self, follower: Follower) -> None:
        """Offer it nothing more."""
        self._followers.discard(follower)

    def close(self) -> None:
        """Let all followers end once they have taken what there is."""
        self._closed = True
        for follower in self._followers:
            follower.end()


def _of_probe(key: Key, result: Result) -> telling.Event:
    word = "passed" if result.passed else "failed"
    return telling.event(
        time.time(),
        "info",
        "probe",
        f"{key.label}: node {key.node} ({key.address}): a probe has {word}: {result.reason}",
        {
            "node": key.node,
            "service": key.label,
            "address": key.address,
            "passed": result.passed,
            "reason": result.reason,
            "took_ms": round(result.took_s * 1000, 1),
        },
    )
