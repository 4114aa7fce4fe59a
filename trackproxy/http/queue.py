"""The queue of one group: requests for which every endpoint is full, oldest first, until there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trackproxy.board import Counter
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
            self._service.answer(edge, request, 503, "no node is available")
        elif not self.has_place:
            self._service.answer(edge, request, 503, "every node is busy")
        else:
            request.waiting = True
            edge.deadline = self._service.sweep.now + self._settings.timeout
            self.waiting[request] = edge
            self._wanting += request.wanted is not None

    @property
    def has_place(self) -> bool:
        return len(self.waiting) < self._settings.size

    def may_find_room(self, request: Request) -> bool:
        """Whether an endpoint that REQUEST has not tried is eligible, though full now."""
        full = [e for e in self._balancer.endpoints if self._balancer.counts(e) and not e.has_room]
        return any(endpoint not in request.tried for endpoint in full)

    def leave(self, request: Request) -> None:
        request.waiting = False
        del self.waiting[request]
        self._wanting -= request.wanted is not None

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
                self._service.send(edge, request, endpoint)
                return True
        return False

    def _take(self, request: Request) -> Endpoint | None:
        """Take an endpoint for REQUEST: the one that its client belongs to, for as long as that may have it."""
        wanted = request.wanted
        if wanted is not None and self._balancer.may_claim(wanted):
            return wanted if self._balancer.claim(wanted) else None
        return self._balancer.take_other(request.client, request.tried)

    def waited_too_long(self, edge: Edge, request: Request) -> None:
        """Without its own node a client may still be served by another one."""
        self.leave(request)
        if request.wanted is not None:
            request.wanted.cells[Counter.MOVED_FULL] += 1
            request.wanted = None
            endpoint = self._balancer.take_other(request.client, request.tried)
            if endpoint is not None:
                edge.watch()
                self._service.send(edge, request, endpoint)
                return
        self._service.answer(edge, request, 503, "every node is busy")
