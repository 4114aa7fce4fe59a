"""What a worker knows of the services that it serves, whatever they speak."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence, Sized
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trackproxy.health.ejections import Ejections
    from trackproxy.pool.balancer import Balancer
    from trackproxy.pool.endpoints import Endpoint
    from trackproxy.settings import AnyService


class Listening(Protocol):
    """Clients are taken from a listener until this is closed; the socket stays open."""

    def close(self) -> None: ...


class Group(Protocol):
    """The endpoints of one service, or of some of its routes, in one process.

    waiting: who waits for room at an endpoint. refresh: makes states, and loads at other workers, known
    before a pick. alert: has the endpoint with this number on the board probed at once.
    """

    endpoints: list[Endpoint]
    balancer: Balancer
    ejections: Ejections
    alert: Callable[[int], None]
    refresh: Callable[[], None]

    @property
    def settings(self) -> AnyService: ...
    @property
    def waiting(self) -> Sized: ...

    def idle(self, endpoint: Endpoint) -> Sized:
        """Return the idle connections of an endpoint, as they change."""
        ...

    def wake(self) -> None:
        """There may be room now."""
        ...

    def follow(self) -> None:
        """States of nodes and endpoints have changed."""
        ...

    def move_from(self, endpoint: Endpoint) -> None:
        """ENDPOINT is down: what waits for its answer goes to another one, where that may be done."""
        ...

    def end(self, endpoint: Endpoint) -> None:
        """End what is left at ENDPOINT."""
        ...


class Route(Protocol):
    """One class of requests, as far as it is counted. cells: its row on the board, see `board.Traffic`."""

    cells: memoryview

    def count_in(self, cells: memoryview) -> None:
        """Count in CELLS from now on."""
        ...


class Served(Protocol):
    """One service in one process.

    open: connections of clients that are not over yet. on_open: called when a client comes.
    routes: in the order of the board, the one for the rest last.
    """

    name: str
    on_open: Callable[[], None]

    @property
    def routes(self) -> Sequence[Route]: ...
    @property
    def settings(self) -> AnyService: ...
    @property
    def groups(self) -> Sequence[Group]: ...
    @property
    def open(self) -> Collection[object]: ...
    @property
    def connections(self) -> int:
        """How many file descriptors the connections of both sides take."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether no client is connected or about to be."""
        ...

    async def listen(self, listener: socket.socket, *, tls: bool = False) -> Listening: ...

    def take(self, sock: socket.socket, peer: object = None, *, tls: bool = False) -> None:
        """Serve a client that was accepted already."""
        ...

    def drain(self, wait_s: float, on_end: Callable[[], None]) -> None:
        """Take no new clients; ON_END is called, perhaps more than once, when the last one is gone."""
        ...

    def abort(self) -> None:
        """End everything at once."""
        ...
