"""Orders: what a supervisor sends arrives whole, descriptors included, however many."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from trackproxy.orders import FDS_AT_ONCE, Order
from trackproxy.settings import Settings, load
from trackproxy.worker_process import _obey


@pytest.fixture
def settings() -> Settings:
    service = {"protocol": "http", "listen": ["127.0.0.1:0"]}
    return load(None, {"nodes": {"a": {"address": "127.0.0.1:9"}}, "services": {"web": service}})


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.settimeout(5)
        yield ours, theirs


def kind(fd: int) -> tuple[int, int]:
    """What makes two descriptors the same file."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


@pytest.mark.parametrize(
    "counts", [{"web": 1}, {"web": 2, "news": 0, "mail": 3}, {"web": FDS_AT_ONCE + 5}], ids=str
)
def test_an_order_arrives_with_its_descriptors(
    settings: Settings, pair: tuple[socket.socket, socket.socket], counts: dict[str, int]
) -> None:
    with ExitStack() as stack:
        board_fd = os.memfd_create("board")
        stack.callback(os.close, board_fd)
        rows = {
            name: [stack.enter_context(socket.socket()).fileno() for _ in range(count)]
            for name, count in counts.items()
        }
        order = Order(settings, 7, board_fd, rows)
        sending = threading.Thread(target=order.send, args=[pair[0]])
        sending.start()
        got = Order.receive(pair[1])
        sending.join()
        for fd in (got.board_fd, *(fd for row in got.listeners.values() for fd in row)):
            stack.callback(os.close, fd)
        assert (got.settings, got.number) == (settings, 7)
        assert kind(got.board_fd) == kind(board_fd)
        assert {name: [*map(kind, row)] for name, row in got.listeners.items()} == {
            name: [*map(kind, row)] for name, row in rows.items()
        }


def test_lines_that_follow_an_order_are_left_for_later(
    settings: Settings, pair: tuple[socket.socket, socket.socket]
) -> None:
    board_fd = os.memfd_create("board")
    Order(settings, 0, board_fd, {}).send(pair[0])
    pair[0].sendall(b"retire 5\n")
    os.close(Order.receive(pair[1]).board_fd)
    os.close(board_fd)
    assert pair[1].recv(99) == b"retire 5\n"


@pytest.mark.parametrize("sent_bytes", [0, 8, 16, 17, 40], ids="after {} bytes".format)
def test_a_supervisor_that_ends_before_the_order_is_whole_is_an_end(
    settings: Settings, pair: tuple[socket.socket, socket.socket], sent_bytes: int
) -> None:
    ours, theirs = pair
    spoken, heard = socket.socketpair()
    board_fd = os.memfd_create("board")
    with spoken, heard:
        Order(settings, 0, board_fd, {}).send(spoken)
        whole = heard.recv(1 << 16)
        whole += heard.recv(1 << 16) if len(whole) <= 17 else b""
    if sent_bytes <= 16:
        ours.sendall(whole[:sent_bytes])
    else:
        ours.sendall(whole[:16])
        socket.send_fds(ours, [b"+"], [board_fd])
        ours.sendall(whole[17:sent_bytes])
    os.close(board_fd)
    ours.close()
    with pytest.raises(EOFError, match="the supervisor has ended"):
        Order.receive(theirs)


# --- lines ---


class Told:
    """A worker and its way back to the supervisor, which keep what they hear."""

    def __init__(self) -> None:
        self.orders: list[object] = []
        self.reports: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.orders.append((name, *given))

    def write(self, line: bytes) -> None:
        self.reports.append(line)


async def obeyed(settings: Settings, reader: asyncio.StreamReader) -> Told:
    told = Told()
    await _obey(cast(Any, told), Order(settings, 0, 0, {}), reader, cast(Any, told))
    return told


async def test_each_line_is_an_order_and_the_end_of_all_is_one_to_end_in_good_order(
    settings: Settings,
) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"retire 5.0\n\nsomething new\nstop 2\nend\n")
    reader.feed_eof()
    told = await obeyed(settings, reader)
    assert told.orders == [("retire", 5.0), ("quit", 2.0), ("end",), ("quit", settings.grace)]
    assert told.reports == [b"closed\n"] * 3  # not for what is not understood


async def test_a_supervisor_that_was_killed_with_reports_unread_is_an_end_too(settings: Settings) -> None:
    reader = asyncio.StreamReader()
    reader.set_exception(ConnectionResetError())
    assert (await obeyed(settings, reader)).orders == [("quit", settings.grace)]
