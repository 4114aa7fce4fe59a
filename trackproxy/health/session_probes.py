"""Probes of NNTP, SMTP and TCP endpoints: a connection, or a short polite session over it.

What is said is the dialect's script. A session ends with its farewell and the reply to that, so that a
server's log stays clean.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import lru_cache
from typing import cast

from trackproxy.dialects import DIALECTS, Dialect
from trackproxy.health.connecting import Connector
from trackproxy.health.looking import TimedProber, probed
from trackproxy.health.reasons import ProbeFailed
from trackproxy.proxy_protocol import LOCAL_V2, Peer, header_v1
from trackproxy.route_sections import Probe
from trackproxy.session_sections import SessionService
from trackproxy.settings import EndpointConfig

LINE_BYTES = 8192
MOST_LINES = 200  # of one reply
EXPECT_BYTES = 64 * 1024  # in which the expected text must be
SHOWN = 80  # characters of a line that was not expected


class ConnectProber(TimedProber):
    """Connects and closes."""

    def __init__(self, probe: Probe, endpoint: EndpointConfig) -> None:
        super().__init__(endpoint.probe_timeout_s)
        self._address = probed(probe.port, endpoint)
        self._connector = Connector()
        self.awaited = "connection"

    async def _look(self) -> str:
        await self._connector.connect(self._address, _Closing)
        return "connected"


class _Closing(asyncio.Protocol):
    """A connection that is closed as soon as it is made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Stream(asyncio.StreamReaderProtocol):
    """A stream that shows its transport."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        super().connection_made(transport)


class SessionProber(TimedProber):
    """Connects as sessions do, and says what its type of probe says."""

    def __init__(self, service: SessionService, endpoint: EndpointConfig) -> None:
        super().__init__(endpoint.probe_timeout_s)
        self._address = probed(service.probe.port, endpoint)
        self._connector = Connector()
        self._proxy_protocol = endpoint.proxy_protocol
        self._tls = service.tls == "passthrough"
        self._dialect = DIALECTS[service.probe_type]
        self._name = service.probe.name or socket.gethostname() or "localhost"
        self._send = service.probe.send.encode()
        self._expect = service.probe.expect.encode()

    async def _look(self) -> str:
        self.awaited = "connection"
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LINE_BYTES, loop=loop)
        protocol = await self._connector.connect(self._address, lambda: _Stream(reader, loop=loop))
        writer = asyncio.StreamWriter(protocol.transport, protocol, reader, loop)
        try:
            writer.write(self._header(writer))
            if self._tls:
                self.awaited = "TLS handshake"
                await writer.start_tls(_trusting(), server_hostname=self._address.host)
            if self._dialect.speaks_first:
                return await _Talk(self, reader, writer, self._dialect, self._name).go()
            return await self._exchange(reader, writer)
        finally:
            writer.close()

    def _header(self, writer: asyncio.StreamWriter) -> bytes:
        """Return what says that nobody is behind us (PROXY protocol, 2.1 and 2.2)."""
        if self._proxy_protocol == "off":
            return b""
        if self._proxy_protocol == "v2":
            return LOCAL_V2
        own, node = (_peer(writer.get_extra_info(name)) for name in ("sockname", "peername"))
        return header_v1(own, node)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Send and expect what is configured, if anything."""
        if self._send:
            writer.write(self._send)
        if not self._expect:
            return "connected"
        self.awaited = "expected text"
        came = b""
        while self._expect not in came:
            piece = await reader.read(EXPECT_BYTES)
            if not piece or len(came) > EXPECT_BYTES:
                raise ProbeFailed(f"the text {self._expect.decode()!r} is missing")
            came += piece
        return "the text was there"


class _Talk:
    """One session of a probe."""

    def __init__(
        self,
        prober: SessionProber,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dialect: Dialect,
        name: str,
    ) -> None:
        self._prober = prober
        self._reader = reader
        self._writer = writer
        self._dialect = dialect
        self._name = name

    async def go(self) -> str:
        """Return the code of the greeting; raises ProbeFailed."""
        greeting = await self._expect("greeting", self._dialect.greetings)
        for step in self._dialect.script:
            line = step.line.format(name=self._name)
            self._writer.write(line.encode() + b"\r\n")
            await self._expect(f"reply to {line.split()[0]}", step.codes)
        return greeting

    async def _expect(self, what: str, codes: frozenset[bytes]) -> str:
        self._prober.awaited = what
        first = line = await self._line(what)
        lines = 1
        while self._dialect.continued and line[3:4] == b"-":
            line = await self._line(what)
            lines += 1
            if lines > MOST_LINES:
                raise ProbeFailed(f"{what}: more than {MOST_LINES} lines")
        code = first[:3]
        if code not in codes or not code.isdigit() or first[3:4].isdigit():
            self._writer.write(self._dialect.script[-1].line.encode() + b"\r\n")
            raise ProbeFailed(f"{what}: {_shown(first)}")
        return code.decode()

    async def _line(self, what: str) -> bytes:
        try:
            line = await self._reader.readline()
        except ValueError as error:  # longer than LINE_BYTES
            raise ProbeFailed(f"{what}: a line without an end") from error
        if not line.endswith(b"\n"):
            raise ProbeFailed(f"closed instead of a {what}" if not line else f"{what}: {_shown(line)}")
        return line


def _peer(address: object) -> Peer | None:
    return (address[0], address[1]) if isinstance(address, tuple) else None


def _shown(line: bytes) -> str:
    """Return a line of a node as an operator may see it."""
    text = line[:SHOWN].decode("ascii", "replace").strip()
    return "".join(one if one.isprintable() else "?" for one in text)


@lru_cache
def _trusting() -> ssl.SSLContext:
    """Return a context for probes: whether a certificate is good is for clients to judge."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
