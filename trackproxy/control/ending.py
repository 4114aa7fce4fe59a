"""A stop in good order: a delay, time for what is open, and the end; a second signal cuts both short."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from trackproxy.control.activation import Notifier
from trackproxy.control.audit import SIGNAL, audit
from trackproxy.control.generations import Generations
from trackproxy.control.turns import Turns
from trackproxy.telling import tell

log = logging.getLogger(__name__)


class Ending:
    """How it comes to an end."""

    def __init__(self, generations: Generations, turns: Turns, notifier: Notifier) -> None:
        self._generations = generations
        self._turns = turns
        self._notifier = notifier
        self._hurried = asyncio.Event()

    def heard_stop(self) -> None:
        """A signal asks for a stop: from the first on nothing is changed any more; call `stop` then."""
        stopping = self._turns.stopping
        audit(SIGNAL, "stop at once" if stopping.is_set() else "stop")
        (self._hurried if stopping.is_set() else stopping).set()

    async def stop(self) -> None:
        """Serve on for the delay, not ready any more; then answer what is open, and end."""
        await self._turns.break_off()
        self._notifier.stopping()
        settings = self._generations.serving.settings
        if settings.shutdown_delay:
            text = "stopping in %g s; a second signal ends at once"
            tell(log, logging.INFO, "stop", text, settings.shutdown_delay, state="waiting")
            await self._unless_hurried(asyncio.sleep(settings.shutdown_delay))
        text = "stopping: open requests have %g s to end; a second signal ends them at once"
        tell(log, logging.INFO, "stop", text, settings.grace, state="begun")
        self._generations.stop(settings.grace)
        await self._unless_hurried(self._generations.over())
        self._generations.end()
        await self._generations.over()

    async def _unless_hurried(self, work: Coroutine[object, object, object]) -> None:
        """Wait for WORK, but not after a second signal."""
        waiting: asyncio.Task[object] = asyncio.create_task(work)
        hurry: asyncio.Task[object] = asyncio.create_task(self._hurried.wait())
        await asyncio.wait({waiting, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, hurry):
            task.cancel()
