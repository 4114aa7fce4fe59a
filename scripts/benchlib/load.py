"""The load: wrk with browser-like requests, and what it counted."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchlib.children import BenchError, Command

HEADS_LUA = Path(__file__).parent / "heads.lua"
REQUEST_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Load:
    """heads: "same" (only the path differs between requests) or "varied" (a cookie and the agent too).

    words: what `heads.lua` is told beyond that. scheme: "http" or "https".
    """

    connections: int
    seconds: int
    heads: str = "same"
    cores: str = ""
    words: tuple[str, ...] = ()
    scheme: str = "http"


@dataclass(frozen=True, slots=True)
class Counted:
    """errors: connections refused or broken, timeouts, and answers of 400 and above."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int


def run_load(load: Load, port: int) -> Counted:
    """Blocks for `load.seconds`; raises BenchError if nothing could be measured."""
    argv = ["wrk", "-t1", f"-c{load.connections}", f"-d{load.seconds}s", f"--timeout={REQUEST_TIMEOUT_S}s"]
    argv += ["-s", str(HEADS_LUA), f"{load.scheme}://127.0.0.1:{port}/", "--", load.heads, *load.words]
    command = Command("wrk", argv, load.cores)
    limit_s = load.seconds + 60
    done = subprocess.run(command.pinned(), capture_output=True, text=True, timeout=limit_s, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return Counted(**json.loads(line.removeprefix("RESULT ")))
    raise BenchError(f"wrk gave no result:\n{done.stdout}{done.stderr}".strip())
