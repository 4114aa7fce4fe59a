"""Pipes through which bulk goes from socket to socket without being copied (splice(2)).

A session has a pipe only while bytes are in flight; then it goes back empty, for the next one.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

F_SETPIPE_SZ = 1031  # fcntl(2); the module has no name for it in Python 3.11
SIZE_BYTES = 256 * 1024
MOST = 128  # in use at once, in one process; who gets none copies
KEPT = 16  # idle ones

Pipe = tuple[int, int]  # reading end, writing end


class Pipes:
    """Lends pipes of `SIZE_BYTES`. lent: how many are in use."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self.lent = 0

    def lend(self) -> Pipe | None:
        """Return an empty pipe, to be given back; None if there are none left, or no files for more."""
        if self.lent >= MOST or not hasattr(os, "splice"):
            return None
        try:
            pipe = self._idle.pop() if self._idle else _make()
        except OSError:
            return None
        self.lent += 1
        return pipe

    def give_back(self, pipe: Pipe, *, empty: bool) -> None:
        """Take a pipe back; EMPTY: whether nothing is in it."""
        self.lent -= 1
        if empty and len(self._idle) < KEPT:
            self._idle.append(pipe)
        else:
            _close(pipe)

    def trim(self) -> None:
        """Close those that are idle."""
        while self._idle:
            _close(self._idle.pop())


def _make() -> Pipe:
    pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with suppress(OSError):  # the user's pipes are too many for that; it works smaller, too
        fcntl.fcntl(pipe[1], F_SETPIPE_SZ, SIZE_BYTES)
    return pipe


def _close(pipe: Pipe) -> None:
    for end in pipe:
        os.close(end)
