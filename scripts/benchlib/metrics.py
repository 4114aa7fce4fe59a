"""How long a scrape takes: GET /metrics with many nodes in several services, all in use."""

from __future__ import annotations

import http.client
import socket
import statistics
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchlib.children import Command, free_ports, running
from benchlib.machine import Cores
from benchlib.nodes import running_nodes
from benchlib.peers import TRACKPROXY
from benchlib.usage import SETTLE_S, run_time_s

NODES = 50
SERVICES = 5
WORKERS = 2
SCRAPES = 20
ACCEPT = "application/openmetrics-text;version=1.0.0"
REQUIRED = "median at most 50 ms"


@dataclass(frozen=True, slots=True)
class Scrapes:
    """Milliseconds of a scrape, and of CPU of the supervisor. first_ms: no labels were written before."""

    nodes: int
    services: int
    text_bytes: int
    first_ms: float
    median_ms: float
    worst_ms: float
    cpu_ms: float


class _Reached(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def measure_metrics(cores: Cores, folder: Path) -> Scrapes:
    """WORKERS workers in front of NODES nodes in SERVICES services."""
    print(f"metrics: {NODES} nodes in {SERVICES} services, {SCRAPES} scrapes", file=sys.stderr)
    state = folder / "metrics-state"
    with running_nodes(folder, cores.load) as nodes:
        ports = free_ports(SERVICES)
        file = folder / "metrics.toml"
        text = f'workers = {WORKERS}\nstate_dir = "{state}"\nadmin.listen = ""\n'
        for number in range(NODES):
            text += f'[nodes.n{number}]\naddress = "{nodes[number % len(nodes)]}"\n'
        for number, port in enumerate(ports):
            text += f'[services.web{number}]\nprotocol = "http"\nlisten = ["127.0.0.1:{port}"]\n'
        file.write_text(text)
        command = Command("trackproxy", [str(TRACKPROXY), "serve", "-c", str(file)], cores.proxy, {})
        with running(command, ports[0], folder) as pid:
            time.sleep(SETTLE_S)
            for port in ports:
                _use(port)
            return _scrape(pid, state / "control.sock")


def _use(port: int) -> None:
    """Have each node get a few requests: every connection may come to another worker."""
    for _ in range(10):
        with closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
            for _ in range(NODES):
                client.request("GET", "/t/1.gif")
                client.getresponse().read()


def _cpu_s(pid: int) -> float:
    """What all threads of a process have taken."""
    return sum(run_time_s(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir())


def _scrape(pid: int, path: Path) -> Scrapes:
    with closing(_Reached(path)) as client:
        took_ms, size, before = [], 0, 0.0
        for number in range(SCRAPES + 1):
            if number == 1:
                before = _cpu_s(pid)
            started = time.perf_counter()
            client.request("GET", "/metrics", headers={"Accept": ACCEPT})
            size = len(client.getresponse().read())
            took_ms.append((time.perf_counter() - started) * 1000)
        cpu_ms = (_cpu_s(pid) - before) * 1000 / SCRAPES
    first_ms, *rest = took_ms
    return Scrapes(NODES, SERVICES, size, first_ms, statistics.median(rest), max(rest), cpu_ms)
