"""Sessions and processes: reloads, workers that die, drains and ends, as operators and clients see them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.health_stage import Stage
from tests.integration.nodes import Exchange, Node
from tests.integration.wire import DEADLINE_S
from trackproxy.commands.client import Client

FAREWELL = b"421 mail Service not available, closing transmission channel\r\n"

Session = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def serving(exchange: Exchange) -> None:
    """An SMTP server that knows what a probe and these tests say."""
    await exchange.send(b"220 ready\r\n")
    try:
        while True:
            await exchange.wire.stirs()
            quits = (await exchange.wire.until(b"\r\n")).startswith(b"QUIT")
            await exchange.send(b"221 bye\r\n" if quits else b"250 ok\r\n")
    finally:
        exchange.wire.close()


class MailStage(Stage):
    """Two SMTP nodes and the trackproxy before them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.servers: list[Node] = []
        self.session_grace = "1h"

    def write_mail(self, more: str = "") -> None:
        """Write the settings, with MORE keys of the service."""
        lines = ["workers = 2", 'grace = "2s"', f'session_grace = "{self.session_grace}"']
        lines += [f'state_dir = "{self.folder}/state"']
        for number, node in enumerate(self.servers, 1):
            lines += [f"[nodes.n{number}]", f'address = "{node.address}"']
        lines += ["[services.mail]", 'protocol = "smtp"', f'listen = ["127.0.0.1:{self.port}"]', more]
        self.file.write_text("\n".join(lines) + "\n")

    async def session(self) -> Session:
        """A new greeted session."""
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            self._kept.append(writer)
            assert await reader.readline() == b"220 ready\r\n"
        return reader, writer

    async def works(self, session: Session) -> bool:
        """Does a command get its reply?"""
        reader, writer = session
        writer.write(b"NOOP\r\n")
        async with asyncio.timeout(DEADLINE_S):
            return await reader.readline() == b"250 ok\r\n"


@pytest.fixture
async def mail(tmp_path: Path) -> AsyncIterator[MailStage]:
    """Two nodes, and a trackproxy that serves."""
    stage = MailStage(tmp_path)
    stage.servers = [Node(serving), Node(serving)]
    stage.write_mail()
    stage.launch()
    try:
        await stage.expect("started: generation")
        yield stage
    finally:
        stage.kill()
        for node in stage.servers:
            await node.close()


async def test_reloads_leave_sessions_running_and_serve_new_ones(mail: MailStage) -> None:
    sessions = [await mail.session() for _ in range(6)]
    for turn in range(3):
        mail.write_mail(f'greeting_timeout = "{5 + turn}s"')
        await asyncio.to_thread(mail.client.reload)
        sessions.append(await mail.session())
        assert [await mail.works(session) for session in sessions] == [True] * len(sessions)
    assert await asyncio.to_thread(lambda: open_sessions(mail.client)) == len(sessions)
    for _, writer in sessions:
        writer.close()
    await mail.expect("generation 1 has ended")
    await mail.end()


async def test_sessions_that_outlast_their_grace_are_taken_leave_of(mail: MailStage) -> None:
    mail.session_grace = "2s"
    mail.write_mail()
    await asyncio.to_thread(mail.client.reload)  # from now on
    reader, _ = await mail.session()
    await asyncio.to_thread(mail.client.reload)
    async with asyncio.timeout(20):
        assert await reader.read() == FAREWELL
    await mail.end()


async def test_a_drain_lets_sessions_run_to_its_deadline_and_sends_new_ones_elsewhere(
    mail: MailStage,
) -> None:
    sessions = [await mail.session() for _ in range(2)]
    before = len(mail.servers[1].connections)
    node = await asyncio.to_thread(mail.client.drain, "n1", "2s", "keep")
    assert node["left"]["sessions"] == 1
    others = [await mail.session() for _ in range(3)]
    assert [await mail.works(session) for session in sessions + others] == [True] * 5
    assert len(mail.servers[1].connections) >= before + 3
    lines = [asyncio.create_task(reader.readline()) for reader, _ in sessions]
    done, others_wait = await asyncio.wait(lines, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [FAREWELL]
    for task in others_wait:
        task.cancel()
    node = await asyncio.to_thread(mail.client.node, "n1")
    assert (node["state"], node["drain"]["outcome"]) == ("disabled", "deadline")


async def test_a_worker_that_dies_takes_only_its_own_sessions(mail: MailStage) -> None:
    sessions = [await mail.session() for _ in range(12)]
    os.kill(mail.serving()[0], signal.SIGKILL)
    await mail.expect("was killed by SIGKILL; another one starts")
    alive = sum([await lives(mail, session) for session in sessions])
    assert 0 < alive < len(sessions)  # 1 in 2,048 that all were on one of the two
    assert [await mail.works(await mail.session()) for _ in range(4)] == [True] * 4


async def test_a_stop_gives_sessions_its_grace_and_takes_leave(mail: MailStage) -> None:
    reader, writer = await mail.session()
    assert await mail.works((reader, writer))
    ending = asyncio.create_task(mail.end())
    async with asyncio.timeout(20):
        assert await reader.read() == FAREWELL
    await ending


def open_sessions(client: Client) -> int:
    """How many sessions are open on all nodes, as operators are told."""
    return sum(node["left"]["sessions"] for node in client.nodes()["nodes"])


async def lives(mail: MailStage, session: Session) -> bool:
    """Does a session still get replies?"""
    try:
        return await mail.works(session)
    except ConnectionError:
        return False
