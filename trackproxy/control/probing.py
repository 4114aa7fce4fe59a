"""Probes: each endpoint is probed as its newest configuration says, for as long as that is wanted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

import aiohttp

from trackproxy.control.tasks import Tasks
from trackproxy.control.views import Row, Watched
from trackproxy.health.checker import Checker
from trackproxy.health.looking import Result
from trackproxy.health.probes import make_prober
from trackproxy.session_sections import SessionService
from trackproxy.settings import AnyService

Heard = Callable[[Watched, AnyService, Result, bool], None]  # the last: whether the verdict has changed


class Probing:
    """Keeps the checkers of all endpoints."""

    def __init__(self, session: aiohttp.ClientSession, heard: Heard) -> None:
        """SESSION: what probes go through. HEARD: called with each result."""
        self._session = session
        self._heard = heard
        self._tasks = Tasks()

    async def first(self, rows: Iterable[Row]) -> None:
        """Probe each of these once, all at the same time."""
        async with asyncio.TaskGroup() as probes:
            for row in rows:
                checker = self._checker(row)
                if checker is not None:
                    probes.create_task(checker.first(), name=f"first probe of {row.watched.key}")

    def follow(self, row: Row, *, disabled: bool) -> None:
        """Probe an endpoint from now on as its newest configuration says, unless its node is disabled."""
        watched = row.watched
        wanted = (row.service.protocol, row.service.probe, _way_to_probe(row))
        if watched.task is not None and watched.probed_as == wanted and not disabled:
            return
        self.stop(watched)
        if disabled:
            return
        watched.verdict.rise, watched.verdict.fall = row.service.probe.rise, row.service.probe.fall
        watched.checker = self._checker(row)
        watched.probed_as = wanted
        if watched.checker is None:
            watched.verdict.up = True
        else:
            watched.task = self._tasks.spawn(watched.checker.run(), f"probes of {watched.key}")

    def stop(self, watched: Watched) -> None:
        """Probe an endpoint no more."""
        if watched.task is not None:
            watched.task.cancel()
        watched.task = watched.checker = None

    def _checker(self, row: Row) -> Checker | None:
        prober = make_prober(row.service, row.config, self._session)
        if prober is None:
            return None
        watched, probe = row.watched, row.service.probe

        def heard(result: Result, changed: bool) -> None:
            self._heard(watched, row.service, result, changed)

        timing = (probe.interval, probe.fast_interval)
        return Checker(prober, watched.verdict, timing, heard, random.Random())


def _way_to_probe(row: Row) -> tuple[object, ...]:
    """Return how an endpoint is reached by a probe."""
    tls = row.service.tls if isinstance(row.service, SessionService) else row.service.upstream_tls
    return row.config.address, row.config.probe_timeout_s, row.config.proxy_protocol, tls
