"""The control plane: opens the listening sockets, runs generations of workers, and ends them in good order.

A generation serves one configuration. A reload checks the new one, opens what it adds, starts its workers on
the sockets of the old one, and only then retires that; what fails before leaves the old generation as it is.
What operators change at run time (`control.changes`) is laid over the settings, and served the same way.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from trackproxy.admin.api import OnlyIf, application
from trackproxy.admin.guard import Guard
from trackproxy.admin.listener import AdminListener
from trackproxy.admin.overview import Outcome
from trackproxy.admin.unix_socket import reachable
from trackproxy.control import generations
from trackproxy.control.activation import Notifier, activated_sockets
from trackproxy.control.audit import LOCAL, SIGNAL, WATCH, Entry, audit, audited, reason_of, telling_failure
from trackproxy.control.changes import Changes, Plan, Values, listed
from trackproxy.control.children import FOR_SUPERVISOR
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drain, Drains, Sticky
from trackproxy.control.events import Events
from trackproxy.control.generation import Generation
from trackproxy.control.generations import Generations, count_workers
from trackproxy.control.listeners import Listeners, by_place
from trackproxy.control.memory import state_folder
from trackproxy.control.overrides import Wanted, differ_in_weights_alone
from trackproxy.control.recent import LOOK_S, Looks
from trackproxy.control.sharing import Sharing
from trackproxy.control.takeover import FORMAT, Handover, become, receive, try_out
from trackproxy.control.tasks import Tasks
from trackproxy.control.watch import FileWatch
from trackproxy.errors import ConfigError, ListenError, StartFailed, TrackproxyError, UpgradeFailed
from trackproxy.health.probes import open_session
from trackproxy.logs import handing_on, log_to_stderr, log_what_nobody_catches
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import Settings
from trackproxy.step import BEAT_S
from trackproxy.telling import tell
from trackproxy.worker import raise_file_limit, tune_collector

log = logging.getLogger(__name__)

T = TypeVar("T")
Companion = Callable[[], AbstractAsyncContextManager[None]]

CHANGES = ("reload", "upgrade", "change")  # tasks that a stop breaks off


@dataclass(frozen=True, slots=True)
class Start:
    """How a supervisor comes to life.

    settings: what to serve. load: reads them again for a reload and raises ConfigError; None if they did not
    come from a file. companion: entered in the event loop before the first request, left after the last one.
    banner: printed once clients can connect. take_over: the descriptor that the program before has left.
    watch: has the settings read again when their file has changed. config: that file.
    """

    settings: Settings
    load: Callable[[], Settings] | None = None
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
        stack.push_async_callback(supervisor.admin.close)
        stack.callback(events.close)  # whoever follows them must not delay the end
        await supervisor.start(handover)
        await supervisor.stopped.wait()
        await supervisor.stop()
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
    """Everything that outlives a configuration.

    welcoming: whether new clients are welcome. started_at: seconds of the wall clock. reloaded: what came of
    the last reload. admin: where it is reached from outside.
    stopped: set by the first signal to stop, hurried by the second.
    """

    def __init__(self, start: Start, cluster: Cluster, changes: Changes, events: Events) -> None:
        self._start = start
        self._notifier = Notifier()
        self._reloading = asyncio.Lock()
        self._tasks = Tasks()
        self.generations = Generations(cluster, self._tasks)
        self.cluster = cluster
        self.changes = changes
        self.events = events
        self.generations.on_event = events.take_report
        cluster.on_probe = events.take_probe
        self.drains = Drains(cluster)
        self.drains.on_disabled = self._drained
        self.looks = Looks(cluster.totals)
        self.started_at = time.time()
        self.reloaded: Outcome | None = None
        self._guard = Guard(start.settings.admin)
        self.admin = AdminListener(application(self, self._guard.let_in))
        self.reloads = {True: 0, False: 0}
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
        self._tasks.spawn(self._beat(), "beat")
        if self._start.watch is not None:
            watching = self._start.watch.run(lambda: self.reload(WATCH))
            self._tasks.spawn(watching, "watch of the settings' file")
        tune_collector()
        if self._start.banner:
            sys.stdout.write(self._start.banner + "\n")
            sys.stdout.flush()
        self.welcoming = True
        self._notifier.ready(self._status())

    async def _begin(self, handover: Handover | None) -> None:
        if handover is None:
            await self._begin_anew()
            self._tasks.spawn(self._watch(), "watch")
            number = self.generations.serving.number
            said = ("started: generation %d serves, %s", number, self._status())
            tell(log, logging.INFO, "start", *said, generation=number)
            return
        self.events.number = handover.events
        self._adopt(handover)
        self._tasks.spawn(self._watch(), "watch")
        try:
            generation = await self._serve_loaded(self._start.settings)
        except TrackproxyError as error:
            reason = reason_of(error)
            text = "upgraded, but the workers of the program before go on: %s"
            tell(log, logging.ERROR, "upgrade_failed", text, reason, reason=reason)
        else:
            outcome = f"upgraded: generation {generation.number} serves, {self._status()}"
            fields = {"state": "done", "outcome": outcome, "generation": generation.number}
            tell(log, logging.INFO, "upgrade", "%s", outcome, **fields)
        await self._keep_handed(handover)

    async def _begin_anew(self) -> None:
        self.generations.listeners = Listeners(by_place(activated_sockets()))
        given = {*self.generations.listeners.rows}
        wanted = self.changes.states()
        moving = [node for node, one in wanted.items() if one.sticky == "move"]
        self.cluster.begin_with({node: one.state for node, one in wanted.items()}, moving)
        await self._serve_loaded(self._start.settings)
        self._resume()
        for place in given - {*self.generations.listeners.rows}:
            log.warning("the service manager's socket %s fits no listener of the settings", place)

    def _resume(self) -> None:
        """Go on with what operators wanted of nodes when the program before ended."""
        for node, wanted in self.changes.states().items():
            if node not in self.cluster.states:
                continue
            text, state = "node %s: %s, as before this start", wanted.state.value
            tell(log, logging.INFO, "node_state", text, node, state, node=node, state=state, was=state)
            if wanted.state is AdminState.DRAIN:
                self.drains.begin(node, wanted.left_s, wanted.sticky, resumed=True)
            else:
                self.cluster.set_state(node, wanted.state)

    async def _serve_loaded(self, loaded: Settings) -> Generation:
        """Serve settings that were LOADED, with what was changed at run time; raises as `switch` does."""
        applied = self.changes.over(loaded)
        opened = self.admin.prepare(loaded.admin, self.generations.listeners.hand)
        try:
            generation = await self.generations.switch(applied.settings)
        except BaseException:
            self.admin.discard(opened)
            raise
        self._guard.admin = loaded.admin
        await self.admin.move(opened)
        await self.changes.served(loaded, applied)
        log_to_stderr(loaded.log_level, loaded.log_format)
        return generation

    async def _keep_handed(self, handover: Handover) -> None:
        """Keep the states that an upgrade has brought, where others were kept."""
        kept, drains = self.changes.states(), {node: drain for node, *drain in handover.drains}
        for node, state in self.cluster.states.items():
            if state is (kept[node].state if node in kept else AdminState.READY):
                continue
            await self.changes.keep_state(node, Wanted(state, *drains.get(node, ())), LOCAL)

    def _adopt(self, handover: Handover) -> None:
        """Take over sockets and workers; the last generation among them serves until ours does."""
        self.generations.listeners = Listeners(handover.rows)
        boards = [one.open_board() for one in handover.generations]
        counted = None not in boards
        self.reloads[True], self.reloads[False] = handover.traffic.get("reloads", (0, 0))
        self.cluster.take_over(handover.states, handover.endpoints, handover.traffic, counted=counted)
        self.generations.adopt(handover.generations, boards, self._start.settings)
        for drain in handover.drains:
            self.drains.begin(*drain, resumed=True)

    def heed_signals(self) -> None:
        """Stop at SIGTERM or SIGINT, at once at the second; reload at SIGHUP; upgrade at SIGUSR2.

        At SIGUSR1 access logs are opened anew: they have been moved away.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._heard_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.spawn(self.reload(SIGNAL), "reload"))
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._tasks.spawn(self.upgrade(SIGNAL), "upgrade"))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_SUPERVISOR)  # blocked by an upgrade

    def _reopen_logs(self) -> None:
        self.generations.reopen_logs()
        log.info("access logs: opened anew")

    def _heard_stop(self) -> None:
        audit(SIGNAL, "stop at once" if self.stopped.is_set() else "stop")
        (self.hurried if self.stopped.is_set() else self.stopped).set()

    # --- changes ---

    async def reload(self, who: str = LOCAL) -> str:
        """Read the settings again and serve them; return what came of it. WHO: has asked for it.

        Raises TrackproxyError with the reason if nothing has changed. It goes on if the caller is cancelled.
        """
        return await self._to_its_end(self._reload_alone(who), "reload")

    async def _to_its_end(self, work: Coroutine[object, object, T], name: str) -> T:
        """Do WORK, even if the caller is cancelled; raises StartFailed if a stop breaks it off."""
        task = self._tasks.spawn(work, name)
        await asyncio.wait({task})
        if task.cancelled():
            raise StartFailed("a stop has come before the new workers served")
        return task.result()

    def _must_go_on(self) -> None:
        """Raise StartFailed if we are on our way out."""
        if self.stopped.is_set() or not self.generations.running:  # none: the start has failed
            raise StartFailed("this trackproxy is stopping")

    async def _reload_alone(self, who: str) -> str:
        with audited(who, "reload"):
            async with self._reloading:
                with telling_failure("reload_failed", "not reloaded", who):
                    self._must_go_on()
                    self._notifier.reloading()
                    try:
                        return await self._reload(who)
                    finally:
                        self._notifier.ready(self._status())

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
            self.reloaded = Outcome(time.time(), ok, outcome)
            self.reloads[ok] += 1
        return outcome

    async def _load_again(self, who: str) -> str:
        if self._start.load is None:
            raise ConfigError(["these settings did not come from a file, so there is nothing to read again"])
        settings = await asyncio.to_thread(self._start.load)
        generation = await self._serve_loaded(settings)
        outcome = f"reloaded: generation {generation.number} serves, {self._status()}"
        fields = {"outcome": outcome, "generation": generation.number, "who": who}
        tell(log, logging.INFO, "reload", "%s", outcome, **fields)
        return outcome

    async def upgrade(self, who: str = LOCAL) -> None:
        """Replace the program of this process by the one that is installed now, then reload.

        WHO: has asked for it. Raises UpgradeFailed if that would not start; everything is as before then.
        """
        audit(who, "upgrade")
        async with self._reloading:
            with telling_failure("upgrade_failed", "not upgraded", who):
                if self.stopped.is_set() or not self.generations.running:
                    raise UpgradeFailed("this trackproxy is stopping")
                tell(
                    log, logging.INFO, "upgrade", "upgrading: trying the new program", state="begun", who=who
                )
                await self._upgrade()

    async def _upgrade(self) -> None:
        try:
            serving = self.generations.serving
            inside = not all(generation.count for generation in self.generations.running)
            if self._start.companion is not nullcontext or inside:
                raise UpgradeFailed("it takes workers in processes of their own, and no demo")
            if len(serving.children()) < serving.count:
                raise UpgradeFailed("a worker is just being replaced; try again")
            await try_out()
            await self.changes.settled()
            self._notifier.reloading()
            async with self.admin.resting():
                become(self._handover())
        except (UpgradeFailed, OSError):
            self._notifier.ready(self._status())
            raise

    def _handover(self) -> Handover:
        states, endpoints, traffic = self.cluster.hand_over()
        traffic["reloads"] = [self.reloads[True], self.reloads[False]]
        return Handover(
            rows={**self.generations.listeners.rows, **self.admin.rows},
            generations=self.generations.hand_over(),
            states=states,
            endpoints=endpoints,
            drains=self.drains.under_way(),
            traffic=traffic,
            events=self.events.number,
        )

    def _status(self) -> str:
        settings = self.generations.serving.settings
        counts = {
            "service": len(settings.services),
            "node": len(settings.nodes),
            "worker": count_workers(settings),
        }
        return ", ".join(f"{count} {thing}{'s' * (count != 1)}" for thing, count in counts.items())

    # --- what is told ---

    @property
    def config(self) -> str | None:
        """The file of the settings, None without one."""
        return str(self._start.config) if self._start.config else None

    @property
    def state_dir(self) -> str:
        """Where state is kept."""
        return str(state_folder(self._start.settings.state_dir))

    def look(self) -> None:
        """Somebody wants to know what has gone through in the last seconds: see that it is looked at."""
        if self.looks.ask(asyncio.get_running_loop().time()):
            self._tasks.spawn(self._look(), "looks at totals")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self.looks.take(loop.time()):
                return
            await asyncio.sleep(LOOK_S)

    # --- nodes ---

    async def drain(
        self,
        node: str,
        timeout_s: float,
        sticky: Sticky = "keep",
        who: str = LOCAL,
        only_if: OnlyIf | None = None,
    ) -> Drain:
        """Send no new clients to NODE; disable it once nothing is open there, after TIMEOUT_S at the latest.

        WHO: has asked for it. ONLY_IF: what must hold, else it raises Outdated and nothing has changed.
        Raises KeyError if there is no such node.
        """
        with self._audited(who, "drain", node, AdminState.DRAIN) as entry:
            async with self._turn(node, entry, only_if):
                drain = self.drains.begin(node, timeout_s, sticky)
                if drain.outcome is None:
                    await self.changes.keep_state(node, Wanted(AdminState.DRAIN, timeout_s, sticky), who)
                return drain

    async def disable(self, node: str, who: str = LOCAL, only_if: OnlyIf | None = None) -> None:
        """Send nothing to NODE any more and probe it no more. WHO, ONLY_IF and errors: as of `drain`."""
        with self._audited(who, "disable", node, AdminState.DISABLED) as entry:
            async with self._turn(node, entry, only_if):
                self.cluster.set_state(node, AdminState.DISABLED)
                self.drains.forget(node)
                await self.changes.keep_state(node, Wanted(AdminState.DISABLED), who)

    async def ready(self, node: str, who: str = LOCAL, only_if: OnlyIf | None = None) -> None:
        """Let NODE take part again, as its probes say. WHO, ONLY_IF and errors: as of `drain`."""
        with self._audited(who, "ready", node, AdminState.READY) as entry:
            if self.cluster.states[node] is AdminState.DISABLED:
                if only_if is not None:
                    only_if()  # and again once it has been probed
                await self.cluster.look_at(node)
            async with self._turn(node, entry, only_if):
                self.drains.forget(node)
                self.cluster.set_state(node, AdminState.READY)
                await self.changes.keep_state(node, Wanted(AdminState.READY), who)

    def _audited(self, who: str, what: str, node: str, wanted: AdminState) -> AbstractContextManager[Entry]:
        before = self.cluster.states.get(node)
        states = {"from": before.value if before else None, "to": wanted.value}
        return audited(who, what, node=node, **states)

    @asynccontextmanager
    async def _turn(self, node: str, entry: Entry, only_if: OnlyIf | None) -> AsyncIterator[None]:
        """Let a change that depends on what there is wait for all that are under way; others need not.

        ENTRY: of the audit, which is to say what NODE was when it changed.
        """
        if only_if is None:
            yield
            return
        async with self._reloading:
            only_if()
            entry["from"] = self.cluster.states[node].value
            yield

    def _drained(self, node: str) -> None:
        began = self.changes.of_state(node, AdminState.DRAIN.value).resolved.changed_by
        kept = self.changes.keep_state(node, Wanted(AdminState.DISABLED), began or LOCAL)
        self._tasks.spawn(kept, f"state of {node}")

    async def set_values(
        self,
        node: str,
        values: Values,
        service: str = "",
        who: str = LOCAL,
        only_if: OnlyIf | None = None,
    ) -> None:
        """Serve other VALUES of a node, weight or max_connections, in one SERVICE or in all.

        None is what the configuration says. WHO: has asked for it. ONLY_IF: what must hold, see `drain`.
        Raises NotChanged, ListenError or StartFailed, and everything is as before then.
        """
        auditing = audited(who, "values", node=node, service=service or None, to=listed(values))
        plan = _only(only_if, lambda: self.changes.values(node, service, values, who))
        await self._change(plan, auditing)

    async def add_node(self, name: str, address: str, settings: Mapping[str, Any], who: str = LOCAL) -> None:
        """Serve with one node more; SETTINGS: see `Added`. Raises as `set_values` does."""
        auditing = audited(who, "add", node=name, to=address)
        await self._change(lambda: self.changes.addition(name, address, settings, who), auditing)

    async def remove_node(self, name: str, who: str = LOCAL, only_if: OnlyIf | None = None) -> None:
        """Serve without a node that was added at run time. WHO, ONLY_IF and errors: as of `set_values`."""
        plan = _only(only_if, lambda: self.changes.removal(name, who))
        await self._change(plan, audited(who, "remove", node=name))

    async def _change(self, plan: Callable[[], Plan], auditing: AbstractContextManager[Entry]) -> None:
        await self._to_its_end(self._change_alone(plan, auditing), "change")

    async def _change_alone(self, plan: Callable[[], Plan], auditing: AbstractContextManager[Entry]) -> None:
        with auditing as entry:
            async with self._reloading:
                await self._change_now(plan, entry)

    async def _change_now(self, plan: Callable[[], Plan], entry: Entry) -> None:
        self._must_go_on()
        planned = plan()
        entry["from"] = planned.was or None
        before, after = self.generations.serving.settings, planned.applied.settings
        if differ_in_weights_alone(before, after):
            self.generations.reweigh(after)
        else:
            await self.generations.switch(after)
        await self.changes.keep(planned)
        self._notifier.ready(self._status())

    # --- time ---

    async def _beat(self) -> None:
        """Share limits and counts out between workers that cannot see each other."""
        sharing = Sharing()
        while True:
            if sharing.is_needed(self.cluster.views):
                await asyncio.sleep(BEAT_S)
                sharing.take(self.cluster.views, asyncio.get_running_loop().time())
            else:
                self.cluster.adopted.clear()
                await self.cluster.adopted.wait()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.cluster.pause_s(min(self._notifier.watchdog_s or 1.0, 1.0)))
            self._notifier.alive()
            self.cluster.pass_time()
            self.generations.look(loop.time())

    # --- the end ---

    async def stop(self) -> None:
        """Serve on for the delay, not ready any more; then answer what is open, and end."""
        self.welcoming = False
        self._tasks.cancel(*CHANGES)
        async with self._reloading:  # until they have undone what they had begun
            self._notifier.stopping()
        settings = self.generations.serving.settings
        if settings.shutdown_delay:
            text = "stopping in %g s; a second signal ends at once"
            tell(log, logging.INFO, "stop", text, settings.shutdown_delay, state="waiting")
            await self._unless_hurried(asyncio.sleep(settings.shutdown_delay))
        text = "stopping: open requests have %g s to end; a second signal ends them at once"
        tell(log, logging.INFO, "stop", text, settings.grace, state="begun")
        self.generations.stop(settings.grace)
        await self._unless_hurried(self.generations.over())
        self.generations.end()
        await self.generations.over()
        self._tasks.cancel()
        tell(log, logging.INFO, "stop", "stopped", state="ended")

    async def _unless_hurried(self, work: Coroutine[object, object, object]) -> None:
        """Wait for WORK, but not after a second signal."""
        waiting: asyncio.Task[object] = asyncio.create_task(work)
        hurry: asyncio.Task[object] = asyncio.create_task(self.hurried.wait())
        await asyncio.wait({waiting, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, hurry):
            task.cancel()


def _only(only_if: OnlyIf | None, plan: Callable[[], Plan]) -> Callable[[], Plan]:
    """Return PLAN, which is made only if that holds at the moment when the change is made."""

    def planned() -> Plan:
        if only_if is not None:
            only_if()
        return plan()

    return planned
