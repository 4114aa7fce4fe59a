"""Probes: one look at one endpoint, over a connection of its own.

Promise: `probe` ends within the endpoint's timeout and returns a Result, whatever the node does; only
cancellation goes through. What the node has done wrong is a phrase for the operator; what this machine is
short of counts for nothing. A new kind of probe is one class and one row of `PROBERS`.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import ClientResponse
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from trackproxy.health.connecting import Connector
from trackproxy.health.looking import Prober, TimedProber, probed
from trackproxy.health.reasons import ProbeFailed, reason_of
from trackproxy.health.session_probes import ConnectProber, SessionProber
from trackproxy.route_sections import Probe
from trackproxy.session_sections import SessionService
from trackproxy.settings import AnyService, EndpointConfig
from trackproxy.tls_sections import UpstreamTls
from trackproxy.units import Address, status_range

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

TEXT_BYTES = 64 * 1024  # of a body, in which the text must be
MOST_BYTES = TEXT_BYTES + 64 * 1024  # of all that a node sends: the head, and what frames the body, as well
HTTP_PORT = 80


def make_prober(
    service: AnyService, endpoint: EndpointConfig, session: aiohttp.ClientSession
) -> Prober | None:
    """Return what probes this endpoint, None if nothing does; SESSION comes from `open_session`."""
    if service.probe_type == "off":
        return None
    if isinstance(service, SessionService):
        return SessionProber(service, endpoint)
    if service.probe_type == "tcp":
        return ConnectProber(service.probe, endpoint)
    return HttpProber(service.probe, endpoint, session, service.upstream_tls)


def open_session() -> aiohttp.ClientSession:
    """Return the client of all HTTP probes: a new connection for each request, and nothing kept.

    Needs a running loop; the caller closes it.
    """
    return aiohttp.ClientSession(
        connector=_ProbeConnector(force_close=True, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(),  # none: a probe has one deadline for all
        response_class=_ProbeResponse,
        headers={"User-Agent": "trackproxy-probe", "Accept-Encoding": "identity"},
    )


class _ProbeConnector(aiohttp.BaseConnector):
    """Connects to the address that the URL carries; costs a quarter less than aiohttp's own connectors."""

    def __init__(self, *, force_close: bool, limit: int) -> None:
        super().__init__(force_close=force_close, limit=limit)
        self._connector = Connector()

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> ResponseHandler:
        loop = asyncio.get_running_loop()
        tls = req.ssl if isinstance(req.ssl, ssl.SSLContext) else None
        return await self._connector.connect(
            _address_in(req.url), lambda: _ProbeHandler(loop), tls, req.server_hostname
        )


class _ProbeHandler(ResponseHandler):
    """Parses no more than a probe can need: a flood of interim answers would hold up everything else."""

    _received = 0

    def data_received(self, data: bytes) -> None:
        room = MOST_BYTES - self._received
        self._received += len(data)
        if room > 0:
            super().data_received(data[:room])
        if len(data) > room and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()


class _ProbeResponse(ClientResponse):
    """An answer that is asked for once.

    aiohttp repeats an idempotent request whose connection is lost, even if that was a new one; an exception
    that it does not know keeps it from doing so.
    """

    async def start(self, connection: Connection) -> ClientResponse:
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise ProbeFailed(reason_of(error)) from error


class HttpProber(TimedProber):
    """Asks for a page. Follows no redirect, and reads no more of a body than the text needs."""

    def __init__(
        self,
        probe: Probe,
        endpoint: EndpointConfig,
        session: aiohttp.ClientSession,
        tls: UpstreamTls = UpstreamTls(),  # noqa: B008 - it is frozen
    ) -> None:
        super().__init__(endpoint.probe_timeout_s)
        self._tls = _context(tls.verify, tls.ca_file) if tls.enabled else None
        self._server_name = (tls.server_name or endpoint.address.host or "localhost") if tls.enabled else None
        address = probed(probe.port, endpoint)
        self._session = session
        self._method = probe.method
        self._url = _url(address, probe.path)
        self._headers = {"Host": probe.host or _host(address)}
        self._expected = ", ".join(probe.expect)
        self._ranges = [status_range(text) for text in probe.expect]
        self._text = probe.text.encode()

    async def _look(self) -> str:
        self.awaited = "answer"
        answer = await self._session.request(
            self._method,
            self._url,
            headers=self._headers,
            allow_redirects=False,
            ssl=self._tls or True,
            server_hostname=self._server_name,
        )
        try:
            await self._judge(answer)
        finally:
            answer.close()
        return str(answer.status)

    async def _judge(self, answer: ClientResponse) -> None:
        if not any(answer.status in statuses for statuses in self._ranges):
            raise ProbeFailed(f"status {answer.status}, expected {self._expected}")
        self.awaited = "end of the answer"
        if self._text and not await self._holds_text(answer):
            raise ProbeFailed(f'the text "{self._text.decode()}" is missing')

    async def _holds_text(self, answer: ClientResponse) -> bool:
        body = bytearray()
        async for piece in answer.content.iter_any():
            looked_at = len(body)
            body += piece[: TEXT_BYTES - looked_at]
            if body.find(self._text, max(0, looked_at - len(self._text) + 1)) >= 0:
                return True
            if len(body) == TEXT_BYTES:
                break
        return False


@lru_cache
def _context(verify: bool, ca_file: str) -> ssl.SSLContext:
    from trackproxy.tls import upstream_context  # few services need it

    return upstream_context(verify, ca_file)


def _url(address: Address, target: str) -> URL:
    """Return a URL that carries any address and leaves with exactly this target.

    The path of a UNIX socket stands in it as a host, in hexadecimal, with the port 0. To yarl the target's
    query is a part of the path, so that even an empty one stays.
    """
    host = address.path.encode(errors="surrogateescape").hex() or address.host
    host = f"[{host}]" if ":" in host else host
    return URL.build(scheme="http", host=host, port=address.port, path=target, encoded=True)


def _address_in(url: URL) -> Address:
    assert url.raw_host is not None
    if url.port:
        return Address(url.raw_host, url.port)
    return Address("", 0, bytes.fromhex(url.raw_host).decode(errors="surrogateescape"))


def _host(address: Address) -> str:
    """Return what Host says without a setting: where the probe goes (RFC 9110, 7.2)."""
    if address.path:
        return "localhost"
    return str(address).removesuffix(f":{HTTP_PORT}") if address.port == HTTP_PORT else str(address)
