"""Checkers: each probes one endpoint for as long as it runs, and brings the results before its verdict.

Probes come at a steady pace, faster while the state is changing, and at once when live traffic asks for it.
The first moment is random and so is a part of each interval: many endpoints, seen by many balancers, are not
probed in step. There is never more than one probe of an endpoint under way.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable

from trackproxy.health.looking import Prober, Result
from trackproxy.health.verdict import Verdict

log = logging.getLogger(__name__)

SPREAD = 0.1  # of an interval, to either side
GRID = 8  # moments of an interval at which usual probes come
POKES_PER_FAST_INTERVAL = 5  # at most; live traffic must not become a flood of probes

OnResult = Callable[[Result, bool], None]


class Checker:
    """Probes one endpoint; the caller runs `run` as a task and cancels it.

    timing: seconds from one probe to the next, and the same while the verdict is changing.
    on_result: called after each probe with its result and whether that changed `verdict.up`.
    last: the result of the last probe, None before the first one.
    """

    def __init__(
        self,
        prober: Prober,
        verdict: Verdict,
        timing: tuple[float, float],
        on_result: OnResult,
        rng: random.Random,
    ) -> None:
        self.last: Result | None = None
        self.verdict = verdict
        self._prober = prober
        self._on_result = on_result
        self._rng = rng
        interval_s, fast_interval_s = timing
        self._interval_s = interval_s
        self._fast_interval_s = min(interval_s, fast_interval_s)
        self._poked = False
        self._awake = asyncio.Event()  # for the next probe, by time or by a poke
        self._suspected = False
        self._pokes_from = -math.inf  # on the loop's clock
        self._probing = asyncio.Lock()

    def poke(self, *, suspected: bool = True) -> None:
        """Have it probed at once, or right after a probe that is under way; cheap to call again and again.

        suspected: live traffic speaks against it now, so that one bad result takes it down. Of one that is
        down already that is no news.
        """
        if suspected and not self.verdict.up:
            return
        self._suspected |= suspected
        self._poked = True
        self._awake.set()

    async def first(self) -> Result:
        """Probe now; this one result decides the state. Call it before `run`, when nothing is known yet.

        A local result (see `Result`) decides nothing: the verdict keeps the state that it was made with.
        """
        async with self._probing:
            result = await self._probe()
            self._report(result, not result.local and self.verdict.settle(result.passed))
        return result

    async def run(self) -> None:
        """Probe for ever; ends by cancellation only."""
        time = asyncio.get_running_loop().time
        due = time() + self._interval_s * self._rng.random()
        while True:
            await self._until(due)
            async with self._probing:
                started = time()
                await self._observe()
            due = self._next(started)

    async def _until(self, due: float) -> None:
        """Wait until the next probe is due, or until a poke may be followed."""
        loop = asyncio.get_running_loop()
        alarm = loop.call_at(due, self._awake.set)
        try:
            await self._awake.wait()
        finally:
            alarm.cancel()
        rest_s = min(due, self._pokes_from) - loop.time()
        if rest_s > 0:
            await asyncio.sleep(rest_s)

    async def _observe(self) -> None:
        suspected, self._suspected = self._suspected, False
        result = await self._probe()
        changed = not result.local and self.verdict.observe(result.passed, suspected=suspected)
        if changed and not result.passed:
            self._suspected = self._poked = False  # who spoke against it meanwhile was right
            self._awake.clear()
        self._report(result, changed)

    async def _probe(self) -> Result:
        self._awake.clear()
        if self._poked:
            self._poked = False
            pause_s = self._fast_interval_s / POKES_PER_FAST_INTERVAL
            self._pokes_from = asyncio.get_running_loop().time() + pause_s
        self.last = result = await self._prober.probe()
        return result

    def _report(self, result: Result, changed: bool) -> None:
        try:
            self._on_result(result, changed)
        except Exception:
            log.exception("a probe's result could not be passed on: %s", result.reason)

    def _next(self, started: float) -> float:
        """Return when the next probe is due.

        Usual ones keep to a grid: those that come at the same time cost half of what they cost alone, since
        what they need is still in the processor's caches.
        """
        spread = self._rng.uniform(1 - SPREAD, 1 + SPREAD)
        if self.verdict.changing:
            return started + self._fast_interval_s * spread
        grid_s = self._interval_s / GRID
        return round((started + self._interval_s * spread) / grid_s) * grid_s
