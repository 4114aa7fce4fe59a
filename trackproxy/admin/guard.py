"""Brings the rules of `access` to requests, and to answers the headers that browsers heed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from trackproxy.admin.access import SOCKET, Asked, Caller, Patience, WrongToken, admit
from trackproxy.admin.problems import Problem
from trackproxy.admin_sections import Admin

log = logging.getLogger(__name__)

QUIET_S = 10.0  # after a line about what is no HTTP
MOST_WAITING = 64  # answers to wrong tokens at once; more are refused without a wait

CALLER = web.RequestKey("caller", Caller)

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

SERVER_LOG = logging.getLogger("trackproxy.admin.server")  # what the HTTP server itself has to say

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def let_in(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let everybody in: only our own user reaches the control socket."""
    request[CALLER] = SOCKET
    return await handler(request)


class Guard:
    """Lets in who may ask. admin: the settings in force, which may be replaced at any time."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin
        self._patience = Patience()
        self._waiting = 0

    @web.middleware
    async def let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who may ask, as the settings of this moment say."""
        try:
            request[CALLER] = admit(asked_by(request), self.admin)
        except WrongToken:
            await self._wait(peer_of(request))
            raise
        return await handler(request)

    async def _wait(self, peer: str) -> None:
        count, wait_s = self._patience.wrong(peer, asyncio.get_running_loop().time())
        if count & (count - 1) == 0:  # the first, second, fourth, …
            log.warning("the admin endpoint has refused %d wrong token(s) in a row from %s", count, peer)
        if self._waiting >= MOST_WAITING:
            raise Problem(429, "too many wrong tokens at once", headers={"Retry-After": "2"})
        self._waiting += 1
        try:
            await asyncio.sleep(wait_s)
        finally:
            self._waiting -= 1


def asked_by(request: web.Request) -> Asked:
    """Return what of a request matters for who may make it."""
    name = request.transport.get_extra_info("sockname") if request.transport else None
    resource = request.match_info.route.resource
    headers = request.headers
    return Asked(
        method=request.method,
        route=resource.canonical if resource else "",
        local=(name[0], name[1]) if isinstance(name, tuple) else None,
        hosts=headers.getall("Host", []),
        authorization=headers.getall("Authorization", []),
        origin=headers.get("Origin"),
        site=headers.get("Sec-Fetch-Site"),
        type=request.content_type.lower() if request.body_exists else None,
    )


def peer_of(request: web.Request) -> str:
    """Return the address of whoever has connected; "this machine" over a unix socket."""
    name = request.transport.get_extra_info("peername") if request.transport else None
    return str(name[0]) if isinstance(name, tuple) else "this machine"


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Tell browsers to keep the answer to us, unless it says itself what they may do with it."""
    add_headers_to(response)


def add_headers_to(response: web.StreamResponse) -> None:
    """See `add_headers`."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "trackproxy"


class NoHttp(logging.Filter):
    """Says of a request that is no HTTP only whose it was: the rest may hold a token. And not of each one."""

    def __init__(self) -> None:
        super().__init__()
        self._said = float("-inf")
        self._unsaid = 0

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        if record.created - self._said < QUIET_S:
            self._unsaid += 1
            return False
        more = f", and {self._unsaid} times before" if self._unsaid else ""
        self._said, self._unsaid = record.created, 0
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg = f"the admin endpoint has refused what is no HTTP, from %s{more}"
        return True


SERVER_LOG.addFilter(NoHttp())
