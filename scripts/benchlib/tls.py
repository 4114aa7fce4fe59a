"""What TLS towards clients costs: requests on kept connections, handshakes, and idle connections.

As in `rounds`, peers take turns under the same load. The load may be what sets the rate, above all that of
handshakes: CPU per request is the proxy's alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchlib.children import BenchError
from benchlib.idle import Idle, fill
from benchlib.load import Load
from benchlib.machine import Cores
from benchlib.nodes import running_nodes, verify
from benchlib.peers import Peer, RunningPeer, running_peer
from benchlib.rounds import Act, Entry, Row, Times, by_wrk, take_turns
from benchlib.tls_load import VERSION, enter_over_tls, handshakes, negotiated

AT_ONCE = 32  # connections that shake hands
CONNECTIONS = 2000  # idle ones
REQUIRED = "1.5 × HAProxy and nginx"
IDLE_REQUIRED = "49,152 bytes per connection"


@dataclass(frozen=True, slots=True)
class TlsKind:
    """One kind of load. rows: of each peer."""

    title: str
    rows: list[Row]


def measure_tls(
    peers: Mapping[str, Peer], load: Load, rounds: int, cores: Cores, folder: Path
) -> list[TlsKind]:
    """Start and check all peers, then the rounds of each kind of load."""
    kept = replace(load, scheme="https")
    kinds: dict[str, Callable[[int], Act]] = {
        f"TLS, {load.connections} keep-alive connections, {load.heads} heads": by_wrk(kept),
        f"TLS, a full handshake for each request, {AT_ONCE} at once": _shaking_hands(resumed=False),
        f"TLS, a resumed session for each request, {AT_ONCE} at once": _shaking_hands(resumed=True),
    }
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(running_nodes(folder, cores.load))
        running = [
            stack.enter_context(running_peer(name, nodes, folder, cores.proxy, peers)) for name in peers
        ]
        cipher = _common_cipher(running)
        times = Times(rounds, load.seconds)
        return [
            TlsKind(
                f"{title}, {VERSION}, ECDSA P-256, {cipher}",
                take_turns(title, [Entry(peer, act) for peer in running], times),
            )
            for title, act in kinds.items()
        ]


def measure_tls_idle(peers: Mapping[str, Peer], connections: int, cores: Cores, folder: Path) -> list[Idle]:
    """Each peer on a fresh start; each connection has asked once."""
    found = []
    with running_nodes(folder, cores.load) as nodes:
        for name in peers:
            print(f"idle over TLS: {name}, {connections} connections", file=sys.stderr)
            with running_peer(name, nodes, folder, cores.proxy, peers) as peer:
                negotiated(name, peer.port)
                found.append(fill(peer, "one request over TLS", connections, enter_over_tls))
    return found


def _shaking_hands(resumed: bool) -> Callable[[int], Act]:
    """For `Entry.prepare`."""
    return lambda seconds: partial(handshakes, at_once=AT_ONCE, seconds=seconds, resumed=resumed)


def _common_cipher(running: Sequence[RunningPeer]) -> str:
    """What all of them take; raises BenchError if they differ."""
    for peer in running:
        verify(peer.name, peer.port, "https")
    ciphers = {peer.name: negotiated(peer.name, peer.port) for peer in running}
    if len(set(ciphers.values())) > 1:
        raise BenchError(f"tls: the ciphers differ: {ciphers}")
    return ciphers[running[0].name]
