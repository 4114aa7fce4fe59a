"""What a supervisor says to a worker's process, and the other way: first an `Order`, then lines of text.

A process may wait for its order, so that a worker that dies is replaced by one that has started already. With
the order come the descriptors of its sockets and of the board (SCM_RIGHTS).

Lines are all that has to stay the same between a program and the one that replaces it in place, so that each
understands the other's workers. Down: `retire S`, `stop S` (seconds), `end`, `reopen` (access logs). Up:
`ready`, `closed` (takes no connections any more), `suspect N` (endpoint N of its board needs a probe now),
`event {…}` (see `telling`; as JSON). Either side passes over what it does not understand.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from trackproxy.settings import Settings

HEAD = "!QQ"  # how many bytes and how many descriptors an order has
FDS_AT_ONCE = 200  # SCM_MAX_FD is 253


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker's process needs to know; it is sent before anything else.

    number: its column of the board. board_fd, listeners: descriptors, of the listeners for each service.
    """

    settings: Settings
    number: int
    board_fd: int
    listeners: Mapping[str, list[int]]

    def send(self, control: socket.socket) -> None:
        """Send the order; raises OSError."""
        fds = [self.board_fd, *(fd for row in self.listeners.values() for fd in row)]
        text = pickle.dumps(
            (self.settings, self.number, [(name, len(row)) for name, row in self.listeners.items()])
        )
        control.sendall(struct.pack(HEAD, len(text), len(fds)))
        for start in range(0, len(fds), FDS_AT_ONCE):
            socket.send_fds(control, [b"+"], fds[start : start + FDS_AT_ONCE])
        control.sendall(text)

    @classmethod
    def receive(cls, control: socket.socket) -> Order:
        """Wait for the order; raises EOFError if the supervisor ends before."""
        size_bytes, count = struct.unpack(HEAD, _receive(control, struct.calcsize(HEAD)))
        fds: list[int] = []
        while len(fds) < count:
            mark, some, _, _ = socket.recv_fds(control, 1, FDS_AT_ONCE)
            if not mark:
                raise EOFError("the supervisor has ended")
            fds += some
        settings, number, rows = pickle.loads(_receive(control, size_bytes))
        board_fd, *rest = fds
        left = iter(rest)
        return cls(settings, number, board_fd, {name: list(islice(left, size)) for name, size in rows})


def _receive(control: socket.socket, size_bytes: int) -> bytes:
    received = b""
    while len(received) < size_bytes:
        part = control.recv(size_bytes - len(received))
        if not part:
            raise EOFError("the supervisor has ended")
        received += part
    return received
