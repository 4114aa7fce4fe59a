"""The queue of one group: requests for which every endpoint is full, oldest first, until there is room."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from trackproxy.access.names import End, Phase
from trackproxy.board import Counter, Traffic
from trackproxy.http.sticking import count_move
from trackproxy.pool.balancer import Room

if TYPE_CHECKING:
    from trackproxy.http.edge import Edge
    from trackproxy.http.group import Group
    from trackproxy.http.heads import Request
    from trackproxy.pool.endpoints import Endpoint


class Queue:
    """waiting: who waits, and for which client; while there is anybody, whoever makes room calls `wake`."""

    def __init__(self, group: Group) -> None:
        self._service = group.service
        self._balancer = group.balancer
        self._settings = group.settings.queue
        self.waiting: dict[Request, Edge] = {}
        self._wanting = 0  # of them, those that wait for a certain endpoint

    def wait(self, edge: Edge, request: Request) -> None:
        """Queue REQUEST, which has no endpoint, or answer that waiting is of no use."""
        if not self.may_find_room(request):
            if not request.outcomes:  # else the last failure is the reason
                request.fails(End.NO_NODE)
            self._service.answer(edge, request, 503, "no node is available", Traffic.REFUSED_NO_NODE)
        elif self.has_place:
            request.waiting = True
            request.began = request.began or monotonic()
            request.queue_s -= monotonic()
            edge.deadline = self._service.sweep.now + self._settings.timeout
            self.waiting[request] = edge
            self._wanting += request.wanted is not None
        else:
            request.fails(End.QUEUE_FULL, Phase.QUEUED)
            self._wait_no_longer(edge, request, Traffic.REFUSED_QUEUE_FULL)

    @property
    def has_place(self) -> bool:
        return len(self.waiting) < self._settings.size

    def may_find_room(self, request: Request) -> bool:
        """Whether an endpoint that REQUEST has not tried may have it, though full now."""
        if request.wanted is not None:
            return True
        full = [e for e in self._balancer.endpoints if self._balancer.counts(e) and not e.has_room]
        return any(endpoint not in request.tried for endpoint in full)

    def leave(self, request: Request) -> None:
        request.waiting = False
        request.queue_s += monotonic()
        del self.waiting[request]
        self._wanting -= request.wanted is not None
        request.wanted = None

    def leave_all(self) -> None:
        """Nobody is served any more, whatever room there will be."""
        for request in [*self.waiting]:
            self.leave(request)

    def wake(self) -> None:
        """Hand the room that there is now to those who wait."""
        while (self._balancer.room is Room.FREE or self._wanting) and self._wake_one():
            pass

    def _wake_one(self) -> bool:
        """Serve the first who waits and has not tried what is free; return whether there was one."""
        for request, edge in self.waiting.items():
            endpoint = self._take(request)
            if endpoint is not None:
                self.leave(request)
                edge.watch()
                self._send(edge, request, endpoint)
                return True
        return False

    def _take(self, request: Request) -> Endpoint | None:
        """Take an endpoint for REQUEST: its client's own one, for as long as that may have it."""
        own = request.owner
        if own is not None and own not in request.tried and self._balancer.may_claim(own):
            if self._balancer.claim(own):
                own.cells[Counter.STICKY_KEPT] += 1
                return own
            if own is request.wanted:
                return None
        return self._take_any(request)

    def _take_any(self, request: Request) -> Endpoint | None:
        endpoint = self._balancer.take_other(request.client, request.tried)
        if endpoint is not None:
            count_move(request, endpoint)
        return endpoint

    def waited_too_long(self, edge: Edge, request: Request) -> None:
        """No room was found for REQUEST in time."""
        self.leave(request)
        request.fails(End.QUEUE_TIMEOUT, Phase.QUEUED)
        self._wait_no_longer(edge, request, Traffic.REFUSED_QUEUE_TIMEOUT)

    def _wait_no_longer(self, edge: Edge, request: Request, cause: Traffic) -> None:
        """Without its own node a client may still be served by another one."""
        request.wanted = None
        endpoint = self._take_any(request)
        if endpoint is None:
            self._service.answer(edge, request, 503, "every node is busy", cause)
            return
        edge.watch()
        self._send(edge, request, endpoint)

    def _send(self, edge: Edge, request: Request, endpoint: Endpoint) -> None:
        if request.tried:
            request.route.second_tries.count(request, endpoint)
        self._service.send(edge, request, endpoint)
