"""Sticking at its edges: causes of moves, networks of clients, answers for caches, and waits."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.memory_stage import Stage
from tests.unit.memory_transport import MemoryTransport
from trackproxy.board import Counter
from trackproxy.http.edge import Edge
from trackproxy.http.heads import Request
from trackproxy.http.sticking import _UNSHARED, BySource, count_move
from trackproxy.pool.endpoints import Endpoint, Health
from trackproxy.pool.nodes import AdminState, Node
from trackproxy.pool.stickiness import Tokens
from trackproxy.units import Address

SECRET = "the secret of these tests"
STICKY: dict[str, Any] = {"mode": "cookie", "secrets": [SECRET]}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def sticky_stage(nodes: int = 2, **more: Any) -> Stage:
    return Stage(nodes, sticky=STICKY, **more)


def asking(number: int) -> bytes:
    """A request of a client that belongs to node<number>."""
    value = Tokens([SECRET], [f"node{number}"], 0, 0).make(f"node{number}", int(time.time()))
    return b"GET / HTTP/1.1\r\nHost: a\r\nCookie: TPNODE=%b\r\n\r\n" % value


def moves(endpoint: Endpoint) -> dict[str, int]:
    causes = range(Counter.MOVED_DRAIN, Counter.MOVED_FAILED + 1)
    return {Counter(cause).name: endpoint.cells[cause] for cause in causes if endpoint.cells[cause]}


# --- causes ---


def endpoint_of(**state: Any) -> Endpoint:
    node = Node("own", state.pop("node", AdminState.READY))
    return Endpoint(node, Address("127.0.0.1", 80), **state)


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ({"node": AdminState.DISABLED}, "MOVED_DISABLED"),
        ({"node": AdminState.DISABLED, "health": Health.DOWN}, "MOVED_DISABLED"),
        ({"weight": 0}, "MOVED_DISABLED"),
        ({"health": Health.DOWN}, "MOVED_DOWN"),
        ({"ejected": True}, "MOVED_DOWN"),
        ({"health": Health.DOWN, "node": AdminState.DRAIN}, "MOVED_DOWN"),
        ({"node": AdminState.DRAIN}, "MOVED_DRAIN"),
        ({"max_connections": 1, "active": 1}, "MOVED_FULL"),
    ],
)
def test_a_move_is_counted_under_what_weighs_most(state: dict[str, Any], cause: str) -> None:
    own = endpoint_of(**state)
    request = cast(Request, SimpleNamespace(owner=own, tried=()))
    count_move(request, endpoint_of())
    assert moves(own) == {cause: 1}


@pytest.mark.parametrize("reason", ["none", "same", "tried"])
def test_what_is_no_move_or_counted_later_is_not_counted(reason: str) -> None:
    own = endpoint_of(weight=0)
    tried = (own,) if reason == "tried" else ()
    request = cast(Request, SimpleNamespace(owner=None if reason == "none" else own, tried=tried))
    count_move(request, own if reason == "same" else endpoint_of())
    assert moves(own) == {}


# --- caches ---


@pytest.mark.parametrize(
    ("lines", "unshared"),
    [
        (b"Cache-Control: private\r\n", True),
        (b"cache-control:private\r\n", True),
        (b"Cache-Control: no-store, max-age=0\r\n", True),
        (b"Cache-Control: max-age=0 ,\tNO-STORE\t\r\n", True),
        (b"A: 1\r\nCache-Control: public\r\nCache-Control: private\r\nB: 2\r\n", True),
        (b"Cache-Control: public\r\nA: private\r\n", False),
        (b"X-Cache-Control: private\r\n", False),
        (b'Cache-Control: private="a"\r\n', False),
        (b"Cache-Control: privately, no-stored\r\n", False),
        (b"Location: /a,private,\r\n", False),
        (b"", False),
    ],
)
def test_only_cache_control_says_that_caches_keep_nothing(lines: bytes, unshared: bool) -> None:
    assert bool(_UNSHARED.search(b"HTTP/1.1 200 private\r\n" + lines)) is unshared


# --- networks ---


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (0xC6336401, 0xC63364FF, True),
        (0xC6336401, 0xC6336501, False),
        (0x20010DB8_00000100 << 64, (0x20010DB8_000001FF << 64) + 77, True),
        (0x20010DB8_00000100 << 64, 0x20010DB8_00000200 << 64, False),
    ],
    ids=["/24", "other /24", "/56", "other /56"],
)
def test_clients_of_one_network_are_one_client(one: int, other: int, same: bool) -> None:
    stage = Stage(2, sticky={"mode": "source_hash"})
    sticking = stage.service.routes[-1].sticking
    assert isinstance(sticking, BySource)
    seen = []
    for client in (one, other):
        request = cast(Request, SimpleNamespace(client=client))
        assert sticking.find(cast(Edge, SimpleNamespace(client=client)), request) is None
        seen.append(request.client)
    assert (seen[0] == seen[1]) is same


# --- waits ---


def own_waits(stage: Stage) -> tuple[MemoryTransport, MemoryTransport, MemoryTransport]:
    """A client that waits for node0, which serves another one: both clients, and the node's connection."""
    node = stage.node(0)
    first, second = stage.client(), stage.client()
    first.receive(asking(0))
    second.receive(asking(0))
    assert node.taken().startswith(b"GET / ")
    assert second.taken() == b""
    assert len(stage.service.groups[0].waiting) == 1
    return first, second, node


def test_a_wait_for_a_node_lasts_as_long_as_the_queue_says() -> None:
    stage = sticky_stage(max_connections=1, queue={"timeout": "5s"})
    first, second, _ = own_waits(stage)
    other = stage.node(1)
    stage.after(4.5)
    assert other.taken() == b""
    stage.after(1.5)
    assert other.taken().startswith(b"GET / ")
    other.receive(OK)
    assert b"Set-Cookie: TPNODE=" in second.taken()
    assert moves(stage.endpoints[0]) == {"MOVED_FULL": 1}
    assert stage.active == [1, 0]
    first.lose()
    second.lose()
    stage.run()
    stage.assert_at_rest()


def test_room_elsewhere_does_not_move_a_client_that_waits_for_its_node() -> None:
    stage = sticky_stage(max_connections=1)
    first, second, node = own_waits(stage)
    other = stage.node(1)
    third = stage.client()
    third.receive(asking(1))
    assert other.taken().startswith(b"GET / ")
    other.receive(OK)
    assert third.taken() == OK
    assert second.taken() == b""
    node.receive(OK)
    assert node.taken().startswith(b"GET / ")
    node.receive(OK)
    assert (first.taken(), second.taken()) == (OK, OK)
    for client in (first, second, third):
        client.lose()
    stage.run()
    stage.assert_at_rest()


def test_a_client_whose_node_comes_back_while_all_are_full_gets_its_own_first() -> None:
    stage = sticky_stage(max_connections=1, panic_threshold=0)
    group = stage.service.groups[0]
    group.balancer.set_health(stage.endpoints[0], Health.DOWN)
    other = stage.node(1)
    first, second = stage.client(), stage.client()
    first.receive(asking(1))
    second.receive(asking(0))
    assert moves(stage.endpoints[0]) == {}
    node = stage.node(0)
    group.balancer.set_health(stage.endpoints[0], Health.UP)
    group.follow()
    assert node.taken().startswith(b"GET / ")
    node.receive(OK)
    other.receive(OK)
    assert (first.taken(), second.taken()) == (OK, OK)
    assert moves(stage.endpoints[0]) == {}
    for client in (first, second):
        client.lose()
    stage.run()
    stage.assert_at_rest()


class Storm:
    """Clients come, wait and leave, nodes answer, break, fill, drain, fall and rise, in any order."""

    QUEUE = 4

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.stage = sticky_stage(
            3,
            max_connections=2,
            queue={"size": self.QUEUE, "timeout": "3s"},
            panic_threshold=0,
            outliers={"failures": 0},
        )
        self.group = self.stage.service.groups[0]
        self.clients: list[MemoryTransport] = []

    def step(self) -> None:
        deeds = [self.come, self.come, self.leave, self.answer, self.answer, self.decide, self.wait]
        self.chance.choice(deeds)()
        self.stage.run()

    def come(self) -> None:
        self.clients.append(self.stage.client())
        self.clients[-1].receive(asking(self.chance.choice([0, 0, 1, 2, 9])))

    def leave(self) -> None:
        if self.clients:
            self.clients.pop(self.chance.randrange(len(self.clients))).lose()

    def wait(self) -> None:
        self.stage.after(0.5)

    def answer(self) -> None:
        for node in [node for node in self.stage.loop.connected if not node.end and node.taken()]:
            if self.chance.random() < 0.3:
                node.receive_eof()
            else:
                node.receive(OK)

    def decide(self) -> None:
        endpoint, balancer = self.chance.choice(self.stage.endpoints), self.group.balancer
        match self.chance.randrange(4):
            case 0:
                endpoint.node.keeps = self.chance.random() < 0.5
                balancer.set_state(endpoint.node.name, self.chance.choice([*AdminState]))
            case 1:
                balancer.set_health(endpoint, self.chance.choice([*Health]))
            case 2:
                balancer.set_limit(endpoint, self.chance.choice([-1, 1, 2, 3]))
            case _:
                self.group.end(endpoint)
        self.group.follow()

    def check(self) -> None:
        """Each request is at one endpoint or waits, and what is counted is what there is."""
        edges = [edge for edge in self.stage.service.open if isinstance(edge, Edge)]
        requests = [edge.request for edge in edges if edge.request is not None]
        waiting = {request for request in requests if request.waiting}
        assert waiting == set(self.group.waiting)
        assert len(waiting) <= self.QUEUE
        assert self.group.queue._wanting == sum(request.wanted is not None for request in waiting)
        assert all((request.endpoint is None) is request.waiting for request in requests)
        at = [request.endpoint for request in requests]
        assert self.stage.active == [at.count(endpoint) for endpoint in self.stage.endpoints]
        free = [e for e in self.stage.endpoints if self.group.balancer.counts(e) and e.has_room]
        assert not any(request.wanted in free for request in waiting)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_to_nodes_and_clients_every_place_comes_back(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(120):
        storm.step()
        storm.check()
    for client in storm.clients:
        client.lose()
    storm.stage.run()
    assert not storm.group.waiting
    assert storm.stage.active == [0, 0, 0]
    assert not storm.stage.service.open
