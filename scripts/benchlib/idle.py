"""What an idle client costs: resident memory per connection, without a request and after one.

What a proxy sets aside at its start for connections to come (nginx does) is in `rss_mib` only.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchlib.bodies import STALL_S
from benchlib.byte_node import content_length, count_bytes, read_head
from benchlib.children import BenchError
from benchlib.machine import Cores
from benchlib.nodes import HOST, running_nodes, verify
from benchlib.peers import RunningPeer, running_peer
from benchlib.usage import MIB, SETTLE_S, open_files, rss_bytes

REQUEST = f"GET /db/1/1/1.gif HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
IP_BIND_ADDRESS_NO_PORT = 24  # ip(7): the port is chosen on connecting, which is fast with many
PER_SOURCE = 5000  # connections of one source address: below the range of ephemeral ports
PACE = 100  # connections between two breaths, below every backlog
ACCEPT_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Idle:
    """rss_mib: with all connections open. lost: connections that the proxy had closed by then."""

    title: str
    after: str
    connections: int
    bytes_per_connection: float
    rss_mib: float
    lost: int


def measure_idle(names: Sequence[str], connections: int, cores: Cores, folder: Path) -> list[Idle]:
    """Each peer twice, on fresh starts: connections that have asked nothing, and that have asked once."""
    found = []
    with running_nodes(folder, cores.load) as nodes:
        for name in names:
            for after in ("no request", "one request"):
                print(f"idle: {name}, {connections} connections, {after}", file=sys.stderr)
                with running_peer(name, nodes, folder, cores.proxy) as peer:
                    verify(name, peer.port)
                    enter = _enter_and_ask if after == "one request" else _enter
                    found.append(fill(peer, after, connections, enter))
    return found


def fill(peer: RunningPeer, after: str, connections: int, enter: Callable[[int, int], socket.socket]) -> Idle:
    """Open so many connections at once and measure. enter: opens the numberth one to a port."""
    time.sleep(SETTLE_S)  # a spare process of another program: nothing tells when it is there
    rss, files = rss_bytes(peer.pid), open_files(peer.pid)
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(connections):
            clients.append(stack.enter_context(enter(peer.port, number)))
        _await_accepted(peer, files + connections)
        time.sleep(SETTLE_S)  # what it frees after accepting is not to be counted
        full = rss_bytes(peer.pid)
        each = (full - rss) / connections
        return Idle(peer.title, after, connections, each, full / MIB, count_closed(clients))


def _enter(port: int, number: int) -> socket.socket:
    if number % PACE == 0:
        time.sleep(0.01)  # nobody answers: give the proxy time to accept, or its backlog overflows
    return connect(port, number)


def _enter_and_ask(port: int, number: int) -> socket.socket:
    client = connect(port, number)
    ask(client)
    return client


def connect(port: int, number: int) -> socket.socket:
    """The numberth of many connections: every PER_SOURCE come from an address of their own."""
    client = source_bound(number // PER_SOURCE)
    client.settimeout(STALL_S)
    client.connect(("127.0.0.1", port))
    return client


def source_bound(source: int) -> socket.socket:
    """An unconnected socket with one of some 250 source addresses."""
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    client.bind((f"127.0.0.{2 + source}", 0))
    return client


def ask(client: socket.socket) -> None:
    """One request on a connection that stays open; raises BenchError or OSError."""
    client.sendall(REQUEST)
    head, rest = read_head(client)
    missing = content_length(head) - len(rest)
    if not head.startswith(b"HTTP/1.1 200") or count_bytes(client, missing) != missing:
        raise BenchError(f"idle: the answer is {head[:100]!r}")


def _await_accepted(peer: RunningPeer, wanted_files: int) -> None:
    deadline = time.monotonic() + ACCEPT_DEADLINE_S
    while open_files(peer.pid) < wanted_files - PACE:  # it may have closed some of its own meanwhile
        if time.monotonic() > deadline:
            raise BenchError(
                f"{peer.name} did not accept all: {open_files(peer.pid)} of {wanted_files} files are open"
            )
        time.sleep(0.1)  # another program's files can only be looked at


def count_closed(clients: Sequence[socket.socket]) -> int:
    """Idle sockets have nothing to read; those that do have been closed."""
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLIN | select.POLLRDHUP)
    return len(poll.poll(0))
