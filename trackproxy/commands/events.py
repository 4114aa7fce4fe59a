"""Events of a running trackproxy: the last ones, and as they happen, whatever becomes of the connection.

Who follows asks for what is kept before each stream, and goes on behind the event that came last. If that
one is not among them, the program has been replaced or much has happened: then all that is kept is new.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from trackproxy.commands.client import Client, Refused, Unreachable
from trackproxy.commands.event_stream import Event
from trackproxy.commands.figures import moment
from trackproxy.commands.terminal import PLAIN, RED, YELLOW, printable

KEPT = 1000  # by a trackproxy
RETRY_S = 1.0
COLOURS = {"warning": YELLOW, "error": RED}
PASSING = (408, 429, 500, 502, 503, 504)  # refusals that may be over soon


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are to be shown. last: of those that are kept; kinds: all if there are none."""

    last: int
    kinds: frozenset[str] = field(default_factory=frozenset)
    probes: bool = False

    def of(self, event: Event) -> bool:
        """Return whether an event is wanted."""
        return not self.kinds or event.get("kind") in self.kinds

    def last_of(self, events: Iterable[Event]) -> list[Event]:
        """Return the last ones that are wanted."""
        wanted = [event for event in events if self.of(event)]
        return wanted[max(len(wanted) - self.last, 0) :]


def line_of(event: Event, *, as_json: bool = False, colours: bool = False, dated: bool = True) -> str:
    """Return an event as a line. DATED: with the day, not just the time."""
    if as_json:
        return json.dumps(event)
    level = str(event.get("level", ""))
    at = moment(event["at"])
    text = f"{at if dated else at.partition(' ')[2]}  {level:<7}  {event['kind']!s:<14}  {event['text']}"
    colour = COLOURS.get(level) if colours else None
    return f"{colour}{printable(text)}{PLAIN}" if colour else printable(text)


class Following:
    """Shows events as they happen.

    show: takes each event that is wanted; tell: takes a sentence about the connection.
    """

    def __init__(
        self, client: Client, wanted: Wanted, show: Callable[[Event], None], tell: Callable[[str], None]
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._show = show
        self._tell = tell
        self._last: Event | None = None
        self._reached = False  # once at least
        self._lost = False

    def run(self) -> None:
        """Show what comes, for ever; raises Unreachable or Refused if that does not even begin."""
        while True:
            try:
                self._once()
                reason = "the stream has ended"
            except (Unreachable, Refused) as error:
                if not self._reached or (isinstance(error, Refused) and error.status not in PASSING):
                    raise
                reason = str(error)
            if not self._lost:
                self._tell(f"connection lost: {reason}; waiting for trackproxy to return")
            self._lost = True
            time.sleep(RETRY_S)

    def _once(self) -> None:
        kept = self._client.events(KEPT)["events"]
        new = self._new(kept)
        number = kept[-1]["id"] if kept else 0
        for event in self._client.follow(number, probes=self._wanted.probes):
            if event is not None:
                self._take(event)
                continue
            self._there()
            for one in new:
                self._take(one)
            self._last = kept[-1] if kept else None

    def _new(self, kept: list[Event]) -> list[Event]:
        if not self._reached:
            return self._wanted.last_of(kept)
        return kept[kept.index(self._last) + 1 :] if self._last in kept else kept

    def _there(self) -> None:
        if self._lost:
            self._tell("connected again")
        self._reached, self._lost = True, False

    def _take(self, event: Event) -> None:
        if event.get("id") is not None:
            self._last = event
        if self._wanted.of(event):
            self._show(event)
