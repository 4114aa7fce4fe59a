"""Drains: nodes on their way out. One verb with an end: no new clients, then nothing, then disabled.

A drain ends when every worker has followed and nothing is open on the node any more, or at its deadline; what
is left then is closed, and requests that may be sent again go elsewhere. While sticky clients are kept they
may come back at any time: a node that has had any in this program's time is drained up to the deadline; so is
one whose drain is older than this program, where clients may have our cookie.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from trackproxy.control.cluster import Cluster
from trackproxy.control.tasks import Tasks
from trackproxy.pool.nodes import AdminState
from trackproxy.step import BEAT_S
from trackproxy.telling import tell

log = logging.getLogger(__name__)

LOOK_S = 4 * BEAT_S  # by then every worker that is not late has followed, and has told what it has

Sticky = Literal["keep", "move"]


@dataclass(slots=True, eq=False)
class Drain:
    """One node's way out.

    deadline: in the loop's seconds. sticky: whether clients that belong to the node keep coming to it until
    then, or move. outcome: how it ended, "empty", "deadline" or "ended otherwise"; None while it lasts.
    resumed: begun by an earlier program, whose clients nobody has counted.
    """

    node: str
    deadline: float
    sticky: Sticky
    resumed: bool = False
    outcome: str | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, outcome: str) -> None:
        """Note how it ended; whoever waits for `over` goes on."""
        if self.outcome is None:
            self.outcome = outcome
            self.over.set()


class Drains:
    """The drains that are under way, and how the last one of each node ended.

    on_disabled: called with a node whose drain has come to its end.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._spawn = Tasks().spawn
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.of: dict[str, Drain] = {}
        self.on_disabled: Callable[[str], object] = lambda node: None

    def begin(self, node: str, timeout_s: float, sticky: Sticky = "keep", *, resumed: bool = False) -> Drain:
        """Begin to drain NODE, or set another deadline; raises KeyError if there is no such node.

        One that is disabled has nothing left to drain. resumed: see Drain.
        """
        if self._cluster.states[node] is AdminState.DISABLED:
            drain = self.of[node] = Drain(node, asyncio.get_running_loop().time(), sticky)
            drain.end("empty")
            return drain
        self._cluster.set_moving(node, moving=sticky == "move")
        self._cluster.set_state(node, AdminState.DRAIN)
        self.forget(node)
        drain = self.of[node] = Drain(node, asyncio.get_running_loop().time() + timeout_s, sticky, resumed)
        text = "node %s: a drain has begun, which lasts %g s at most"
        tell(log, logging.INFO, "drain", text, node, timeout_s, node=node, state="begun", sticky=sticky)
        self._tasks[node] = self._spawn(self._carry_out(drain), f"drain of {node}")
        return drain

    def forget(self, node: str) -> None:
        """Somebody has decided otherwise."""
        if node in self._tasks:
            self._tasks.pop(node).cancel()
            self._end(self.of[node], "ended otherwise")

    def _end(self, drain: Drain, outcome: str, reason: str = "") -> None:
        """Note and tell how a drain ended; REASON: what was still open."""
        drain.end(outcome)
        level = logging.WARNING if reason else logging.INFO
        said = ("node %s: the drain has ended: %s%s", drain.node, outcome, reason and f": {reason}")
        fields = {"node": drain.node, "state": "ended", "outcome": outcome, "reason": reason or None}
        tell(log, level, "drain", *said, **fields)

    def under_way(self) -> list[tuple[str, float, Sticky]]:
        """Return node, seconds left and sticky of each drain that lasts; `begin` takes them."""
        return [(node, self.time_left(node) or 0.0, self.of[node].sticky) for node in self._tasks]

    def time_left(self, node: str) -> float | None:
        """Return the seconds until the drain of NODE ends; None if there is none."""
        drain = self.of.get(node)
        if drain is None or drain.outcome is not None:
            return None
        return max(drain.deadline - asyncio.get_running_loop().time(), 0.0)

    async def _carry_out(self, drain: Drain) -> None:
        time, node = asyncio.get_running_loop().time, drain.node
        heard = self._cluster.heard()
        while True:
            await asyncio.sleep(min(LOOK_S, max(drain.deadline - time(), 0.0)))
            if self._cluster.states.get(node) is not AdminState.DRAIN:  # a reload has dropped the node
                del self._tasks[node]
                self._end(drain, "ended otherwise")
                return
            if not self._cluster.views:  # a stop has ended all workers: the next program goes on with it
                del self._tasks[node]
                return
            followed = heard()  # before we look: what a worker tells is complete then
            left = self._cluster.left([node])[node]
            open_ = left["requests"] + left["tunnels"] + left["sessions"]
            waits = drain.sticky == "keep" and self._cluster.has_sticky_clients(node, ever=drain.resumed)
            if (not open_ and not waits and followed) or time() >= drain.deadline:
                break
        self._cluster.set_state(node, AdminState.DISABLED)
        self._cluster.end(node)
        del self._tasks[node]
        self._end(drain, "deadline" if open_ else "empty", _still_open(left) if open_ else "")
        self.on_disabled(node)


def _still_open(left: Mapping[str, int]) -> str:
    return (
        f"{left['requests']} requests, {left['tunnels']} tunnels, {left['sessions']} sessions were still open"
    )
