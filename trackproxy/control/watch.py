"""Watching the settings file, so that a change is served without a command.

A file is looked at once a second, by name, because editors replace files and Kubernetes swaps a link on the
way to them; so what a link leads to counts. A change is taken once it has rested for one look: by then
whoever wrote it is done.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from trackproxy.errors import TrackproxyError

log = logging.getLogger(__name__)

LOOK_S = 1.0

Stamp = tuple[int, ...]


class FileWatch:
    """What a file looked like when it was last read. Make it before the file is read for the first time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken = self._last = stamp(path)

    def look(self, now: Stamp | None) -> bool:
        """Return whether the file is to be read again; NOW: its stamp at this look, None if there is none."""
        rested = now == self._last
        self._last = now
        if now is None or now == self._taken or not rested:
            return False
        self._taken = now
        return True

    async def run(self, reload: Callable[[], Awaitable[object]]) -> None:
        """Call RELOAD after each change, for ever; what it says against a file is said once."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.look(await asyncio.to_thread(stamp, self._path)):
                log.info("%s has changed", self._path)
                with suppress(TrackproxyError):  # logged there; the next change may be better
                    await reload()


def stamp(path: Path) -> Stamp | None:
    """Return what differs between two states of a file; None if there is no such file now."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
