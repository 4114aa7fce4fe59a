"""The queue of one service: requests for which every endpoint is full, oldest first, until there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trackproxy.pool.balancer import Room

if TYPE_CHECKING:
    from trackproxy.http.edge import Edge
    from trackproxy.http.heads import Request
    from trackproxy.http.service import Service


class Queue:
    """waiting: who waits, and for which client; while there is anybody, whoever makes room calls `wake`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._balancer = service.balancer
        self._settings = service.settings.queue
        self.waiting: dict[Request, Edge] = {}

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

    def leave_all(self) -> None:
        """Nobody is served any more, whatever room there will be."""
        for request in [*self.waiting]:
            self.leave(request)

    def wake(self) -> None:
        """Hand the room that there is now to those who wait."""
        while self._balancer.room is Room.FREE and self._wake_one():
            pass

    def _wake_one(self) -> bool:
        """Serve the first who waits and has not tried what is free; return whether there was one."""
        for request, edge in self.waiting.items():
            endpoint = self._balancer.take_other(edge.client, request.tried)
            if endpoint is not None:
                self.leave(request)
                edge.watch()
                self._service.send(edge, request, endpoint)
                return True
        return False

    def waited_too_long(self, edge: Edge, request: Request) -> None:
        self.leave(request)
        self._service.answer(edge, request, 503, "every node is busy")
