"""What a session costs in which nobody says anything: resident memory, and pipes.

A proxy that splices keeps bytes in pipes: memory of the kernel that no process shows as its own, and of which
a user may have only so much. Silent sessions must hold none.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchlib.idle import count_closed
from benchlib.machine import Cores
from benchlib.peers import RunningPeer
from benchlib.tcp import started
from benchlib.tcp_load import greeted
from benchlib.usage import MIB, SETTLE_S, open_pipes, rss_bytes

SESSIONS = 5000
REQUIRED = "12,288 bytes per session, and no pipe more"


@dataclass(frozen=True, slots=True)
class IdleSessions:
    """rss_mib, pipes: with all sessions open. lost: sessions that had ended by then."""

    name: str
    title: str
    sessions: int
    bytes_per_session: float
    rss_mib: float
    pipes_before: int
    pipes: int
    lost: int


def measure_tcp_idle(names: Sequence[str], sessions: int, cores: Cores, folder: Path) -> list[IdleSessions]:
    """Each peer on a fresh start; its sessions have had the greeting."""
    found = []
    for name in names:
        print(f"idle sessions: {name}, {sessions}", file=sys.stderr)
        with started(name, cores, folder) as peer:
            found.append(_measure(peer, sessions))
    return found


def _measure(peer: RunningPeer, sessions: int) -> IdleSessions:
    time.sleep(SETTLE_S)  # a spare process of another program: nothing tells when it is there
    rss, pipes = rss_bytes(peer.pid), open_pipes(peer.pid)
    with greeted(peer.port, sessions) as clients:
        time.sleep(SETTLE_S)  # what it frees after accepting is not to be counted
        full = rss_bytes(peer.pid)
        return IdleSessions(
            name=peer.name,
            title=peer.title,
            sessions=sessions,
            bytes_per_session=(full - rss) / sessions,
            rss_mib=full / MIB,
            pipes_before=pipes,
            pipes=open_pipes(peer.pid),
            lost=count_closed(clients),
        )
