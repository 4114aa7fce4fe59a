"""What watching costs: CPU of the supervisor and of a worker without clients, while many nodes are probed."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchlib.children import Command, free_ports, running
from benchlib.machine import Cores
from benchlib.nodes import running_nodes
from benchlib.peers import TRACKPROXY
from benchlib.usage import SETTLE_S, family, run_time_s

PROBED = 20
WATCHED_S = 20.0


@dataclass(frozen=True, slots=True)
class Probing:
    """Shares of one core. idle: of the worker that serves, which has no client."""

    nodes: int
    supervisor: float
    idle: float


def measure_probing(cores: Cores, folder: Path) -> Probing:
    """One worker in front of PROBED nodes, probed over HTTP as they are by default."""
    print(f"probing: {PROBED} nodes for {WATCHED_S:g} s", file=sys.stderr)
    with running_nodes(folder, cores.load) as nodes:
        (port,) = free_ports(1)
        file = folder / "probing.toml"
        rows = [f'[nodes.n{n}]\naddress = "{nodes[n % len(nodes)]}"\n' for n in range(PROBED)]
        service = f'[services.web]\nprotocol = "http"\nlisten = ["127.0.0.1:{port}"]\n'
        file.write_text("workers = 1\n" + "".join(rows) + service)
        command = Command("trackproxy", [str(TRACKPROXY), "serve", "-c", str(file)], cores.proxy, {})
        with running(command, port, folder) as pid:
            time.sleep(SETTLE_S)  # a spare process of another program: nothing tells when it is there
            return _watch(pid)


def _watch(pid: int) -> Probing:
    members = family(pid)
    before = [run_time_s(member) for member in members]
    time.sleep(WATCHED_S)  # nothing happens: that is what is measured
    used = {
        member: (run_time_s(member) - start) / WATCHED_S
        for member, start in zip(members, before, strict=True)
    }
    supervisor = used.pop(pid)
    return Probing(PROBED, supervisor, max(used.values()))
