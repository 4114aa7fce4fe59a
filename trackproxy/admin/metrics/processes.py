"""What the kernel says of a process (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Places in /proc/PID/stat after the name, which is in parentheses and may hold anything.
_UTIME, _STIME, _STARTTIME, _RSS = 11, 12, 19, 21


@dataclass(frozen=True, slots=True)
class Usage:
    """cpu_s: user and system, ever. files: open descriptors. started_s: seconds since 1970."""

    cpu_s: float
    memory_bytes: int
    files: int
    most_files: int
    started_s: float


def usage_of(pid: int) -> Usage | None:
    """Return what PID takes now; None if it is gone."""
    folder = Path("/proc", str(pid))
    try:
        fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return Usage(
            cpu_s=(int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S,
            memory_bytes=int(fields[_RSS]) * _PAGE_BYTES,
            files=len(os.listdir(folder / "fd")),
            most_files=_most_files(folder),
            started_s=_booted_s() + int(fields[_STARTTIME]) / _TICKS_PER_S,
        )
    except (OSError, IndexError):  # IndexError: it has ended while it was read
        return None


def _most_files(folder: Path) -> int:
    for line in (folder / "limits").read_text().splitlines():
        if line.startswith("Max open files"):
            return int(line.split()[3])
    return 0


@cache
def _booted_s() -> int:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime"):
            return int(line.split()[1])
    return 0
