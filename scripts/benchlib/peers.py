"""Who is measured: each with one process of work on one core, keep-alive on both sides, and no log.

To add a peer: one function that writes its configuration and returns its command, and one row in PEERS.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchlib.children import Command, free_ports, running
from benchlib.nodes import nginx_argv, render

SCRIPTS = Path(__file__).resolve().parents[1]
TRACKPROXY = Path(sys.executable).parent / "trackproxy"


@dataclass(frozen=True, slots=True)
class Site:
    """One start of a peer: where it may write, where it listens, what it forwards to (host:port each)."""

    folder: Path
    port: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """program: what must be installed. argv: writes the configuration, returns the command.

    lack: what else is missing here, empty if nothing; asked only if the program is there.
    """

    title: str
    program: str
    argv: Callable[[Site], list[str]]
    env: Mapping[str, str] = field(default_factory=dict)
    lack: Callable[[], str] = str


@dataclass(frozen=True, slots=True)
class RunningPeer:
    name: str
    title: str
    pid: int
    port: int


def _trackproxy(site: Site, workers: int = 1) -> list[str]:
    to = [word for node in site.nodes for word in ("--to", node)]
    listen = f"127.0.0.1:{site.port}"
    return [str(TRACKPROXY), "serve", "--workers", str(workers), "--listen", listen, *to]


def trackproxy_with(site: Site, settings: str) -> list[str]:
    """With conf/trackproxy.toml and these lines more, which are part of its service."""
    conf = render("trackproxy.toml", site.folder, site.port, site.nodes)
    with conf.open("a") as file:
        file.write(settings)
    return [str(TRACKPROXY), "serve", "-c", str(conf)]


def _trackproxy_lack() -> str:
    asked = subprocess.run([TRACKPROXY, "serve", "--help"], capture_output=True, check=False, timeout=60)
    return "its command 'serve' does not work" if asked.returncode else ""


def _aiohttp(site: Site) -> list[str]:
    return [sys.executable, str(SCRIPTS / "aiohttp_proxy.py"), str(site.port), *site.nodes]


def _nginx(site: Site) -> list[str]:
    return nginx_argv(render("nginx.conf", site.folder, site.port, site.nodes))


def _haproxy(site: Site) -> list[str]:
    return ["haproxy", "-db", "-f", str(render("haproxy.cfg", site.folder, site.port, site.nodes))]


def _caddy(site: Site) -> list[str]:
    conf = render("Caddyfile", site.folder, site.port, site.nodes)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(conf)]


PEERS = {
    "trackproxy": Peer("trackproxy", str(TRACKPROXY), _trackproxy, lack=_trackproxy_lack),
    "haproxy": Peer("HAProxy", "haproxy", _haproxy),
    "nginx": Peer("nginx", "nginx", _nginx),
    "caddy": Peer("Caddy", "caddy", _caddy, {"GOMAXPROCS": "1", "HOME": "."}),
    "aiohttp": Peer("aiohttp proxy", sys.executable, _aiohttp),
}


def with_workers(count: int) -> str:
    """Add a row for trackproxy with so many workers, and return its name."""
    name = f"{count} worker" + "s" * (count != 1)
    PEERS[name] = Peer(f"trackproxy, {name}", str(TRACKPROXY), partial(_trackproxy, workers=count))
    return name


def available(names: Sequence[str], peers: Mapping[str, Peer] = PEERS) -> tuple[list[str], list[str]]:
    """Split into those of `peers` that can be started, and one sentence for each that cannot."""
    usable, skipped = [], []
    for name in names:
        if reason := _missing(peers.get(name)):
            skipped.append(f"{name} is skipped: {reason}")
        else:
            usable.append(name)
    return usable, skipped


def _missing(peer: Peer | None) -> str:
    if peer is None:
        return "it has no part in this measurement"
    return peer.lack() if shutil.which(peer.program) else f"there is no {peer.program}"


@contextlib.contextmanager
def running_peer(
    name: str, nodes: tuple[str, ...], folder: Path, cores: str, peers: Mapping[str, Peer] = PEERS
) -> Iterator[RunningPeer]:
    """Start one of `peers` in front of `nodes` on a free port; it ends on leaving."""
    peer = peers[name]
    (port,) = free_ports(1)
    command = Command(name, peer.argv(Site(folder, port, nodes)), cores, peer.env)
    with running(command, port, folder) as pid:
        yield RunningPeer(name, peer.title, pid, port)
