"""Programs that the benchmark starts, and their certain end.

Every start is a context manager: whatever happens inside, an interrupt included, the program and what it
has forked are gone afterwards. Each runs in a session of its own, so that Ctrl-C reaches only the benchmark,
which then ends them in order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchlib.usage import family

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 10.0


class BenchError(Exception):
    """The benchmark cannot go on; the message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is started. cores: a taskset list such as "0" or "1-3"; empty means not pinned."""

    name: str
    argv: list[str]
    cores: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    def pinned(self) -> list[str]:
        return ["taskset", "-c", self.cores, *self.argv] if self.cores else self.argv


@contextlib.contextmanager
def running(command: Command, port: int, folder: Path) -> Iterator[int]:
    """Start a program in `folder`, wait until it listens on `port`, yield its pid; end it on leaving."""
    log = folder / f"{command.name}-{port}.out"
    with log.open("wb") as out:
        child = subprocess.Popen(
            command.pinned(),
            cwd=folder,
            env={**_environment(), **command.env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await_listening(command.name, child, port, log)
        yield child.pid
    finally:
        _stop(child)


def _environment() -> dict[str, str]:
    """Ours without settings of trackproxy: it is measured with its defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRACKPROXY_")}


def _await_listening(name: str, child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.05)  # another program's listener: there is nothing to wait on but trying
    said = log.read_text(errors="replace")[-2000:].strip()
    raise BenchError(f"{name} does not listen on 127.0.0.1:{port} (exit code {child.poll()}):\n{said}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    left = family(child.pid)
    child.terminate()
    deadline = time.monotonic() + STOP_DEADLINE_S
    while left and time.monotonic() < deadline:
        child.poll()  # reaps it
        left = [pid for pid in left if Path(f"/proc/{pid}").exists()]
        time.sleep(0.02)  # the child's own children are not ours to wait for
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    child.wait()


def free_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(s.getsockname()[1]) for s in sockets]
