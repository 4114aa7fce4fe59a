"""Longer load with few and with many connections, each on a fresh start: not one request may fail."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchlib.load import Load, run_load
from benchlib.machine import Cores
from benchlib.nodes import running_nodes, verify
from benchlib.peers import running_peer
from benchlib.rounds import Turn, take_turn

CONNECTIONS = (64, 1000)
SECONDS = 30


@dataclass(frozen=True, slots=True)
class Soaked:
    title: str
    connections: int
    turn: Turn


def measure_soak(names: Sequence[str], heads: str, cores: Cores, folder: Path) -> list[Soaked]:
    soaked = []
    with running_nodes(folder, cores.load) as nodes:
        for name in names:
            for connections in CONNECTIONS:
                print(f"soak: {name}, {connections} connections for {SECONDS} s", file=sys.stderr)
                with running_peer(name, nodes, folder, cores.proxy) as peer:
                    verify(name, peer.port)
                    load = Load(connections, SECONDS, heads, cores.load)
                    turn = take_turn(peer, partial(run_load, load))
                    soaked.append(Soaked(peer.title, connections, turn))
    return soaked
