"""Tasks of the supervisor: kept, named, and reported if they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TypeVar

from trackproxy.errors import TrackproxyError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """What runs in the background. Errors of our own family were told where they arose; others are logged."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()

    def spawn(self, work: Coroutine[object, object, T], name: str) -> asyncio.Task[T]:
        """Run WORK; cancel it by `cancel`."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def cancel(self, *names: str) -> None:
        """Cancel the tasks of these NAMES, or all."""
        for task in [*self._running]:
            if not names or task.get_name() in names:
                task.cancel()

    def _done(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, TrackproxyError):
            log.error("unexpected error in %s", task.get_name(), exc_info=error)
