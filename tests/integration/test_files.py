"""A worker that is out of file descriptors: who connects waits, and is served once others leave."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import request
from tests.integration.wire import DEADLINE_S, Wire

FILES = 100
WATCHED_S = 0.5


class Process:
    """The process of a worker; `address` is where it serves."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self.address = address

    @property
    def cpu_s(self) -> float:
        """The processor time that it has taken so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
async def crowded(stage: Stage) -> AsyncIterator[Process]:
    """A worker that may have FILES files open, and one node."""
    node = await stage.start_node()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.few_files", str(FILES), node.address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S * 4):
            port = int(await process.stdout.readline())
        yield Process(process, f"127.0.0.1:{port}")
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(DEADLINE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def arrive(stage: Stage, crowded: Process, count: int) -> list[Wire]:
    """So many clients connect and ask, one after the other as fast as they can."""
    clients = []
    for _ in range(count):
        client = await stage.connect(crowded.address)
        await client.send(request("/"))
        clients.append(client)
    return clients


async def settled(clients: list[Wire]) -> list[bool]:
    """Whether each client has got its answer, once that has not changed for WATCHED_S."""
    seen: list[bool] = []
    while seen != (now := [bool(client.received) for client in clients]):
        seen = now
        await asyncio.sleep(WATCHED_S)
    return seen


async def test_who_connects_to_a_worker_without_free_files_waits_and_is_served_when_others_leave(
    stage: Stage, crowded: Process
) -> None:
    clients = await arrive(stage, crowded, 2 * FILES)
    answered = await settled(clients)
    assert not any(client.ended for client in clients)
    assert FILES // 3 < sum(answered) < FILES
    while waiting := [client for client in clients if not client.received]:
        for client in clients:
            if client.received:
                client.close()
        clients = waiting
        await settled(clients)
        assert not any(client.ended for client in clients)
        assert any(client.received for client in clients)


async def test_a_worker_without_free_files_does_not_spin(stage: Stage, crowded: Process) -> None:
    clients = await arrive(stage, crowded, 2 * FILES)
    await settled(clients)
    before_s = crowded.cpu_s
    await asyncio.sleep(2 * WATCHED_S)
    assert crowded.cpu_s - before_s < WATCHED_S / 2
