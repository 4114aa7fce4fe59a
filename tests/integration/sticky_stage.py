"""Browsers with a cookie, and nodes that say who they are: what the tests of routes and stickiness share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.integration.conftest import Stage
from tests.integration.messages import Message, answer, request
from tests.integration.nodes import Exchange, Node, Script, answering
from tests.integration.wire import Wire
from trackproxy.board import Board, Counter, State, Traffic
from trackproxy.http.cookies import parameter
from trackproxy.http.group import Group
from trackproxy.http.service import Service
from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.nodes import AdminState
from trackproxy.pool.stickiness import Tokens
from trackproxy.worker import Worker

SECRET, OLDER = "the secret that signs now", "the secret that has signed before"
STICKY: dict[str, Any] = {"mode": "cookie", "secrets": [SECRET]}
ANYBODY = {"failures": 0}  # nobody is left out for what live traffic says


def naming(name: str, *fields: str, status: str = "200 OK") -> Script:
    """Answer everything with a name."""
    return answering(answer(*fields, body=name.encode(), status=status))


def gated(name: str, gate: asyncio.Semaphore) -> Script:
    """The same, but to "/slow" only when the gate lets it."""

    async def script(exchange: Exchange) -> None:
        while True:
            if (await exchange.request()).target == b"/slow":
                await gate.acquire()
            await exchange.send(answer(body=name.encode()))

    return script


def keeping_sessions(name: str, sessions: set[bytes], *, error: str = "") -> Script:
    """As servers of Java do: who brings no session of this node's gets a new one, by a cookie and a redirect.

    The answer says whose it is, and whether the session was known.
    """

    async def script(exchange: Exchange) -> None:
        while True:
            message = await exchange.request()
            cookie = b"".join(message.values("Cookie")).partition(b"JSESSIONID=")[2].partition(b";")[0]
            asked = parameter(message.target, b"sid") or parameter(message.target, b"jsessionid") or cookie
            if asked in sessions:
                await exchange.send(answer(body=f"{name} knows".encode(), status=error or "200 OK"))
                continue
            session = f"{name}-{len(sessions)}"
            sessions.add(session.encode())
            fields = [
                f"Set-Cookie: JSESSIONID={session}; Path=/",
                f"Location: /next;jsessionid={session}?a=1",
            ]
            await exchange.send(answer(*fields, status="302 Found", body=name.encode()))

    return script


def token(node: str, ago_s: int = 0, started_ago_s: int | None = None, secret: str = SECRET) -> bytes:
    """A cookie's value that was made so long ago for a client that had come so long ago."""
    now_s = int(time.time())
    started_s = now_s - (ago_s if started_ago_s is None else started_ago_s)
    return Tokens([secret], [node], 0, 0).make(node, now_s - ago_s, started_s)


def named_in(value: bytes, *nodes: str) -> str:
    """Whose token this is."""
    found = Tokens([SECRET], nodes or ("n1", "n2", "n3"), 0, 0).read(value, int(time.time()))
    return getattr(found, "node", str(found))


def cookie_in(reply: Message, name: str = "TPNODE") -> bytes | None:
    """The value that an answer gives the cookie of stickiness, if it does."""
    start = name.encode() + b"="
    values = [value for value in reply.values("Set-Cookie") if value.startswith(start)]
    assert len(values) <= 1, values
    return values[0].partition(b"=")[2].partition(b";")[0] if values else None


@dataclass(slots=True, eq=False)
class Browser:
    """A client that keeps its cookie. node: who answered last. renewed: the last answer gave it a cookie."""

    wire: Wire
    cookie: bytes | None = None
    name: str = "TPNODE"
    renewed: bool = False
    node: str = ""
    replies: list[Message] = field(default_factory=list)

    async def send(self, target: str = "/", *fields: str | bytes, **how: Any) -> None:
        if self.cookie is not None:
            fields = (b"Cookie: %b=%b" % (self.name.encode(), self.cookie), *fields)
        await self.wire.send(request(target, *fields, **how))

    async def read(self, method: str = "GET") -> Message:
        reply = await self.wire.answer(method.encode())
        given = cookie_in(reply, self.name)
        self.renewed = given is not None
        self.cookie = given or self.cookie
        self.node = reply.body.decode()
        self.replies.append(reply)
        return reply

    async def get(self, target: str = "/", *fields: str | bytes, method: str = "GET", **how: Any) -> Message:
        await self.send(target, *fields, method=method, **how)
        return await self.read(method)


class Cluster:
    """Nodes n1, n2, … behind the proxy that was started last."""

    def __init__(self, stage: Stage, nodes: list[Node], address: str) -> None:
        self.stage = stage
        self.nodes = nodes
        self.address = address
        self.worker: Worker = stage.workers[-1]

    async def browser(self, cookie: bytes | None = None, name: str = "TPNODE") -> Browser:
        return Browser(await self.stage.connect(self.address), cookie, name)

    @property
    def service(self) -> Service:
        service = self.worker.services["web"]
        assert isinstance(service, Service)
        return service

    @property
    def group(self) -> Group:
        """That of what no route has for itself."""
        return self.service.routes[-1].group

    def endpoint(self, node: str) -> Endpoint:
        return next(endpoint for endpoint in self.group.endpoints if endpoint.node.name == node)

    def set_state(self, node: str, state: AdminState, *, keeps: bool = True) -> None:
        """What the worker does when an operator has decided."""
        for group in self.service.groups:
            for endpoint in group.endpoints:
                if endpoint.node.name == node:
                    endpoint.node.keeps = keeps
            group.balancer.set_state(node, state)
            group.follow()

    def counted(self, node: str, *counters: Counter) -> list[int]:
        return [self.endpoint(node).cells[counter] for counter in counters]

    def moved(self, node: str) -> dict[str, int]:
        """Why clients have left a node, by cause."""
        cells = self.endpoint(node).cells
        causes = range(Counter.MOVED_DRAIN, Counter.MOVED_FAILED + 1)
        return {Counter(cause).name: cells[cause] for cause in causes if cells[cause]}

    def flaws(self) -> dict[str, int]:
        """What was wrong with cookies."""
        flaws = (Traffic.STICKY_FORGED, Traffic.STICKY_EXPIRED, Traffic.STICKY_UNKNOWN)
        counted = {flaw.name: sum(route.cells[flaw] for route in self.service.routes) for flaw in flaws}
        return {name: count for name, count in counted.items() if count}


async def cluster(
    stage: Stage, nodes: int | Sequence[Script | None] = 2, *, sticky: Any = None, **service: Any
) -> Cluster:
    """Start nodes that say who they are (or follow scripts), and a proxy with our cookie before them."""
    scripts = [None] * nodes if isinstance(nodes, int) else list(nodes)
    started = [
        await stage.start_node(script or naming(f"n{number}")) for number, script in enumerate(scripts, 1)
    ]
    sticky = STICKY if sticky is None else sticky
    return Cluster(stage, started, await stage.start_proxy(started, sticky=sticky, **service))


def shared_board(endpoints: int, workers: int = 1, routes: int = 8) -> Board:
    """A board whose supervisor is the test, with as many routes as any test has, or more."""
    made = Board.create(endpoints, workers, routes)
    board = Board.open(made.fd)
    made.close()
    for cell in range(endpoints):
        board.state(cell)[State.WEIGHT] = 1
    board.publish()
    return board
