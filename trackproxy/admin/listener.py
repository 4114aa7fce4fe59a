"""Where tools and browsers reach the admin endpoint: one address or unix socket, which a reload may move.

A place that somebody has chosen must be there, or nothing is served. The place of the default may be another
program's: a warning says so then. An upgrade hands the sockets on, and systemd may have opened them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from trackproxy.admin.connections import BOUNDS, Bounds, Connections
from trackproxy.admin.unix_socket import Identity, Unavailable, identity_of, opened_path, remove_path, why
from trackproxy.admin_sections import Admin
from trackproxy.control.activation import is_theirs
from trackproxy.control.listeners import Hand, Place, Row, advice, open_alone, places_of
from trackproxy.errors import ListenError
from trackproxy.units import NOWHERE, Address

log = logging.getLogger(__name__)

SETTLE_S = 0.05  # for the requests of those who have just connected
END_S = 1.0  # for answers that are still on their way when all is over


@dataclass(slots=True, eq=False)
class Opened:
    """An address, and its open sockets. paths: of unix sockets of ours, and how to know them again."""

    address: Address
    sockets: dict[Place, socket.socket] = field(default_factory=dict)
    paths: dict[str, Identity] = field(default_factory=dict)

    def open(self, hand: Hand) -> None:
        """Open what HAND does not give; raises OSError or Unavailable, and what is open has to be closed."""
        for place in places_of(self.address):
            if handed := hand(place):
                self.sockets[place] = handed[0]
                if place.family == socket.AF_UNIX and not is_theirs(handed[0].fileno()):
                    self.paths[place.host] = identity_of(place.host)
            elif place.family == socket.AF_UNIX:
                self.sockets[place], self.paths[place.host] = opened_path(place.host)
            else:
                self.sockets[place] = open_alone(place)

    def close(self) -> None:
        """Let nobody connect any more; may be called again."""
        for path, identity in self.paths.items():
            remove_path(path, identity)
        for sock in self.sockets.values():
            sock.close()


class AdminListener:
    """Serves one application at the place that the settings name last.

    Call `prepare`, then, once all else of the settings serves, `move`; `discard` what is not moved to.
    """

    def __init__(self, application: web.Application, bounds: Bounds = BOUNDS) -> None:
        self._runner = web.AppRunner(application, shutdown_timeout=END_S)
        self._bounds = bounds
        self._connections: Connections | None = None
        self._servers: list[asyncio.Server] = []
        self._opened = Opened(NOWHERE)

    @property
    def addresses(self) -> list[str]:
        """Where it listens now."""
        return [str(Place.of(sock)) for sock in self._opened.sockets.values()]

    @property
    def rows(self) -> Mapping[Place, Row]:
        """Its sockets, for the next program."""
        return {place: [sock] for place, sock in self._opened.sockets.items()}

    def prepare(self, admin: Admin, hand: Hand = lambda place: []) -> Opened:
        """Return what is open at the place that ADMIN names; raises ListenError. HAND: see there."""
        if self._opened.address == admin.listen:
            return self._opened
        opened = Opened(admin.listen)
        if admin.listen == NOWHERE:
            return opened
        try:
            opened.open(hand)
        except (OSError, Unavailable) as error:
            opened.close()
            text = f"the admin endpoint cannot listen on {admin.listen}: {_advice(error, admin.listen)}"
            if admin.is_chosen:
                raise ListenError(text) from error
            log.warning('%s; or set admin.listen, "" is nowhere', text)
            return Opened(NOWHERE)
        return opened

    def discard(self, opened: Opened) -> None:
        """Close what `prepare` has returned, unless it is in use."""
        if opened is not self._opened:
            opened.close()

    async def move(self, opened: Opened) -> None:
        """Listen there from now on, and nowhere else; connections that are open go on."""
        if opened is self._opened:
            return
        self._pause()
        self._opened.close()
        self._opened = opened
        await self._accept()
        if opened.sockets:
            log.info("the admin endpoint is at %s", ", ".join(self.addresses))

    async def _accept(self) -> None:
        if self._runner.server is None:
            await self._runner.setup()
            assert self._runner.server is not None
            self._connections = Connections(self._runner.server, self._bounds)
        assert self._connections is not None
        loop = asyncio.get_running_loop()
        for place, sock in self._opened.sockets.items():
            create = loop.create_unix_server if place.family == socket.AF_UNIX else loop.create_server
            # Servers close what they are given; the socket itself may have to go on without one.
            self._servers.append(await create(self._connections, sock=sock.dup()))

    def _pause(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []

    @asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Answer what is open, then nothing inside this block; who connects meanwhile waits in the queue."""
        self._pause()
        await asyncio.sleep(SETTLE_S)
        await self._runner.cleanup()
        try:
            yield
        finally:
            await self._accept()

    async def close(self) -> None:
        """Listen nowhere, and end what is open."""
        self._pause()
        self._opened.close()
        self._opened = Opened(NOWHERE)
        await self._runner.cleanup()


def _advice(error: Exception, address: Address) -> str:
    return advice(error, address) if isinstance(error, OSError) else why(address.path, error)
