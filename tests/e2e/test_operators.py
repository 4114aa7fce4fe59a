"""What operators ask for while processes hang, die and change: done as answered, and no client notices."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chaos.processes import command_line
from tests.e2e.health_stage import Stage, staged, statuses
from tests.e2e.scripted_node import SLOW, until
from tests.e2e.test_cli import DEADLINE_S
from trackproxy.commands.client import Refused

POST = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
LATE_S = 0.5


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


async def begin(stage: Stage, workers: int) -> None:
    """Start, and wait until changes may be asked for."""
    await stage.start(workers=workers)
    await stage.expect("started: generation 1 serves")


async def test_a_drain_waits_for_what_a_worker_has_begun_that_is_late_to_hear_of_it(stage: Stage) -> None:
    (node,) = await stage.add("one")
    await begin(stage, workers=1)
    (worker,) = stage.serving()
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(POST % SLOW.encode())
    await until(lambda: node.requests)
    os.kill(worker, signal.SIGSTOP)  # mostly before it has told of the request
    try:
        await asyncio.to_thread(stage.client.drain, "one", "60s", "move")
        await asyncio.sleep(LATE_S)
        assert (await stage.look())["one"]["state"] == "drain"
    finally:
        os.kill(worker, signal.SIGCONT)
    await asyncio.sleep(LATE_S)
    node.go_on.set()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await stage.see(lambda seen: seen["one"]["state"] == "disabled")


async def test_who_waits_for_a_change_as_an_upgrade_comes_is_told_that_nothing_was_done(stage: Stage) -> None:
    await stage.add("one", "two")
    await begin(stage, workers=1)
    assert stage.process is not None
    stage.process.send_signal(signal.SIGUSR2)
    await stage.expect("upgrading: trying the new program")
    asked = [
        asyncio.to_thread(stage.client.change, "one", {"max_connections": 7}),
        asyncio.to_thread(stage.client.change, "one", {"weight": 3}),
        asyncio.to_thread(stage.client.reload),
    ]
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, Refused)
        assert answer.problems == ["an upgrade is under way; ask again when it is done"]
    await stage.expect("upgraded: generation 2 serves")
    assert (await stage.look())["one"]["weight"] == 1
    await asyncio.to_thread(stage.client.change, "one", {"max_connections": 7})


async def test_a_reload_that_is_asked_for_while_the_new_program_begins_comes_after_the_upgrade(
    stage: Stage,
) -> None:
    await stage.add("one")
    await begin(stage, workers=1)
    assert stage.process is not None
    pid = stage.process.pid
    stage.process.send_signal(signal.SIGUSR2)
    await until(lambda: "--take-over" in command_line(pid))
    stage.process.send_signal(signal.SIGHUP)
    await stage.expect("upgraded: generation 2 serves.*(?s:.*)reloaded: generation 3 serves")
    assert "not reloaded" not in stage.log


async def test_of_many_signals_to_reload_the_last_one_counts_and_changes_need_not_wait_for_all(
    stage: Stage,
) -> None:
    await stage.add("one", "two")
    await begin(stage, workers=2)
    assert stage.process is not None
    async with stage.load(2) as answers:
        for number in range(1, 21):
            stage.write(node={"two": f"weight = {number}"})
            stage.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.01)
        await asyncio.to_thread(stage.client.change, "one", {"weight": 3})
        seen = await stage.look()
    assert (seen["one"]["weight"], seen["two"]["weight"]) == (3, 20)
    assert 2 <= stage.log.count("reloaded: generation") < 10
    assert statuses(answers) == {200}


async def test_everything_can_be_looked_at_while_the_last_requests_are_answered(stage: Stage) -> None:
    (node,) = await stage.add("one")
    await begin(stage, workers=1)
    assert stage.process is not None
    async with asyncio.TaskGroup() as group:
        last = group.create_task(stage.get(SLOW))
        await until(lambda: node.requests)
        stage.process.send_signal(signal.SIGTERM)
        await stage.expect("stopping: open requests")
        client = stage.client
        for look in (client.services, client.nodes, client.status, lambda: client.events(9)):
            assert await asyncio.to_thread(look)
        (service,) = (await asyncio.to_thread(client.services))["services"]
        assert service["listen"] == []
        node.go_on.set()
    assert last.result().status == 200
    assert await asyncio.to_thread(stage.process.wait, DEADLINE_S) == 0
    assert "Traceback" not in stage.log


async def test_a_state_that_is_set_while_a_reload_takes_the_node_away_goes_with_it(stage: Stage) -> None:
    nodes = await stage.add("one", "two")
    await begin(stage, workers=1)
    stage.nodes = nodes[:1]
    stage.write(workers=1)
    reload = asyncio.create_task(stage.reload())
    while not reload.done():
        with suppress(Refused):  # there is no such node any more
            await asyncio.to_thread(stage.client.disable, "two")
    await reload
    stage.nodes = nodes
    stage.write(workers=1)
    await stage.reload()
    assert (await stage.look())["two"]["state"] == "ready"
    assert stage.process is not None
    await stage.end()
    stage.launch()
    await stage.expect("serving on")
    assert (await stage.look())["two"]["state"] == "ready"
