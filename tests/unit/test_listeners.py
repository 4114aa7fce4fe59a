"""Listening sockets, real ones: which are opened, shared, kept and closed when settings change."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trackproxy.control.listeners import Listeners, Place, by_place
from trackproxy.errors import ListenError
from trackproxy.settings import Settings, load
from trackproxy.worker import Worker


def listening_on(*listen: str) -> Settings:
    service = {"protocol": "http", "listen": list(listen)}
    return load(None, {"nodes": {"a": {"address": "127.0.0.1:9"}}, "services": {"web": service}})


@pytest.fixture
def opened() -> Iterator[list[Listeners]]:
    """What a test opens, to be closed after it."""
    every: list[Listeners] = []
    yield every
    for listeners in every:
        listeners.close()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def connects(address: tuple[str, int] | str) -> bool:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(5)
        try:
            client.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


def test_each_worker_has_a_socket_of_its_own(opened: list[Listeners], port: int) -> None:
    listeners = Listeners().open(listening_on(f"127.0.0.1:{port}"), 3)
    opened.append(listeners)
    rows = [listeners.of_worker(number, 3)["web"] for number in range(3)]
    assert [len(row) for row in rows] == [1, 1, 1]
    assert len({row[0].fileno() for row in rows}) == 3
    assert listeners.names("web") == [f"127.0.0.1:{port}"]


def test_any_free_port_is_the_same_one_for_all_workers_and_after_a_reload(opened: list[Listeners]) -> None:
    before = Listeners().open(listening_on("127.0.0.1:0"), 2)
    after = before.open(listening_on("127.0.0.1:0"), 3)
    opened += [before, after]
    assert len({listener.getsockname() for row in after.rows.values() for listener in row}) == 1
    assert after.names("web") == before.names("web")


def test_a_reload_shares_what_is_open_already(opened: list[Listeners], port: int) -> None:
    before = Listeners().open(listening_on(f"127.0.0.1:{port}"), 2)
    after = before.open(listening_on(f"127.0.0.1:{port}"), 2)
    opened += [before, after]
    before.close(keep=after)
    assert after.of_worker(0, 2) == before.of_worker(0, 2)
    assert connects(("127.0.0.1", port))


def test_fewer_workers_read_the_sockets_of_those_that_are_no_more(opened: list[Listeners], port: int) -> None:
    three = Listeners().open(listening_on(f"127.0.0.1:{port}"), 3)
    two = three.open(listening_on(f"127.0.0.1:{port}"), 2)
    opened += [three, two]
    three.close(keep=two)
    mine, others = (two.of_worker(number, 2)["web"] for number in range(2))
    assert (len(mine), len(others)) == (2, 1)
    assert {*mine, *others} == {*three.rows[Place(socket.AF_INET, "127.0.0.1", port)]}


def test_a_further_socket_takes_no_connections_until_its_worker_listens(
    opened: list[Listeners], port: int
) -> None:
    one = Listeners().open(listening_on(f"127.0.0.1:{port}"), 1)
    opened.append(one)
    more = one.open(listening_on(f"127.0.0.1:{port}"), 4)
    first, *further = more.rows[Place(socket.AF_INET, "127.0.0.1", port)]
    clients = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(32)]
    more.close(keep=one)  # their start has failed
    assert all(listener.fileno() == -1 for listener in further)
    for _ in clients:
        first.accept()[0].close()
    for client in clients:
        client.close()


@pytest.mark.parametrize("hosts", [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1")])
def test_a_port_may_move_between_one_address_and_all(
    opened: list[Listeners], port: int, hosts: tuple[str, str]
) -> None:
    before = Listeners().open(listening_on(f"{hosts[0]}:{port}"), 2)
    after = before.open(listening_on(f"{hosts[1]}:{port}"), 2)
    opened += [before, after]
    before.close(keep=after)
    assert not connects(("127.0.0.1", port))  # nobody has it listen yet
    for listener in after.of_worker(0, 2)["web"]:
        listener.listen()
    assert connects(("127.0.0.1", port))


def test_every_interface_is_both_families(opened: list[Listeners], port: int) -> None:
    listeners = Listeners().open(listening_on(f":{port}"), 1)
    opened.append(listeners)
    assert listeners.names("web") == [f"0.0.0.0:{port}", f"[::]:{port}"]
    with socket.create_connection(("::1", port), 5) as client:
        assert client.family == socket.AF_INET6


def test_a_port_that_another_process_has_is_refused_and_nothing_stays_open(port: int) -> None:
    before = {*os.listdir("/proc/self/fd")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"service web cannot listen on 127.0.0.1:{other}: .* in use"):
            Listeners().open(listening_on(f"127.0.0.1:{port}", f"127.0.0.1:{other}"), 2)
    assert {*os.listdir("/proc/self/fd")} == before
    assert not connects(("127.0.0.1", port))


def test_what_a_failed_reload_had_opened_is_closed_and_the_rest_stays(
    opened: list[Listeners], port: int
) -> None:
    before = Listeners().open(listening_on(f"127.0.0.1:{port}"), 1)
    opened.append(before)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = taken.getsockname()[1]
        with pytest.raises(ListenError):
            before.open(listening_on(f"127.0.0.1:{port}", f"127.0.0.1:{other}"), 3)
    assert connects(("127.0.0.1", port))


@pytest.mark.parametrize("order", [Worker.retire, Worker.quit], ids=["retire", "quit"])
async def test_who_waits_at_a_listener_that_goes_is_answered(
    port: int, order: Callable[[Worker, float], None]
) -> None:
    settings = listening_on(f"127.0.0.1:{port}")
    listeners = Listeners().open(settings, 1)
    worker = Worker(settings)
    await worker.start({"web": [one.dup() for one in listeners.of_worker(0, 1)["web"]]})
    listeners.close()  # as the supervisor does first
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        order(worker, 5.0)  # before the loop has turned
        assert (await asyncio.to_thread(client.recv, 4096)).startswith(b"HTTP/1.1 502 ")
    async with asyncio.timeout(10):
        await worker.over.wait()


# --- paths ---


def test_a_path_is_kept_by_a_reload_and_removed_once_nobody_wants_it(
    opened: list[Listeners], tmp_path: Path
) -> None:
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    before = Listeners().open(listening_on(f"unix:{kept}", f"unix:{gone}"), 2)
    after = before.open(listening_on(f"unix:{kept}"), 2)
    opened.append(after)
    assert after.of_worker(0, 2) == after.of_worker(1, 2)  # one socket for all
    before.close(keep=after)
    assert connects(str(kept))
    assert not gone.exists()
    after.close()
    assert not kept.exists()


def test_a_path_that_a_dead_process_has_left_is_replaced(opened: list[Listeners], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
        dead.listen()
    opened.append(Listeners().open(listening_on(f"unix:{tmp_path}/s"), 1))
    assert connects(str(tmp_path / "s"))


def test_a_path_where_another_process_listens_is_left_alone_even_if_its_queue_is_full(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waits:
        other.bind(path)
        other.listen(0)
        waits.connect(path)
        with pytest.raises(ListenError, match="in use by another process"):
            Listeners().open(listening_on(f"unix:{path}"), 1)
    assert Path(path).exists()


def test_a_path_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ListenError, match="is no socket"):
        Listeners().open(listening_on(f"unix:{tmp_path}/s"), 1)
    assert (tmp_path / "s").read_text() == "precious"


# --- from a service manager ---


def test_a_socket_that_was_handed_over_is_read_by_all_workers(opened: list[Listeners], port: int) -> None:
    given = socket.create_server(("127.0.0.1", port))
    listeners = Listeners(by_place([given])).open(listening_on(f"127.0.0.1:{port}"), 3)
    opened.append(listeners)
    assert [listeners.of_worker(number, 3)["web"] for number in range(3)] == [[given]] * 3


def test_a_socket_for_both_families_stands_for_every_interface(opened: list[Listeners], port: int) -> None:
    given = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    listeners = Listeners(by_place([given])).open(listening_on(f":{port}"), 2)
    opened.append(listeners)
    assert listeners.of_worker(0, 2)["web"] == [given]
    again = listeners.open(listening_on(f":{port}"), 2)
    assert again.of_worker(1, 2)["web"] == [given]
