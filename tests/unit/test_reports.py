"""Events on their way from a worker to its supervisor: neither waits for the other, or trips over it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from trackproxy.control.children import Child
from trackproxy.telling import Event, event, read
from trackproxy.worker_process import MOST_UNSENT_BYTES, Reports

ONE = event(1.0, "warning", "ejection", "left out", {"node": "a"})
LARGE = event(1.0, "warning", "ejection", "x" * 1000, {})


async def soon(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not fact():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)


# --- a worker's side ---


async def test_a_worker_does_not_wait_for_its_supervisor_and_says_later_how_much_it_has_missed() -> None:
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setblocking(False)
    _, writer = await asyncio.open_connection(sock=theirs)
    reports = Reports(writer)
    sent, most = 0, 0
    while not reports._dropped:
        reports.event(LARGE)
        sent += 1
        most = max(most, writer.transport.get_write_buffer_size())
    for _ in range(99):
        reports.event(LARGE)
    assert most < MOST_UNSENT_BYTES + 2000
    reader, closing = await asyncio.open_connection(sock=ours, limit=1 << 20)
    for _ in range(sent - 1):
        assert await _next(reader) == LARGE
    reports.event(ONE)
    missed = await _next(reader)
    assert (missed["kind"], missed["text"]) == (
        "worker",
        "100 events have not reached the supervisor; they are in the log",
    )
    assert await _next(reader) == ONE
    reports.event(ONE)
    assert await _next(reader) == ONE
    writer.close()
    closing.close()


async def test_suspicions_that_nobody_takes_are_bounded_too() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _, writer = await asyncio.open_connection(sock=theirs)
    reports = Reports(writer)
    for _ in range(MOST_UNSENT_BYTES):
        reports.suspect(1)
    assert 0 < writer.transport.get_write_buffer_size() < MOST_UNSENT_BYTES + 100
    ours.close()
    writer.close()


async def _next(reader: asyncio.StreamReader) -> Event:
    async with asyncio.timeout(10):
        word, _, rest = (await reader.readline()).partition(b" ")
    found = read(rest)
    assert word == b"event"
    assert found is not None
    return found


async def test_a_worker_whose_supervisor_is_gone_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _, writer = await asyncio.open_connection(sock=theirs)
    ours.close()
    reports = Reports(writer)
    for _ in range(50):
        reports.event(ONE)
        await asyncio.sleep(0)
    assert caplog.messages == []
    writer.close()


# --- the supervisor's side ---


@contextmanager
def child() -> Iterator[tuple[Child, socket.socket]]:
    """A process that does nothing, as a worker, and what it would say it over."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with theirs, process:
        yield Child(process.pid, ours, process), theirs


async def test_events_are_heard_and_what_is_not_understood_is_passed_over() -> None:
    heard: list[bytes] = []
    suspected: list[int] = []
    line = json.dumps(ONE).encode()
    with child() as (worker, theirs):
        worker.on_event = heard.append
        worker.on_suspect = suspected.append
        theirs.sendall(b"comet 7\n\nevent\nevent \nevent " + line + b"\n")
        await soon(lambda: len(heard) == 2)
        assert [read(one) for one in heard] == [None, ONE]
        sending = asyncio.to_thread(theirs.sendall, b"event " + b"x" * 300_000 + b"\n")
        await asyncio.wait_for(sending, 10)
        theirs.sendall(b"\nsuspect 4\nevent " + line + b"\nready\n")
        await soon(worker.ready.is_set)
        assert suspected == [4]
        assert read(heard[-1]) == ONE
        os.kill(worker.pid, 9)
        async with asyncio.timeout(10):
            await worker.death


async def test_what_a_worker_has_said_last_is_heard_before_its_death() -> None:
    heard: list[bytes] = []
    with child() as (worker, theirs):
        worker.on_event = heard.append
        theirs.sendall(b"event " + json.dumps(LARGE).encode() + b"\n")
        await soon(lambda: len(heard) == 1)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for _ in range(99):
            theirs.sendall(b"event " + json.dumps(LARGE).encode() + b"\n")
        theirs.close()
        os.kill(worker.pid, 9)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - one turn of the loop is to see both
        async with asyncio.timeout(10):
            assert await worker.death == "was killed by SIGKILL"
    assert len(heard) == 100


async def test_a_death_does_not_wait_for_others_that_have_its_socket() -> None:
    with child() as (worker, _theirs):  # which stays open
        os.kill(worker.pid, 9)
        async with asyncio.timeout(10):
            assert await worker.death == "was killed by SIGKILL"
