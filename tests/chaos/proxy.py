"""The proxy under test: `trackproxy serve -c FILE` with its supervisor, its workers and its log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from tests.chaos.processes import DEADLINE_S, ROOT, ChaosError, children, command_line, end
from tests.chaos.talk import ENVIRONMENT
from trackproxy.commands.client import Client
from trackproxy.control.memory import CONTROL_SOCKET

# Lines of the log that tell when something is done.
SERVING = r"serving on"
RELOADED = r"(?<!not )reloaded: "
REFUSED = r"not reloaded"
UPGRADED = r"(?<!not )upgraded: "

WORKER = re.compile(r"worker")  # in the command line of a worker
ESTABLISHED, LISTENING = "01", "0A"  # /proc/net/tcp

CONFIG = """\
workers = {workers}
state_dir = "{state_dir}"
grace = "10s"

[nodes]
{nodes}

[services.web]
protocol = "http"
listen = ["127.0.0.1:{port}"]
probe = {{ path = "/health" }}
"""


class Log:
    """What the proxy has said on stderr, read by a thread of its own so that it can be waited for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()

    @property
    def size(self) -> int:
        """Lines so far: a place to wait from."""
        return len(self._lines)

    def wait_for(self, pattern: str, start: int, deadline_s: float) -> bool:
        """Wait until a line from START on matches; False if none came in time or the proxy has ended."""
        deadline = time.monotonic() + deadline_s
        with self._changed:
            while not any(re.search(pattern, line) for line in self._lines[start:]):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._reader.is_alive():
                    return False
                self._changed.wait(min(left_s, 0.1))  # short, because nobody tells that the reader has ended
        return True

    def tail(self, count: int = 25) -> str:
        """The last lines."""
        return "".join(self._lines[-count:])

    def close(self) -> None:
        """Read what is left; the processes that write are gone."""
        self._reader.join(DEADLINE_S)
        if self._process.stderr is not None:
            self._process.stderr.close()


class Proxy:
    """One running proxy; `close` ends all of its processes."""

    def __init__(self, folder: Path, port: int, nodes: Mapping[str, int], workers: int) -> None:
        self.port = port
        self._nodes = nodes
        self._workers = workers
        self._folder = folder
        self._file = folder / "trackproxy.toml"
        self.write_nodes(nodes)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trackproxy", "serve", "-c", str(self._file)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.log = Log(self._process)

    def ready(self) -> None:
        """Wait until it serves."""
        self.expect(SERVING, 0)

    def expect(self, pattern: str, start: int) -> None:
        """Wait for a line of the log from place START on."""
        if not self.log.wait_for(pattern, start, DEADLINE_S):
            ended = self.ended_with
            fate = "it runs on" if ended is None else f"it ended with {ended}"
            raise ChaosError(f"the proxy never said /{pattern}/; {fate}; its log:\n{self.log.tail()}")

    @property
    def client(self) -> Client:
        """What gives it orders."""
        return Client(self._folder / "state" / CONTROL_SOCKET)

    # --- its configuration ---

    def write_nodes(self, names: Iterable[str]) -> None:
        """Replace its file by one with these nodes, as an editor does: at once."""
        rows = "\n".join(f'{name} = {{ address = "127.0.0.1:{self._nodes[name]}" }}' for name in names)
        self._replace(
            CONFIG.format(workers=self._workers, state_dir=self._folder / "state", nodes=rows, port=self.port)
        )

    def write_nonsense(self) -> None:
        """Replace its file by one that `check` refuses."""
        self._replace(self._file.read_text().replace("listen =", "lissten ="))

    def _replace(self, text: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(text)
        new.replace(self._file)

    # --- its processes ---

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self._process.pid

    @property
    def ended_with(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> bool:
        """Give it time; True if it has ended by then."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.ended_with is not None

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        os.kill(self.pid, number)

    def workers(self) -> set[int]:
        """Its processes other than the supervisor that say in their command line that they are workers."""
        return {pid for pid in children(self.pid) if WORKER.search(command_line(pid))}

    def serving(self) -> set[int]:
        """Those workers that take connections: neither the ones that end, nor spare ones."""
        return {pid for pid in self.workers() if self._sockets(pid, LISTENING)}

    def connections_of(self, pid: int) -> int:
        """How many clients are connected to the process PID."""
        return self._sockets(pid, ESTABLISHED)

    def _sockets(self, pid: int, state: str) -> int:
        """How many sockets of PID on the port of the proxy are in a state."""
        inodes = set()
        with suppress(OSError):  # it has ended
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        here = f":{self.port:04X}"
        return sum(row[1].endswith(here) and row[3] == state and row[9] in inodes for row in rows)

    def close(self) -> None:
        """End all of its processes, however they are."""
        end(self._process)
        self.log.close()
