"""The access log of one NNTP, SMTP or TCP service: what is told of each session, at its end."""

from __future__ import annotations

import time
from random import random
from time import monotonic
from typing import TYPE_CHECKING

from trackproxy.access.lines import Value, make_style
from trackproxy.access.names import SESSION_FIELDS, USUAL_ENDS, End, Phase
from trackproxy.board import Counter
from trackproxy.health.outliers import Cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trackproxy.access.writer import Writer
    from trackproxy.pool.endpoints import Endpoint
    from trackproxy.proxy_protocol import Peer
    from trackproxy.sections import SessionAccessLog
    from trackproxy.tcp.dial import Dial, Failed

_ENDS = {
    Cause.CONNECT: (End.NODE_REFUSED, Phase.CONNECTING),
    Cause.LOST: (End.NODE_LOST, Phase.WAITING),
    Cause.SILENT: (End.NODE_SILENT, Phase.WAITING),
    Cause.STATUS: (End.NODE_ERROR, Phase.WAITING),
    Cause.MALFORMED: (End.NODE_MALFORMED, Phase.WAITING),
}


class Story:
    """What has happened to one session so far; moments are on the monotonic clock.

    endpoint: where it was joined. moved: bytes from the client, and from the node.
    """

    __slots__ = (
        "_waits_since",
        "began",
        "connect_s",
        "end",
        "endpoint",
        "greeting_s",
        "moved",
        "outcomes",
        "phase",
        "queue_s",
        "source",
        "tls",
    )

    def __init__(self, source: Peer | None) -> None:
        self.source = source
        self.began = monotonic()
        self.tls: Mapping[str, str] = {}
        self.queue_s = self.connect_s = self.greeting_s = 0.0
        self.outcomes: list[tuple[Endpoint, str]] = []
        self.endpoint: Endpoint | None = None
        self.moved = (0, 0)
        self.end = End.OK
        self.phase: Phase | None = None
        self._waits_since = 0.0

    def waits(self) -> None:
        """It waits for room."""
        self._waits_since = self._waits_since or monotonic()

    def dials(self) -> None:
        """A node is tried."""
        if self._waits_since:
            self.queue_s += monotonic() - self._waits_since
            self._waits_since = 0.0

    def failed(self, endpoint: Endpoint | None, failure: Failed) -> None:
        """A node has not taken it."""
        if failure.cause is not None:
            end, phase = _ENDS[failure.cause]
        else:
            end = End.NODE_DOWN if failure.counter is Counter.SILENT else End.TAKEN_OUT
            phase = Phase.WAITING
        self.end, self.phase = end, phase
        if endpoint is not None:
            self.outcomes.append((endpoint, end.value.removeprefix("node_")))

    def joined(self, endpoint: Endpoint | None, dial: Dial) -> None:
        """A node has greeted."""
        self.end, self.phase = End.OK, Phase.RELAYING
        self.endpoint = endpoint
        self.connect_s, self.greeting_s = dial.connect_s, dial.greeting_s

    def ends(self, end: End, phase: Phase | None) -> None:
        """It is about to end, for this reason if there was none before."""
        if self.end is End.OK:
            self.end, self.phase = end, phase


class SessionAccess:
    """Makes the lines of one service. stopping: what is open now is ended by us."""

    def __init__(self, service_name: str, settings: SessionAccessLog, writer: Writer) -> None:
        self.stopping = False
        self._service = service_name
        self._sample = settings.sample
        self._put = writer.put
        self._style = make_style(settings.format, settings.fields, SESSION_FIELDS)

    def over(self, story: Story) -> None:
        """A session is over."""
        if self._sample < 1 and story.end in USUAL_ENDS and random() >= self._sample:
            return
        now = monotonic()
        told: dict[str, Value] = {
            "time": story.began + time.time() - now,
            "service": self._service,
            "end": story.end.value,
            "bytes": story.moved[1],
            "bytes_in": story.moved[0],
            "total_ms": (now - story.began) * 1000,
            **story.tls,
        }
        if story.source is not None:
            told |= {"client": story.source[0], "client_port": story.source[1]}
        if story.phase is not None and story.end is not End.OK:
            told["phase"] = story.phase.value
        told |= _tries(story) | _times(story)
        self._put(self._style.line(told))


def _tries(story: Story) -> dict[str, Value]:
    tries = [*story.outcomes, *([(story.endpoint, "joined")] if story.endpoint else [])]
    if not tries:
        return {}
    last, outcome = tries[-1]
    told: dict[str, Value] = {"node": last.node.name, "address": str(last.address)}
    if len(tries) > 1 or outcome != "joined":
        told["tried"] = [f"{one.node.name}:{what}" for one, what in tries]
    if len(tries) > 1:
        told["retries"] = len(tries) - 1
    return told


def _times(story: Story) -> dict[str, Value]:
    times = {"queue_ms": story.queue_s, "connect_ms": story.connect_s, "greeting_ms": story.greeting_s}
    return {name: took_s * 1000 for name, took_s in times.items() if took_s}
