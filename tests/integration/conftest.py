"""The stage of the integration tests: nodes, a proxy in this process, and clients, all on 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.integration.nodes import Node, Script
from tests.integration.wire import DEADLINE_S, Wire
from trackproxy.board import Board
from trackproxy.settings import load
from trackproxy.worker import Worker

QUICK_STOP_S = 0.2


class Stage:
    """Starts what a test needs and stops it afterwards, in reverse order; `workers` are the proxies."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.workers: list[Worker] = []

    async def start_node(self, script: Script | None = None, *, reading: bool = True) -> Node:
        """A node that follows the script; without one it answers everything with 200."""
        node = Node(script, reading=reading)
        self._stack.push_async_callback(node.close)
        return node

    async def start_proxy(
        self,
        nodes: Sequence[Node | str],
        *,
        endpoints: Sequence[dict[str, Any]] = (),
        listen: str = "127.0.0.1",
        board: Board | None = None,
        suspect: Callable[[int], None] = lambda index: None,
        name: str = "web",
        protocol: str = "http",
        **service: Any,
    ) -> str:
        """Serve these nodes (or addresses) as n1, n2, …; the address of the proxy.

        endpoints: per node, what the service changes about it. board: one on which the test is the
        supervisor, who hears of suspects. service: the other settings of the service NAME.
        """
        addresses = [node if isinstance(node, str) else node.address for node in nodes]
        names = [f"n{number}" for number in range(1, len(nodes) + 1)]
        family = socket.AF_INET6 if ":" in listen else socket.AF_INET
        listener = socket.create_server((listen, 0), family=family, backlog=1024)
        host = f"[{listen}]" if ":" in listen else listen
        address = f"{host}:{listener.getsockname()[1]}"
        web = {"protocol": protocol, "listen": [address], **service}
        web["nodes"] = dict(zip(names, endpoints or [{}] * len(names), strict=True))
        known = {name: {"address": node} for name, node in zip(names, addresses, strict=True)}
        worker = Worker(load(None, {"nodes": known, "services": {name: web}}), board, suspect=suspect)
        self.workers.append(worker)
        self._stack.callback(listener.close)
        self._stack.push_async_callback(worker.stop, QUICK_STOP_S)
        async with asyncio.timeout(DEADLINE_S):
            await worker.start({name: [listener]})
        return address

    async def connect(
        self, address: str, *, reading: bool = True, receive_buffer_bytes: int | None = None
    ) -> Wire:
        """A client's connection to the proxy."""
        host, _, port = address.rpartition(":")
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_connect(sock, (host.strip("[]"), int(port)))
        wire = Wire(sock, reading=reading)
        self._stack.callback(wire.close)
        return wire

    async def through(self, script: Script | None = None, **service: Any) -> tuple[Wire, Node]:
        """One node, a proxy before it, and a client connected to that."""
        node = await self.start_node(script)
        return await self.connect(await self.start_proxy([node], **service)), node

    def refusing(self) -> str:
        """An address where every connection is refused."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self._stack.callback(sock.close)
        return f"127.0.0.1:{sock.getsockname()[1]}"

    def deaf(self) -> str:
        """An address where connections are neither taken nor refused, because its accept queue is full."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        self._stack.callback(listener.close)
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            self._stack.callback(sock.close)
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A fresh stage for each test."""
    async with AsyncExitStack() as stack:
        yield Stage(stack)
