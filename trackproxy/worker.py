"""The data plane of one process: its services, their listeners, and one sweep of deadlines for all."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress

from trackproxy.clock import Sweep
from trackproxy.http.edge import Edge
from trackproxy.http.service import Service
from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.nodes import Node
from trackproxy.settings import ServiceSettings, Settings, endpoints_of

log = logging.getLogger(__name__)

BACKLOG = 4096


def _waits(settings: ServiceSettings) -> Iterator[float]:
    yield from dict(settings.timeouts).values()
    yield settings.queue.timeout
    yield settings.keepalive.idle


class Worker:
    """Serves all services of SETTINGS on the sockets that it is given, until it is stopped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._nodes = {name: Node(name) for name in settings.nodes}
        self._servers: list[asyncio.Server] = []
        self._ticks: asyncio.TimerHandle | None = None
        self.services: dict[str, Service] = {}

    async def start(self, sockets: Mapping[str, list[socket.socket]]) -> None:
        """Serve each service on its SOCKETS, which are bound; from now on they are the worker's."""
        self._loop = loop = asyncio.get_running_loop()
        services = self._settings.services
        shortest_s = min(wait for service in services.values() for wait in _waits(service))
        self._sweep = Sweep(loop.time, shortest_s)
        for name, settings in services.items():
            endpoints = [
                Endpoint.of(config, self._nodes[config.node]) for config in endpoints_of(self._settings, name)
            ]
            service = self.services[name] = Service(name, settings, endpoints, loop, self._sweep)
            for listener in sockets[name]:
                await self._listen(service, listener)
        self._tick()

    async def _listen(self, service: Service, listener: socket.socket) -> None:
        unix = listener.family == socket.AF_UNIX
        create = self._loop.create_unix_server if unix else self._loop.create_server
        self._servers.append(await create(lambda: Edge(service), sock=listener, backlog=BACKLOG))

    def _tick(self) -> None:
        self._ticks = self._loop.call_later(self._sweep.interval_s, self._tick)
        self._sweep.tick()

    async def stop(self, grace_s: float) -> bool:
        """Take no more connections, let requests and tunnels end within GRACE_S, then end what is left.

        Return whether all of them ended by themselves.
        """
        for server in self._servers:
            server.close()
        for service in self.services.values():
            service.drain(min(service.timeouts.linger, grace_s / 2))
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                for service in self.services.values():
                    await service.over.wait()
        left = sum(len(service.open) for service in self.services.values())
        for service in self.services.values():
            service.abort()
        if self._ticks is not None:
            self._ticks.cancel()
        if left:
            log.warning("ended %d connections that were still open after %g s", left, grace_s)
        return not left
