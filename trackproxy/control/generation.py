"""Generations: the workers that serve one configuration, from their start until the last one has ended."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from trackproxy.board import Process
from trackproxy.control.children import Child
from trackproxy.control.listeners import Listeners
from trackproxy.control.tasks import Tasks
from trackproxy.control.views import View
from trackproxy.errors import StartFailed
from trackproxy.orders import Order
from trackproxy.settings import Settings
from trackproxy.telling import tell
from trackproxy.worker import Worker

log = logging.getLogger(__name__)

START_S = 30.0  # a worker that is not ready by then never will be
HANG_S = 10.0  # without a heartbeat
OVERSLEPT_S = 3.0  # between two looks at heartbeats: we have hung ourselves, or the whole machine has
LATE_S = 3.0  # after the deadline it was given: a worker that has not ended by then is killed
FIRST_PAUSE_S = 0.1  # before a worker that died young is replaced; it doubles with each that follows
LONGEST_PAUSE_S = 10.0
OLD_S = 10.0  # who lived that long did not die young
GIVE_UP_S = 2.0  # for connections that have come to workers of a generation that does not begin


class Crew(Protocol):
    """One worker, in a process of its own or in this one. pid: of its own process, else 0."""

    pid: int
    ready: asyncio.Event
    closed: asyncio.Event
    death: asyncio.Future[str]
    on_suspect: Callable[[int], None]

    def retire(self, grace_s: float) -> None: ...
    def stop(self, grace_s: float) -> None: ...
    def end(self) -> None: ...
    def reopen(self) -> None: ...
    def kill(self) -> None: ...


class Inside:
    """A worker in the supervisor's own process, for debugging and tests."""

    pid = 0

    def __init__(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        self.ready, self.closed = asyncio.Event(), asyncio.Event()
        self.death: asyncio.Future[str] = loop.create_future()
        self.on_suspect: Callable[[int], None] = lambda index: None
        self._worker = worker
        self._watching = loop.create_task(self._watch(), name="end of the worker")

    async def _watch(self) -> None:
        await self._worker.over.wait()
        self.death.set_result("ended")

    def retire(self, grace_s: float) -> None:
        self._worker.retire(grace_s)
        self.closed.set()

    def stop(self, grace_s: float) -> None:
        self._worker.quit(grace_s)
        self.closed.set()

    def end(self) -> None:
        self._worker.end()

    def reopen(self) -> None:
        self._worker.reopen_logs()

    def kill(self) -> None:
        """It shares our fate."""


class Generation:
    """The workers of one configuration.

    count: how many processes; 0 is one worker in this process. over: set when the last worker has ended.
    """

    def __init__(
        self,
        number: int,
        settings: Settings,
        view: View,
        listeners: Listeners,
        count: int,
        spawn: Callable[[], Child] = Child.spawn,
    ) -> None:
        """SPAWN: gives a process that waits for its order."""
        self._spawn_process = spawn
        self.number = number
        self.settings = settings
        self.view = view
        self.listeners = listeners
        self.count = count
        self.crew: list[Crew] = []
        self.retired = False
        self.over = asyncio.Event()
        self.on_suspect: Callable[[int], None] = lambda index: None
        self.on_event: Callable[[bytes, Mapping[str, int]], None] = lambda line, origin: None
        self.on_spawned: Callable[[], None] = lambda: None
        self._tasks = Tasks()
        self._beats: dict[int, tuple[Crew, int, float]] = {}
        self._looked = 0.0
        self._end_by = math.inf
        self._hurried = asyncio.Event()

    async def start(self) -> None:
        """Start all workers and wait until they serve; raises StartFailed: call `give_up` then."""
        try:
            async with asyncio.timeout(START_S):
                for number in range(max(self.count, 1)):
                    self.crew.append(await self._start_one(number))
                self.on_spawned()
                for worker in self.crew:
                    await self._is_ready(worker)
        except (TimeoutError, OSError) as error:
            raise StartFailed(
                f"workers do not start: {str(error) or f'not ready within {START_S:g} s'}"
            ) from error
        if self.count:
            for number in range(self.count):
                self._tasks.spawn(self._keep(number), f"worker {number + 1}")

    def children(self) -> list[Child]:
        """Return the worker processes that run."""
        return [worker for worker in self.crew if isinstance(worker, Child) and not worker.death.done()]

    def adopt(self, crew: list[Crew], *, replaced: bool) -> None:
        """Take over workers that another program has started; REPLACED: when they die, as our own are."""
        for number, child in enumerate(crew):
            child.on_suspect = self._pass_suspicion
            if isinstance(child, Child):
                child.on_event = partial(self._pass_event, number)
            child.ready.set()
            self.crew.append(child)
        for number in range(self.count if replaced else 0):
            self._tasks.spawn(self._keep(number), f"worker {number + 1}")

    def _pass_suspicion(self, index: int) -> None:
        self.on_suspect(index)

    def _pass_event(self, number: int, line: bytes) -> None:
        self.on_event(line, {"worker": number + 1, "generation": self.number})

    async def _start_one(self, number: int) -> Crew:
        listeners = self.listeners.of_worker(number, max(self.count, 1))
        if self.count:
            fds = {name: [listener.fileno() for listener in row] for name, row in listeners.items()}
            process = self._spawn_process()
            process.on_event = partial(self._pass_event, number)
            process.give(Order(self.settings, number, self.view.board.fd, fds))
            child: Crew = process
        else:
            worker = Worker(self.settings, self.view.board, number, lambda index: child.on_suspect(index))
            child = Inside(worker)
            await worker.start(
                {name: [listener.dup() for listener in row] for name, row in listeners.items()}
            )
            child.ready.set()
        child.on_suspect = self._pass_suspicion
        return child

    async def _is_ready(self, worker: Crew) -> None:
        """Wait until WORKER serves; raises StartFailed if it ends before."""
        await _either(worker.ready, worker.death)
        if worker.death.done():
            raise StartFailed(f"a worker {worker.death.result()} before it could serve")

    async def _keep(self, number: int) -> None:
        """Replace the worker of a column for as long as this generation serves."""
        time = asyncio.get_running_loop().time
        pause_s = 0.0
        while not self.retired:
            started = time()
            death = await self.crew[number].death
            if self.retired:
                return
            self.view.board.retire(number)
            self.view.crashes += 1
            young = time() - started < OLD_S
            pause = f" in {pause_s:g} s" if young and pause_s else ""
            self._tell(
                number, logging.ERROR, f"{death}; another one starts{pause}", state="died", reason=death
            )
            if young:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            else:
                pause_s = 0.0
            await self._replace(number)

    async def _replace(self, number: int) -> None:
        while not self.retired:
            try:
                self.crew[number] = await self._start_one(number)
            except OSError as error:
                self._tell(
                    number,
                    logging.ERROR,
                    f"cannot be started: {error}",
                    state="not started",
                    reason=str(error),
                )
                await asyncio.sleep(LONGEST_PAUSE_S)
            else:
                self._tell(number, logging.INFO, "has started", state="started")
                return

    def _tell(self, number: int, level: int, text: str, **fields: str) -> None:
        origin = {"worker": number + 1, "generation": self.number}
        tell(log, level, "worker", "worker %d %s", number + 1, text, **origin, **fields)

    def watch_beats(self, now: float) -> None:
        """Kill workers whose loop has not turned for HANG_S, or that do not come to serve within START_S.

        To be called about once a second.
        """
        if now - self._looked > OVERSLEPT_S:
            self._beats.clear()
        self._looked = now
        for number, worker in enumerate(self.crew if self.count and not self.over.is_set() else ()):
            beat = self.view.board.process(number)[Process.HEARTBEAT]
            same, last, since = self._beats.get(number, (None, -1, now))
            if worker is not same or beat != last or worker.death.done():
                self._beats[number] = (worker, beat, now)
            elif now - since > (HANG_S if worker.ready.is_set() else START_S):
                text = f"has hung for {now - since:.0f} s and is killed"
                self._tell(number, logging.ERROR, text, state="killed", reason="it has hung")
                worker.kill()

    def reopen_logs(self) -> None:
        """Access logs have been moved away: have all workers write to new files."""
        for worker in self.crew:
            if not worker.death.done():
                worker.reopen()

    # --- the end ---

    def retire(self, grace_s: float) -> None:
        """Others serve the listeners now: let what is open end within GRACE_S, sessions in their own time."""
        self._wind_up(lambda worker: worker.retire(grace_s), max(grace_s, self.settings.lasting))

    def stop(self, grace_s: float) -> None:
        """Nobody serves the listeners any more: answer who waits there, and end within GRACE_S."""
        self._wind_up(lambda worker: worker.stop(grace_s), grace_s)

    def end(self) -> None:
        """End at once."""
        self._wind_up(lambda worker: worker.end(), 0.0)

    async def give_up(self) -> None:
        """After a `start` that has failed: answer who has come to its workers, and wait until none runs."""
        self.stop(GIVE_UP_S)
        await self.over.wait()

    async def closed(self) -> None:
        """Wait until no worker takes connections from the listeners any more."""
        for worker in self.crew:
            await _either(worker.closed, worker.death)

    def _wind_up(self, order: Callable[[Crew], None], grace_s: float) -> None:
        first = not self.retired
        self.retired = True
        self._end_by = min(self._end_by, asyncio.get_running_loop().time() + grace_s + LATE_S)
        self._hurried.set()
        for worker in self.crew:
            if not worker.death.done():
                order(worker)
        if first:
            self._tasks.spawn(self._await_end(), "end of a generation")

    async def _await_end(self) -> None:
        """Wait for the last worker; who does not end by itself is killed."""
        time = asyncio.get_running_loop().time
        while alive := self._alive():
            if time() >= self._end_by:
                for worker in alive:
                    text, reason = "a worker of generation %d does not end and is killed", "it does not end"
                    fields = {"generation": self.number, "state": "killed", "reason": reason}
                    tell(log, logging.ERROR, "worker", text, self.number, **fields)
                    worker.kill()
                self._end_by = math.inf
            self._hurried.clear()
            await self._change_among(alive)
        self.over.set()

    def _alive(self) -> list[Crew]:
        for number, worker in enumerate(self.crew):
            if worker.death.done():
                self.view.bury(number)
        return [worker for worker in self.crew if not worker.death.done()]

    async def _change_among(self, alive: list[Crew]) -> None:
        """Wait until one of them has ended, or the deadline has come, or is another one."""
        left_s = None if math.isinf(self._end_by) else self._end_by - asyncio.get_running_loop().time()
        hurry: asyncio.Future[object] = asyncio.ensure_future(self._hurried.wait())
        deaths: list[asyncio.Future[object]] = [asyncio.shield(worker.death) for worker in alive]
        await asyncio.wait({hurry, *deaths}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()


async def _either(event: asyncio.Event, death: asyncio.Future[str]) -> None:
    """Wait for EVENT, or for the end of whoever would set it."""
    waiting: asyncio.Future[object] = asyncio.ensure_future(event.wait())
    both: set[asyncio.Future[object]] = {waiting, asyncio.shield(death)}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
