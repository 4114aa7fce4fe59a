"""What a program and everything it has forked consume, read from /proc.

User and system time come in clock ticks (10 ms): over a round of some seconds that is well below one percent.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
MIB = 1 << 20
SETTLE_S = 1.0  # until what a program starts beside its main process is there


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU seconds, of all threads of a family of processes."""

    user_s: float
    system_s: float

    def since(self, earlier: CpuTime) -> CpuTime:
        return CpuTime(self.user_s - earlier.user_s, self.system_s - earlier.system_s)

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s


def family(pid: int) -> list[int]:
    """The process, its descendants, and orphans of its session; empty when all are gone."""
    known = [_relations(path) for path in Path("/proc").glob("[0-9]*/stat")]
    members = {member for member, _, session in known if pid in (member, session)}
    while found := {member for member, parent, _ in known if parent in members} - members:
        members |= found
    return sorted(members)


def _relations(stat: Path) -> tuple[int, int, int]:
    """Its pid, parent and session; -1 for parent and session if it has just ended."""
    pid = int(stat.parent.name)
    try:
        fields = _stat_fields(stat)
    except OSError:
        return pid, -1, -1
    return pid, int(fields[1]), int(fields[3])


def _stat_fields(stat: Path) -> list[str]:
    """From the third on: proc(5) numbers them from 1, and the second, a name, may hold spaces."""
    return stat.read_text().rpartition(")")[2].split()


def cpu_time(pid: int) -> CpuTime:
    """Of the living members of the family, all threads."""
    user = system = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = _stat_fields(Path(f"/proc/{member}/stat"))
            user, system = user + int(fields[11]), system + int(fields[12])
    return CpuTime(user * TICK_S, system * TICK_S)


def run_time_s(pid: int) -> float:
    """CPU seconds of one process's main thread, to the nanosecond (schedstat): for those that do little."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def family_run_time_s(pid: int) -> float:
    """CPU seconds, user and system, of all living threads of the family, to the nanosecond."""
    total_ns = 0
    for member in family(pid):
        for thread in Path(f"/proc/{member}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total_ns += int(thread.read_text().split()[0])
    return total_ns / 1e9


def rss_bytes(pid: int) -> int:
    """Resident memory of the family, now."""
    return _status_sum(pid, "VmRSS:")


def peak_rss_bytes(pid: int) -> int:
    """The sum of each member's highest resident memory since `reset_peak`."""
    return _status_sum(pid, "VmHWM:")


def reset_peak(pid: int) -> None:
    for member in family(pid):
        Path(f"/proc/{member}/clear_refs").write_text("5")  # proc(5): resets VmHWM


def open_files(pid: int) -> int:
    """File descriptors of the family."""
    count = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            count += len(os.listdir(f"/proc/{member}/fd"))
    return count


def open_pipes(pid: int) -> int:
    """Distinct pipes that the family has open: two descriptors are one pipe."""
    pipes = set()
    for member in family(pid):
        for file in Path(f"/proc/{member}/fd").glob("*"):
            with contextlib.suppress(OSError):
                pipes.add(os.readlink(file))
    return sum(link.startswith("pipe:") for link in pipes)


def _status_sum(pid: int, key: str) -> int:
    total_kib = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
            total_kib += sum(int(line.split()[1]) for line in lines if line.startswith(key))
    return total_kib * 1024
