"""What can be measured: each function makes one or more results of what the command line asks for.

MEASUREMENTS has them all, in the order in which they are made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchlib.bodies import measure_bodies
from benchlib.certificates import REQUIRED as CERTIFICATES_REQUIRED
from benchlib.certificates import measure_certificates
from benchlib.children import BenchError
from benchlib.idle import measure_idle
from benchlib.load import Load
from benchlib.machine import Cores
from benchlib.metrics import NODES, SERVICES, measure_metrics
from benchlib.metrics import REQUIRED as METRICS_REQUIRED
from benchlib.peers import PEERS, Peer, available, with_workers
from benchlib.probing import measure_probing
from benchlib.rounds import Row, measure_rounds
from benchlib.soak import measure_soak
from benchlib.table import (
    REFERENCE_TITLES,
    Cells,
    bodies_cells,
    certificates_cells,
    idle_cells,
    metrics_cells,
    probing_cells,
    rounds_cells,
    soak_cells,
    tcp_cells,
    tcp_idle_cells,
)
from benchlib.tcp import KINDS, measure_tcp
from benchlib.tcp_idle import REQUIRED, SESSIONS, measure_tcp_idle
from benchlib.tcp_peers import TCP_PEERS
from benchlib.tls import CONNECTIONS as TLS_CONNECTIONS
from benchlib.tls import IDLE_REQUIRED as TLS_IDLE_REQUIRED
from benchlib.tls import REQUIRED as TLS_REQUIRED
from benchlib.tls import measure_tls, measure_tls_idle
from benchlib.tls_peers import make_certificate, tls_peers
from benchlib.usage import MIB
from benchlib.variants import (
    FEW,
    LOG_REQUIRED,
    NO_ROUTES,
    OFF,
    ROUTES_REQUIRED,
    STICKY_REQUIRED,
    measure_access_log,
    measure_routes,
    measure_sticky,
    routes_name,
)

SPARE_FILES = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement: its heading, its table, what goes into the JSON file, and errors that fail the run."""

    title: str
    cells: list[Cells]
    rows: list[dict[str, Any]]
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """What all measurements share. file_limit: open files that each process may have."""

    arguments: argparse.Namespace
    cores: Cores
    folder: Path
    file_limit: int

    def peers(self, default: Sequence[str], peers: Mapping[str, Peer] = PEERS) -> list[str]:
        """The chosen ones of `peers` that can be started, or those of `default`; tells what is skipped."""
        wanted = self.arguments.only or default
        usable, skipped = available(wanted, peers)
        for sentence in skipped:
            print(sentence, file=sys.stderr)
        if not usable:
            raise BenchError("there is no proxy to measure")
        return usable

    @property
    def heads(self) -> str:
        """The profile, where only one is measured."""
        return "varied" if self.arguments.heads == "varied" else "same"

    def load(self, heads: str) -> Load:
        return Load(self.arguments.connections, self.arguments.seconds, heads, self.cores.load)

    def loads(self) -> list[Load]:
        """One for each chosen profile."""
        both = self.arguments.heads == "both"
        return [self.load(heads) for heads in (("same", "varied") if both else (self.heads,))]

    def told(self, load: Load) -> str:
        """The load, for a title."""
        return f"{load.connections} keep-alive connections, {load.heads} heads, {self.medians}"

    @property
    def medians(self) -> str:
        """How rounds are made, for a title."""
        return f"medians of {self.arguments.rounds} rounds of {self.arguments.seconds} s"


def rounds(setting: Setting) -> list[Result]:
    """One result for each profile of heads."""
    results = []
    for load in setting.loads():
        found = measure_rounds(
            setting.peers(list(PEERS)), load, setting.arguments.rounds, setting.cores, setting.folder
        )
        title = f"{setting.told(load)}; × is CPU per request relative to that proxy"
        results.append(Result(title, rounds_cells(found), [asdict(row) for row in found]))
    return results


def workers(setting: Setting) -> list[Result]:
    """One worker beside several, on all cores: what a request costs must not depend on their number."""
    arguments = setting.arguments
    names = [with_workers(count) for count in sorted({1, arguments.workers})]
    load = Load(arguments.connections, arguments.seconds)
    everywhere = Cores("", "")
    found = measure_rounds(names, load, arguments.rounds, everywhere, setting.folder, names[:1])
    title = f"Workers: {load.connections} keep-alive connections, all on the same cores; × is CPU per request"
    return [Result(title, rounds_cells(found, {names[0]: names[0]}), [asdict(row) for row in found])]


def soak(setting: Setting) -> list[Result]:
    found = measure_soak(setting.peers(["trackproxy"]), setting.heads, setting.cores, setting.folder)
    errors = sum(one.turn.errors for one in found)
    return [
        Result("Longer load, no error allowed", soak_cells(found), [asdict(one) for one in found], errors)
    ]


def bodies(setting: Setting) -> list[Result]:
    size_mib = setting.arguments.body_mib
    names = setting.peers(["trackproxy", "haproxy", "nginx"])
    found = measure_bodies(names, size_mib * MIB, setting.cores, setting.folder)
    return [Result(f"Bodies of {size_mib} MiB", bodies_cells(found), [asdict(one) for one in found])]


def idle(setting: Setting) -> list[Result]:
    names = setting.peers(["trackproxy", "haproxy", "nginx"])
    # HAProxy reserves two files for each client that it admits.
    count = min(setting.arguments.idle_connections, (setting.file_limit - SPARE_FILES) // 2)
    found = measure_idle(names, count, setting.cores, setting.folder)
    return [Result("Idle connections", idle_cells(found), [asdict(one) for one in found])]


def tcp(setting: Setting) -> list[Result]:
    """One result for each kind of work, then one for silent sessions."""
    arguments = setting.arguments
    names = setting.peers(list(TCP_PEERS), TCP_PEERS)
    rows = measure_tcp(names, arguments.seconds, arguments.rounds, setting.cores, setting.folder)
    results = []
    for name, kind in KINDS.items():
        found = [row for row in rows if row.kind == name]
        title = (
            f"{kind.title}: medians of {arguments.rounds} rounds; × is CPU relative to that proxy;"
            f" required of trackproxy: at most {kind.required}"
        )
        errors = sum(row.median.errors for row in found)
        results.append(Result(title, tcp_cells(found), [asdict(row) for row in found], errors))
    return [*results, _tcp_idle(setting, names)]


def _tcp_idle(setting: Setting, names: Sequence[str]) -> Result:
    wanted = SESSIONS // 5 if setting.arguments.quick else SESSIONS
    count = min(wanted, (setting.file_limit - SPARE_FILES) // 2)
    found = measure_tcp_idle(names, count, setting.cores, setting.folder)
    title = f"Idle sessions; required of trackproxy: at most {REQUIRED}"
    return Result(title, tcp_idle_cells(found), [asdict(one) for one in found])


def probing(setting: Setting) -> list[Result]:
    found = measure_probing(setting.cores, setting.folder)
    return [Result("Watching nodes, without traffic", probing_cells(found), [asdict(found)])]


def sticky(setting: Setting) -> list[Result]:
    """One result for each profile of heads."""
    results = []
    for load in setting.loads():
        found = measure_sticky(load, setting.arguments.rounds, setting.cores, setting.folder)
        title = (
            f"Sticky by cookie, {setting.told(load)}; × is CPU per request relative to that row;"
            f" required of sticky: at most {STICKY_REQUIRED}"
        )
        results.append(_compared(title, found, {OFF: "off"}))
    return results


def routes(setting: Setting) -> list[Result]:
    """One result for each profile of heads."""
    results = []
    for load in setting.loads():
        found = measure_routes(load, setting.arguments.rounds, setting.cores, setting.folder)
        title = (
            f"Routes by prefix, {setting.told(load)}; × is CPU per request relative to that row;"
            f" required: {ROUTES_REQUIRED}"
        )
        results.append(_compared(title, found, {name: name for name in map(routes_name, (FEW, NO_ROUTES))}))
    return results


def access_log(setting: Setting) -> list[Result]:
    """One result for each profile of heads."""
    results = []
    for load in setting.loads():
        found = measure_access_log(load, setting.arguments.rounds, setting.cores, setting.folder)
        title = (
            f"Access log, {setting.told(load)}; × is CPU per request relative to that row;"
            f" required of json: at most {LOG_REQUIRED}"
        )
        results.append(_compared(title, found, {OFF: "off"}))
    return results


def tls(setting: Setting) -> list[Result]:
    """One result for each kind of load, then one for idle connections."""
    arguments = setting.arguments
    every = tls_peers(make_certificate(setting.folder))
    peers = {name: every[name] for name in setting.peers(list(every), every)}
    load = setting.load(setting.heads)
    kinds = measure_tls(peers, load, arguments.rounds, setting.cores, setting.folder)
    told = (
        f"{setting.medians}; × is CPU per request relative to that proxy;"
        f" required of trackproxy: at most {TLS_REQUIRED}"
    )
    results = [_compared(f"{kind.title}, {told}", kind.rows, REFERENCE_TITLES) for kind in kinds]
    count = min(TLS_CONNECTIONS, (setting.file_limit - SPARE_FILES) // 2)
    found = measure_tls_idle(peers, count, setting.cores, setting.folder)
    title = f"Idle connections over TLS; required of trackproxy: at most {TLS_IDLE_REQUIRED}"
    return [*results, Result(title, idle_cells(found), [asdict(one) for one in found])]


def certificates(setting: Setting) -> list[Result]:
    """One result."""
    found = measure_certificates(setting.folder)
    title = f"A folder of certificates in one worker; required: {CERTIFICATES_REQUIRED}"
    return [Result(title, certificates_cells(found), [asdict(found)])]


def metrics(setting: Setting) -> list[Result]:
    """One result."""
    found = measure_metrics(setting.cores, setting.folder)
    title = f"{NODES} nodes in {SERVICES} services; required: {METRICS_REQUIRED}"
    return [Result(title, metrics_cells(found), [asdict(one) for one in found])]


def _compared(title: str, found: Sequence[Row], references: Mapping[str, str]) -> Result:
    errors = sum(row.median.errors for row in found)
    return Result(title, rounds_cells(found, references), [asdict(row) for row in found], errors)


MEASUREMENTS: dict[str, Callable[[Setting], list[Result]]] = {
    "rounds": rounds,
    "workers": workers,
    "soak": soak,
    "bodies": bodies,
    "idle": idle,
    "probing": probing,
    "tcp": tcp,
    "sticky": sticky,
    "routes": routes,
    "access_log": access_log,
    "tls": tls,
    "certificates": certificates,
    "metrics": metrics,
}
