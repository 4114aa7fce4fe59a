"""Where the admin endpoint listens: what a reload moves, and what happens if a place cannot be had."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.chaos.processes import fixed_ports
from trackproxy.admin.listener import AdminListener
from trackproxy.admin_sections import Admin
from trackproxy.errors import ListenError


async def _alive(request: web.Request) -> web.Response:
    return web.json_response({"status": "alive"})


@pytest.fixture
async def listener() -> AsyncIterator[AdminListener]:
    application = web.Application()
    application.router.add_get("/healthz", _alive)
    listener = AdminListener(application)
    yield listener
    await listener.close()


def at(place: str) -> Admin:
    return Admin.model_validate({"listen": place})


async def answers(place: str) -> bool:
    connector = aiohttp.UnixConnector(place.removeprefix("unix:")) if place.startswith("unix:") else None
    host = "localhost" if connector else place
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            async with session.get(f"http://{host}/healthz", timeout=aiohttp.ClientTimeout(5)) as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False


async def test_it_serves_where_it_is_told_to_and_nowhere_after_its_end(listener: AdminListener) -> None:
    await listener.move(listener.prepare(at("127.0.0.1:0")))
    [place] = listener.addresses
    assert await answers(place)
    await listener.close()
    assert not await answers(place)
    assert listener.addresses == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_it_moves_and_connections_that_are_open_go_on(listener: AdminListener, host: str) -> None:
    first, second = (f"{host}:{port}" for port in fixed_ports(2))
    await listener.move(listener.prepare(at(first)))
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{first}/healthz") as response:
            assert response.status == 200
        await listener.move(listener.prepare(at(second)))
        async with session.get(f"http://{first}/healthz") as response:  # over the same connection
            assert response.status == 200
    assert not await answers(first)
    assert await answers(second)


async def test_it_stays_open_where_nothing_changes(listener: AdminListener) -> None:
    [port] = fixed_ports(1)
    await listener.move(listener.prepare(at(f"127.0.0.1:{port}")))
    again = listener.prepare(at(f"127.0.0.1:{port}"))
    listener.discard(again)  # a reload that failed
    assert await answers(f"127.0.0.1:{port}")
    await listener.move(again)
    assert await answers(f"127.0.0.1:{port}")


async def test_what_is_not_moved_to_is_closed_and_nothing_has_changed(listener: AdminListener) -> None:
    first, second = (f"127.0.0.1:{port}" for port in fixed_ports(2))
    await listener.move(listener.prepare(at(first)))
    listener.discard(listener.prepare(at(second)))
    assert await answers(first)
    assert not await answers(second)


async def test_a_chosen_place_that_is_taken_is_an_error_that_says_what_to_do(listener: AdminListener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"{place}: the port is in use"):
            listener.prepare(at(place))


async def test_the_place_of_the_default_is_missed_with_a_warning_alone(
    listener: AdminListener, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = at(f"127.0.0.1:{other.getsockname()[1]}").listen
        nobodys = Admin.model_construct(_fields_set=set(), listen=place, hosts=[], tokens=[])
        with caplog.at_level(logging.WARNING):
            assert not listener.prepare(nobodys).sockets
    assert "or set admin.listen" in caplog.text


async def test_a_unix_socket_is_for_its_own_user_and_is_removed(
    listener: AdminListener, tmp_path: Path
) -> None:
    path = tmp_path / "admin.sock"
    await listener.move(listener.prepare(at(f"unix:{path}")))
    assert path.stat().st_mode & 0o777 == 0o600
    assert await answers(f"unix:{path}")
    await listener.move(listener.prepare(at("")))
    assert not path.exists()


async def test_a_path_where_a_file_is_in_the_way_is_an_error(listener: AdminListener, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(ListenError, match="in the way"):
        listener.prepare(at(f"unix:{path}"))
    assert path.read_text() == "precious"


async def test_every_interface_is_that_of_ipv6_too(listener: AdminListener) -> None:
    [port] = fixed_ports(1)
    await listener.move(listener.prepare(at(f":{port}")))
    assert await answers(f"127.0.0.1:{port}")
    assert await answers(f"[::1]:{port}")


async def test_sockets_are_handed_on_so_that_nobody_is_refused_meanwhile(tmp_path: Path) -> None:
    application = web.Application()
    application.router.add_get("/healthz", _alive)
    [port] = fixed_ports(1)
    for place in (f"127.0.0.1:{port}", f"unix:{tmp_path}/admin.sock"):
        before, after = AdminListener(application), AdminListener(application)
        await before.move(before.prepare(at(place)))
        rows = {key: [one.dup() for one in row] for key, row in before.rows.items()}
        await after.move(after.prepare(at(place), rows.pop))
        assert rows == {}
        assert await answers(place)
        await after.close()
        assert not (tmp_path / "admin.sock").exists()
        await before.close()


async def test_who_connects_while_it_rests_is_answered_afterwards(listener: AdminListener) -> None:
    await listener.move(listener.prepare(at("127.0.0.1:0")))
    [place] = listener.addresses
    async with listener.resting():
        waiting = asyncio.create_task(answers(place))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
    assert await waiting
