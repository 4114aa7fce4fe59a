"""How connections end: in time, not too early, whole, and not because something else went wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.memory_stage import Stage
from tests.unit.memory_transport import MemoryTransport
from tests.unit.test_protocols import BEGUN, OK, TIMEOUTS, asked, begun, leave
from trackproxy.clock import NEVER, Sweep
from trackproxy.http.service import Service
from trackproxy.settings import Settings
from trackproxy.worker import Worker

BAD = b"GET / HTTP/1.1\r\n\r\n"  # no Host
UNFINISHED_PUT = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"


class Wait:
    """Something that is due at once. expired: how often it was told so; FAILS: it raises each time."""

    deadline = 0.0

    def __init__(self, fails: bool = False) -> None:
        self.expired = 0
        self.twice = asyncio.Event()
        self._fails = fails

    def expire(self) -> None:
        self.expired += 1
        if self.expired > 1:
            self.twice.set()
        if self._fails:
            raise RuntimeError("a deadline that fails")
        self.deadline = NEVER


# --- draining ---


def test_a_connection_whose_answer_began_before_a_drain_ends_soon_after_that_answer() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = begun(stage)
    stage.drain(1.0)
    stage.after(3)
    assert not client.end
    node.receive(b"x" * 95)
    assert client.taken() == b"x" * 95
    stage.after(2)
    assert client.gone
    assert not client.aborted
    assert stage.over
    stage.assert_at_rest()


@pytest.mark.parametrize("drained", ["before", "after"])
def test_a_drain_waits_for_a_connection_that_lingers(drained: str) -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client = stage.client()
    if drained == "before":
        stage.drain(1.0)
    client.receive(BAD)
    if drained == "after":
        stage.drain(1.0)
    stage.after(2)
    assert not stage.over
    stage.after(TIMEOUTS["linger"])
    assert client.gone
    assert stage.over
    stage.assert_at_rest()


# --- lingering ---


def lingering(stage: Stage) -> MemoryTransport:
    """Return a client that was refused and has not read that yet."""
    client = stage.client()
    client.stuck = True
    client.receive(BAD)
    assert client.unsent
    return client


def test_a_refusal_that_is_read_slowly_but_steadily_is_not_cut() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client = lingering(stage)
    for _ in range(10):
        stage.after(TIMEOUTS["write"] - 1)
        client.drain(1)
    assert not client.end
    client.drain()
    stage.after(TIMEOUTS["write"] + TIMEOUTS["linger"] + 2)
    assert client.gone
    stage.assert_at_rest()


def test_a_refusal_that_nobody_reads_ends_with_the_write_timeout() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client = lingering(stage)
    stage.after(TIMEOUTS["write"] - 1)
    assert not client.end
    stage.after(2)
    assert client.gone
    stage.assert_at_rest()


# --- answers that come before the request is complete ---


@pytest.mark.parametrize("trickles", [True, False])
def test_an_early_answer_goes_on_however_long_the_client_owes_its_body(trickles: bool) -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = asked(stage, UNFINISHED_PUT)
    node.receive(BEGUN)
    for _ in range(4):
        stage.after(TIMEOUTS["body"] - 5)
        node.receive(b"x")
    if trickles:
        client.receive(b"c")
        stage.after(TIMEOUTS["body"] + 2)
    assert not client.end
    node.receive(b"x" * 91)
    assert client.taken().endswith(b"begun" + b"x" * 95)
    leave(stage, client)


@pytest.mark.parametrize("completed", [True, False])
def test_a_connection_on_which_a_node_answered_early_serves_nobody_else(completed: bool) -> None:
    stage = Stage()
    client, node = asked(stage, UNFINISHED_PUT)
    if completed:
        node.receive(BEGUN)
        client.receive(b"cde")
        node.receive(b"x" * 95)
    else:
        node.receive(OK)
    assert not stage.channel().idle
    stage.run()
    assert node.gone
    leave(stage, client)


# --- deadlines that fail ---


def test_a_deadline_that_fails_is_reported_and_keeps_no_other_from_passing() -> None:
    sweep = Sweep(lambda: 100.0, 1.0)
    waits = [Wait(fails=number % 2 == 0) for number in range(10)]
    for wait in waits:
        sweep.add(wait)
    with pytest.raises(ExceptionGroup) as failures:
        sweep.tick()
    assert len(failures.value.exceptions) == 5
    assert [wait.expired for wait in waits] == [1] * 10


async def test_a_worker_goes_on_with_its_deadlines_after_one_that_failed() -> None:
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
    web = {"protocol": "http", "listen": [":8080"], "timeouts": {"linger": 0.05}}
    nodes = {"node0": {"address": "127.0.0.1:8000"}}
    worker = Worker(Settings.model_validate({"nodes": nodes, "services": {"web": web}}))
    await worker.start({"web": []})
    failing = Wait(fails=True)
    service = worker.services["web"]
    assert isinstance(service, Service)
    service.sweep.add(failing)
    try:
        async with asyncio.timeout(5):
            await failing.twice.wait()
    finally:
        await worker.stop(1.0)
    assert isinstance(seen[0]["exception"], ExceptionGroup)
