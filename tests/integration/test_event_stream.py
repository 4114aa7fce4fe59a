"""GET /api/v1/events over the socket for operators: lists, streams, and followers that do not behave."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.integration.conftest import until
from trackproxy.admin import event_stream
from trackproxy.admin.problems import answer_problems
from trackproxy.admin.unix_socket import reachable
from trackproxy.control.events import KEPT, MOST_FOLLOWERS, MOST_WAITING, Events
from trackproxy.control.memory import CONTROL_SOCKET
from trackproxy.control.views import Key
from trackproxy.health.looking import Result
from trackproxy.telling import event

URL = "http://localhost/api/v1/events"
DEADLINE_S = 10.0
STREAM = {"Accept": "text/event-stream"}


class Stage:
    """Events, whoever answers for them, and clients."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.path = folder / CONTROL_SOCKET
        self.events = Events()
        self.stack = stack
        self.served = AsyncExitStack()  # leaving it is the end of the server

    async def happen(self, count: int = 1, text: str = "a") -> None:
        for _ in range(count):
            self.events.take(event(1.5, "warning", "health", text, {"node": "n"}))

    async def get(self, **query: str) -> tuple[int, Any]:
        """The answer to a question for a list."""
        async with self.client().get(URL, params=query) as response:
            return response.status, await response.json(content_type=None)

    async def follow(self, seen: str = "", **query: str) -> Stream:
        """Follow events; SEEN: the id of the last one."""
        headers = STREAM | ({"Last-Event-ID": seen} if seen else {})
        response = await self.stack.enter_async_context(self.client().get(URL, params=query, headers=headers))
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        return Stream(response)

    def client(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self.path)),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=1 << 20,
        )
        self.stack.push_async_callback(session.close)
        return session

    def deaf(self) -> socket.socket:
        """A follower that reads nothing."""
        sock = socket.socket(socket.AF_UNIX)
        self.stack.callback(sock.close)
        sock.connect(str(self.path))
        sock.sendall(b"GET /api/v1/events?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return sock

    async def followed_by(self, count: int) -> None:
        await until(lambda: len(self.events._followers) == count)


class Stream:
    """What a follower gets. comments: how many so far."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.comments = 0

    async def next(self) -> dict[str, str]:
        """The fields of the next event; none at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE_S):
            while line := (await self.response.content.readline()).decode():
                if line.startswith(":"):
                    self.comments += 1
                elif line == "\n":
                    if fields:
                        return fields
                else:
                    name, _, value = line.removesuffix("\n").partition(": ")
                    assert name in {"id", "event", "data"}
                    assert name not in fields
                    fields[name] = value
        return fields

    async def ids(self, count: int) -> list[int]:
        return [int((await self.next())["id"]) for _ in range(count)]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        stage = Stage(tmp_path, stack)
        application = web.Application(middlewares=[answer_problems])
        application.router.add_get("/api/v1/events", event_stream.answer(stage.events))
        stack.push_async_callback(stage.served.aclose)
        await stage.served.enter_async_context(reachable(application, tmp_path))
        stage.served.callback(stage.events.close)
        yield stage


# --- lists ---


async def test_a_list_has_the_last_events_oldest_first(stage: Stage) -> None:
    await stage.happen(150)
    status, body = await stage.get()
    assert status == 200
    assert [one["id"] for one in body["events"]] == [*range(51, 151)]
    assert body["events"][-1] == {
        "id": 150,
        "at": 1.5,
        "level": "warning",
        "kind": "health",
        "text": "a",
        "node": "n",
    }
    assert [one["id"] for one in (await stage.get(last="2"))[1]["events"]] == [149, 150]
    assert (await stage.get(last="0"))[1] == {"events": []}
    assert len((await stage.get(last=str(KEPT)))[1]["events"]) == 150


@pytest.mark.parametrize(
    "query",
    [{"last": "-1"}, {"last": "x"}, {"last": "1001"}, {"last": "9" * 5000}, {"last": "²"}, {"follow": "yes"}],
    ids=str,
)
async def test_what_cannot_be_asked_is_answered_with_why(stage: Stage, query: dict[str, str]) -> None:
    status, body = await stage.get(**query)
    assert status == 400
    assert " must be " in body["detail"]


async def test_a_stream_is_refused_with_why_before_it_begins(stage: Stage) -> None:
    for query in ({"probes": "some"}, {"last": "x"}):
        async with stage.client().get(URL, params=query, headers=STREAM) as response:
            assert (response.status, response.content_type) == (400, "application/problem+json")


async def test_who_only_wants_the_head_of_a_stream_gets_it_and_no_more(stage: Stage) -> None:
    async with asyncio.timeout(DEADLINE_S), stage.client().head(URL, headers=STREAM) as response:
        assert response.status == 200


# --- streams ---


async def test_a_stream_has_what_happens_from_now_on(stage: Stage) -> None:
    await stage.happen(3)
    stream = await stage.follow()
    await stage.happen(text="b")
    fields = await stream.next()
    assert (fields["id"], fields["event"]) == ("4", "health")
    assert json.loads(fields["data"]) == stage.events.last(1)[0].tree
    assert stream.response.headers["Cache-Control"] == "no-store"


async def test_a_stream_without_its_header_is_asked_for_by_follow(stage: Stage) -> None:
    async with stage.client().get(URL, params={"follow": "true", "last": "1"}) as response:
        assert response.content_type == "text/event-stream"


async def test_a_stream_begins_with_the_last_ones_if_that_is_wanted(stage: Stage) -> None:
    await stage.happen(5)
    stream = await stage.follow(last="2")
    await stage.happen()
    assert await stream.ids(3) == [4, 5, 6]


async def test_who_comes_back_misses_nothing_that_is_kept(stage: Stage) -> None:
    await stage.happen(5)
    assert await (await stage.follow(seen="3", last="1")).ids(2) == [4, 5]
    assert await (await stage.follow(seen="700")).ids(5) == [1, 2, 3, 4, 5]  # of a process before
    stream = await stage.follow(seen="nonsense")
    await stage.happen()
    assert await stream.ids(1) == [6]


async def test_all_that_is_kept_arrives_in_order_while_more_comes(stage: Stage) -> None:
    await stage.happen(KEPT)
    stream = await stage.follow(seen="0")
    for _ in range(100):
        await stage.happen(10)
        await asyncio.sleep(0)
    assert await stream.ids(2 * KEPT) == [*range(1, 2 * KEPT + 1)]


async def test_words_of_others_are_one_event_and_no_more(stage: Stage) -> None:
    stream = await stage.follow()
    await stage.happen(text="\x1b[31m\n\nevent: stop\r\rdata: {}\u2028")
    await stage.happen(text="b")
    assert "stop" in json.loads((await stream.next())["data"])["text"]
    assert json.loads((await stream.next())["data"])["text"] == "b"


async def test_probes_reach_those_who_ask_for_them_without_an_id(stage: Stage) -> None:
    curious, other = await stage.follow(probes="all"), await stage.follow()
    stage.events.take_probe(Key("web", "n", "a:1"), Result(True, "200 in 1 ms", 0.001))
    await stage.happen()
    fields = await curious.next()
    assert {*fields} == {"event", "data"}
    tree = json.loads(fields["data"])
    assert (tree["kind"], tree["passed"], tree["id"]) == ("probe", True, None)
    assert await curious.ids(1) == await other.ids(1) == [1]
    assert [one["kind"] for one in (await stage.get(probes="all"))[1]["events"]] == ["health"]


async def test_a_quiet_stream_shows_that_it_is_there(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "COMMENT_S", 0.01)
    stream = await stage.follow()
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(3):
            assert await stream.response.content.readline() == b":\n"
            assert await stream.response.content.readline() == b"\n"
    await stage.happen()
    assert await stream.ids(1) == [1]


# --- ends ---


async def test_who_goes_is_forgotten_with_the_next_event(stage: Stage) -> None:
    stream = await stage.follow()
    await stage.followed_by(1)
    stream.response.close()
    await until(lambda: next(iter(stage.events._followers)).gone())
    await stage.happen()
    await stage.followed_by(0)


async def test_the_65th_is_refused_until_one_goes(stage: Stage) -> None:
    streams = [await stage.follow() for _ in range(MOST_FOLLOWERS)]
    async with stage.client().get(URL, headers=STREAM) as response:
        assert response.status == 503
        assert "64 follow" in (await response.json(content_type=None))["detail"]
    streams[7].response.close()
    await until(lambda: any(one.gone() for one in stage.events._followers))
    last = await stage.follow()
    await stage.happen()
    assert await last.ids(1) == await streams[0].ids(1) == [1]


async def test_who_does_not_read_is_cut_off_and_holds_nobody_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "WRITE_S", 0.05)
    sock = stage.deaf()
    stream = await stage.follow()
    await stage.followed_by(2)
    got = 0
    while len(stage.events._followers) == 2:
        await stage.happen(50, text="x" * 500)
        assert await stream.ids(50) == [*range(got + 1, got + 51)]
        got += 50
    await stage.followed_by(1)
    sock.setblocking(False)
    async with asyncio.timeout(DEADLINE_S):  # the rest, and then the end
        while await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
            pass


async def test_who_reads_too_slowly_is_cut_off_by_what_waits_for_it(stage: Stage) -> None:
    stage.deaf()
    await stage.followed_by(1)
    [slow] = stage.events._followers
    for _ in range(200):
        if slow.too_slow:
            break
        await stage.happen(MOST_WAITING // 8, text="x" * 500)
        await asyncio.sleep(0)
    assert slow.too_slow
    assert slow._waiting == []


async def test_a_stop_ends_all_streams_in_good_order_after_the_last_event(stage: Stage) -> None:
    streams = [await stage.follow() for _ in range(20)]
    await stage.followed_by(20)
    await stage.happen()
    await stage.served.aclose()
    for stream in streams:
        assert await stream.ids(1) == [1]
        assert await stream.next() == {}  # one that was cut would raise
