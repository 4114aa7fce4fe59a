"""The control plane: opens the listening sockets, runs generations of workers, and ends them in good order.

A generation serves one configuration. A reload checks the new one, opens what it adds, starts its workers on
the sockets of the old one, and only then retires that; what fails before leaves the old generation as it is.
What operators change at run time (`control.changes`) is laid over the settings, and served the same way.

Here is what joins the parts of `control`, and the life from the start to the last signal.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import uvloop

from trackproxy.admin.api import application
from trackproxy.admin.endpoint import AdminEndpoint
from trackproxy.admin.unix_socket import reachable
from trackproxy.control import beginning, generations, pulse
from trackproxy.control.activation import Notifier
from trackproxy.control.audit import SIGNAL, WATCH
from trackproxy.control.changes import Changes
from trackproxy.control.children import FOR_SUPERVISOR
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drains
from trackproxy.control.ending import Ending
from trackproxy.control.events import Events
from trackproxy.control.generations import Generations
from trackproxy.control.memory import state_folder
from trackproxy.control.node_states import NodeStates
from trackproxy.control.node_values import NodeValues
from trackproxy.control.recent import Looks
from trackproxy.control.reloads import Load, Loaded, Reloads
from trackproxy.control.takeover import FORMAT, Handover, receive
from trackproxy.control.tasks import Tasks
from trackproxy.control.turns import RELOAD, UPGRADE, Turns
from trackproxy.control.upgrades import Estate, Upgrades
from trackproxy.control.watch import FileWatch
from trackproxy.errors import ListenError, StartFailed
from trackproxy.health.probes import open_session
from trackproxy.logs import handing_on, log_to_stderr, log_what_nobody_catches
from trackproxy.settings import Settings
from trackproxy.telling import tell
from trackproxy.worker import raise_file_limit, tune_collector

log = logging.getLogger(__name__)

Companion = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Start:
    """How a supervisor comes to life.

    settings: what to serve. load: reads them again for a reload and raises ConfigError; None if they did not
    come from a file. companion: entered in the event loop before the first request, left after the last one.
    banner: printed once clients can connect. take_over: the descriptor that the program before has left.
    watch: has the settings read again when their file has changed. config: that file.
    """

    settings: Settings
    load: Load | None = None
    companion: Companion = nullcontext
    banner: str = ""
    take_over: int = 0
    watch: FileWatch | None = None
    config: Path | None = None


def serve(start: Start) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises ListenError or StartFailed; nothing is open then. A log that is JSON has it instead: what is raised
    would be shown there, as text.
    """
    log_to_stderr(start.settings.log_level, start.settings.log_format)
    log_what_nobody_catches()
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_serve(start))
        except (ListenError, StartFailed) as error:
            if start.settings.log_format != "json":
                raise
            text = "not started: %s"
            tell(log, logging.ERROR, "stop", text, error, state="not started", reason=str(error))
            return 1


async def _serve(start: Start) -> int:
    async with AsyncExitStack() as stack:
        events = Events()
        stack.enter_context(handing_on(events.take))
        await stack.enter_async_context(start.companion())
        session = await stack.enter_async_context(open_session())
        folder = state_folder(start.settings.state_dir)
        changes = await Changes.open(folder, start.settings)
        stack.push_async_callback(changes.close)
        cluster = Cluster(folder, session)
        stack.callback(cluster.stop)
        handover = receive(start.take_over) if start.take_over else None
        supervisor = Supervisor(start, cluster, changes, events)
        supervisor.heed_signals()
        await stack.enter_async_context(reachable(application(supervisor), folder))
        stack.push_async_callback(supervisor.way.close)
        stack.callback(events.close)  # whoever follows them must not delay the end
        await supervisor.run(handover)
    return 0


def rehearse(start: Start, handover_format: int) -> int:
    """Do what an upgrade does, up to a worker that is ready to serve, and end; raises StartFailed.

    HANDOVER_FORMAT: in which the program that runs will hand over.
    """
    if handover_format != FORMAT:
        raise StartFailed(
            f"the program that runs hands over in format {handover_format}, and this one takes {FORMAT};"
            " stop the one and start the other"
        )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(generations.rehearse(start.settings))
    return 0


class Supervisor:
    """Everything that outlives a configuration, and its life.

    welcoming: whether new clients are welcome. started_at: seconds of the wall clock. config: the file of the
    settings, None without one. state_dir: where state is kept. way: where it is reached from outside.
    """

    def __init__(self, start: Start, cluster: Cluster, changes: Changes, events: Events) -> None:
        self._start = start
        self._tasks = Tasks()
        self._notifier = notifier = Notifier()
        self.cluster = cluster
        self.changes = changes
        self.events = events
        self.started_at = time.time()
        self.config = str(start.config) if start.config else None
        self.state_dir = str(state_folder(start.settings.state_dir))
        self.welcoming = False
        self.generations = Generations(cluster, self._tasks)
        self.generations.on_event = events.take_report
        cluster.on_probe = events.take_probe
        self.drains = Drains(cluster)
        self.looks = Looks(cluster.totals)
        self._turns = turns = Turns(self.generations, self._tasks)
        self.node_states = NodeStates(cluster, self.drains, changes, turns, self._tasks)
        self.node_values = NodeValues(changes, self.generations, turns, notifier)
        self.way = AdminEndpoint(self, start.settings.admin)
        self._loaded = Loaded(changes, self.generations, self.way)
        self.reloads = Reloads(start.load, self._loaded, self.generations, turns, notifier)
        self._estate = Estate(cluster, changes, self.generations, self.drains, events, self.reloads, self.way)
        self._upgrades = Upgrades(self._estate, turns, notifier, is_demo=start.companion is not nullcontext)
        self._ending = Ending(self.generations, turns, notifier)

    async def run(self, handover: Handover | None = None) -> None:
        """Serve until a signal asks for a stop; raises ListenError or StartFailed if nothing is served.

        HANDOVER: of the program before, whose workers serve on if ours do not start.
        """
        async with self._turns.turn():  # a reload that is asked for meanwhile comes after it
            await self._begin(handover)
        self._go_on()
        await self._turns.stopping.wait()
        self.welcoming = False
        await self._ending.stop()
        self._tasks.cancel()
        tell(log, logging.INFO, "stop", "stopped", state="ended")

    async def _begin(self, handover: Handover | None) -> None:
        settings = self._start.settings
        if handover is None:
            await beginning.begin(self._estate, self._loaded, settings)
            self._watch()
            number = self.generations.serving.number
            said = ("started: generation %d serves, %s", number, self.generations.summary())
            tell(log, logging.INFO, "start", *said, generation=number)
        else:
            self._estate.take_over(handover, settings)
            self._watch()
            await self._upgrades.complete(handover, self._loaded.serve(settings))

    def _watch(self) -> None:
        self._tasks.spawn(pulse.watch(self.cluster, self.generations, self._notifier), "watch")

    def _go_on(self) -> None:
        """Clients can connect: say so, and begin what lasts as long as we do."""
        self._tasks.spawn(pulse.beat(self.cluster), "beat")
        if self._start.watch is not None:
            watching = self._start.watch.run(lambda: self.reloads.reload(WATCH))
            self._tasks.spawn(watching, "watch of the settings' file")
        tune_collector()
        if self._start.banner:
            sys.stdout.write(self._start.banner + "\n")
            sys.stdout.flush()
        self.welcoming = True
        self._notifier.ready(self.generations.summary())

    def heed_signals(self) -> None:
        """Stop at SIGTERM or SIGINT, at once at the second; reload at SIGHUP; upgrade at SIGUSR2.

        At SIGUSR1 access logs are opened anew: they have been moved away.
        """
        loop, spawn = asyncio.get_running_loop(), self._tasks.spawn
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.heard_stop)
        loop.add_signal_handler(signal.SIGHUP, self._heard_reload)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
        loop.add_signal_handler(signal.SIGUSR2, lambda: spawn(self._upgrades.upgrade(SIGNAL), UPGRADE))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_SUPERVISOR)  # blocked by an upgrade

    def _heard_reload(self) -> None:
        """Reload, unless one that a signal has asked for has not begun: it reads what there is then."""
        if not self.reloads.is_signalled:
            self.reloads.is_signalled = True
            self._tasks.spawn(self.reloads.reload(SIGNAL), RELOAD)

    def _reopen_logs(self) -> None:
        self.generations.reopen_logs()
        log.info("access logs: opened anew")

    def look(self) -> None:
        """Somebody wants to know what has gone through in the last seconds: see that it is looked at."""
        if self.looks.ask(asyncio.get_running_loop().time()):
            self._tasks.spawn(pulse.look(self.looks), "looks at totals")
