"""The admin endpoint as the settings in force have it: where it is reached, and who may ask there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from trackproxy.admin.api import application
from trackproxy.admin.guard import Guard
from trackproxy.admin.listener import AdminListener
from trackproxy.admin.present import Operated
from trackproxy.admin_sections import Admin
from trackproxy.control.listeners import Hand, Place, Row


class AdminEndpoint:
    """Listens nowhere until it is moved; whoever makes it closes it."""

    def __init__(self, operated: Operated, admin: Admin) -> None:
        self._guard = Guard(admin)
        self._listener = AdminListener(application(operated, self._guard.let_in))

    @property
    def rows(self) -> Mapping[Place, Row]:
        """Its sockets, for the next program."""
        return self._listener.rows

    @asynccontextmanager
    async def moving(self, admin: Admin, hand: Hand) -> AsyncIterator[None]:
        """Go to the place that ADMIN names, with its tokens, if this block succeeds; stay as it is otherwise.

        Raises ListenError. HAND: see there.
        """
        opened = self._listener.prepare(admin, hand)
        try:
            yield
        except BaseException:
            self._listener.discard(opened)
            raise
        self._guard.admin = admin
        await self._listener.move(opened)

    def resting(self) -> AbstractAsyncContextManager[None]:
        """Answer nothing inside this block, see `AdminListener.resting`."""
        return self._listener.resting()

    async def close(self) -> None:
        """Listen nowhere, and end what is open."""
        await self._listener.close()
