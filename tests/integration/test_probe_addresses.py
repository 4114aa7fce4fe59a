"""Where probes go: names, IPv6, UNIX sockets, and a real nginx."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import OK
from tests.integration.probing import (
    DEADLINE_S,
    TIMEOUT_S,
    both_types,
    prober,
)
from tests.integration.wire import settle
from trackproxy.health import connecting
from trackproxy.health.probes import open_session


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The client of all probes."""
    async with open_session() as session:
        yield session


# --- names ---


@both_types
async def test_a_name_is_looked_up(stage: Stage, session: aiohttp.ClientSession, kind: str) -> None:
    node = await stage.start_node()
    port = node.address.rpartition(":")[2]
    assert (await prober(f"localhost:{port}", session, type=kind).probe()).passed


@both_types
async def test_the_first_address_of_a_name_that_answers_is_used(
    stage: Stage, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async def two(_host: str) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(connecting, "look_up", two)
    node = await stage.start_node()
    port = node.address.rpartition(":")[2]
    assert (await prober(f"node.test:{port}", session, type=kind).probe()).passed


@both_types
async def test_a_name_that_nobody_knows_fails(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async def unknown(_host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(connecting, "look_up", unknown)
    result = await prober("node.test", session, type=kind).probe()
    assert (result.passed, result.local) == (False, False)
    assert result.reason == "the name cannot be looked up: Name or service not known"


@both_types
async def test_a_lookup_that_hangs_is_not_begun_again_before_it_ends(
    stage: Stage, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    lookups: list[asyncio.Future[list[str]]] = []

    async def hanging(_host: str) -> list[str]:
        lookups.append(asyncio.get_running_loop().create_future())
        return await lookups[-1]

    monkeypatch.setattr(connecting, "look_up", hanging)
    node = await stage.start_node()
    port = node.address.rpartition(":")[2]
    probing = prober(f"node.test:{port}", session, TIMEOUT_S, type=kind)
    assert [(await probing.probe()).passed for _ in range(2)] == [False] * 2
    late = asyncio.create_task(probing.probe())
    await settle()
    assert len(lookups) == 1
    lookups[0].set_result(["127.0.0.1"])
    assert (await late).passed


# --- other addresses ---


@asynccontextmanager
async def serving(
    start: Callable[..., Awaitable[asyncio.Server]], *where: Any
) -> AsyncIterator[asyncio.Server]:
    """A server that answers one request of each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1000):
            writer.write(OK)
        await reader.read()
        writer.close()

    server = await start(serve, *where)
    try:
        yield server
    finally:
        server.close()
        await server.wait_closed()


@both_types
async def test_an_ipv6_address_is_probed(session: aiohttp.ClientSession, kind: str) -> None:
    async with serving(asyncio.start_server, "::1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await prober(f"[::1]:{port}", session, type=kind).probe()).passed


@both_types
async def test_a_unix_socket_is_probed(session: aiohttp.ClientSession, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "Knoten é"
    async with serving(asyncio.start_unix_server, path):
        assert (await prober(f"unix:{path}", session, type=kind).probe()).passed


@both_types
async def test_a_unix_socket_that_is_not_there_fails(
    session: aiohttp.ClientSession, tmp_path: Path, kind: str
) -> None:
    result = await prober(f"unix:{tmp_path}/none", session, type=kind).probe()
    assert (result.passed, result.reason) == (False, "there is no such socket")


@both_types
async def test_a_unix_socket_whose_queue_is_full_fails(
    session: aiohttp.ClientSession, tmp_path: Path, kind: str
) -> None:
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(path)
        listener.listen(0)
        waiting.connect(path)
        result = await prober(f"unix:{path}", session, TIMEOUT_S, type=kind).probe()
    assert (result.passed, result.local) == (False, False)


# --- a real node ---

NGINX = """
daemon off; user root root; worker_processes 1; pid {home}/pid; error_log stderr error;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{
    listen {address};
    location = /health {{ return 200 "all is well\\n"; }}
    location = /broken {{ return 503; }}
  }}
}}
"""


@pytest.fixture
async def nginx(tmp_path: Path) -> AsyncIterator[str]:
    """The address of an nginx that listens on a socket of ours."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        conf = tmp_path / "nginx.conf"
        conf.write_text(NGINX.format(home=tmp_path, address=address), encoding="ascii")
        process = await asyncio.create_subprocess_exec(
            *("nginx", "-e", "stderr", "-p", str(tmp_path), "-c", str(conf)),
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
        )
        try:
            yield address
        finally:
            process.terminate()
            async with asyncio.timeout(DEADLINE_S):
                await process.wait()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
async def test_nginx_passes_with_the_right_page_and_fails_with_another(
    nginx: str, session: aiohttp.ClientSession
) -> None:
    well = prober(nginx, session, path="/health", text="is well", expect=["200"])
    results = [await well.probe() for _ in range(20)]
    assert all(result.passed for result in results), results
    broken = await prober(nginx, session, path="/broken").probe()
    assert (broken.passed, broken.reason) == (False, "status 503, expected 200-499")
    assert (await prober(nginx, session, type="tcp").probe()).passed
