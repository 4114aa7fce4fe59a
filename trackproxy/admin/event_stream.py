"""GET /api/v1/events: what has happened, as a list, or what happens, as server-sent events.

    ?last=N         the last N events: of a list 100 unless said otherwise, before a stream none
    ?follow=true    a stream, as does "Accept: text/event-stream"; then also
    ?probes=all     the result of each probe, which has no id and is not kept
    Last-Event-ID   all that are kept since that one, instead of ?last=N

A stream ends when we do, and for a client that does not read: what waits for it is bounded, by number and
by time. A comment now and then shows to either side that the other one is there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from trackproxy.admin.problems import Problem
from trackproxy.control.events import KEPT, Events, Follower, Numbered, TooMany

LIST = 100
COMMENT_S = 15.0
AT_ONCE = 50  # events in one write, so that little waits in a connection's buffer
WRITE_S = 30.0  # for a client to take what it is sent

TYPE = "text/event-stream"
HEADERS = {
    "Content-Type": TYPE,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx in between would wait for more
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(events: Events) -> Handler:
    """Return what answers the route."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if not _wants_stream(request):
            found = events.last(_count(request, LIST))
            return web.json_response({"events": [one.tree for one in found]})
        return await _stream(request, events)

    return handler


async def _stream(request: web.Request, events: Events) -> web.StreamResponse:
    news = asyncio.Event()
    follower = Follower(news.set, lambda: _is_gone(request), probes=_wants_probes(request))
    past = _past(request, events)
    try:
        events.follow(follower)
    except TooMany as error:
        raise Problem(503, str(error)) from None
    follower.offer(*past)
    response = web.StreamResponse(headers=HEADERS)
    try:
        await response.prepare(request)
        await _pass_on(follower, news, response)
        if follower.too_slow:
            _abort(request)
    except ConnectionError:
        pass  # it has gone
    except TimeoutError:
        _abort(request)
    finally:
        events.leave(follower)
    return response


async def _pass_on(follower: Follower, news: asyncio.Event, response: web.StreamResponse) -> None:
    """Write what comes until the follower is over; raises ConnectionError or TimeoutError."""
    await _write(response, b":\n\n")  # so that the client sees at once that this is a stream
    while True:
        over = follower.over
        if events := follower.take():
            await _write_all(response, events)
        elif over:
            return
        elif not news.is_set() and not await _comes(news):
            await _write(response, b":\n\n")
        news.clear()


async def _comes(news: asyncio.Event) -> bool:
    """Wait for news, but no longer than until the next comment is due."""
    try:
        async with asyncio.timeout(COMMENT_S):
            return await news.wait()
    except TimeoutError:
        return False


async def _write_all(response: web.StreamResponse, events: Sequence[Numbered]) -> None:
    for start in range(0, len(events), AT_ONCE):
        await _write(response, b"".join(_frame(event) for event in events[start : start + AT_ONCE]))


async def _write(response: web.StreamResponse, text: bytes) -> None:
    async with asyncio.timeout(WRITE_S):
        await response.write(text)


def _frame(event: Numbered) -> bytes:
    number = b"" if event.number is None else b"id: %d\n" % event.number
    return b"%bevent: %b\ndata: %b\n\n" % (number, event.tree["kind"].encode(), event.line)


# --- what was asked for ---


def _wants_stream(request: web.Request) -> bool:
    asked = _choice(request, "follow", ("false", "true")) == "true"
    return request.method == "GET" and (asked or TYPE in request.headers.get("Accept", ""))


def _wants_probes(request: web.Request) -> bool:
    return _choice(request, "probes", ("none", "all")) == "all"


def _choice(request: web.Request, name: str, choices: tuple[str, str]) -> str:
    """Return what a parameter says, by default the first of the CHOICES; raises Problem if it is none."""
    said = request.query.get(name, choices[0])
    if said not in choices:
        raise Problem(400, f"{name} must be {' or '.join(choices)}, not {json.dumps(said)}")
    return said


def _count(request: web.Request, default: int) -> int:
    said = request.query.get("last", str(default))
    if not (said.isascii() and said.isdigit() and len(said) <= 4 and int(said) <= KEPT):
        raise Problem(400, f"last must be a number from 0 to {KEPT}, not {json.dumps(said)}")
    return int(said)


def _past(request: web.Request, events: Events) -> list[Numbered]:
    """Return what a stream begins with."""
    count = _count(request, 0)
    seen = request.headers.get("Last-Event-ID", "")
    if seen.isascii() and seen.isdigit() and len(seen) <= 16:
        return events.after(int(seen))
    return events.last(count)


# --- the client ---


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _abort(request: web.Request) -> None:
    """End its connection: it does not take what waits there."""
    if request.transport is not None:
        request.transport.abort()
