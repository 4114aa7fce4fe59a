"""A reverse proxy as one writes it with aiohttp alone: a peer of the benchmark, not a part of trackproxy.

Usage: aiohttp_proxy.py PORT HOST:PORT [HOST:PORT …]. A handler, one client session with keep-alive,
streaming both ways, hop-by-hop fields removed, forwarded fields added, nodes in turn.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Iterator

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

# RFC 9110, 7.6.1, and the older ones of RFC 2616.
HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    *("proxy-authenticate", "proxy-authorization"),
}


def end_to_end(fields: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The fields that go on to the next hop."""
    named = {name.strip().lower() for name in fields.get("Connection", "").split(",")}
    dropped = HOP_BY_HOP | named
    return CIMultiDict((name, value) for name, value in fields.items() if name.lower() not in dropped)


class Proxy:
    """Forwards each request to the next node."""

    def __init__(self, session: aiohttp.ClientSession, nodes: list[str]) -> None:
        self._session = session
        self._turns: Iterator[str] = itertools.cycle(nodes)

    async def forward(self, request: web.Request) -> web.StreamResponse:
        url = URL(f"http://{next(self._turns)}{request.raw_path}", encoded=True)
        fields = end_to_end(request.headers)
        before = fields.get("X-Forwarded-For")
        fields["X-Forwarded-For"] = f"{before}, {request.remote}" if before else f"{request.remote}"
        fields["X-Forwarded-Proto"] = request.scheme
        fields["X-Forwarded-Host"] = request.host
        body = request.content if request.body_exists else None
        async with self._session.request(
            request.method, url, headers=fields, data=body, allow_redirects=False
        ) as answer:
            return await self._relay(request, answer)

    async def _relay(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(
            status=answer.status, reason=answer.reason, headers=end_to_end(answer.headers)
        )
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        await response.write_eof()
        return response


async def serve(port: int, nodes: list[str]) -> None:
    """Until cancelled."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    ) as session:
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", Proxy(session, nodes).forward)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=300)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2:]))
