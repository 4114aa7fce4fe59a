"""What forwarding bytes costs, in CPU time: bulk, chat and short sessions.

As in `rounds`, peers take turns under the same load, and a ratio is the median of those within a round. CPU
time is read to the nanosecond, because a turn of bulk takes a proxy only some tenths of a second. Each peer
has a node of its own, so that none meets the ports that another one has just used.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

from benchlib import tcp_node
from benchlib.children import Command, free_ports, running
from benchlib.machine import Cores
from benchlib.peers import RunningPeer, running_peer
from benchlib.rounds import times_of
from benchlib.tcp_load import Done, chat, from_node, greet_and_quit, sessions, to_node
from benchlib.tcp_peers import TCP_PEERS
from benchlib.usage import family_run_time_s

REFERENCES = ("haproxy", "haproxy-splice", "nginx")
BULK_BYTES_PER_S = 500_000_000  # of a turn's length
SESSIONS_AT_ONCE = 32
WARMING_S = 0.2


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of work. unit: of Done.amount. cost: CPU time per unit, `scale` times that in seconds.

    required: the most that trackproxy may take.
    """

    title: str
    unit: str
    cost: str
    scale: float
    required: str


KINDS = {
    "bulk": Kind("Bulk", "GB", "CPU ms/GB", 1e3, "1.0 × the best of the others"),
    "chat": Kind(
        "Chat, lines of 60 bytes", "round trips", "CPU µs each", 1e6, "1.25 × the best of the others"
    ),
    "sessions": Kind("Sessions from greeting to QUIT", "sessions", "CPU µs each", 1e6, "1.5 × HAProxy"),
}


@dataclass(frozen=True, slots=True)
class TcpLoad:
    """kind: a key of KINDS. act: does it through a port."""

    kind: str
    title: str
    act: Callable[[int], Done]


@dataclass(frozen=True, slots=True)
class TcpTurn:
    """One peer under one load. rate: units per second. cost: CPU time of all its processes per unit.

    core_share: CPU time over wall time; clearly below 1 means that the load, not the proxy, set the rate.
    """

    rate: float
    cost: float
    core_share: float
    errors: int


@dataclass(frozen=True, slots=True)
class TcpRow:
    """A peer's medians over its turns (errors: the sum), and its cost relative to REFERENCES."""

    kind: str
    load: str
    name: str
    title: str
    median: TcpTurn
    turns: list[TcpTurn]
    times: dict[str, float]


def loads(seconds: float) -> list[TcpLoad]:
    """What is asked of each peer in a round: for so long, or bytes that take about as long."""
    size = int(seconds * BULK_BYTES_PER_S)
    bulk = [
        TcpLoad("bulk", f"{count}, {way} node", partial(act, size_bytes=size, connections=count))
        for count in (1, 8)
        for way, act in (("from", from_node), ("to", to_node))
    ]
    talk = [
        TcpLoad("chat", str(count), partial(chat, connections=count, seconds=seconds)) for count in (1, 64)
    ]
    short = partial(sessions, at_once=SESSIONS_AT_ONCE, seconds=seconds)
    return [*bulk, *talk, TcpLoad("sessions", str(SESSIONS_AT_ONCE), short)]


@contextlib.contextmanager
def started(name: str, cores: Cores, folder: Path) -> Iterator[RunningPeer]:
    """One peer in front of a node of its own, once a session through it has gone well."""
    (port,) = free_ports(1)
    command = Command("tcp-node", [sys.executable, tcp_node.__file__, str(port)], cores.load)
    node = (f"127.0.0.1:{port}",)
    with running(command, port, folder), running_peer(name, node, folder, cores.proxy, TCP_PEERS) as peer:
        greet_and_quit(peer.port)
        yield peer


def measure_tcp(
    names: Sequence[str], seconds: float, rounds: int, cores: Cores, folder: Path
) -> list[TcpRow]:
    """Start and warm all peers, then `rounds` rounds in which each load goes to each of them in turn."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(started(name, cores, folder)) for name in names]
        for load, peer in product(loads(WARMING_S), peers):
            load.act(peer.port)
        turns: dict[str, dict[str, list[TcpTurn]]] = defaultdict(lambda: defaultdict(list))
        for number, load, peer in product(range(1, rounds + 1), loads(seconds), peers):
            print(f"{load.kind}, {load.title}, round {number} of {rounds}: {peer.name}", file=sys.stderr)
            turns[load.kind + load.title][peer.name].append(_take_turn(peer, load))
    return [_row(load, peer, turns[load.kind + load.title]) for load, peer in product(loads(seconds), peers)]


def _take_turn(peer: RunningPeer, load: TcpLoad) -> TcpTurn:
    before, began = family_run_time_s(peer.pid), time.monotonic()
    done = load.act(peer.port)
    used_s, wall_s = family_run_time_s(peer.pid) - before, time.monotonic() - began
    return TcpTurn(
        rate=done.amount / done.seconds,
        cost=used_s * KINDS[load.kind].scale / max(done.amount, 1e-9),
        core_share=used_s / wall_s,
        errors=done.errors,
    )


def _row(load: TcpLoad, peer: RunningPeer, turns: Mapping[str, Sequence[TcpTurn]]) -> TcpRow:
    own = list(turns[peer.name])
    costs = {name: [turn.cost for turn in taken] for name, taken in turns.items()}
    columns = [asdict(turn) for turn in own]
    figures = {key: median(column[key] for column in columns) for key in columns[0]}
    middle = TcpTurn(**{**figures, "errors": sum(turn.errors for turn in own)})
    return TcpRow(
        load.kind, load.title, peer.name, peer.title, middle, own, times_of(peer.name, costs, REFERENCES)
    )
