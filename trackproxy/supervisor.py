"""The control plane: opens the listening sockets, runs generations of workers, and ends them in good order.

A generation serves one configuration. A reload checks the new one, opens what it adds, starts its workers on
the sockets of the old one, and only then retires that; what fails before leaves the old generation as it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import uvloop

from trackproxy.admin.unix_socket import reachable
from trackproxy.board import Board
from trackproxy.control.activation import Notifier, activated_sockets
from trackproxy.control.children import FOR_SUPERVISOR, Child, Ended, Spare
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drain, Drains, Sticky
from trackproxy.control.generation import Crew, Generation
from trackproxy.control.listeners import Listeners, by_place
from trackproxy.control.memory import state_folder
from trackproxy.control.sharing import Sharing
from trackproxy.control.takeover import ENDED, Crewed, Handover, become, receive, try_out
from trackproxy.control.views import View
from trackproxy.control.watch import FileWatch
from trackproxy.errors import ConfigError, StartFailed, TrackproxyError, UpgradeFailed
from trackproxy.health.probes import open_session
from trackproxy.logs import log_to_stderr
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import Settings, endpoints_of
from trackproxy.step import BEAT_S
from trackproxy.worker import raise_file_limit, tune_collector

log = logging.getLogger(__name__)

T = TypeVar("T")
Companion = Callable[[], AbstractAsyncContextManager[None]]

MOST_RETIRING = 4  # generations that are on their way out at once; the oldest has to hurry then
HURRY_S = 5.0
CHANGES = ("reload", "upgrade")  # tasks that a stop breaks off


@dataclass(frozen=True, slots=True)
class Start:
    """How a supervisor comes to life.

    settings: what to serve. load: reads them again for a reload and raises ConfigError; None if they did not
    come from a file. companion: entered in the event loop before the first request, left after the last one.
    banner: printed once clients can connect. take_over: the descriptor that the program before has left.
    watch: has the settings read again when their file has changed.
    """

    settings: Settings
    load: Callable[[], Settings] | None = None
    companion: Companion = nullcontext
    banner: str = ""
    take_over: int = 0
    watch: FileWatch | None = None


def serve(start: Start) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises ListenError or StartFailed; nothing is open then.
    """
    log_to_stderr(start.settings.log_level)
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(start))


async def _serve(start: Start) -> int:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(start.companion())
        session = await stack.enter_async_context(open_session())
        cluster = Cluster(state_folder(start.settings.state_dir), session)
        stack.callback(cluster.stop)
        handover = receive(start.take_over) if start.take_over else None
        supervisor = Supervisor(start, cluster)
        supervisor.heed_signals()
        await stack.enter_async_context(reachable(supervisor, state_folder(start.settings.state_dir)))
        await supervisor.start(handover)
        await supervisor.stopped.wait()
        await supervisor.stop()
    return 0


def rehearse(start: Start) -> int:
    """Do what an upgrade does, up to a worker that is ready to serve, and end; raises StartFailed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_rehearse(start.settings))


async def _rehearse(settings: Settings) -> int:
    nowhere = Listeners()
    nowhere.services = {name: [] for name in settings.services}
    endpoints = sum(len(endpoints_of(settings, name)) for name in settings.services)
    view = View(Board.create(endpoints, 1), [], settings)
    generation = Generation(0, settings, view, nowhere, 1)
    try:
        await generation.start()
    finally:
        await generation.give_up()
    return 0


def count_workers(settings: Settings) -> int:
    """Return how many processes serve: as configured, or one for each CPU that we may use."""
    return len(os.sched_getaffinity(0)) if settings.workers == "auto" else int(settings.workers)


async def _all_over(generations: Iterable[Generation]) -> None:
    for generation in generations:
        await generation.over.wait()


def _handed(worker: Crew) -> tuple[int, int]:
    if isinstance(worker, Child) and not worker.death.done():
        return worker.pid, worker.control.fileno()
    return ENDED


class Supervisor:
    """Everything that outlives a configuration.

    generations: those that run, the one that serves last. welcoming: whether new clients are welcome.
    stopped: set by the first signal to stop, hurried by the second.
    """

    def __init__(self, start: Start, cluster: Cluster) -> None:
        self._start = start
        self._notifier = Notifier()
        self._listeners = Listeners()
        self._numbers = 0
        self._spare = Spare()
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[object]] = set()
        self.cluster = cluster
        self.drains = Drains(cluster)
        self.generations: list[Generation] = []
        self.welcoming = False
        self.stopped = asyncio.Event()
        self.hurried = asyncio.Event()

    # --- the start ---

    async def start(self, handover: Handover | None = None) -> None:
        """Open the listeners and serve; raises ListenError or StartFailed.

        After an upgrade the workers of the program before serve on if ours do not start. A reload that is
        asked for meanwhile comes after it.
        """
        async with self._reloading:
            await self._begin(handover)
        self._spare.refill(wanted=count_workers(self._start.settings) > 0)
        self._spawn(self._beat(), "beat")
        if self._start.watch is not None:
            self._spawn(self._start.watch.run(self.reload), "watch of the settings' file")
        tune_collector()
        if self._start.banner:
            sys.stdout.write(self._start.banner + "\n")
            sys.stdout.flush()
        self.welcoming = True
        self._notifier.ready(self._status())

    async def _begin(self, handover: Handover | None) -> None:
        if handover is None:
            self._listeners = Listeners(by_place(activated_sockets()))
            given = {*self._listeners.rows}
            await self._switch(self._start.settings)
            for place in given - {*self._listeners.rows}:
                log.warning("the service manager's socket %s fits no listener of the settings", place)
            self._spawn(self._watch(), "watch")
            return
        self._adopt(handover)
        self._spawn(self._watch(), "watch")
        try:
            generation = await self._switch(self._start.settings)
        except TrackproxyError as error:
            log.error("upgraded, but the workers of the program before go on: %s", error)
        else:
            log.info("upgraded: generation %d serves, %s", generation.number, self._status())

    def _adopt(self, handover: Handover) -> None:
        """Take over sockets and workers; the last generation among them serves until ours does."""
        self._listeners = Listeners(handover.rows)
        boards = [one.open_board() for one in handover.generations]
        self.cluster.take_over(handover.states, handover.endpoints, counted=None not in boards)
        for one, board in zip(handover.generations, boards, strict=True):
            self._adopt_one(one, board)
        self._numbers = max(one.number for one in handover.generations)
        for drain in handover.drains:
            self.drains.begin(*drain)

    def _adopt_one(self, one: Crewed, board: Board | None) -> None:
        """Take over one generation; without its BOARD its workers can only be told to end."""
        crew: list[Crew] = [
            Child(pid, socket.socket(fileno=fd), None) if pid else Ended() for pid, fd in one.workers
        ]
        settings = one.settings or self._start.settings
        if board is None:
            view = View(Board.create(0, len(crew)), [], settings)
        else:
            view = View(board, self.cluster.rows_of(settings), settings)
        replaced = board is not None and not one.retired
        listeners = self._listeners.open(settings, len(crew)) if replaced else self._listeners
        generation = Generation(one.number, settings, view, listeners, len(crew), self._spare.take)
        generation.on_suspect = partial(self.cluster.suspect, view)
        generation.adopt(crew, replaced=replaced)
        self.cluster.adopt_view(view)
        self.generations.append(generation)
        if one.retired:
            generation.retire(self._start.settings.grace)
            self._spawn(self._bury(generation), f"end of generation {generation.number}")

    def heed_signals(self) -> None:
        """Stop at SIGTERM or SIGINT, at once at the second; reload at SIGHUP; upgrade at SIGUSR2."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._heard_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload(), "reload"))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._spawn(self.upgrade(), "upgrade"))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_SUPERVISOR)  # blocked by an upgrade

    def _heard_stop(self) -> None:
        (self.hurried if self.stopped.is_set() else self.stopped).set()

    # --- generations ---

    async def _switch(self, settings: Settings) -> Generation:
        """Serve SETTINGS from now on; raises ListenError or StartFailed, and nothing has changed then."""
        count = count_workers(settings)
        listeners = self._listeners.open(settings, count)
        try:
            view = await self.cluster.view(settings, count)
        except BaseException:
            listeners.close(keep=self._listeners)
            raise
        generation = Generation(self._numbers + 1, settings, view, listeners, count, self._spare.take)
        generation.on_suspect = partial(self.cluster.suspect, view)
        try:
            await generation.start()
        except BaseException:
            listeners.close(keep=self._listeners)
            await generation.give_up()
            self.cluster.leave(view)
            raise
        self._numbers += 1
        self.cluster.adopt(view)
        before, self._listeners = self._listeners, listeners
        for name in settings.services:
            log.info("%s: serving on %s", name, ", ".join(listeners.names(name)))
        before.close(keep=listeners)  # its workers have theirs, and close them once nobody waits there
        old = self.generations[-1:]
        self.generations.append(generation)
        for one in old:
            await self._retire(one, settings.grace)
        return generation

    async def _retire(self, generation: Generation, grace_s: float) -> None:
        """Let GENERATION end; wait until it takes no more connections."""
        generation.retire(grace_s)
        self._spawn(self._bury(generation), f"end of generation {generation.number}")
        for older in self.generations[:-1][:-MOST_RETIRING]:
            older.stop(HURRY_S)
        await generation.closed()

    async def _bury(self, generation: Generation) -> None:
        await generation.over.wait()
        self.generations.remove(generation)
        self.cluster.leave(generation.view)
        log.info("generation %d has ended", generation.number)

    async def reload(self) -> str:
        """Read the settings again and serve them; return what came of it.

        Raises TrackproxyError with the reason if nothing has changed. It goes on if the caller is cancelled.
        """
        task = self._spawn(self._reload_alone(), "reload")
        await asyncio.wait({task})
        if task.cancelled():
            raise StartFailed("a stop has come before the new workers served")
        return task.result()

    async def _reload_alone(self) -> str:
        async with self._reloading:
            if self.stopped.is_set():
                log.warning("not reloaded: this trackproxy is stopping")
                raise StartFailed("this trackproxy is stopping")
            self._notifier.reloading()
            try:
                return await self._reload()
            finally:
                self._notifier.ready(self._status())

    async def _reload(self) -> str:
        try:
            if self._start.load is None:
                raise ConfigError(
                    ["these settings did not come from a file, so there is nothing to read again"]
                )
            settings = await asyncio.to_thread(self._start.load)
            generation = await self._switch(settings)
        except ConfigError as error:
            log.error("not reloaded, the settings are wrong: %s", "; ".join(error.problems))
            raise
        except TrackproxyError as error:
            log.error("not reloaded: %s", error)
            raise
        outcome = f"reloaded: generation {generation.number} serves, {self._status()}"
        log.info("%s", outcome)
        return outcome

    async def upgrade(self) -> None:
        """Replace the program of this process by the one that is installed now, then reload.

        Raises UpgradeFailed if that would not start; everything is as before then.
        """
        async with self._reloading:
            log.info("upgrading: trying the new program")
            try:
                if self.stopped.is_set():
                    raise UpgradeFailed("this trackproxy is stopping")
                serving = self.generations[-1]
                inside = not all(generation.count for generation in self.generations)
                if self._start.companion is not nullcontext or inside:
                    raise UpgradeFailed("it takes workers in processes of their own, and no demo")
                if len(serving.children()) < serving.count:
                    raise UpgradeFailed("a worker is just being replaced; try again")
                await try_out()
                self._notifier.reloading()
                self._spare.end()
                become(self._handover())
            except (UpgradeFailed, OSError) as error:
                log.error("not upgraded: %s", error)
                self._notifier.ready(self._status())
                raise

    def _handover(self) -> Handover:
        states, endpoints = self.cluster.hand_over()
        generations = [
            Crewed(
                number=generation.number,
                retired=generation.retired,
                settings=generation.settings,
                board_fd=generation.view.board.fd,
                workers=[_handed(one) for one in generation.crew],
            )
            for generation in self.generations
        ]
        return Handover(self._listeners.rows, generations, states, endpoints, self.drains.under_way())

    def _status(self) -> str:
        settings = self.generations[-1].settings
        counts = {
            "service": len(settings.services),
            "node": len(settings.nodes),
            "worker": count_workers(settings),
        }
        return ", ".join(f"{count} {thing}{'s' * (count != 1)}" for thing, count in counts.items())

    # --- nodes ---

    def drain(self, node: str, timeout_s: float, sticky: Sticky = "keep") -> Drain:
        """Send no new clients to NODE; disable it once nothing is open there, after TIMEOUT_S at the latest.

        Raises KeyError if there is no such node.
        """
        return self.drains.begin(node, timeout_s, sticky)

    def disable(self, node: str) -> None:
        """Send nothing to NODE any more and probe it no more; raises KeyError if there is no such node."""
        self.cluster.set_state(node, AdminState.DISABLED)
        self.drains.forget(node)

    async def ready(self, node: str) -> None:
        """Let NODE take part again, as its probes say; raises KeyError if there is no such node."""
        self.drains.forget(node)
        if self.cluster.states[node] is AdminState.DISABLED:
            await self.cluster.look_at(node)
        self.cluster.set_state(node, AdminState.READY)

    # --- time ---

    async def _beat(self) -> None:
        """Share limits and counts out between workers that cannot see each other."""
        sharing = Sharing()
        while True:
            await asyncio.sleep(BEAT_S if sharing.is_needed(self.cluster.views) else 1.0)
            sharing.take(self.cluster.views, asyncio.get_running_loop().time())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(self._notifier.watchdog_s or 1.0, 1.0))
            self._notifier.alive()
            self.cluster.pass_time()
            self._spare.refill(wanted=self.generations[-1].count > 0)
            for generation in self.generations:
                generation.watch_beats(loop.time())

    def _spawn(self, work: Coroutine[object, object, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, TrackproxyError):
            log.error("unexpected error in %s", task.get_name(), exc_info=error)

    # --- the end ---

    async def stop(self) -> None:
        """Serve on for the delay, not ready any more; then answer what is open, and end."""
        self.welcoming = False
        for task in [*self._tasks]:
            if task.get_name() in CHANGES:
                task.cancel()
        async with self._reloading:  # until they have undone what they had begun
            self._notifier.stopping()
        settings = self.generations[-1].settings
        if settings.shutdown_delay:
            log.info("stopping in %g s; a second signal ends at once", settings.shutdown_delay)
            await self._unless_hurried(asyncio.sleep(settings.shutdown_delay))
        log.info(
            "stopping: open requests have %g s to end; a second signal ends them at once", settings.grace
        )
        generations = [*self.generations]
        self._listeners.close()  # the workers have theirs, and close them once nobody waits there
        for generation in generations:
            generation.stop(settings.grace)
        await self._unless_hurried(_all_over(generations))
        for generation in generations:
            generation.end()
        await _all_over(generations)
        self._spare.end()
        for task in self._tasks:
            task.cancel()
        log.info("stopped")

    async def _unless_hurried(self, work: Coroutine[object, object, object]) -> None:
        """Wait for WORK, but not after a second signal."""
        waiting: asyncio.Task[object] = asyncio.create_task(work)
        hurry: asyncio.Task[object] = asyncio.create_task(self.hurried.wait())
        await asyncio.wait({waiting, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, hurry):
            task.cancel()
