"""The socket for operators on this machine: whose it is, and what happens if it cannot be had."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from trackproxy.admin.unix_socket import reachable
from trackproxy.control.changes import Changes, Values
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drain, Drains, Sticky
from trackproxy.control.memory import CONTROL_SOCKET
from trackproxy.health.probes import open_session
from trackproxy.settings import load

TREE: dict[str, Any] = {
    "nodes": {"a": {"address": "127.0.0.1:9"}},
    "services": {"web": {"protocol": "http", "listen": ["127.0.0.1:0"]}},
}


class Idle:
    """A supervisor that has nothing to do."""

    def __init__(self, cluster: Cluster, changes: Changes) -> None:
        self.cluster = cluster
        self.changes = changes
        self.drains = Drains(cluster)
        self.welcoming = True

    async def reload(self) -> str:
        return ""

    async def drain(self, node: str, timeout_s: float, sticky: Sticky = "keep") -> Drain:
        raise KeyError(node)

    async def disable(self, node: str) -> None:
        """There is none."""

    async def ready(self, node: str) -> None:
        """There is none."""

    async def set_values(self, node: str, values: Values, service: str = "") -> None:
        """There is none."""

    async def add_node(self, name: str, address: str, settings: Mapping[str, Any]) -> None:
        """There is to be none."""

    async def remove_node(self, name: str) -> None:
        """There is none."""


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Idle]:
    async with open_session() as session:
        changes = await Changes.open(tmp_path / "changes", load(None, TREE))
        yield Idle(Cluster(tmp_path / "health", session), changes)
        await changes.close()


async def answers(path: Path) -> bool:
    """Is there somebody who says that he is alive?"""
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        try:
            async with session.get("http://localhost/healthz", timeout=aiohttp.ClientTimeout(5)) as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False


async def test_it_answers_its_own_user_alone_and_is_gone_afterwards(idle: Idle, tmp_path: Path) -> None:
    folder = tmp_path / "state" / "deep"
    async with reachable(idle, folder):
        assert await answers(folder / CONTROL_SOCKET)
        assert (folder / CONTROL_SOCKET).stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
        assert os.listdir(folder) == [CONTROL_SOCKET]
    assert os.listdir(folder) == []


async def test_what_a_dead_process_left_behind_is_replaced(idle: Idle, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / CONTROL_SOCKET))
    async with reachable(idle, tmp_path):
        assert await answers(tmp_path / CONTROL_SOCKET)


async def test_a_live_process_keeps_its_socket_and_the_other_one_says_so(
    idle: Idle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reachable(idle, tmp_path):
        before = (tmp_path / CONTROL_SOCKET).stat().st_ino
        async with reachable(idle, tmp_path):
            assert f"another trackproxy, which answers at {tmp_path / CONTROL_SOCKET}" in caplog.text
        assert (tmp_path / CONTROL_SOCKET).stat().st_ino == before
        assert await answers(tmp_path / CONTROL_SOCKET)


async def test_a_socket_whose_queue_is_full_is_not_taken_for_a_dead_one(
    idle: Idle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(tmp_path / CONTROL_SOCKET))
        busy.listen(0)
        first.connect(str(tmp_path / CONTROL_SOCKET))
        async with reachable(idle, tmp_path):
            assert "another trackproxy" in caplog.text


async def test_only_the_own_socket_is_removed_at_the_end(idle: Idle, tmp_path: Path) -> None:
    async with reachable(idle, tmp_path):
        (tmp_path / CONTROL_SOCKET).rename(tmp_path / "kept")
        (tmp_path / CONTROL_SOCKET).write_text("another's")
    assert (tmp_path / CONTROL_SOCKET).read_text() == "another's"


async def test_what_is_no_socket_is_left_alone(
    idle: Idle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / CONTROL_SOCKET).write_text("a file")
    async with reachable(idle, tmp_path):
        assert "is in the way" in caplog.text
    assert (tmp_path / CONTROL_SOCKET).read_text() == "a file"


async def test_a_path_that_is_too_long_is_a_warning(
    idle: Idle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reachable(idle, tmp_path / ("x" * 110)):
        assert "no commands (reload, nodes, drain, …) reach this process" in caplog.text
        assert "the system allows 107" in caplog.text


async def test_a_folder_that_cannot_be_made_is_a_warning(
    idle: Idle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    async with reachable(idle, tmp_path / "file" / "state"):
        assert "cannot be opened: Not a directory" in caplog.text


async def test_the_longest_path_that_the_system_allows_works(idle: Idle, tmp_path: Path) -> None:
    room = 107 - len(str(tmp_path / "x" / CONTROL_SOCKET)) + 1
    folder = tmp_path / ("x" * room)
    assert len(str(folder / CONTROL_SOCKET)) == 107
    async with reachable(idle, folder):
        assert await answers(folder / CONTROL_SOCKET)
