"""A transport with TLS, with what uvloop's own does not tell.

It goes on taking, and forgetting, what is written after the client has ended the connection without
close_notify, and it knows nothing of what it has encrypted and the kernel has not taken yet.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import Any, cast

BUFFER_BYTES = 64 * 1024  # as without TLS; uvloop has 512 KiB
ACKED = struct.Struct("=Q")  # tcpi_bytes_acked in struct tcp_info of linux/tcp.h
ACKED_AT = 120


class SecureTransport:
    """Stands for a transport of uvloop with TLS; what is not here is that one's own."""

    def __init__(self, inner: asyncio.BaseTransport) -> None:
        self._inner = cast(asyncio.Transport, inner)
        self._inner.set_write_buffer_limits(BUFFER_BYTES)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes) -> None:
        """Send DATA, or end the connection if nobody would get it."""
        if data and not self._inner.is_closing():
            pieces = iter((data,))
            self._inner.writelines(pieces)
            if next(pieces, b""):  # it looks at none once it is over
                self._inner.abort()

    def get_write_buffer_size(self) -> int:
        """Return 0 only if the peer has got all; what is between uvloop and the kernel is not counted."""
        with suppress(OSError):
            queued = fcntl.ioctl(self._fileno(), termios.TIOCOUTQ, b"\0" * 4)
            return self._inner.get_write_buffer_size() + int.from_bytes(queued, "little")
        return self._inner.get_write_buffer_size()

    def acked_bytes(self) -> int:
        """Return how much of what was sent has reached the peer, ever; 0 if that is not known."""
        with suppress(OSError, struct.error), socket.socket(fileno=socket.dup(self._fileno())) as own:
            shown = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACKED_AT + ACKED.size)
            return int(ACKED.unpack_from(shown, ACKED_AT)[0])
        return 0

    def _fileno(self) -> int:
        shown = self._inner.get_extra_info("socket")
        return -1 if shown is None else int(shown.fileno())


def untaken(transport: asyncio.Transport) -> int:
    """Return a number that falls while the peer takes what was written."""
    if isinstance(transport, SecureTransport):
        return -transport.acked_bytes()
    return transport.get_write_buffer_size()
