"""Programs of the stage: ports for them, their descendants, and their certain end."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0

# Below the ports that the kernel hands out by itself: a node that was killed must find its port free again.
FIXED_PORTS = range(20_000, 32_000)


class ChaosError(Exception):
    """The run cannot go on: a program of the stage did not do what it was told."""


def fixed_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 on which nobody listens, and which no outgoing connection takes."""
    free: list[int] = []
    for port in random.sample(FIXED_PORTS, 200):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            free.append(port)
        if len(free) == count:
            return free
    raise ChaosError("there are no free ports")


def children(pid: int) -> set[int]:
    """The processes that PID has started and that have not ended; zombies do not count."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return set()
    return {int(word) for word in text.split() if _alive(int(word))}


def family(pid: int) -> set[int]:
    """The living members of the session that PID leads, and all descendants of PID."""
    members = {member for member in _everybody() if _session(member) == pid} | {pid}
    found = members
    while found:
        found = set[int]().union(*map(children, found)) - members
        members = members | found
    return {member for member in members if _alive(member)}


def command_line(pid: int) -> str:
    """What PID was started with; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def end(process: subprocess.Popen[str]) -> None:
    """Kill a program that leads a session, and everything that it has started."""
    members = family(process.pid)
    process.kill()
    for member in members - {process.pid}:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    process.wait(DEADLINE_S)


def _everybody() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
