"""Where tools and browsers reach the admin endpoint: one TCP address or unix socket, which a reload may move.

A place that somebody has chosen must be there, or nothing is served. The place of the default may be another
program's: a warning says so then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass

from aiohttp import web

from trackproxy.admin.guard import SERVER_LOG
from trackproxy.admin.unix_socket import Unavailable, opened_path, remove_path, why
from trackproxy.admin_sections import Admin
from trackproxy.errors import ListenError
from trackproxy.units import NOWHERE, Address

log = logging.getLogger(__name__)

BACKLOG = 128
END_S = 1.0  # for answers that are still on their way when all is over


@dataclass(slots=True, eq=False)
class Place:
    """An open socket and the address that it stands for. identity: of its path, to know it again."""

    address: Address
    sock: socket.socket
    identity: tuple[int, int] = (0, 0)

    def close(self) -> None:
        """Let nobody connect any more; may be called again."""
        if self.address.path and self.sock.fileno() >= 0:
            remove_path(self.address.path, self.identity)
        self.sock.close()


class AdminListener:
    """Serves one application at the place that the settings name last.

    Call `prepare`, then, once all else of the settings serves, `move`; close what is not moved to.
    """

    def __init__(self, application: web.Application) -> None:
        self._runner = web.AppRunner(application, access_log=None, logger=SERVER_LOG, shutdown_timeout=END_S)
        self._server: asyncio.Server | None = None
        self._place: Place | None = None

    @property
    def address(self) -> str:
        """Where it listens now; empty if nowhere."""
        if self._place is None:
            return ""
        name = self._place.sock.getsockname()
        return str(Address(*name[:2])) if isinstance(name, tuple) else str(self._place.address)

    def prepare(self, admin: Admin) -> Place | None:
        """Return the place that ADMIN names, the present one if it is that; raises ListenError."""
        if self._place is not None and self._place.address == admin.listen:
            return self._place
        if admin.listen == NOWHERE:
            return None
        try:
            return _open(admin.listen)
        except (OSError, Unavailable) as error:
            text = f"the admin endpoint cannot listen on {admin.listen}: {_advice(error, admin.listen)}"
            if admin.is_chosen:
                raise ListenError(text) from error
            log.warning("%s", text)
            return None

    def discard(self, place: Place | None) -> None:
        """Close what `prepare` has returned, unless it is in use."""
        if place is not None and place is not self._place:
            place.close()

    async def move(self, place: Place | None) -> None:
        """Listen at PLACE from now on, and nowhere else; connections that are open go on."""
        if place is self._place:
            return
        self._leave()
        if place is None:
            return
        if self._runner.server is None:
            await self._runner.setup()
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if place.address.path else loop.create_server
        self._server = await create(self._runner.server, sock=place.sock)
        self._place = place
        log.info("the admin endpoint is at %s", self.address)

    def _leave(self) -> None:
        if self._server is not None and self._place is not None:
            self._place.close()  # first: the server closes the socket, whose path has to go too
            self._server.close()
        self._server = self._place = None

    async def close(self) -> None:
        """Listen nowhere, and end what is open."""
        self._leave()
        await self._runner.cleanup()


def _open(address: Address) -> Place:
    """Return a socket that listens; raises OSError or Unavailable."""
    if address.path:
        sock, identity = opened_path(address.path)
        return Place(address, sock, identity)
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, where = min(found, key=lambda one: one[0] != socket.AF_INET6 if not address.host else 0)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(address.host)))
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return Place(address, sock)


def _advice(error: Exception, address: Address) -> str:
    if not isinstance(error, OSError) or address.path:
        return why(address.path, error)
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return f'{reason}; set admin.listen to another address, or to ""'
