"""Waiting for the end of a drain, and showing what is left until then, and for how long."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from trackproxy.commands.client import Client
from trackproxy.commands.progress import Show

LOOK_S = 0.25
KINDS = {"requests": "request", "tunnels": "tunnel", "sessions": "session"}
LATE_S = 10.0  # after its deadline; a drain that has not ended by then never will


class End(IntEnum):
    """How waiting ended, as exit codes."""

    EMPTY = 0
    OTHERWISE = 1
    DEADLINE = 3
    INTERRUPTED = 130  # as shells say it of Ctrl-C


class Waiting:
    """Waits for the end of a drain. node: as it was seen last, by the admin API."""

    def __init__(self, client: Client, node: dict[str, Any], show: Show) -> None:
        """NODE: whose drain has begun."""
        self.node = node
        self._client = client
        self._show = show
        self._most = 0  # open at once since the drain began

    def wait(self) -> End:
        """Wait until the drain is over; raises Unreachable or Refused."""
        try:
            self._wait()
        except KeyboardInterrupt:
            self._show.end(f"not waiting any more; the drain of {self.node['name']} goes on")
            return End.INTERRUPTED
        return _end(self.node, self._show)

    def _wait(self) -> None:
        on_time = time.monotonic()
        while _is_under_way(self.node):
            seconds = self.node["drain"]["seconds_left"]
            on_time = time.monotonic() if seconds else on_time
            if time.monotonic() - on_time > LATE_S:
                break
            text = f"{self.node['name']}: {in_words(self.node['left'])} left, {seconds:.0f} s to go"
            self._show.progress(text, self._done())
            time.sleep(LOOK_S)  # the API tells when asked
            self.node = self._client.node(self.node["name"])

    def _done(self) -> float:
        """Return which part of what was open is over."""
        left = sum(self.node["left"][kind] for kind in KINDS)
        self._most = max(self._most, left)
        return 1 - left / self._most if self._most else 1.0


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
    counts = {thing: left[kind] for kind, thing in KINDS.items()}
    some = [f"{count} {thing}{'s' * (count != 1)}" for thing, count in counts.items() if count]
    return ", ".join(some) or "nothing"
