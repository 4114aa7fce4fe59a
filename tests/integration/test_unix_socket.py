"""The socket for operators on this machine: whose it is, and what happens if it cannot be had."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from trackproxy.admin.unix_socket import reachable
from trackproxy.control.memory import CONTROL_SOCKET


async def _alive(request: web.Request) -> web.Response:
    return web.json_response({"status": "alive"})


@pytest.fixture
def idle() -> web.Application:
    """What is to be reached."""
    application = web.Application()
    application.router.add_get("/healthz", _alive)
    return application


async def answers(path: Path) -> bool:
    """Is there somebody who says that he is alive?"""
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        try:
            async with session.get("http://localhost/healthz", timeout=aiohttp.ClientTimeout(5)) as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False


async def test_it_answers_its_own_user_alone_and_is_gone_afterwards(
    idle: web.Application, tmp_path: Path
) -> None:
    folder = tmp_path / "state" / "deep"
    async with reachable(idle, folder):
        assert await answers(folder / CONTROL_SOCKET)
        assert (folder / CONTROL_SOCKET).stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
        assert os.listdir(folder) == [CONTROL_SOCKET]
    assert os.listdir(folder) == []


async def test_what_a_dead_process_left_behind_is_replaced(idle: web.Application, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / CONTROL_SOCKET))
    async with reachable(idle, tmp_path):
        assert await answers(tmp_path / CONTROL_SOCKET)


async def test_a_live_process_keeps_its_socket_and_the_other_one_says_so(
    idle: web.Application, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reachable(idle, tmp_path):
        before = (tmp_path / CONTROL_SOCKET).stat().st_ino
        async with reachable(idle, tmp_path):
            assert f"another trackproxy, which answers at {tmp_path / CONTROL_SOCKET}" in caplog.text
        assert (tmp_path / CONTROL_SOCKET).stat().st_ino == before
        assert await answers(tmp_path / CONTROL_SOCKET)


async def test_a_socket_whose_queue_is_full_is_not_taken_for_a_dead_one(
    idle: web.Application, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(tmp_path / CONTROL_SOCKET))
        busy.listen(0)
        first.connect(str(tmp_path / CONTROL_SOCKET))
        async with reachable(idle, tmp_path):
            assert "another trackproxy" in caplog.text


async def test_only_the_own_socket_is_removed_at_the_end(idle: web.Application, tmp_path: Path) -> None:
    async with reachable(idle, tmp_path):
        (tmp_path / CONTROL_SOCKET).rename(tmp_path / "kept")
        (tmp_path / CONTROL_SOCKET).write_text("another's")
    assert (tmp_path / CONTROL_SOCKET).read_text() == "another's"


async def test_what_is_no_socket_is_left_alone(
    idle: web.Application, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / CONTROL_SOCKET).write_text("a file")
    async with reachable(idle, tmp_path):
        assert "is in the way" in caplog.text
    assert (tmp_path / CONTROL_SOCKET).read_text() == "a file"


async def test_a_path_that_is_too_long_is_a_warning(
    idle: web.Application, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reachable(idle, tmp_path / ("x" * 110)):
        assert "no commands (reload, nodes, drain, …) reach this process" in caplog.text
        assert "the system allows 107" in caplog.text


async def test_a_folder_that_cannot_be_made_is_a_warning(
    idle: web.Application, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    async with reachable(idle, tmp_path / "file" / "state"):
        assert "cannot be opened: Not a directory" in caplog.text


async def test_the_longest_path_that_the_system_allows_works(idle: web.Application, tmp_path: Path) -> None:
    room = 107 - len(str(tmp_path / "x" / CONTROL_SOCKET)) + 1
    folder = tmp_path / ("x" * room)
    assert len(str(folder / CONTROL_SOCKET)) == 107
    async with reachable(idle, folder):
        assert await answers(folder / CONTROL_SOCKET)
