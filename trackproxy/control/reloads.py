"""Settings that were loaded, and their way into service: at the start, at each reload, after an upgrade."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from trackproxy.admin_sections import Admin
from trackproxy.control.activation import Notifier
from trackproxy.control.audit import LOCAL, SIGNAL, audited, telling_failure
from trackproxy.control.changes import Changes
from trackproxy.control.generation import Generation
from trackproxy.control.generations import Generations
from trackproxy.control.listeners import Hand, Place, Row
from trackproxy.control.turns import RELOAD, Turns
from trackproxy.errors import ConfigError, TrackproxyError
from trackproxy.logs import log_to_stderr
from trackproxy.settings import Settings
from trackproxy.telling import tell

log = logging.getLogger(__name__)

Load = Callable[[], Settings]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the last reload. at: seconds of the wall clock."""

    at: float
    ok: bool
    outcome: str


class OperatorsWay(Protocol):
    """Where operators reach us, see `admin.endpoint`."""

    @property
    def rows(self) -> Mapping[Place, Row]: ...
    def moving(self, admin: Admin, hand: Hand) -> AbstractAsyncContextManager[None]: ...
    def resting(self) -> AbstractAsyncContextManager[None]: ...


class Loaded:
    """Serves what was loaded, with what was changed at run time laid over it."""

    def __init__(self, changes: Changes, generations: Generations, way: OperatorsWay) -> None:
        self._changes = changes
        self._generations = generations
        self._way = way

    async def serve(self, loaded: Settings) -> Generation:
        """Serve settings that were LOADED; raises as `Generations.switch` does."""
        applied = self._changes.over(loaded)
        async with self._way.moving(loaded.admin, self._generations.listeners.hand):
            generation = await self._generations.switch(applied.settings)
        await self._changes.served(loaded, applied)
        log_to_stderr(loaded.log_level, loaded.log_format)
        return generation


class Reloads:
    """Reads the settings again.

    counts: how many reloads there were, by whether they went well. last: what came of the last one.
    is_signalled: whether one that a signal has asked for has not begun.
    """

    def __init__(
        self, load: Load | None, loaded: Loaded, generations: Generations, turns: Turns, notifier: Notifier
    ) -> None:
        """LOAD: reads the settings, raises ConfigError; None if they did not come from a file."""
        self._load = load
        self._loaded = loaded
        self._generations = generations
        self._turns = turns
        self._notifier = notifier
        self.counts = {True: 0, False: 0}
        self.last: Outcome | None = None
        self.is_signalled = False

    async def reload(self, who: str = LOCAL) -> str:
        """Read the settings again and serve them; return what came of it. WHO: has asked for it.

        Raises TrackproxyError with the reason if nothing has changed. It goes on if the caller is cancelled.
        """
        return await self._turns.to_its_end(self._reload_alone(who), RELOAD)

    async def _reload_alone(self, who: str) -> str:
        with audited(who, "reload"):
            async with self._turns.turn():
                if who == SIGNAL:
                    self.is_signalled = False
                with telling_failure("reload_failed", "not reloaded", who):
                    self._turns.must_go_on()
                    self._notifier.reloading()
                    try:
                        return await self._reload(who)
                    finally:
                        self._notifier.ready(self._generations.summary())

    async def _reload(self, who: str) -> str:
        """Reload, and note what came of it."""
        ok, outcome = False, ""
        try:
            outcome = await self._load_again(who)
            ok = True
        except TrackproxyError as error:
            outcome = str(error)
            raise
        finally:
            self.last = Outcome(time.time(), ok, outcome)
            self.counts[ok] += 1
        return outcome

    async def _load_again(self, who: str) -> str:
        if self._load is None:
            raise ConfigError(["these settings did not come from a file, so there is nothing to read again"])
        settings = await asyncio.to_thread(self._load)
        generation = await self._loaded.serve(settings)
        outcome = f"reloaded: generation {generation.number} serves, {self._generations.summary()}"
        fields = {"outcome": outcome, "generation": generation.number, "who": who}
        tell(log, logging.INFO, "reload", "%s", outcome, **fields)
        return outcome
