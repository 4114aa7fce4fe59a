"""What is sent to one node, seen on the loopback interface: the only witness when the node is dead.

Counted are the attempts to use the node: a segment with a request of the load in it, and a SYN. Probes over
a new connection are seen as one SYN. Needs CAP_NET_RAW; without it nothing is seen, and that is said.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import time
from contextlib import suppress

IP = 0x0800
SYN, ACK = 0x02, 0x10
TAKEN_BYTES = 2048
KEPT = 200_000
POLL_S = 0.1
MARK = b"x-chaos-id"

# Classic BPF over an IPv4 header without options: TCP (offset 9) to one port (offset 22).
LOAD_BYTE, LOAD_HALF, IF_EQUAL, RETURN = 0x30, 0x28, 0x15, 0x06


def _filter(port: int) -> bytes:
    rows = [
        (LOAD_BYTE, 0, 0, 9),
        (IF_EQUAL, 0, 3, socket.IPPROTO_TCP),
        (LOAD_HALF, 0, 0, 22),
        (IF_EQUAL, 0, 1, port),
        (RETURN, 0, 0, TAKEN_BYTES),
        (RETURN, 0, 0, 0),
    ]
    return b"".join(struct.pack("=HBBI", *row) for row in rows)


def is_attempt(packet: bytes) -> bool:
    """Whether an IPv4 packet opens a connection or carries a request of the load."""
    flags = packet[33]
    if flags & SYN:
        return not flags & ACK
    return MARK in packet[40:].lower()


class Wiretap:
    """Sees the attempts to use the node on PORT from now on; `stop` gives their times (CLOCK_MONOTONIC)."""

    def __init__(self, port: int) -> None:
        self._times: list[float] = []
        self._ending = False
        self._socket: socket.socket | None = None
        with suppress(PermissionError):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        if self._socket is not None:
            self._open(self._socket, port)
            self._thread = threading.Thread(target=self._watch, args=(self._socket,), daemon=True)
            self._thread.start()

    def _open(self, sock: socket.socket, port: int) -> None:
        code = _filter(port)
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
        sock.setsockopt(
            socket.SOL_SOCKET, 26, program
        )  # SO_ATTACH_FILTER: before bind, so nothing else comes
        sock.settimeout(POLL_S)
        sock.bind(("lo", IP))

    def _watch(self, sock: socket.socket) -> None:
        while not self._ending:
            with suppress(TimeoutError):
                packet, address = sock.recvfrom(TAKEN_BYTES)
                # On loopback each packet is seen twice, once as it leaves.
                arrives = address[2] != socket.PACKET_OUTGOING
                if arrives and len(self._times) < KEPT and is_attempt(packet):
                    self._times.append(time.monotonic())

    def stop(self) -> list[float] | None:
        """See no more; None if nothing could be seen at all."""
        if self._socket is None:
            return None
        self._ending = True
        self._thread.join()
        self._socket.close()
        return self._times
