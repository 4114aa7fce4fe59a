"""Sticky sessions of a trackproxy that runs: over workers, reloads, upgrades and instances; nodes that go."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web

from tests.chaos.processes import fixed_ports
from tests.e2e.health_stage import Stage
from tests.e2e.scripted_node import SLOW, Node, until
from tests.e2e.test_cli import DEADLINE_S, ENVIRONMENT, ROOT, arguments
from tests.e2e.test_commands import refused
from trackproxy import demo
from trackproxy.commands.client import Refused

SECRET = "a secret of these tests alone"
OTHER_SECRET = "the one that comes after it"
COOKIE = f'sticky = {{ mode = "cookie", secrets = ["{SECRET}"] }}'
NODES_COOKIE = 'sticky = { mode = "app_cookie", name = "session" }'
MOVED = ("moved_drain", "moved_disabled", "moved_down", "moved_full", "moved_failed")
ENDED = r"generation \d+ has ended"
CROWD = 12  # clients: by chance alone, all are where they belong once in 500,000 times

NODE = """
import sys
from aiohttp import web
from trackproxy.demo import Node
application = Node(sys.argv[1]).application()
web.run_app(application, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
"""


class DemoNode(Node):
    """A node of the demo in the test's own loop: its pages have sessions, which it counts."""

    async def start(self) -> None:
        """Take connections."""
        self._runner = web.AppRunner(demo.Node(self.name).application(), shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """End."""
        await self._runner.cleanup()


class NodeProcess(Node):
    """The same in a process of its own, which can be killed."""

    process: subprocess.Popen[bytes]

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.process = self._launched()
        await until(lambda: not refused(self.port))

    def _launched(self) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", NODE, self.name, str(self.port)]
        return subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT)

    async def stop(self) -> None:
        """Kill it."""
        self.process.kill()
        await asyncio.to_thread(self.process.wait, DEADLINE_S)


@dataclass(frozen=True, slots=True)
class Visit:
    """What a client got. node: who answered; status 0 is no answer at all; told: it got a cookie."""

    status: int
    node: str
    text: str
    told: bool


class Wire:
    """A connection to one of the workers, which its client keeps."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    @property
    def port(self) -> int:
        return int(self.writer.get_extra_info("sockname")[1])

    async def ask(self, target: str, cookies: Mapping[str, str], *fields: str) -> tuple[str, str]:
        """Head and body of an answer; reads on."""
        pairs = "; ".join(f"{name}={value}" for name, value in cookies.items())
        lines = [f"GET {target} HTTP/1.1", "Host: a", *([f"Cookie: {pairs}"] if pairs else []), *fields]
        async with asyncio.timeout(DEADLINE_S):
            self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)\r\ncontent-length: (\d+)", head)
            return head, (await self._reader.readexactly(int(length[1]) if length else 0)).decode()

    def close(self) -> None:
        self.writer.close()


async def connect(port: int) -> Wire:
    return Wire(*await asyncio.open_connection("127.0.0.1", port))


class Client:
    """A client that keeps its cookies, and comes over a connection of its own for each request."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.cookies: dict[str, str] = {}
        self.node = ""  # that has answered last

    async def visit(self, target: str = "/", wire: Wire | None = None, port: int = 0) -> Visit:
        """Ask; over WIRE, or at PORT, if that is given."""
        head = text = ""
        with suppress(OSError, asyncio.IncompleteReadError):
            own = wire or await connect(port or self._stage.port)
            try:
                head, text = await own.ask(target, self.cookies, *([] if wire else ["Connection: close"]))
            finally:
                if wire is None:
                    own.close()
        told = re.findall(r"(?i)\r\nset-cookie: ([^=]+)=([^;\r]*)", head)
        self.cookies |= dict(told)
        who = re.search(r"(?i)\r\nx-(?:demo-)?node: (\S+)", head)
        self.node = who[1] if who else ""
        return Visit(int(head[9:12] or 0), self.node, text, bool(told))

    async def stays(self, times: int = 1, port: int = 0) -> bool:
        """Come again; was it always the same node, and no new cookie?"""
        before = self.node
        visits = [await self.visit(port=port) for _ in range(times)]
        return all((visit.status, visit.node, visit.told) == (200, before, False) for visit in visits)


async def crowd(stage: SessionStage, count: int = CROWD) -> list[Client]:
    """Clients that have come once, and belong to nodes."""
    clients = [Client(stage) for _ in range(count)]
    for client in clients:
        visit = await client.visit()
        assert (visit.status, visit.told) == (200, True)
    return clients


def of(clients: Iterable[Client], node: str) -> list[Client]:
    return [client for client in clients if client.node == node]


SomeNode = TypeVar("SomeNode", bound=Node)


class SessionStage(Stage):
    """A stage that knows which worker has whom. commands: those that were given to it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.commands: list[Process] = []

    async def close(self, spared: Sequence[Node] = ()) -> None:
        """Leave nothing running but the nodes SPARED, which are somebody else's."""
        for command in self.commands:
            if command.returncode is None:
                command.kill()
                await command.communicate()
        self.kill()
        for node in self.nodes:
            if node not in spared:
                node.go_on.set()
                await node.stop()

    async def join(self, kind: type[SomeNode], *names: str) -> list[SomeNode]:
        """New nodes of a kind, which serve; the next settings that are written have them."""
        nodes = [kind(name, port) for name, port in zip(names, fixed_ports(len(names)), strict=True)]
        for node in nodes:
            self.nodes.append(node)
            await node.start()
        return nodes

    async def wires(self) -> list[Wire]:
        """A connection to each of the two workers."""
        found: dict[int, Wire] = {}
        async with asyncio.timeout(DEADLINE_S):
            while len(found) < 2:
                wire = await connect(self.port)
                self._kept.append(wire.writer)
                if found.setdefault(await self.worker_of(wire.port), wire) is not wire:
                    wire.close()
        return [*found.values()]

    async def worker_of(self, client_port: int) -> int:
        """The worker that has taken a client's connection."""
        found: list[int] = []

        def seen() -> list[int]:
            numbers = {number for _, port, number in self._connections() if port == client_port}
            found.extend(pid for pid, sockets in self.workers().items() if sockets & numbers)
            return found

        await until(seen)
        return found[0]

    async def reload(self) -> None:
        """Have the settings read again; why not, if they are not."""
        try:
            await super().reload()
        except Refused as refused_:
            raise AssertionError(f"{refused_}: {refused_.problems}\n{self.log}") from refused_

    async def upgrade(self) -> None:
        """Replace the program, and wait until only new workers are left."""
        before = self.serving()
        assert self.process is not None
        ended = len(re.findall(ENDED, self.log))
        self.process.send_signal(signal.SIGUSR2)
        await self.expect(ENDED, ended + 1)
        await until(lambda: self.serving() and not {*before} & {*self.serving()})

    async def command(self, *words: str) -> Process:
        """A command to it, which runs."""
        process = await asyncio.create_subprocess_exec(
            *arguments(*words, "-c", self.file), cwd=ROOT, env=ENVIRONMENT, stdout=PIPE, stderr=STDOUT
        )
        self.commands.append(process)
        return process

    async def new_ones_avoid(self, node: str) -> None:
        """Wait until all workers know that a node gets nobody new: 20 clients in a row are elsewhere."""
        row = 0
        async with asyncio.timeout(2.0):
            while row < 20:
                visit = await Client(self).visit()
                assert visit.status == 200
                row = row + 1 if visit.node != node else 0


async def said(process: Process) -> tuple[int | None, str]:
    """Exit code of a command, and what it has said."""
    async with asyncio.timeout(DEADLINE_S):
        text, _ = await process.communicate()
    return process.returncode, text.decode()


@asynccontextmanager
async def staged(folder: Path, *nodes: Node) -> AsyncIterator[SessionStage]:
    """A stage that leaves nothing running but NODES, which are somebody else's."""
    stage = SessionStage(folder)
    stage.nodes = [*nodes]
    try:
        yield stage
    finally:
        await stage.close(nodes)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[SessionStage]:
    """Three scripted nodes."""
    async with staged(tmp_path) as stage:
        await stage.add("node1", "node2", "node3")
        yield stage


# --- what is kept ---


async def test_a_cookie_holds_at_every_worker(stage: SessionStage) -> None:
    await stage.start(service=COOKIE)
    both = await stage.wires()
    for client in await crowd(stage):
        before = client.node
        visits = [await client.visit(wire=wire) for wire in both * 2]
        assert [(visit.node, visit.told) for visit in visits] == [(before, False)] * 4


async def test_a_cookie_that_is_not_ours_is_no_way_to_a_node(stage: SessionStage) -> None:
    await stage.start(service=COOKIE)
    [client] = await crowd(stage, 1)
    good = client.cookies["TPNODE"]
    for cookie in ("node1", good[:-1] + ("A" if good[-1] != "A" else "B"), "x" * 5000):
        other = Client(stage)
        other.cookies = {"TPNODE": cookie}
        visit = await other.visit()
        assert (visit.status, visit.told) == (200, True)


async def test_stickiness_outlives_a_reload_that_changes_something_else(stage: SessionStage) -> None:
    await stage.start(service=COOKIE)
    clients, before = await crowd(stage), stage.serving()
    stage.write(service=COOKIE + '\nbalance = "least_connections"\nslow_start = "1s"')
    await stage.reload()
    assert not {*before} & {*stage.serving()}
    assert [await client.stays(2) for client in clients] == [True] * CROWD


async def test_stickiness_outlives_a_reload_that_adds_a_node_which_gets_new_clients(
    stage: SessionStage,
) -> None:
    await stage.start(service=COOKIE)
    clients = await crowd(stage)
    await stage.add("node4")
    stage.write(service=COOKIE)
    await stage.reload()
    assert [await client.stays(2) for client in clients] == [True] * CROWD
    assert of(await crowd(stage), "node4")


async def test_a_new_secret_before_the_old_one_moves_nobody(stage: SessionStage) -> None:
    await stage.start(service=COOKIE)
    clients = await crowd(stage)
    both = f'sticky = {{ mode = "cookie", secrets = ["{OTHER_SECRET}", "{SECRET}"] }}'
    stage.write(service=both)
    await stage.reload()
    for client in clients:
        before = client.node
        assert ((visit := await client.visit()).node, visit.told) == (before, True)
    stage.write(service=COOKIE.replace(SECRET, OTHER_SECRET))
    await stage.reload()
    assert [await client.stays() for client in clients] == [True] * CROWD


async def test_stickiness_outlives_an_upgrade_in_place(stage: SessionStage) -> None:
    await stage.start(service=COOKIE)
    clients = await crowd(stage)
    await stage.upgrade()
    assert [await client.stays(2) for client in clients] == [True] * CROWD
    await stage.end()


async def test_two_instances_with_the_same_secret_know_each_others_clients(
    stage: SessionStage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await stage.start(service=COOKIE)
    async with staged(tmp_path_factory.mktemp("second"), *stage.nodes) as second:
        await second.start(service=COOKIE)
        here, there = await crowd(stage), await crowd(second)
        assert [await client.stays(2, second.port) for client in here] == [True] * CROWD
        assert [await client.stays(2, stage.port) for client in there] == [True] * CROWD


# --- sessions that nodes begin ---


async def test_what_one_worker_has_learned_of_nodes_sessions_all_know_also_after_a_reload_and_an_upgrade(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        await stage.join(DemoNode, "node1", "node2", "node3")
        await stage.start(service=NODES_COOKIE)
        clients = [Client(stage) for _ in range(CROWD)]
        first, second = await stage.wires()
        homes = [(await client.visit(wire=first)).node for client in clients]
        assert {*homes} == {"node1", "node2", "node3"}
        for client, home in zip(clients, homes, strict=True):
            visit = await client.visit(wire=second)
            assert (visit.node, "Visit 2 " in visit.text) == (home, True)
        first.close()
        second.close()
        await stage.reload()
        await stage.expect(ENDED)
        for client, home in zip(clients, homes, strict=True):
            assert "Visit 3 " in (await client.visit()).text, f"{client.node}, not {home}"
        await stage.upgrade()
        for client, home in zip(clients, homes, strict=True):
            assert "Visit 4 " in (await client.visit()).text, f"{client.node}, not {home}"


# --- nodes on their way out ---


async def time_left(stage: SessionStage, node: str) -> float:
    """Seconds until a drain ends; 0 if there is none any more."""
    drain = (await asyncio.to_thread(stage.client.node, node))["drain"]
    return float(drain["seconds_left"] or 0)


async def test_a_drain_that_keeps_sticky_clients_lets_them_stay_to_its_deadline_and_nobody_else_in(
    stage: SessionStage,
) -> None:
    await stage.start(service=COOKIE)
    clients = of(await crowd(stage), "node1")
    drain = await stage.command("drain", "node1", "--sticky", "keep", "--timeout", "3s")
    await stage.see(lambda seen: seen["node1"]["state"] == "drain")
    await stage.new_ones_avoid("node1")
    while (left_s := await time_left(stage, "node1")) > 0.5:
        assert [await client.stays() for client in clients] == [True] * len(clients), f"{left_s} s to go"
    assert left_s > 0  # until then
    code, text = await said(drain)
    assert (code, text.splitlines()[-1]) == (0, "node1 is empty, and disabled now")
    await stage.left_alone(stage.nodes[0])
    visits = [await client.visit() for client in clients]
    assert {visit.status for visit in visits} == {200}
    assert "node1" not in {visit.node for visit in visits}
    assert [await client.stays() for client in clients] == [True] * len(clients)


async def test_a_drain_that_moves_sticky_clients_does_so_at_their_next_request(stage: SessionStage) -> None:
    await stage.start(service=COOKIE)
    clients = of(await crowd(stage), "node1")
    slow = asyncio.create_task(clients[0].visit(SLOW))  # so that the drain lasts
    await until(lambda: stage.nodes[0].open)
    drain = await stage.command("drain", "node1", "--sticky", "move", "--timeout", "20s")
    await stage.see(lambda seen: seen["node1"]["state"] == "drain")
    await stage.new_ones_avoid("node1")
    visits = [await client.visit() for client in clients[1:]]
    assert {(visit.status, visit.node == "node1", visit.told) for visit in visits} == {(200, False, True)}
    assert [await client.stays() for client in clients[1:]] == [True] * (len(clients) - 1)
    await stage.see(lambda seen: seen["node1"]["totals"]["moved_drain"] == len(clients) - 1)
    stage.nodes[0].go_on.set()
    assert (await slow).node == "node1"
    assert (await said(drain))[0] == 0


async def test_disable_moves_sticky_clients_at_once_and_ready_does_not_move_them_back(
    stage: SessionStage,
) -> None:
    await stage.start(service=COOKIE)
    clients = of(await crowd(stage), "node1")
    assert (await said(await stage.command("disable", "node1")))[0] == 0
    await stage.left_alone(stage.nodes[0])
    visits = [await client.visit() for client in clients]
    assert {(visit.status, visit.node == "node1", visit.told) for visit in visits} == {(200, False, True)}
    await stage.see(lambda seen: seen["node1"]["totals"]["moved_disabled"] == len(clients))
    assert (await said(await stage.command("ready", "node1")))[0] == 0
    await stage.see(lambda seen: seen["node1"]["state"] == "ready")
    assert [await client.stays() for client in clients] == [True] * len(clients)


async def test_nodes_as_json_tells_who_stays_and_who_has_moved(stage: SessionStage) -> None:
    await stage.start(service=COOKIE)
    clients = await crowd(stage)
    assert all([await client.stays(2) for client in clients])
    homes = Counter(client.node for client in clients)
    await stage.see(lambda seen: sum(one["totals"]["sticky_kept"] for one in seen.values()) == 2 * CROWD)
    code, text = await said(await stage.command("nodes", "--json"))
    assert code == 0
    for node in json.loads(text)["nodes"]:
        counts: dict[str, Any] = node["services"]["web"]["totals"]
        assert counts["sticky_new"] == homes[node["name"]]
        assert counts["sticky_kept"] == 2 * homes[node["name"]]
        assert [counts[kind] for kind in MOVED] == [0] * len(MOVED)


# --- nodes that are gone ---


async def test_no_request_of_200_fails_when_a_node_is_killed_and_its_clients_are_elsewhere_at_once(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        victim, *_ = await stage.join(NodeProcess, "node1", "node2", "node3")
        await stage.start(service=COOKIE)
        clients = await crowd(stage, 20)
        homes = {client: client.node for client in clients}
        visits: list[Visit] = []
        after: dict[Client, set[str]] = {client: set() for client in clients}

        async def ten(client: Client) -> None:
            for _ in range(10):
                dead = refused(victim.port)
                visits.append(await client.visit())
                if dead:
                    after[client].add(client.node)

        requests = [asyncio.create_task(ten(client)) for client in clients]
        await until(lambda: len(visits) > 40)
        os.kill(victim.process.pid, signal.SIGKILL)
        await asyncio.gather(*requests)
        assert Counter(visit.status for visit in visits) == {200: 200}
        moved = [client for client in clients if homes[client] == "node1"]
        assert [len(after[client]) for client in moved] == [1] * len(moved)  # one new home each
        assert "node1" not in set[str]().union(*after.values())
        assert all(client.node == homes[client] for client in clients if client not in moved)
        await stage.see(lambda seen: causes(seen["node1"]) >= len(moved))


def causes(endpoint: dict[str, Any]) -> int:
    """How many requests of its clients a dead node has lost to others, as operators are told."""
    return int(endpoint["totals"]["moved_down"] + endpoint["totals"]["moved_failed"])


async def test_clients_of_a_node_that_a_reload_takes_away_move_without_an_error(stage: SessionStage) -> None:
    await stage.start(service=COOKIE)
    clients = await crowd(stage)
    gone = of(clients, "node1")
    removed = stage.nodes.pop(0)
    try:
        stage.write(service=COOKIE)
        await stage.reload()
        visits = [await client.visit() for client in gone]
        assert {(visit.status, visit.node == "node1", visit.told) for visit in visits} == {(200, False, True)}
        assert [await client.stays() for client in clients] == [True] * CROWD
    finally:
        await removed.stop()
