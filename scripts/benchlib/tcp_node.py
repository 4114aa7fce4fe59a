"""A node that speaks first, like a mail server: it greets, answers every line, and moves bytes.

Run as a program with a port. `QUIT` is answered with 221 and the end of the session. Two commands of its own
move bytes: `SEND N` is answered with N of them; `TAKE N` with 354 and, once N have come, with 250. What moves
is zeros. One process, one epoll, one buffer for all sessions.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys

GREETING = b"220 node.lists.example ESMTP\r\n"
LINE_BYTES = 60
OK = b"250 ".ljust(LINE_BYTES - 2, b"k") + b"\r\n"
LINE_LIMIT_BYTES = 4096
CHUNK = memoryview(bytearray(1 << 20))
BACKLOG = 4096


def tuned(connection: socket.socket) -> socket.socket:
    """Make it non-blocking and without Nagle's delay; return it."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Session:
    """One client. to_send, to_take: bytes still to be moved, at most one of them above 0."""

    __slots__ = ("_connection", "_epoll", "_heard", "_to_send", "_to_take")

    def __init__(self, connection: socket.socket, epoll: select.epoll) -> None:
        self._connection, self._epoll = connection, epoll
        self._heard = b""
        self._to_send = self._to_take = 0
        epoll.register(connection, select.EPOLLIN)
        with contextlib.suppress(OSError):  # gone already: the first step will find out
            connection.send(GREETING)

    def close(self) -> None:
        self._connection.close()

    def step(self) -> bool:
        """Do what the socket is ready for; return False if the session is over. Raises OSError."""
        if self._to_send:
            return self._send()
        if self._to_take:
            return self._take()
        heard = self._connection.recv(LINE_LIMIT_BYTES)
        self._heard += heard
        if not self._heard.endswith(b"\n"):
            return bool(heard) and len(self._heard) < LINE_LIMIT_BYTES
        lines, self._heard = self._heard.splitlines(), b""
        return all(self._answer(line) for line in lines)

    def _answer(self, line: bytes) -> bool:
        if line.startswith(b"SEND "):
            self._to_send = int(line[5:])
            self._epoll.modify(self._connection, select.EPOLLOUT)
        elif line.startswith(b"TAKE "):
            self._to_take = int(line[5:])
            self._connection.send(b"354 go on\r\n")
        elif line == b"QUIT":
            self._connection.send(b"221 bye\r\n")
            return False
        else:
            self._connection.send(OK)
        return True

    def _send(self) -> bool:
        self._to_send -= self._connection.send(CHUNK[: self._to_send])
        if not self._to_send:
            self._epoll.modify(self._connection, select.EPOLLIN)
        return True

    def _take(self) -> bool:
        size = self._connection.recv_into(CHUNK, min(self._to_take, len(CHUNK)))
        self._to_take -= size
        if not self._to_take:
            self._connection.send(OK)
        return size > 0


def _goes_on(session: Session) -> bool:
    try:
        return session.step()
    except BlockingIOError:
        return True
    except OSError:
        return False


def serve(listener: socket.socket) -> None:
    """For ever."""
    sessions: dict[int, Session] = {}
    with select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        while True:
            for file, _ in epoll.poll():
                if file == listener.fileno():
                    connection, _ = listener.accept()
                    sessions[connection.fileno()] = Session(tuned(connection), epoll)
                elif not _goes_on(sessions[file]):
                    sessions.pop(file).close()


def main() -> None:
    serve(socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=BACKLOG))


if __name__ == "__main__":
    main()
