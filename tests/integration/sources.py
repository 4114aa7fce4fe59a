"""Sends much to a peer that takes little, and tells how much got stuck where."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.integration.kernel import queued_bytes
from tests.integration.wire import BODY_DEADLINE_S, Wire

HELD_BYTES = 512 * 1024  # what the proxy may hold of one stream
QUIET_S = 0.3


class Source:
    """Sends pieces; `sent` counts the bytes that the kernel has taken."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._progress = asyncio.Event()
        self.sent = 0

    async def pour(self, wire: Wire) -> None:
        """Send all of them, as fast as the other side takes them."""
        for piece in self._pieces:
            await wire.send(piece, BODY_DEADLINE_S)
            if wire.broken:
                return
            self.sent += len(piece)
            self._progress.set()

    async def stalls(self) -> None:
        """Wait until nothing more is taken."""
        while True:
            self._progress.clear()
            try:
                await asyncio.wait_for(self._progress.wait(), QUIET_S)
            except TimeoutError:
                return

    def held_between(self, *addresses: str) -> int:
        """The bytes that are neither read by the other side nor in the kernel's queues of these addresses."""
        return self.sent - queued_bytes(*addresses)


async def stop(task: asyncio.Task[None]) -> None:
    """Cancel it and wait until it is over."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
