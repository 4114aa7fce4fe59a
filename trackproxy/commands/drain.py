"""Waiting for the end of a drain, and showing what is left until then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, TextIO

from trackproxy.commands.client import Client

LOOK_S = 0.25
LINE_S = 1.0  # from one line to the next where lines are not rewritten
LATE_S = 10.0  # after its deadline; a drain that has not ended by then never will


class End(IntEnum):
    """How waiting ended, as exit codes."""

    EMPTY = 0
    OTHERWISE = 1
    DEADLINE = 3
    INTERRUPTED = 130  # as shells say it of Ctrl-C


class Show:
    """Writes what is left: one line rewritten on a terminal, else a line each second."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._terminal = out.isatty()
        self._next = clock()

    def progress(self, text: str) -> None:
        """Show TEXT for now."""
        if self._terminal:
            self._write(f"\r{text}\x1b[K")
        elif self._clock() >= self._next:
            self._next = self._clock() + LINE_S
            self._write(text + "\n")

    def end(self, text: str) -> None:
        """Show TEXT for good."""
        self._write((f"\r{text}\x1b[K" if self._terminal else text) + "\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def wait(client: Client, node: dict[str, Any], show: Show) -> End:
    """Wait until the drain of NODE, which has begun, is over; raises Unreachable or Refused."""
    name = node["name"]
    try:
        return _wait(client, node, show)
    except KeyboardInterrupt:
        show.end(f"not waiting any more; the drain of {name} goes on")
        return End.INTERRUPTED


def _wait(client: Client, node: dict[str, Any], show: Show) -> End:
    on_time = time.monotonic()
    while _is_under_way(node):
        seconds = node["drain"]["seconds_left"]
        on_time = time.monotonic() if seconds else on_time
        if time.monotonic() - on_time > LATE_S:
            break
        show.progress(f"{node['name']}: {in_words(node['left'])} left, {seconds:.0f} s to go")
        time.sleep(LOOK_S)  # the API tells when asked
        node = client.node(node["name"])
    return _end(node, show)


def _is_under_way(node: dict[str, Any]) -> bool:
    return node["drain"] is not None and node["drain"]["outcome"] is None


def _end(node: dict[str, Any], show: Show) -> End:
    name, outcome = node["name"], node["drain"] and node["drain"]["outcome"]
    if outcome == "empty":
        show.end(f"{name} is empty, and disabled now")
        return End.EMPTY
    if outcome == "deadline":
        show.end(f"{name} is disabled now; what was still open at the deadline was ended")
        return End.DEADLINE
    show.end(f"the drain of {name} did not come to its end; the node is {node['state']} now")
    return End.OTHERWISE


def in_words(left: Mapping[str, int]) -> str:
    """Return how much is open: "1 request, 2 tunnels", "3 sessions"; what there is none of is left out."""
    counts = {"request": left["requests"], "tunnel": left["tunnels"], "session": left["sessions"]}
    some = [f"{count} {thing}{'s' * (count != 1)}" for thing, count in counts.items() if count]
    return ", ".join(some) or "nothing"
