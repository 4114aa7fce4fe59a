"""Whose turn it is: what is served is changed by one at a time, and by nobody once a stop has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

from trackproxy.control.generations import Generations
from trackproxy.control.tasks import Tasks
from trackproxy.errors import StartFailed

T = TypeVar("T")

RELOAD, UPGRADE, CHANGE = BROKEN_OFF = ("reload", "upgrade", "change")  # tasks that a stop breaks off

OnlyIf = Callable[[], None]  # raises Outdated if a change is not to be made after all


class Turns:
    """Who changes something waits here for all who came before.

    stopping: set by the first signal to stop.
    """

    def __init__(self, generations: Generations, tasks: Tasks) -> None:
        self._generations = generations
        self._tasks = tasks
        self._lock = asyncio.Lock()
        self._upgrading = False
        self.stopping = asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Be the only one inside this block."""
        async with self._lock:
            yield

    @asynccontextmanager
    async def last(self) -> AsyncIterator[None]:
        """Refuse, inside this block, all who wait or come: another program has the next turn.

        For whoever has the turn.
        """
        self._upgrading = True
        self._lock.release()
        try:
            yield
        finally:
            await self._lock.acquire()
            self._upgrading = False

    @property
    def are_over(self) -> bool:
        """Whether we are on our way out."""
        begun = bool(self._generations.running)  # else the start has failed
        return self._upgrading or self.stopping.is_set() or not begun

    def must_go_on(self) -> None:
        """Raise StartFailed if we are on our way out."""
        if self._upgrading:
            raise StartFailed("an upgrade is under way; ask again when it is done")
        if self.are_over:
            raise StartFailed("this trackproxy is stopping")

    async def to_its_end(self, work: Coroutine[object, object, T], name: str) -> T:
        """Do WORK, even if the caller is cancelled; raises StartFailed if a stop breaks it off."""
        task = self._tasks.spawn(work, name)
        await asyncio.wait({task})
        if task.cancelled():
            raise StartFailed("a stop has come before the new workers served")
        return task.result()

    async def break_off(self) -> None:
        """End what is under way, and wait until it has undone what it had begun."""
        self._tasks.cancel(*BROKEN_OFF)
        async with self._lock:
            return
