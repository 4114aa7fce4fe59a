"""Benchmark of trackproxy beside HAProxy, nginx, Caddy and a plain aiohttp proxy.

`scripts/bench --help` lists the options. Everything happens on 127.0.0.1; every program that is
started is ended again, on Ctrl-C too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchlib.bodies import measure_bodies
from benchlib.children import BenchError
from benchlib.idle import measure_idle
from benchlib.load import Load
from benchlib.machine import Cores, describe_machine, raise_file_limit, split_cores
from benchlib.peers import PEERS, Peer, available, with_workers
from benchlib.probing import measure_probing
from benchlib.rounds import measure_rounds
from benchlib.soak import measure_soak
from benchlib.table import (
    Cells,
    bodies_cells,
    idle_cells,
    machine_line,
    probing_cells,
    render_table,
    rounds_cells,
    soak_cells,
    tcp_cells,
    tcp_idle_cells,
)
from benchlib.tcp import KINDS, measure_tcp
from benchlib.tcp_idle import REQUIRED, SESSIONS, measure_tcp_idle
from benchlib.tcp_peers import TCP_PEERS
from benchlib.usage import MIB

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


def rounds(setting: Setting) -> list[Result]:
    """One result for each profile of heads."""
    arguments = setting.arguments
    results = []
    for heads in ("same", "varied") if arguments.heads == "both" else (arguments.heads,):
        load = Load(arguments.connections, arguments.seconds, heads, setting.cores.load)
        found = measure_rounds(
            setting.peers(list(PEERS)), load, arguments.rounds, setting.cores, setting.folder
        )
        title = (
            f"{load.connections} keep-alive connections, {heads} heads, medians of"
            f" {arguments.rounds} rounds of {load.seconds} s; × is CPU per request relative to that proxy"
        )
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
    heads = "varied" if setting.arguments.heads == "varied" else "same"
    found = measure_soak(setting.peers(["trackproxy"]), heads, setting.cores, setting.folder)
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


MEASUREMENTS: dict[str, Callable[[Setting], list[Result]]] = {
    "rounds": rounds,
    "workers": workers,
    "soak": soak,
    "bodies": bodies,
    "idle": idle,
    "probing": probing,
    "tcp": tcp,
}


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError  # argparse turns it into a message
    return number


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PEERS | TCP_PEERS]:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}")
    return names


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    peers = ", ".join(PEERS | TCP_PEERS)
    add("--only", metavar="NAME,NAME", type=_names, help=f"measure these alone, of: {peers}")
    add(
        "--heads", choices=["same", "varied", "both"], default="same", help="do heads differ beyond the path?"
    )
    add("--connections", type=_positive, default=64, help="keep-alive connections of the rounds")
    add("--rounds", type=_positive, default=5)
    add("--seconds", type=_positive, default=4, help="length of a proxy's turn in a round")
    add("--quick", action="store_true", help="2 rounds of 2 s")
    add("--workers", type=_positive, metavar="N", help="compare so many workers with one")
    add("--soak", action="store_true", help="64 and 1,000 connections for 30 s each; fails on any error")
    add(
        "--bodies", action="store_true", help="a large upload and a large download: speed, CPU, memory growth"
    )
    add("--body-mib", type=_positive, default=1024)
    add("--idle", action="store_true", help="memory per idle client connection")
    add("--idle-connections", type=_positive, default=10_000)
    add("--probing", action="store_true", help="CPU of the supervisor with 20 nodes probed")
    add("--tcp", action="store_true", help="raw bytes: bulk, chat, short sessions, memory of idle ones")
    add(
        "--all",
        action="store_true",
        help="rounds, soak, bodies, idle, probing and tcp; alone, each flag measures only its own",
    )
    add("--markdown", action="store_true", help="print tables as Markdown")
    add("--json", type=Path, default=Path("bench.json"), metavar="FILE", help="default: ./bench.json")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 2, 2
    return arguments


def chosen(arguments: argparse.Namespace) -> list[str]:
    """The measurements to make, in order."""
    if arguments.all:
        return [name for name in MEASUREMENTS if name != "workers" or arguments.workers]
    return [
        name for name in ("workers", "soak", "bodies", "idle", "probing", "tcp") if getattr(arguments, name)
    ] or ["rounds"]


def run(setting: Setting) -> int:
    """Measure, print, write the JSON file; return the number of errors that fail the run."""
    arguments = setting.arguments
    machine = describe_machine()
    print(machine_line(machine), flush=True)
    if not setting.cores.proxy:
        print("There is only one core: nothing is pinned, and the load takes its share from the proxies.")
    told: dict[str, Any] = {"machine": machine}
    errors = 0
    for name in chosen(arguments):
        for result in MEASUREMENTS[name](setting):
            print(f"\n{result.title}\n\n{render_table(result.cells, arguments.markdown)}", flush=True)
            told.setdefault(name, []).append({"title": result.title, "rows": result.rows})
            errors += result.errors
            arguments.json.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    return errors


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Only once: a second signal must not disturb the ending of what was started."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _interrupt)
    cores, file_limit = split_cores(), raise_file_limit()
    if cores.load:
        os.sched_setaffinity(0, map(int, cores.load.split(",")))  # our own clients are load too
    try:
        with tempfile.TemporaryDirectory(prefix="trackproxy-bench-") as folder:
            os.environ["STATE_DIRECTORY"] = folder  # not that of a trackproxy which runs here
            return 1 if run(Setting(arguments, cores, Path(folder), file_limit)) else 0
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
