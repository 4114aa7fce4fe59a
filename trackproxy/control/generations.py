"""All generations that run, the listeners that they share, and how one follows another.

The new one is complete before the old one hears of it: its settings are right, its listeners open, its
workers ready. Whatever fails before leaves the old one as it is.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from trackproxy.board import Board
from trackproxy.control.children import Child, Ended, Spare
from trackproxy.control.cluster import Cluster
from trackproxy.control.generation import Crew, Generation
from trackproxy.control.listeners import Listeners
from trackproxy.control.takeover import ENDED, Crewed
from trackproxy.control.tasks import Tasks
from trackproxy.control.views import View
from trackproxy.settings import Settings, groups_of, routes_of

log = logging.getLogger(__name__)

MOST_RETIRING = 4  # generations that are on their way out at once; the oldest has to hurry then,
MOST_PROCESSES = 64  # but where sessions last, as many as have so many processes, if that is more
HURRY_S = 5.0


def count_workers(settings: Settings) -> int:
    """Return how many processes serve: as configured, or one for each CPU that we may use."""
    return len(os.sched_getaffinity(0)) if settings.workers == "auto" else int(settings.workers)


class Generations:
    """Those that run: the last one serves, the others are on their way out.

    listeners: what is open for the one that serves. on_event: called with each line that tells of an event
    of a worker, and whose it is.
    """

    def __init__(self, cluster: Cluster, tasks: Tasks) -> None:
        self._cluster = cluster
        self._tasks = tasks
        self._spare = Spare()
        self._numbers = 0
        self.listeners = Listeners()
        self.running: list[Generation] = []
        self.on_event: Callable[[bytes, Mapping[str, int]], None] = lambda line, origin: None

    @property
    def serving(self) -> Generation:
        """The one that serves; there is one once `switch` or `adopt` has been called with success."""
        return self.running[-1]

    def summary(self) -> str:
        """Return in a few words what is served."""
        settings = self.serving.settings
        counts = {
            "service": len(settings.services),
            "node": len(settings.nodes),
            "worker": count_workers(settings),
        }
        return ", ".join(f"{count} {thing}{'s' * (count != 1)}" for thing, count in counts.items())

    async def switch(self, settings: Settings) -> Generation:
        """Serve SETTINGS from now on; raises ListenError or StartFailed, and nothing has changed then."""
        count = count_workers(settings)
        listeners = self.listeners.open(settings, count)
        try:
            view = await self._cluster.view(settings, count)
        except BaseException:
            listeners.close(keep=self.listeners)
            raise
        generation = Generation(self._numbers + 1, settings, view, listeners, count, self._spare.take)
        generation.on_suspect = partial(self._cluster.suspect, view)
        generation.on_event = self.on_event
        generation.on_spawned = partial(self._spare.refill, wanted=count > 0)  # it loads beside them
        try:
            await generation.start()
        except BaseException:
            listeners.close(keep=self.listeners)
            await generation.give_up()
            self._cluster.leave(view)
            raise
        self._numbers += 1
        self._cluster.adopt(view)
        before, self.listeners = self.listeners, listeners
        for name in listeners.services:
            log.info("%s: serving on %s", name, ", ".join(listeners.names(name)))
        before.close(keep=listeners)  # its workers have theirs, and close them once nobody waits there
        old = self.running[-1:]
        self.running.append(generation)
        for one in old:
            self._retire(one, settings.grace)
            await one.closed()
        return generation

    def reweigh(self, settings: Settings) -> None:
        """Serve SETTINGS, which differ in weights alone, without new workers."""
        self.serving.settings = settings  # for workers that replace others
        self._cluster.reweigh(settings)

    def _retire(self, generation: Generation, grace_s: float) -> None:
        """Let GENERATION end; if too many do so at once, let the oldest hurry."""
        generation.retire(grace_s)
        self._tasks.spawn(self._bury(generation), f"end of generation {generation.number}")
        most = MOST_PROCESSES // max(generation.count, 1) if generation.settings.lasting else 0
        most = max(MOST_RETIRING, most)
        for older in self.running[:-1][:-most]:
            older.stop(HURRY_S)

    async def _bury(self, generation: Generation) -> None:
        await generation.over.wait()
        self.running.remove(generation)
        self._cluster.leave(generation.view)
        log.info("generation %d has ended", generation.number)

    # --- upgrades ---

    def hand_over(self) -> list[Crewed]:
        """Return what the next program needs to know of each."""
        self._spare.end()
        return [
            Crewed(
                number=generation.number,
                retired=generation.retired,
                settings=generation.settings,
                board_fd=generation.view.board.fd,
                workers=[_handed(worker) for worker in generation.crew],
            )
            for generation in self.running
        ]

    def adopt(self, handed: Iterable[Crewed], boards: Iterable[Board | None], settings: Settings) -> None:
        """Take over what the program before has HANDED on, with the BOARDS that could be read.

        SETTINGS: ours, for what cannot be known of theirs. The last one serves until `switch`.
        """
        for one, board in zip(handed, boards, strict=True):
            generation = self._adopted(one, board, settings)
            self._numbers = max(self._numbers, one.number)
            self._cluster.adopt_view(generation.view)
            self.running.append(generation)
            if one.retired:
                self._retire(generation, settings.grace)

    def _adopted(self, one: Crewed, board: Board | None, settings: Settings) -> Generation:
        """Return a generation as ours; without its BOARD its workers can only be told to end."""
        crew: list[Crew] = [
            Child(pid, socket.socket(fileno=fd), None) if pid else Ended() for pid, fd in one.workers
        ]
        settings = one.settings or settings
        if board is None:
            view = View(Board.create(0, len(crew), routes=0), [], settings)
        else:
            view = View(board, self._cluster.rows_of(settings), settings)
        replaced = board is not None and not one.retired
        listeners = self.listeners.open(settings, len(crew)) if replaced else self.listeners
        generation = Generation(one.number, settings, view, listeners, len(crew), self._spare.take)
        generation.on_suspect = partial(self._cluster.suspect, view)
        generation.on_event = self.on_event
        generation.adopt(crew, replaced=replaced)
        return generation

    def reopen_logs(self) -> None:
        """Access logs have been moved away: have all workers write to new files."""
        for generation in self.running:
            generation.reopen_logs()

    # --- time and the end ---

    def look(self, now: float) -> None:
        """Kill workers that hang, and have a spare one ready; to be called about once a second."""
        self._spare.refill(wanted=self.serving.count > 0 and not self.serving.retired)
        for generation in self.running:
            generation.watch_beats(now)

    def stop(self, grace_s: float) -> None:
        """Serve nobody new; let all that is open end within GRACE_S."""
        self.listeners.close()  # the workers have theirs, and close them once nobody waits there
        self._spare.end()
        for generation in self.running:
            generation.stop(grace_s)

    def end(self) -> None:
        """End at once what is open."""
        for generation in self.running:
            generation.end()

    async def over(self) -> None:
        """Wait until nothing of any generation runs."""
        for generation in [*self.running]:
            await generation.over.wait()


def _handed(worker: Crew) -> tuple[int, int]:
    if isinstance(worker, Child) and not worker.death.done():
        return worker.pid, worker.control.fileno()
    return ENDED


async def rehearse(settings: Settings) -> None:
    """Start one worker that listens nowhere, and end it; raises StartFailed."""
    nowhere = Listeners()
    nowhere.services = {name: [] for name in settings.services}
    endpoints = sum(len(group.endpoints) for name in settings.services for group in groups_of(settings, name))
    board = Board.create(endpoints, 1, routes=len(routes_of(settings)))
    generation = Generation(0, settings, View(board, [], settings), nowhere, 1)
    try:
        await generation.start()
    finally:
        await generation.give_up()
