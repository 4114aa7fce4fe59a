"""A node, as a program: `python -m tests.chaos.node NAME PORT RECORDS`. Its faults are commands on stdin.

`up` and `kill` start and kill the serving process, `stop` and `cont` are the signals, and each key of
ANSWERS makes the node behave that way. Each command is confirmed by a line "ok" once it is in force.
Serving is done by a child that is forked from this program, so that a node is back within milliseconds.

Every request that carries an id is written to RECORDS before anything else is done about it, so that a
kill loses nothing: the time (CLOCK_MONOTONIC), the id, and whether it was a POST. The end of stdin ends all.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import uvloop

RECORD = struct.Struct("<dQB")
HEAD_END = b"\r\n\r\n"
BACKLOG = 1024
NICE = 15  # the load takes what the proxy leaves of the machine, so that its new processes start in time
ID = re.compile(rb"\r\nx-chaos-id: *(\d+)", re.IGNORECASE)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
HARD_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


def body_of(number: int) -> bytes:
    """The body of the answer to request NUMBER; always of the same length."""
    return b"%016d" % number


class Connection(asyncio.Protocol):
    """One connection of the proxy: records each request, then does what the node does about it now."""

    transport: asyncio.Transport

    def __init__(self, node: Node) -> None:
        self.node = node
        self.number = 0  # of the request that is answered
        self._buffer = b""
        self._recorded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer on this transport, unless new connections are reset."""
        self.transport = cast(asyncio.Transport, transport)
        if self.node.answer is resetting:
            resetting(self)

    def data_received(self, data: bytes) -> None:
        """Record each request as soon as its head is there; answer it once it is complete."""
        data = self._buffer + data
        while (size := data.find(HEAD_END) + 4) >= 4:
            if not self._recorded:
                self._record(data[:size])
            length = LENGTH.search(data, 0, size)
            size += int(length[1]) if length else 0
            if len(data) < size:
                break
            data = data[size:]
            self._recorded = False
            self.node.answer(self)
        self._buffer = data

    def _record(self, head: bytes) -> None:
        found = ID.search(head)
        self.number = int(found[1]) if found else 0
        self._recorded = True
        if self.number:
            os.write(self.node.records, RECORD.pack(time.monotonic(), self.number, head.startswith(b"POST")))


Answer = Callable[[Connection], None]


def answering(connection: Connection) -> None:
    """200, with the id of the request."""
    connection.transport.write(connection.node.good_head + body_of(connection.number))


def failing(status: bytes) -> Answer:
    """Answer everything with one status, and keep the connection."""
    text = b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nsick\n" % status
    return lambda connection: connection.transport.write(text)


def resetting(connection: Connection) -> None:
    """Reset the connection."""
    sock = connection.transport.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HARD_CLOSE)
    connection.transport.abort()


def cutting(connection: Connection) -> None:
    """Close in the middle of a head."""
    connection.transport.write(connection.node.good_head[:20])
    connection.transport.close()


def silent(connection: Connection) -> None:
    """Read, and never answer."""


def deaf(connection: Connection) -> None:
    """Never answer, and take no new connections either."""


ANSWERS: dict[str, Answer] = {
    "well": answering,
    "reset": resetting,
    "cut": cutting,
    "silent": silent,
    "deaf": deaf,
    "500": failing(b"500 Internal Server Error"),
    "503": failing(b"503 Service Unavailable"),
}


class Node:
    """The serving process. answer: what it does about a complete request at the moment."""

    def __init__(self, name: str, port: int, records: int) -> None:
        self.records = records
        self.answer: Answer = answering
        self.good_head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Node: %b\r\nContent-Length: %d\r\n\r\n"
            % (name.encode(), len(body_of(0)))
        )
        self._listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
        self._listener.setblocking(False)
        self._blockers: list[socket.socket] = []
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()

    def listen(self) -> None:
        """Take connections."""
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                work = self._loop.connect_accepted_socket(lambda: Connection(self), sock)
                task = cast("asyncio.Task[object]", self._loop.create_task(work))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def behave(self, word: str) -> None:
        """Answer as WORD says from now on."""
        was_deaf, self.answer = self.answer is deaf, ANSWERS[word]
        if self.answer is deaf:
            self._block()
        elif was_deaf:
            self._unblock()

    def _block(self) -> None:
        """Fill the accept queue: from then on the kernel drops whoever wants to connect."""
        self._loop.remove_reader(self._listener)
        self._accept()
        self._listener.listen(0)
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(self._listener.getsockname())
            self._blockers.append(sock)

    def _unblock(self) -> None:
        self._listener.listen(BACKLOG)
        self.listen()
        while self._blockers:
            self._blockers.pop().close()


async def serve(name: str, port: int, records: int, control: int) -> None:
    """Serve until CONTROL ends; obey each word that comes from there."""
    node = Node(name, port, records)
    node.listen()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(control, "rb")
    )
    confirm()
    async for line in reader:
        node.behave(line.decode().strip())
        confirm()


def confirm() -> None:
    """Tell that the last command is in force."""
    os.write(1, b"ok\n")


class Keeper:
    """Starts the serving process and obeys stdin."""

    def __init__(self, name: str, port: int, records: str) -> None:
        self._name, self._port = name, port
        self._records = os.open(records, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._child = 0
        self._control = -1

    def obey(self, word: str) -> None:
        """Carry out one command."""
        if word == "up":
            self._start()
            return
        if word == "kill":
            self.kill()
        elif word in ("stop", "cont"):
            os.kill(self._child, signal.SIGSTOP if word == "stop" else signal.SIGCONT)
        else:
            os.write(self._control, f"{word}\n".encode())
            return  # the child confirms
        confirm()

    def _start(self) -> None:
        theirs, self._control = os.pipe()
        self._child = os.fork()
        if not self._child:
            os.close(self._control)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(self._name, self._port, self._records, theirs))
            os._exit(0)
        os.close(theirs)

    def kill(self) -> None:
        """End the serving process, if there is one, without any warning."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            os.close(self._control)
            self._child = 0


def main() -> None:
    """Obey stdin until it ends."""
    os.nice(NICE)
    keeper = Keeper(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    try:
        for line in sys.stdin:
            keeper.obey(line.strip())
    finally:
        keeper.kill()


if __name__ == "__main__":
    main()
