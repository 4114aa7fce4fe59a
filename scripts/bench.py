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
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from benchlib.children import BenchError
from benchlib.machine import describe_machine, raise_file_limit, split_cores
from benchlib.measurements import MEASUREMENTS, Setting
from benchlib.peers import PEERS
from benchlib.table import machine_line, render_table
from benchlib.tcp_peers import TCP_PEERS

ALONE = tuple(name for name in MEASUREMENTS if name != "rounds")  # by a flag


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
    add("--sticky", action="store_true", help="requests with trackproxy's cookie beside stickiness off")
    add("--routes", action="store_true", help="500 routes beside 5 and none")
    add("--access-log", action="store_true", help="an access log as JSON and as Combined beside none")
    add("--tls", action="store_true", help="TLS: requests, handshakes, memory of idle connections")
    add("--certificates", action="store_true", help="a folder of 5,000 certificates: time, memory")
    add("--metrics", action="store_true", help="what looking at 50 nodes in 5 services costs")
    add(
        "--all",
        action="store_true",
        help="rounds, soak, bodies, idle, probing, tcp, sticky, routes, access log, tls, certificates and"
        " metrics; alone, each flag measures only its own",
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
    return [name for name in ALONE if getattr(arguments, name)] or ["rounds"]


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
            os.environ["TRACKPROXY_ADMIN__LISTEN"] = ""
            return 1 if run(Setting(arguments, cores, Path(folder), file_limit)) else 0
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
