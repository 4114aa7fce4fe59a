"""Clients of `tcp_node`, through a proxy or not: bulk transfers, chat, and short sessions.

Each function blocks until it is done and says how much that was. Raw sockets and one epoll: what the load
takes from its core, it takes from the rate, never from the proxy's figures.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchlib.bodies import STALL_S
from benchlib.children import BenchError
from benchlib.idle import connect, source_bound
from benchlib.tcp_node import CHUNK, LINE_BYTES, LINE_LIMIT_BYTES, tuned

LINE = b"RCPT TO:<".ljust(LINE_BYTES - 3, b"x") + b">\r\n"
QUIT = b"QUIT\r\n"
SOURCES = 8  # addresses that short sessions come from: the ports of one might all be in TIME_WAIT


@dataclass(frozen=True, slots=True)
class Done:
    """amount: GB (10^9 bytes), round trips or sessions. errors: sessions that went wrong."""

    amount: float
    seconds: float
    errors: int = 0


def reply(client: socket.socket, code: bytes) -> None:
    """Wait for a line that starts with `code`; raises BenchError or OSError."""
    line = b""
    while not line.endswith(b"\n") and (piece := client.recv(LINE_LIMIT_BYTES)):
        line += piece
    if not line.startswith(code):
        raise BenchError(f"tcp: {line[:100]!r} came instead of {code!r}")


@contextlib.contextmanager
def greeted(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many blocking connections that have had their greeting; closed on leaving."""
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(count):
            clients.append(stack.enter_context(connect(port, number)))
            reply(clients[-1], b"220 ")
        yield clients


def greet_and_quit(port: int) -> None:
    """One whole session; raises BenchError or OSError."""
    with greeted(port, 1) as (client,):
        client.sendall(QUIT)
        reply(client, b"221 ")


def from_node(port: int, size_bytes: int, connections: int) -> Done:
    """Bulk from the node, as evenly over the connections as bytes can be shared."""
    with greeted(port, connections) as clients:
        began, share = time.monotonic(), size_bytes // connections
        for client in clients:
            client.sendall(b"SEND %d\r\n" % share)
        _move(clients, share, select.EPOLLIN, lambda client, count: client.recv_into(CHUNK, count))
        return Done(share * connections / 1e9, time.monotonic() - began)


def to_node(port: int, size_bytes: int, connections: int) -> Done:
    """Bulk to the node, which confirms that it has counted all."""
    with greeted(port, connections) as clients:
        began, share = time.monotonic(), size_bytes // connections
        for client in clients:
            client.sendall(b"TAKE %d\r\n" % share)
            reply(client, b"354 ")
        _move(clients, share, select.EPOLLOUT, lambda client, count: client.send(CHUNK[:count]))
        for client in clients:
            client.settimeout(STALL_S)
            reply(client, b"250 ")
        return Done(share * connections / 1e9, time.monotonic() - began)


def _move(
    clients: Sequence[socket.socket],
    share: int,
    event: int,
    step: Callable[[socket.socket, int], int],
) -> None:
    """Repeat `step` (move at most so many bytes, return how many) until each client has had its share."""
    left = dict.fromkeys(clients, share)
    with _watched(clients, event) as (by_file, epoll):
        while left:
            for file in _ready(epoll):
                client = by_file[file]
                size = step(client, min(left[client], len(CHUNK)))
                if not size:
                    raise BenchError(f"tcp: the connection ended with {left[client]} bytes to go")
                left[client] -= size
                if not left[client]:
                    del left[client]
                    epoll.unregister(file)


def chat(port: int, connections: int, seconds: float) -> Done:
    """Ping-pong of lines of LINE_BYTES: each connection waits for its reply before it says more."""
    with greeted(port, connections) as clients, _watched(clients, select.EPOLLIN) as (by_file, epoll):
        trips, began = 0, time.monotonic()
        for client in clients:
            client.send(LINE)
        while (now := time.monotonic()) < began + seconds:
            for file in _ready(epoll):
                client = by_file[file]
                heard = client.recv(LINE_LIMIT_BYTES)
                if heard.endswith(b"\n"):
                    trips += 1
                    client.send(LINE)
                elif not heard:
                    raise BenchError("tcp: a connection ended during the chat")
        return Done(trips, now - began)


def sessions(port: int, at_once: int, seconds: float) -> Done:
    """Connect, be greeted, QUIT, read the answer, close; again and again."""
    turnstile = _Turnstile(port)
    with turnstile:
        began = time.monotonic()
        for _ in range(at_once):
            turnstile.enter()
        while (now := time.monotonic()) < began + seconds:
            turnstile.step()
    return Done(turnstile.finished, now - began, turnstile.errors)


class _Turnstile:
    """Sessions under way: when one is over, the next one enters. Closes what is left on exit."""

    def __init__(self, port: int) -> None:
        self.finished = self.errors = self._entered = 0
        self._address = ("127.0.0.1", port)
        self._epoll = select.epoll()
        self._open: dict[int, tuple[socket.socket, bytes]] = {}  # with the code that must come next

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for client, _code in self._open.values():
            client.close()
        self._epoll.close()

    def enter(self) -> None:
        client = tuned(source_bound(self._entered % SOURCES))
        self._entered += 1
        with contextlib.suppress(BlockingIOError):
            client.connect(self._address)
        self._epoll.register(client, select.EPOLLIN)
        self._open[client.fileno()] = client, b"220 "

    def step(self) -> None:
        for file in _ready(self._epoll):
            client, code = self._open[file]
            try:
                good = client.recv(LINE_LIMIT_BYTES).startswith(code)
                if good and code == b"220 ":
                    client.send(QUIT)
                    self._open[file] = client, b"221 "
                    continue
            except OSError:
                good = False
            self.finished += good
            self.errors += not good
            del self._open[file]
            client.close()
            self.enter()


@contextlib.contextmanager
def _watched(
    clients: Sequence[socket.socket], event: int
) -> Iterator[tuple[Mapping[int, socket.socket], select.epoll]]:
    with select.epoll() as epoll:
        for client in clients:
            epoll.register(tuned(client), event)
        yield {client.fileno(): client for client in clients}, epoll


def _ready(epoll: select.epoll) -> list[int]:
    files = [file for file, _ in epoll.poll(STALL_S)]
    if not files:
        raise BenchError(f"tcp: nothing has come for {STALL_S:g} s")
    return files
