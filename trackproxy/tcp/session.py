"""One client from its first byte to its last: find a node that greets, join both, and end in good order.

A session is always in one stage, and has one deadline that follows from it:

    stage     waits for                                     deadline
    WAITING   room that another worker is about to give     LEASE_S
    DIALLING  a node to take the connection and to greet    connect, then greeting_timeout
    JOINED    bytes, either way                             idle, half_closed after one side has ended
    LEAVING   the client to read what it was told           linger

In the first two, `greeting_deadline` holds too: the client is refused by then.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from trackproxy.access.names import End, Phase
from trackproxy.board import Counter, Traffic
from trackproxy.dialects import Reason
from trackproxy.health.outliers import Cause
from trackproxy.tcp.access import Story
from trackproxy.tcp.dial import Dial, Failed
from trackproxy.tcp.dialogue import Dialogue

if TYPE_CHECKING:
    from trackproxy.pool.endpoints import Endpoint
    from trackproxy.proxy_protocol import Peer
    from trackproxy.tcp.clients import Client, Joined
    from trackproxy.tcp.forwarder import Forwarder
    from trackproxy.tcp.way import Way

_REFUSALS = {
    Reason.UNAVAILABLE: End.NO_NODE,
    Reason.CROWDED: End.LIMITED,
    Reason.LEAVING: End.TAKEN_OUT,
    Reason.IDLE: End.IDLE,
}
LEASE_S = 1.0  # by then a worker that may give room away has done so, if it can


class Stage(Enum):
    """What a session is doing."""

    WAITING = "waiting for room"
    DIALLING = "looking for a node"
    JOINED = "joined with a node"
    LEAVING = "about to end"


class Session:
    """One session of a service.

    number: of the client's address, for policies. source, destination: whom nodes are told about.
    endpoint: where it is counted, if anywhere. tried: those that have failed it.
    failed_as: under what another try counts. waited: it has, for room.
    story: for the access log, if that is wanted.
    """

    __slots__ = (
        "_client",
        "_dial",
        "_forwarder",
        "_give_up",
        "_had_its_time",
        "_joined",
        "_kept",
        "_reported",
        "_started",
        "deadline",
        "destination",
        "endpoint",
        "failed_as",
        "number",
        "source",
        "stage",
        "story",
        "tried",
        "waited",
    )

    def __init__(
        self, forwarder: Forwarder, number: int, source: Peer | None, destination: Peer | None
    ) -> None:
        self.number = number
        self.source = source
        self.destination = destination
        self.endpoint: Endpoint | None = None
        self.tried: tuple[Endpoint, ...] = ()
        self.failed_as = Traffic.RETRIED_CONNECT
        self.waited = False
        self.stage = Stage.WAITING
        self.story = Story(source) if forwarder.access is not None else None
        now = forwarder.sweep.now
        self._forwarder = forwarder
        self._started = now
        self._give_up = now + forwarder.settings.greeting_deadline
        self.deadline = self._give_up
        self._dial: Dial | None = None
        self._joined: Joined | None = None
        self._reported = (0, 0)
        self._kept = False
        self._had_its_time = True  # a node whose time is over now is to blame, not those before it

    def begin(self, client: Client) -> None:
        """Look for a node for CLIENT, which ends with the session."""
        self._client = client
        self._forwarder.seek(self)

    @property
    def is_joined(self) -> bool:
        """Whether it is counted as a running session."""
        return self.stage is Stage.JOINED

    # --- before the greeting ---

    def wait(self) -> None:
        """There is room at a better endpoint, but other workers have it: it will come."""
        self.stage = Stage.WAITING
        self.waited = True
        if self.story is not None:
            self.story.waits()
        self.deadline = min(self._forwarder.sweep.now + LEASE_S, self._give_up)

    def dial(self, endpoint: Endpoint) -> None:
        """Try ENDPOINT, which was taken for this session."""
        forwarder = self._forwarder
        way = forwarder.ways[endpoint]
        self.stage = Stage.DIALLING
        self.endpoint = endpoint
        if self.story is not None:
            self.story.dials()
        header = forwarder.header(way, self)
        self._dial = dial = Dial(way, forwarder.dialect, header, self, forwarder.tools.poller)
        targets = way.targets()
        if targets:
            dial.start(targets)
        else:
            self.await_node(connected=False)
            forwarder.spawn(self._look_up(way, dial))

    async def _look_up(self, way: Way, dial: Dial) -> None:
        try:
            targets = await way.look_up()
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
            if self._dial is dial:
                detail = f"its name cannot be looked up: {error}"
                self.failed(dial, Failed(Cause.CONNECT, Counter.CONNECT_FAILURES, detail))
            return
        if self._dial is dial:
            dial.start(targets)

    def await_node(self, *, connected: bool) -> None:
        """A node has its time to take the connection, or, once it has, to greet."""
        settings = self._forwarder.settings
        wait_s = settings.greeting_timeout if connected else settings.timeouts.connect
        due = self._forwarder.sweep.now + wait_s
        self._had_its_time = due <= self._give_up
        self.deadline = min(due, self._give_up)

    def failed(self, dial: Dial, failure: Failed) -> None:
        """The endpoint has not taken the session: hold it against it, and try another one."""
        self._dial = None
        if self.story is not None:
            self.story.failed(self.endpoint, failure)
        self._forwarder.try_failed(self, failure)

    def move_on(self, failure: Failed) -> None:
        """The endpoint is known to be down now: do not wait for its greeting any longer."""
        if self._dial is not None:
            self._dial.abandon()
            self.failed(self._dial, failure)

    @property
    def may_try(self) -> bool:
        """Whether there is time for another endpoint."""
        return self._forwarder.sweep.now < self._give_up

    def refuse_at_once(self, client: Client, reason: Reason) -> None:
        """Send CLIENT away without looking for a node."""
        self._client = client
        self.refuse(reason)

    def refuse(self, reason: Reason) -> None:
        """No node takes this session: say so, in the protocol's own words."""
        self._ends(_REFUSALS[reason])
        self._leave()
        self._client.send_off(self._forwarder.line(reason))

    def client_gone(self) -> None:
        """The client has broken off before it was joined."""
        if self.stage is not Stage.LEAVING:
            self._ends(End.CLIENT_GONE)
            self._leave()
            self._client.drop()

    def _leave(self) -> None:
        """Give back whatever is held; the client is about to be told something, or closed."""
        if self._dial is not None:
            self._dial.abandon()
            self._dial = None
        self._forwarder.release(self)
        self.stage = Stage.LEAVING
        self.deadline = self._forwarder.sweep.now + self._forwarder.settings.timeouts.linger

    # --- joined ---

    def joined(self, dial: Dial, greeting: bytes) -> None:
        """The node has greeted: join it with the client."""
        forwarder = self._forwarder
        self._dial = None
        self.stage = Stage.JOINED
        self.waited = False
        forwarder.joined(self)
        if self.story is not None:
            self.story.joined(self.endpoint, dial)
        self.deadline = forwarder.sweep.now + forwarder.idle_s
        dialogue = Dialogue(forwarder.dialect) if greeting else None
        self._joined = joined = self._client.join(dial.sock, greeting, self, dialogue)
        if joined is not None:
            self._client.begin(joined, node_spoke=dial.spoke)

    def half_closed(self) -> None:
        """One side has ended; the other one may go on for a while."""
        self.deadline = self._forwarder.sweep.now + self._forwarder.settings.timeouts.half_closed

    def report(self) -> None:
        """Count the bytes that were passed on since the last time."""
        if self._joined is not None and self.endpoint is not None:
            up, down = self._joined.moved
            before, self._reported = self._reported, (up, down)
            if (up, down) != before:
                self._forwarder.ways[self.endpoint].moved(up - before[0], down - before[1])

    def keep(self) -> None:
        """It has lasted for a while: count what it has done, and watch over its connections."""
        if self._joined is not None and not self._kept:
            self._kept = True
            self._joined.keep_alive()
        self.report()

    # --- the end ---

    def over(self) -> None:
        """Everything of this session is closed."""
        self.report()
        self._tell()
        self._joined = None
        if self.endpoint is not None:
            self._forwarder.ways[self.endpoint].ended(self._forwarder.sweep.now - self._started)
        self._forwarder.release(self)
        self.stage = Stage.LEAVING
        self._forwarder.closed(self)
        del self._client  # it knows us, too

    def _tell(self) -> None:
        """Have the access log tell of it."""
        access, story, joined = self._forwarder.access, self.story, self._joined
        if access is None or story is None:
            return
        if joined is not None:
            story.moved = joined.moved
            if joined.lost:
                story.ends(End.CLIENT_GONE if joined.lost == "client" else End.NODE_LOST, Phase.RELAYING)
        access.over(story)

    def turned_away(self) -> None:
        """It is one too many, and its client gets not even a word."""
        self._ends(End.LIMITED)
        self._tell()

    def _ends(self, end: End) -> None:
        """Note why it is about to end."""
        if self.story is None:
            return
        access = self._forwarder.access
        if end is End.TAKEN_OUT and access is not None and access.stopping:
            end = End.SHUTDOWN
        self.story.ends(end, self._phase)

    @property
    def _phase(self) -> Phase | None:
        match self.stage:
            case Stage.WAITING:
                return Phase.QUEUED if self.waited else None
            case Stage.DIALLING:
                return Phase.WAITING if self._dial and self._dial.is_connected else Phase.CONNECTING
        return Phase.RELAYING

    def part(self, reason: Reason) -> None:
        """End a running session: with a farewell where that is certain to be understood."""
        self._ends(End.IDLE if reason is Reason.IDLE else End.TAKEN_OUT)
        joined = self._joined
        if joined is None:
            self.abort()
        elif joined.between_commands:
            self._client.part(self._forwarder.line(reason), joined)
        else:
            joined.abort()

    def abort(self) -> None:
        """End at once, whatever the session is doing."""
        if self._joined is not None:
            self._joined.abort()
        elif self.stage is Stage.LEAVING:
            self._client.expire()
        else:
            self._leave()
            self._client.drop()

    def expire(self) -> None:
        """The deadline has passed."""
        match self.stage:
            case Stage.WAITING if not self.may_try:
                self._ends(End.QUEUE_TIMEOUT)
                self._forwarder.give_up(self)
            case Stage.WAITING:
                self._forwarder.seek(self)
            case Stage.DIALLING if not self.may_try and not self._had_its_time:
                self._forwarder.give_up(self)
            case Stage.DIALLING:
                assert self._dial is not None
                self._dial.silent()
            case Stage.JOINED:
                self._expire_joined()
            case Stage.LEAVING:
                self._client.expire()

    def _expire_joined(self) -> None:
        joined, forwarder = self._joined, self._forwarder
        assert joined is not None
        idle_s = forwarder.settings.timeouts.half_closed if joined.half_closed else forwarder.idle_s
        due = joined.touched + idle_s
        if due > forwarder.sweep.now:
            self.deadline = due
        else:
            self.part(Reason.IDLE)
