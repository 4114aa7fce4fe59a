"""The stage of the integration tests: nodes, a proxy in this process, and clients, all on 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from tests.integration.nodes import Node, Script
from tests.integration.wire import DEADLINE_S, Wire
from tests.unit.test_certificates import put
from trackproxy.board import Board
from trackproxy.http.service import Service
from trackproxy.settings import load, tls_name
from trackproxy.worker import Worker

QUICK_STOP_S = 0.2


async def until(true: Callable[[], bool]) -> None:
    """Wait until this is true, for a fact that nobody tells of."""
    async with asyncio.timeout(DEADLINE_S):
        while not true():  # noqa: ASYNC110 - see there
            await asyncio.sleep(0)


class SecureWire(Wire):
    """A client's end of a TLS connection: what is sent and received is plain text.

    tls: its session. shaken: the handshake is over. farewell: the peer has ended its side with close_notify.
    """

    def __init__(self, sock: socket.socket, name: str | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self.shaken = self.farewell = False
        super().__init__(sock)

    async def shake(self) -> None:
        """Begin the handshake, and wait until it is over."""
        await super().send(self.hello())
        await self._wait(lambda: self.shaken, "no handshake")

    def hello(self) -> bytes:
        """The first bytes of the handshake."""
        self._go_on()
        return self._out.read()

    async def send(self, data: bytes, deadline_s: float = DEADLINE_S) -> None:
        """Send all of it as one record or several."""
        self.tls.write(data)
        await super().send(self._out.read(), deadline_s)

    async def farewell_said(self) -> None:
        """Wait until the peer has said close_notify."""
        await self._wait(lambda: self.farewell, "no close_notify")

    async def say_farewell(self) -> None:
        """Send close_notify; reading goes on."""
        with suppress(ssl.SSLWantReadError, ssl.SSLError):
            self.tls.unwrap()
        await super().send(self._out.read())

    async def stop_reading(self) -> None:
        """From now on only `take` reads."""
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)

    async def take(self) -> bool:
        """Read some KiB; False if the peer has ended."""
        async with asyncio.timeout(DEADLINE_S):
            piece = await asyncio.get_running_loop().sock_recv(self.sock, 4096)
        self._in.write(piece)
        self.received += self._go_on()
        return bool(piece)

    def _go_on(self) -> bytes:
        """Take what has come in; what of it is plain text."""
        read = b""
        with suppress(ssl.SSLWantReadError):
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            while not self.farewell:
                piece = self.tls.read(1 << 18)
                self.farewell = not piece
                read += piece
        return read

    async def _read_on(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.ended:
            await self._flowing.wait()
            try:
                piece = await loop.sock_recv(self.sock, 1 << 18)
                self.ended = "" if piece else "eof"
                self._in.write(piece)
                self.received += self._go_on()
                if answer := self._out.read():
                    await loop.sock_sendall(self.sock, answer)
            except OSError:
                self.ended = self.ended or "reset"
            self._news.set()


class Stage:
    """Starts what a test needs and stops it afterwards, in reverse order; `workers` are the proxies."""

    secure: str  # where the last proxy that was started speaks TLS

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.workers: list[Worker] = []

    @property
    def web(self) -> Service:
        """The HTTP service of the last proxy that was started."""
        found = self.workers[-1].services["web"]
        assert isinstance(found, Service)
        return found

    async def over(self) -> None:
        """Wait until `web` has no client left, and nobody holds anything there."""
        await until(lambda: self.web.is_over)
        assert self.web.connections == self.web.upstreams
        assert [endpoint.active for endpoint in self.web.groups[0].endpoints if endpoint.active] == []

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
        number: int = 0,
        suspect: Callable[[int], None] = lambda index: None,
        name: str = "web",
        protocol: str = "http",
        https: dict[str, Any] | None = None,
        **service: Any,
    ) -> str:
        """Serve these nodes (or addresses) as n1, n2, …; the address of the proxy.

        endpoints: per node, what the service changes about it. board: one on which the test is the
        supervisor, who hears of suspects, and the proxy has column NUMBER. https: settings of TLS, without
        the listener, whose address is `secure` then. service: the other settings of the service NAME.
        """
        addresses = [node if isinstance(node, str) else node.address for node in nodes]
        names = [f"n{number}" for number in range(1, len(nodes) + 1)]
        listener, address = self._listen(listen)
        sockets = {name: [listener]}
        web = {"protocol": protocol, "listen": [address], **service}
        if https is not None:
            tls_listener, self.secure = self._listen(listen)
            sockets[tls_name(name)] = [tls_listener]
            web["tls"] = {"listen": [self.secure], **https}
        web["nodes"] = dict(zip(names, endpoints or [{}] * len(names), strict=True))
        known = {name: {"address": node} for name, node in zip(names, addresses, strict=True)}
        worker = Worker(load(None, {"nodes": known, "services": {name: web}}), board, number, suspect)
        self.workers.append(worker)
        self._stack.push_async_callback(worker.stop, QUICK_STOP_S)
        async with asyncio.timeout(DEADLINE_S):
            await worker.start(sockets)
        return address

    def _listen(self, host: str) -> tuple[socket.socket, str]:
        """A listener on any port of HOST, and its address."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, 0), family=family, backlog=1024)
        self._stack.callback(listener.close)
        port = listener.getsockname()[1]
        return listener, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def connect(
        self, address: str, *, reading: bool = True, receive_buffer_bytes: int | None = None
    ) -> Wire:
        """A client's connection to the proxy."""
        wire = Wire(await self._socket(address, receive_buffer_bytes), reading=reading)
        self._stack.callback(wire.close)
        return wire

    async def connect_securely(
        self,
        address: str = "",
        *,
        name: str | None = None,
        ahead: bytes = b"",
        shaken: bool = True,
        receive_buffer_bytes: int | None = None,
    ) -> SecureWire:
        """A client's connection with TLS, by default to `secure`; its handshake is over if SHAKEN.

        name: for SNI. ahead: sent before the handshake, as it is.
        """
        sock = await self._socket(address or self.secure, receive_buffer_bytes)
        wire = SecureWire(sock, name)
        self._stack.callback(wire.close)
        if ahead:
            await Wire.send(wire, ahead)
        if shaken:
            await wire.shake()
        return wire

    async def _socket(self, address: str, receive_buffer_bytes: int | None) -> socket.socket:
        host, _, port = address.rpartition(":")
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_connect(sock, (host.strip("[]"), int(port)))
        return sock

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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a certificate for localhost, with its key in the same file."""
    return put(tmp_path_factory.mktemp("tls") / "localhost.pem", "localhost")


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A fresh stage for each test."""
    async with AsyncExitStack() as stack:
        yield Stage(stack)
