"""What looking costs: /metrics and what a dashboard asks for, with many nodes in several services, in use.

Once as it is meant, now and then; and once as a flood, for what all others feel of it meanwhile.
"""

from __future__ import annotations

import http.client
import socket
import statistics
import subprocess
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
LOOKS = 20
PAUSE_S = 0.25
FLOOD_S = 4.0
FLOOD = 16  # connections
ACCEPT = "application/openmetrics-text;version=1.0.0"
PATHS = ("/metrics", "/api/v1/nodes", "/api/v1/services")
REQUIRED = "median of /metrics at most 50 ms"


@dataclass(frozen=True, slots=True)
class Looked:
    """Milliseconds of an answer, and of CPU of the supervisor. first_ms: of the first one ever.

    lag_ms, worst_lag_ms: what /healthz takes at the control socket while others ask for nothing but this.
    flood: answers a second then.
    """

    path: str
    size_bytes: int
    first_ms: float
    median_ms: float
    worst_ms: float
    cpu_ms: float
    lag_ms: float
    worst_lag_ms: float
    flood: float


class _Reached(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def measure_metrics(cores: Cores, folder: Path) -> list[Looked]:
    """WORKERS workers in front of NODES nodes in SERVICES services."""
    print(f"metrics: {NODES} nodes in {SERVICES} services, {LOOKS} looks", file=sys.stderr)
    state = folder / "metrics-state"
    with running_nodes(folder, cores.load) as nodes:
        admin, *ports = free_ports(SERVICES + 1)
        file = folder / "metrics.toml"
        text = f'workers = {WORKERS}\nstate_dir = "{state}"\nadmin.listen = "127.0.0.1:{admin}"\n'
        for number in range(NODES):
            text += f'[nodes.n{number}]\naddress = "{nodes[number % len(nodes)]}"\n'
        for number, port in enumerate(ports):
            text += f'[services.web{number}]\nprotocol = "http"\nlisten = ["127.0.0.1:{port}"]\n'
        file.write_text(text)
        command = Command("trackproxy", [str(TRACKPROXY), "serve", "-c", str(file)], cores.proxy, {})
        with running(command, ports[0], folder) as pid:
            time.sleep(SETTLE_S)  # first probes of another program: nothing tells when all are done
            for port in ports:
                _use(port)
            return [_look(pid, state / "control.sock", admin, path) for path in PATHS]


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


def _look(pid: int, socket_path: Path, admin: int, path: str) -> Looked:
    with closing(_Reached(socket_path)) as client:
        took_ms, size, before = [], 0, 0.0
        for number in range(LOOKS + 1):
            if number == 1:
                before = _cpu_s(pid)
            time.sleep(PAUSE_S)  # as whoever looks comes again: at once would be answered with the same look
            one_ms, size = _ask(client, path)
            took_ms.append(one_ms)
        cpu_ms = (_cpu_s(pid) - before) * 1000 / LOOKS
        lags_ms, flood = _flooded(client, admin, path)
    first_ms, *rest = took_ms
    lag_ms, worst_lag_ms = statistics.median(lags_ms), max(lags_ms)
    return Looked(
        path, size, first_ms, statistics.median(rest), max(rest), cpu_ms, lag_ms, worst_lag_ms, flood
    )


def _ask(client: http.client.HTTPConnection, path: str) -> tuple[float, int]:
    """Return the milliseconds that an answer took, and its bytes."""
    started = time.perf_counter()
    client.request("GET", path, headers={"Accept": ACCEPT if path == "/metrics" else "*/*"})
    size = len(client.getresponse().read())
    return (time.perf_counter() - started) * 1000, size


def _flooded(client: http.client.HTTPConnection, admin: int, path: str) -> tuple[list[float], float]:
    """Return what /healthz takes in milliseconds while wrk asks for PATH, and wrk's answers a second."""
    words = ["wrk", "-t1", f"-c{FLOOD}", f"-d{FLOOD_S:g}", f"http://127.0.0.1:{admin}{path}"]
    lags_ms = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as wrk:
        while wrk.poll() is None:
            lags_ms.append(_ask(client, "/healthz")[0])
            time.sleep(0.01)  # a sample now and then, so that asking is no load of its own
        assert wrk.stdout is not None
        told = wrk.stdout.read()
    return lags_ms, float(told.partition("Requests/sec:")[2].split()[0])
