"""The database for the event loop: its changes are made one after the other, in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from trackproxy.control.database import Database
from trackproxy.control.overrides import Added, Id, Override, Resolved, Row

T = TypeVar("T")


class Store:
    """A database whose changes are made one after the other, in one thread.

    A caller that is cancelled stops to wait and nothing else: what was asked for is done, in its turn.
    Before the process becomes another program, and at the end, wait for `settled`; `close` ends the thread.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, "database")

    @classmethod
    async def open(cls, folder: Path, *, taken: bool = False) -> Store:
        """See `Database.open`."""
        return cls(await asyncio.to_thread(partial(Database.open, folder, taken=taken)))

    @property
    def writable(self) -> bool:
        return self._database.writable

    def find(self, id_: Id) -> Row | None:
        """Return one row, None if there is none; changes that are awaited are not made yet."""
        return self._database.find(id_)

    def overrides(self) -> list[Override]:
        """Return the values set at run time, changes that are awaited not among them."""
        return self._database.overrides()

    def nodes(self) -> list[Added]:
        """Return the nodes added at run time, changes that are awaited not among them."""
        return self._database.nodes()

    async def put(self, scope: str, key: str, value: Any, configured: Any, who: str, now: float) -> None:
        """See Database."""
        await self._do(partial(self._database.put, scope, key, value, configured, who, now))

    async def drop(self, scope: str, key: str) -> None:
        """See Database."""
        await self._do(partial(self._database.drop, scope, key))

    async def effective(self, scope: str, key: str, configured: Any) -> Resolved:
        """See Database."""
        return await self._do(partial(self._database.effective, scope, key, configured))

    async def change(self, changes: Mapping[Id, Row | None]) -> None:
        """See Database."""
        await self._do(partial(self._database.change, changes))

    async def add_node(self, node: Added) -> None:
        """See Database."""
        await self._do(partial(self._database.add_node, node))

    async def remove_node(self, name: str) -> None:
        """See Database."""
        await self._do(partial(self._database.remove_node, name))

    async def forget(self, outdated: Iterable[Row], lines: Iterable[str]) -> None:
        """See Database."""
        await self._do(partial(self._database.forget, outdated, lines))

    async def keep(self) -> None:
        """See Database."""
        await self._do(self._database.keep)

    async def settled(self) -> None:
        """Wait until everything that was asked for is done."""
        await self._do(lambda: None)

    async def close(self) -> None:
        """Do what was asked for, and end the thread."""
        await asyncio.to_thread(self._thread.shutdown)

    async def _do(self, work: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        future.add_done_callback(_seen)
        await asyncio.wait({future})  # unlike the future itself, this may be cancelled
        return future.result()


def _seen(future: asyncio.Future[Any]) -> None:
    """What was not kept is logged already, if nobody waits for the error any more."""
    if not future.cancelled():
        future.exception()
