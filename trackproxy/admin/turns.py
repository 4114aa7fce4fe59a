"""What keeps the loop free for all else, however many ask: requests begin one by one, and answers that cost
much are found out once for all who wait for them, and for a share of the time at most.

Whoever asks is told what was found out after that, never something older; so no answer has to be forgotten
when anything changes. After each turn there is a rest that lasts RESTS times as long. Who asks seldom does
not feel it; of those who ask without end all wait, and get the same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from aiohttp import web

T = TypeVar("T")

RESTS = 4  # one fifth of the time is spent on answers at most


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class OneByOne:
    """Has the loop see to everything else between the beginnings of two requests.

    Else it would begin all that have come, one after the other, before it looked at anything again.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    @web.middleware
    async def begin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request once those before it have been begun."""
        async with self._turn:
            await asyncio.sleep(0)
        return await handler(request)


class Turns(Generic[T]):
    """One after the other; those who want the same of the next turn share it."""

    def __init__(self, find: Callable[[str], Awaitable[T]]) -> None:
        """FIND: called with what is wanted."""
        self._find = find
        self._coming: dict[str, asyncio.Task[T]] = {}
        self._turn = asyncio.Lock()
        self._rested = float("-inf")  # from when on, on the loop's clock

    async def next(self, wanted: str = "") -> T:
        """Return what is found out from now on; raises what `find` raises."""
        coming = self._coming.get(wanted)
        if coming is None:
            coming = asyncio.create_task(self._take(wanted), name=f"answer {wanted}")
            self._coming[wanted] = coming
        return await asyncio.shield(coming)  # it is others' as well

    async def _take(self, wanted: str) -> T:
        loop = asyncio.get_running_loop()
        async with self._turn:
            try:
                await asyncio.sleep(max(self._rested - loop.time(), 0.0))
            finally:
                del self._coming[wanted]  # who asks from here on may have changed something before
            started = loop.time()
            try:
                return await self._find(wanted)
            finally:
                self._rested = loop.time() + RESTS * (loop.time() - started)
