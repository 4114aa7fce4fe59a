"""One large upload and one large download through each proxy: speed, CPU, and how far its memory grows.

The receiver stands still for a second first (see `byte_node`); that second is not part of the speed.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchlib import byte_node
from benchlib.byte_node import PAUSE_S, content_length, count_bytes, read_head, send_bytes
from benchlib.children import BenchError, Command, free_ports, running
from benchlib.machine import Cores
from benchlib.nodes import HOST
from benchlib.peers import RunningPeer, running_peer
from benchlib.usage import MIB, SETTLE_S, cpu_time, peak_rss_bytes, reset_peak, rss_bytes

GIB = 1 << 30
STALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """growth_mib: highest resident memory during the transfer less that before it."""

    title: str
    direction: str
    mb_per_s: float
    cpu_ms_per_gib: float
    growth_mib: float


def measure_bodies(names: Sequence[str], size_bytes: int, cores: Cores, folder: Path) -> list[Transfer]:
    """An upload and a download for each peer, each on a fresh start."""
    with contextlib.ExitStack() as stack:
        ports = free_ports(2)
        for port in ports:
            argv = [sys.executable, byte_node.__file__, str(port)]
            stack.enter_context(running(Command("byte-node", argv, cores.load), port, folder))
        nodes = tuple(f"127.0.0.1:{port}" for port in ports)
        transfers = []
        for name in names:
            for direction in (upload, download):
                print(f"bodies: {name}, {direction.__name__} of {size_bytes // MIB} MiB", file=sys.stderr)
                with running_peer(name, nodes, folder, cores.proxy) as peer:
                    transfers.append(_measure(peer, direction, size_bytes))
    return transfers


def _measure(peer: RunningPeer, direction: Callable[[int, int], None], size_bytes: int) -> Transfer:
    direction(peer.port, 1)  # imports, buffers and pools that a first request brings are not growth
    time.sleep(SETTLE_S)  # a spare process of another program: nothing tells when it is there
    reset_peak(peer.pid)
    rss, cpu, began = rss_bytes(peer.pid), cpu_time(peer.pid), time.monotonic()
    direction(peer.port, size_bytes)
    seconds = time.monotonic() - began - PAUSE_S
    used = cpu_time(peer.pid).since(cpu)
    return Transfer(
        title=peer.title,
        direction=direction.__name__,
        mb_per_s=size_bytes / 1e6 / seconds,
        cpu_ms_per_gib=used.total_s * 1e3 * GIB / size_bytes,
        growth_mib=(peak_rss_bytes(peer.pid) - rss) / MIB,
    )


def upload(port: int, size_bytes: int) -> None:
    """Send a body; the node's count must match. Raises BenchError or OSError."""
    with socket.create_connection(("127.0.0.1", port), timeout=STALL_S) as connection:
        connection.sendall(
            b"POST /upload HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n" % (HOST.encode(), size_bytes)
        )
        send_bytes(connection, size_bytes)
        head, rest = _ok_head(connection)
        wanted = content_length(head)
        while len(rest) < wanted and (piece := connection.recv(1024)):
            rest += piece
    if rest != b"%d" % size_bytes:
        raise BenchError(f"upload: the node counted {rest!r} of {size_bytes} bytes")


def download(port: int, size_bytes: int) -> None:
    """Fetch a body and count it. Raises BenchError or OSError."""
    with socket.create_connection(("127.0.0.1", port), timeout=STALL_S) as connection:
        connection.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: %s\r\n\r\n" % (size_bytes, HOST.encode()))
        head, rest = _ok_head(connection)
        if content_length(head) != size_bytes:
            raise BenchError(f"download: the answer's length is {content_length(head)}, not {size_bytes}")
        if size_bytes > byte_node.CHUNK_BYTES:
            time.sleep(PAUSE_S)  # stand still: what the proxy reads ahead without bound shows as memory
        got = len(rest) + count_bytes(connection, size_bytes - len(rest))
    if got != size_bytes:
        raise BenchError(f"download: {got} of {size_bytes} bytes came")


def _ok_head(connection: socket.socket) -> tuple[bytes, bytes]:
    head, rest = read_head(connection)
    if b" 200 " not in head.split(b"\r\n")[0] + b" ":
        raise BenchError(f"bodies: the answer is {head[:100]!r}")
    return head, rest
