"""The data plane of one process: its services, their listeners, and two clocks for all of them.

One sweep watches the deadlines of connections; one beat, 40 times a second, keeps the services in step with
the board. A worker that runs out of file descriptors stops accepting until some are free again: who connects
meanwhile waits in the accept queue.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count

from trackproxy.access.writer import Writers
from trackproxy.board import Board
from trackproxy.clock import Sweep
from trackproxy.http.means import Means
from trackproxy.http.quick_access import make_access
from trackproxy.http.service import Service
from trackproxy.http_sections import HttpService
from trackproxy.pool.admission import Admission
from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.nodes import Node
from trackproxy.served import Listening, Served
from trackproxy.settings import AnyService, EndpointConfig, Settings, groups_of, routes_of, tls_name
from trackproxy.sockets.poller import Poller
from trackproxy.step import BEAT_S, IDLE_BEAT_S, Step
from trackproxy.tcp.access import SessionAccess
from trackproxy.tcp.forwarder import Forwarder
from trackproxy.tcp.pipes import Pipes
from trackproxy.tcp.relay import Tools
from trackproxy.telling import tell

log = logging.getLogger(__name__)

REST_S = 1.0  # after accepting has failed
LAST_LINES_S = 2.0  # for a disk to take what is left of access logs

# A request leaves few objects that only the collector frees; looking for them every 700 allocations, as
# Python does by default, costs more than they hold.
GC_THRESHOLDS = (20_000, 20, 50)


def tune_collector() -> None:
    """Leave alone what is there for good; to be called once everything is set up."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _waits(settings: AnyService) -> Iterator[float]:
    yield from (wait for wait in dict(settings.timeouts).values() if wait is not None)
    if isinstance(settings, HttpService):
        for route in settings.routes:
            yield from (wait for wait in dict(route.timeouts).values() if wait is not None)
        yield settings.queue.timeout
        yield settings.keepalive.idle
    else:
        yield settings.greeting_timeout
        yield settings.greeting_deadline


class Files:
    """How many connections this process may have. A quarter of the descriptors is for those to nodes."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = soft - len(os.listdir("/proc/self/fd"))
        self.most = max(free - free // 4, 1)
        self.enough = max(self.most - self.most // 20 - 1, 1)  # that few, and accepting goes on


class Worker:
    """Serves all services of SETTINGS on the sockets that it is given, until it has ended.

    over: set once nothing is open any more. left: connections that had to be ended.
    """

    def __init__(
        self,
        settings: Settings,
        board: Board | None = None,
        number: int = 0,
        suspect: Callable[[int], None] = lambda index: None,
    ) -> None:
        """Take column NUMBER of BOARD; without one it is alone. SUSPECT: hears of endpoints to be probed."""
        self._settings = settings
        self._board = board
        self._number = number
        self._suspect = suspect
        self._nodes = {name: Node(name) for name in settings.nodes}
        self._listeners: list[tuple[Served, socket.socket, bool]] = []  # True: for TLS
        self._servers: list[Listening] = []
        self._poller: Poller | None = None  # made by the first service that needs it, as what follows
        self._tools: Tools | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._opening: asyncio.Task[None] | None = None
        self._last: asyncio.Task[None] | None = None  # once all else is over
        self._accept_from = 0.0
        self._idle = True  # no client since the last beat
        self._ending = False
        self._settling = False  # connections may be coming that no service knows of yet
        self.services: dict[str, Served] = {}
        self.over = asyncio.Event()
        self.left = 0

    async def start(self, sockets: Mapping[str, list[socket.socket]]) -> None:
        """Serve each service on its SOCKETS, which are bound; from now on they are the worker's."""
        self._loop = loop = asyncio.get_running_loop()
        services = self._settings.services
        shortest_s = min(wait for service in services.values() for wait in _waits(service))
        self._sweep = Sweep(loop.time, shortest_s)
        self._files = Files()
        self._logs = Writers(loop)
        self._board = self._board or Board.create(
            sum(len(group.endpoints) for name in services for group in groups_of(self._settings, name)),
            workers=1,
            routes=len(routes_of(self._settings)),
        )
        self._means = Means(self._board, self._number, self._watch_sockets)
        self._indices = count()
        for name, settings in services.items():
            service = self.services[name] = self._make(name, settings)
            for group in service.groups:
                group.alert = self._suspect
            service.on_open = self._welcome
            self._listeners += [(service, listener, False) for listener in sockets.get(name, ())]
            self._listeners += [(service, listener, True) for listener in sockets.get(tls_name(name), ())]
        self._step = Step(self._board, self._number, list(self.services.values()))
        await self._accept_again()
        self._beat()
        self._tick()

    def _make(self, name: str, settings: AnyService) -> Served:
        """Return a service, its endpoints in their places on the board."""
        board = self._board
        assert board is not None
        groups = groups_of(self._settings, name)
        endpoints = {group.name: [self._seat(config) for config in group.endpoints] for group in groups}
        wanted = settings.access_log
        writer = self._logs.at(wanted.path, wanted.max_pending) if wanted.path else None
        if isinstance(settings, HttpService):
            service = Service(name, settings, endpoints, self._loop, self._sweep, self._means)
            service.access = make_access(name, settings.access_log, writer) if writer else None
            return service
        if self._tools is None:
            self._tools = Tools(self._watch_sockets(), Pipes(), self._sweep)
            others = [board.clients(number) for number in range(board.workers) if number != self._number]
            self._admission = Admission(board.clients(self._number), others)
        configs = groups[0].endpoints
        forwarder = Forwarder(name, settings, endpoints[""], configs, self._tools, self._admission)
        forwarder.access = SessionAccess(name, settings.access_log, writer) if writer else None
        return forwarder

    def _watch_sockets(self) -> Poller:
        if self._poller is None:
            self._poller = Poller(self._loop)
        return self._poller

    def _seat(self, config: EndpointConfig) -> Endpoint:
        """Return an endpoint in its place on the board."""
        assert self._board is not None
        endpoint = Endpoint.of(config, self._nodes[config.node])
        endpoint.index = next(self._indices)
        endpoint.cells = self._board.counters(self._number, endpoint.index)
        return endpoint

    # --- listeners ---

    async def _accept(self) -> None:
        """Accept connections; the sockets themselves stay open when servers close."""
        for service, listener, tls in self._listeners:
            self._servers.append(await service.listen(listener, tls=tls))

    def _pause(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []

    def _welcome(self) -> None:
        """A client has come: if it is the first one, see what has happened since the last slow beat."""
        if self._idle:
            self._idle = False
            self._step.take(self._loop.time())
        self._watch_files()

    def _watch_files(self) -> None:
        """Stop accepting while there are too few descriptors, and go on once there are enough."""
        if self._ending or self._opening is not None:
            return
        used = sum(service.connections for service in self.services.values())
        if self._servers and used >= self._files.most:
            text = "%d connections are open, as many as this process may have: the next ones wait"
            tell(log, logging.WARNING, "worker", text, used, state="full", connections=used)
            self._pause()
        elif not self._servers and used <= self._files.enough and self._loop.time() >= self._accept_from:
            self._accept_again()

    def _accept_again(self) -> asyncio.Task[None]:
        self._opening = opening = self._loop.create_task(self._accept(), name="accept")
        opening.add_done_callback(self._opened)
        return opening

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled() and (error := opening.exception()) is not None:
            text = "cannot accept connections, %g s until the next try: %s"
            tell(log, logging.ERROR, "worker", text, REST_S, error, state="not accepting", reason=str(error))
            self._accept_from = self._loop.time() + REST_S
            self._pause()
        if self._ending:
            self._pause()

    def _accept_rest(self) -> None:
        """Take who waits in the accept queues: with the sockets they would be reset."""
        for service, listener, tls in self._listeners:
            with suppress(OSError):
                while True:
                    service.take(*listener.accept(), tls=tls)

    # --- clocks ---

    def _tick(self) -> None:
        self._timers["tick"] = self._loop.call_later(self._sweep.interval_s, self._tick)
        self._sweep.tick()

    def _beat(self) -> None:
        self._idle = not any(service.open for service in self.services.values())
        pause_s = IDLE_BEAT_S if self._idle else BEAT_S
        self._timers["beat"] = self._loop.call_later(pause_s, self._beat)
        self._step.beat(time.monotonic(), pause_s)
        now = self._loop.time()
        self._step.take(now)
        self._logs.beat(now)
        self._watch_files()

    # --- the end ---

    def retire(self, grace_s: float) -> None:
        """Others serve the listeners now: take no connections, and end what is open within GRACE_S.

        Clients between two requests may send one more until then; its answer ends their connection. Sessions
        may go on for `session_grace`. Who waits in an accept queue is served too: the others may not have
        that listener any more.
        """
        self._pause()
        self._accept_rest()
        self._close(grace_s, max(grace_s, self._settings.session_grace), wait_s=grace_s)

    def quit(self, grace_s: float) -> None:
        """Nobody serves the listeners any more: answer who waits there, and end all within GRACE_S."""
        self._pause()
        self._accept_rest()
        linger_s = max(service.settings.timeouts.linger for service in self.services.values())
        self._close(grace_s, grace_s, wait_s=min(linger_s, grace_s / 2))

    async def stop(self, grace_s: float) -> bool:
        """Quit, and wait for the end; return whether everything ended by itself."""
        self.quit(grace_s)
        await self.over.wait()
        return not self.left

    def _close(self, grace_s: float, session_grace_s: float, wait_s: float) -> None:
        self._ending = True
        self._pause()
        for _, listener, _ in self._listeners:
            listener.close()
        self._listeners = []
        for name, service in self.services.items():
            service.drain(wait_s, self._look)
            key = f"end of {name}"
            if key in self._timers:
                self._timers[key].cancel()
            left_s = session_grace_s if isinstance(service, Forwarder) else grace_s
            self._timers[key] = self._loop.call_later(left_s, self._end_one, service)
        # Connections just accepted are not open yet: the loop tells their protocols with its next callbacks.
        self._settling = True
        self._loop.call_soon(self._loop.call_soon, self._settled)

    def _settled(self) -> None:
        self._settling = False
        self._look()

    def _look(self) -> None:
        """Notice that all is over."""
        if self._settling or any(not service.is_over for service in self.services.values()):
            return
        for timer in self._timers.values():
            timer.cancel()
        if self._tools is not None:
            self._tools.pipes.trim()
            self._tools = None
        if self._poller is not None:
            self._poller.stop()
            self._poller = None
        self._means.stop()
        self._step.tell()
        if not self._logs:
            self.over.set()
        elif self._last is None:
            self._last = self._loop.create_task(self._end_logs(), name="end of access logs")

    async def _end_logs(self) -> None:
        await self._logs.close(LAST_LINES_S)
        self.over.set()

    def reopen_logs(self) -> None:
        """Access logs have been moved away: write to new files."""
        self._logs.reopen()

    def end(self) -> None:
        """End at once whatever is open."""
        if not self._ending:
            self._close(0.0, 0.0, 0.0)
        for name, service in self.services.items():
            self._timers[f"end of {name}"].cancel()
            self._end_one(service)

    def _end_one(self, service: Served) -> None:
        if service.open:
            self.left += len(service.open)
            text, count = "%s: ended %d connections that were still open at the deadline", len(service.open)
            where = {"service": service.name, "connections": count, "state": "ended"}
            tell(log, logging.WARNING, "worker", text, service.name, count, **where)
        service.abort()
