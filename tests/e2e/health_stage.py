"""A trackproxy in processes of its own, before nodes that a test scripts.

Nodes and clients live in the test's own event loop; the proxy, and whoever commands it, do not.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.processes import children, command_line, fixed_ports
from tests.e2e.scripted_node import PROBE_PATH, Node, until
from tests.e2e.test_cli import DEADLINE_S, ENVIRONMENT, ROOT, arguments
from trackproxy.commands.client import Client

LISTENING = "0A"  # /proc/net/tcp
PROBE = {"path": PROBE_PATH, "interval": "200ms", "fast_interval": "50ms", "timeout": "1s"}
NEVER = {"interval": "24h"}  # no probe after the first one, unless live traffic asks for it

pairs = pytest.mark.parametrize("workers", [0, 2], ids=["in one process", "with workers"])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got. node: who answered, empty if that was the proxy; status: 0 is no answer at all."""

    status: int
    node: str
    took_s: float


class Stage:
    """Scripted nodes, a settings file, and the trackproxy that serves it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "t.toml"
        self._log_file = folder / "log"
        self.port, *self._ports = fixed_ports(8)
        self.nodes: list[Node] = []
        self.socket = folder / "state" / "control.sock"
        self.client = Client(self.socket)
        self.process: subprocess.Popen[bytes] | None = None
        self._kept: list[asyncio.StreamWriter] = []

    async def add(self, *names: str) -> list[Node]:
        """Return new nodes, which serve."""
        added = [Node(name, self._ports.pop()) for name in names]
        for node in added:
            await node.start()
        self.nodes += added
        return added

    def write(
        self,
        service: str = "",
        probe: dict[str, Any] | None = None,
        outliers: str = "",
        node: dict[str, str] | None = None,
        workers: int = 2,
        more: str = "",
    ) -> None:
        """Write settings: keys of the service, of its probe over PROBE, of its outliers, of nodes by name.

        more: lines of the whole file.
        """
        own = node or {}
        lines = [f"workers = {workers}", 'grace = "5s"', f'state_dir = "{self.folder}/state"', more]
        for one in self.nodes:
            lines += [f"[nodes.{one.name}]", f'address = "{one.address}"', own.get(one.name, "")]
        text = "\n".join(lines)
        text += f'\n[services.web]\nprotocol = "http"\nlisten = ["127.0.0.1:{self.port}"]\n{service}\n'
        wanted = PROBE | (probe or {})
        text += "[services.web.probe]\n" + "".join(f"{key} = {json.dumps(wanted[key])}\n" for key in wanted)
        text += f"[services.web.outliers]\n{outliers}\n"
        draft = self.file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.file)

    async def start(self, **settings: Any) -> None:
        """Write settings, start, and wait until it serves."""
        self.write(**settings)
        self.launch()
        await self.expect("started: generation")

    def launch(self) -> None:
        """Start, without waiting."""
        with self._log_file.open("wb") as log:
            self.process = subprocess.Popen(
                arguments("serve", "-c", self.file),
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    async def end(self) -> None:
        """Have it end in good order."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(self.process.wait, DEADLINE_S) == 0
        assert "Traceback" not in self.log

    def kill(self) -> None:
        """End it and its workers, whatever they do."""
        for writer in self._kept:
            writer.close()
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(DEADLINE_S)

    def workers(self) -> dict[int, set[str]]:
        """Its worker processes, spare ones too, and the sockets that they have."""
        assert self.process is not None
        pids = (pid for pid in children(self.process.pid) if "worker_process" in command_line(pid))
        return {pid: _sockets(pid) for pid in pids}

    def serving(self) -> list[int]:
        """The workers that take connections."""
        listening = {socket for state, _, socket in self._connections() if state == LISTENING}
        return [pid for pid, sockets in self.workers().items() if sockets & listening]

    def _connections(self) -> list[tuple[str, int, str]]:
        """State, the client's port and the number of each socket on the port that is served."""
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        mine = [row for row in rows if row[1].endswith(f":{self.port:04X}")]
        return [(row[3], int(row[2].partition(":")[2], 16), row[9]) for row in mine]

    async def kept(self, count: int) -> list[list[asyncio.StreamWriter]]:
        """Connect so many clients; who is with each of the workers."""
        writers = {}
        for _ in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writers[writer.get_extra_info("sockname")[1]] = writer
            self._kept.append(writer)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            numbers = {socket: port for _, port, socket in self._connections() if port in writers}
            found = [[writers[numbers[one]] for one in has & {*numbers}] for has in self.workers().values()]
            if sum(map(len, found)) == count:
                return [one for one in found if one]
            assert time.monotonic() < deadline, "some connections have come to nobody"
            await asyncio.sleep(0.01)

    # --- what it says ---

    @property
    def log(self) -> str:
        return self._log_file.read_text()

    async def expect(self, pattern: str, times: int = 1) -> None:
        """Wait until it has said so, so many times."""

        def said() -> bool:
            assert self.process is None or self.process.poll() is None, self.log
            return len(re.findall(pattern, self.log)) >= times

        try:
            await until(said)
        except AssertionError as error:
            raise AssertionError(f"not said {times} times: {pattern!r}\n{self.log}") from error

    async def reload(self) -> None:
        await asyncio.to_thread(self.client.reload)

    async def look(self) -> dict[str, dict[str, Any]]:
        """What `trackproxy nodes --json` says of the endpoint of each node, and its state."""
        nodes = (await asyncio.to_thread(self.client.nodes))["nodes"]
        return {node["name"]: node["services"]["web"] | {"state": node["state"]} for node in nodes}

    async def total(self, name: str, kind: str = "requests") -> int:
        return int((await self.look())[name]["totals"][kind])

    async def see(self, fact: Callable[[dict[str, dict[str, Any]]], object]) -> dict[str, dict[str, Any]]:
        """Look again and again until it is so; what is said then."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            seen = await self.look()
            if fact(seen):
                return seen
            assert time.monotonic() < deadline, f"{seen}\n{self.log}"
            await asyncio.sleep(0.01)

    async def health(self, name: str, wanted: str) -> dict[str, Any]:
        """Wait until a node has this health; what is said of it then."""
        return (await self.see(lambda seen: seen[name]["health"] == wanted))[name]

    async def left_alone(self, node: Node) -> None:
        """Wait until no worker sends a node anything: 20 requests in a row have gone elsewhere.

        Workers follow what the supervisor says within a beat, which is 100 ms while they have no client.
        """
        deadline = time.monotonic() + 2.0
        before = -1
        while before != (before := node.requests + await self.total(node.name, "connect_failures")):
            assert time.monotonic() < deadline, f"{node.name} is still tried"
            await self.ask(20)

    # --- its clients ---

    async def get(self, target: str = "/x") -> Answer:
        """Ask over a connection of its own, so that any worker may answer."""
        begun = time.monotonic()
        head = ""
        with suppress(OSError):
            async with asyncio.timeout(DEADLINE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    text = f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                    writer.write(text.encode())
                    head = (await reader.read()).decode().partition("\r\n\r\n")[0]
                finally:
                    writer.close()
        who = re.search(r"\r\nX-Node: (\S+)", head, re.IGNORECASE)
        return Answer(int(head[9:12] or 0), who[1] if who else "", time.monotonic() - begun)

    async def first(self) -> Answer:
        """Ask again and again from before anybody listens; the first answer."""
        deadline = time.monotonic() + DEADLINE_S
        while not (answer := await self.get()).status:
            assert time.monotonic() < deadline, self.log
            await asyncio.sleep(0.005)
        return answer

    async def ask(self, count: int, target: str = "/x") -> list[Answer]:
        """Ask so many times, one after another."""
        return [await self.get(target) for _ in range(count)]

    @asynccontextmanager
    async def load(self, clients: int) -> AsyncIterator[list[Answer]]:
        """So many clients that ask again and again; yields the answers so far."""
        answers: list[Answer] = []
        over = asyncio.Event()

        async def client() -> None:
            while not over.is_set():
                answers.append(await self.get())

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
            await until(lambda: len(answers) >= clients)
            try:
                yield answers
            finally:
                over.set()


def _sockets(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):  # it has ended
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            found.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    return found


def statuses(answers: list[Answer]) -> set[int]:
    return {answer.status for answer in answers}


def names(answers: list[Answer]) -> set[str]:
    return {answer.node for answer in answers}


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    """A stage that leaves nothing running."""
    stage = Stage(folder)
    try:
        yield stage
    finally:
        stage.kill()
        for node in stage.nodes:
            node.go_on.set()
            await node.stop()
