"""The machine and the versions: figures mean nothing without them. Also its cores and limits."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

WANTED_FILES = 65536
VERSION_COMMANDS = {
    "nginx": ["nginx", "-v"],
    "haproxy": ["haproxy", "-v"],
    "caddy": ["caddy", "version"],
    "wrk": ["wrk", "-v"],
}
PACKAGES = ("trackproxy", "uvloop", "httptools", "aiohttp")


@dataclass(frozen=True, slots=True)
class Cores:
    """Taskset lists: one core for the measured proxy, the rest for nodes and load; both empty on one core."""

    proxy: str
    load: str


def split_cores() -> Cores:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return Cores("", "")
    return Cores(str(usable[0]), ",".join(map(str, usable[1:])))


def raise_file_limit() -> int:
    """Raise the limit of open files, which children inherit, as far as allowed; return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = max(WANTED_FILES, hard)
    with contextlib.suppress(ValueError, OSError):  # raising the hard limit takes privileges
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def describe_machine() -> dict[str, str]:
    """CPU, kernel and versions, in the order in which they are printed."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    told = {
        "cpu": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            told[package] = importlib.metadata.version(package)
    told["openssl"] = ssl.OPENSSL_VERSION.split()[1]  # of trackproxy
    told.update({name: _version(argv) for name, argv in VERSION_COMMANDS.items() if shutil.which(argv[0])})
    return told


def _version(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found[0] if found else "?"
