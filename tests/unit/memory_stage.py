"""A stage without sockets: a service, the beat of its worker, clients and nodes in memory."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from tests.unit.memory_transport import INET, FakeLoop, MemoryTransport, open_connection
from trackproxy.board import Board
from trackproxy.clock import Sweep
from trackproxy.http.channel import Channel
from trackproxy.http.edge import Edge
from trackproxy.http.service import Service
from trackproxy.http.upstream import Upstream
from trackproxy.http_sections import HttpService
from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.nodes import Node
from trackproxy.step import Step
from trackproxy.units import Address


def board_of(endpoints: int, workers: int, routes: int = 1) -> Board:
    """A board that goes with the last who holds it."""
    made = Board.create(endpoints, workers, routes)
    board = Board.open(made.fd)
    made.close()
    return board


class Stage:
    """One service with endpoints, in the first worker of a board, and the connections of a test.

    over: a drain has been told that all is over, and it was.
    """

    def __init__(self, nodes: int = 1, max_connections: int = 0, workers: int = 1, **settings: Any) -> None:
        self.loop = FakeLoop()
        self.sweep = Sweep(self.loop.time, 1.0)
        self.endpoints = [
            Endpoint(Node(f"node{n}"), Address("127.0.0.1", 8000 + n), max_connections=max_connections)
            for n in range(nodes)
        ]
        self.settings = HttpService.model_validate({"protocol": "http", "listen": [":8080"], **settings})
        self.board = board_of(nodes, workers, len(self.settings.all_routes) + 1)
        for index, endpoint in enumerate(self.endpoints):
            endpoint.index, endpoint.cells = index, self.board.counters(0, index)
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.service = Service("web", self.settings, {"": self.endpoints}, loop, self.sweep)
        self.step = Step(self.board, 0, [self.service])
        self.over = False

    def channel(self, number: int = 0) -> Channel:
        return self.service.groups[0].channels[self.endpoints[number]]

    def client(self, info: dict[str, Any] = INET) -> MemoryTransport:
        """Return a new connection of a client."""
        return open_connection(self.loop, Edge(self.service), info)

    def node(self, number: int = 0) -> MemoryTransport:
        """Return a connection to a node that waits for its first request."""
        upstream = Upstream(self.channel(number))
        transport = open_connection(self.loop, upstream, {})
        self.channel(number).park(upstream)
        return transport

    def run(self) -> None:
        self.loop.run()

    def beat(self) -> None:
        """The worker tells and follows the board."""
        self.step.take(self.loop.now_s)

    def drain(self, wait_s: float) -> None:
        self.service.drain(wait_s, self._look)

    def _look(self) -> None:
        self.over = self.over or self.service.is_over

    def after(self, seconds: float) -> None:
        """Let SECONDS go by, with ticks as often as they have to be, and a beat of the worker after each."""
        end = self.loop.now_s + seconds
        while self.loop.now_s < end:
            self.loop.now_s = min(self.loop.now_s + self.sweep.interval_s, end)
            self.sweep.tick()
            self.beat()
            self.loop.run()

    @property
    def active(self) -> list[int]:
        return [endpoint.active for endpoint in self.endpoints]

    def assert_at_rest(self) -> None:
        """Nothing is on its way, and nothing is kept but idle connections that can be used."""
        idle = [upstream for channel in self.service.groups[0].channels.values() for upstream in channel.idle]
        assert self.active == [0] * len(self.endpoints)
        assert not self.service.groups[0].waiting
        assert not self.service.open
        assert len(self.sweep) == len(idle)
        assert not any(upstream.transport.is_closing() for upstream in idle)
        self.service.abort()
        self.run()
        assert not len(self.sweep)
