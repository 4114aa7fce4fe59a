"""What operators ask for while processes hang, die and change: done as answered, and no client notices."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.health_stage import Stage, staged
from tests.e2e.scripted_node import SLOW, until

POST = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
LATE_S = 0.5


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


async def test_a_drain_waits_for_what_a_worker_has_begun_that_is_late_to_hear_of_it(stage: Stage) -> None:
    (node,) = await stage.add("one")
    await stage.start(workers=1)
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
