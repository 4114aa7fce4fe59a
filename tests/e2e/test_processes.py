"""The supervisor and its workers as processes: crashes, signals, reloads, upgrades."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.processes import children, command_line, fixed_ports
from tests.e2e.test_cli import DEADLINE_S, ENVIRONMENT, ROOT, arguments, fetch
from tests.e2e.test_commands import await_fact, refused
from trackproxy.commands.client import Client

LISTENING = "0A"  # /proc/net/tcp
SERVING = "serving on"


class Node:
    """A node that echoes targets, keeps requests for /slow until it is told otherwise, and has one tunnel."""

    def __init__(self) -> None:
        self.arrived, self.go_on = threading.Event(), threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"


def _handler(node: Node) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/slow":
                node.arrived.set()
                node.go_on.wait(DEADLINE_S)
            if self.headers["Upgrade"]:
                self.send_response(101)
                self.send_header("Connection", "upgrade")
                self.send_header("Upgrade", self.headers["Upgrade"])
                self.end_headers()
                while byte := self.connection.recv(1):
                    self.connection.sendall(byte)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.path)))
            with suppress(OSError):  # a client that was ended
                self.end_headers()
                self.wfile.write(self.path.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    return Handler


class Stage:
    """A node, a settings file, and the trackproxy that serves it in a session of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.folder = folder
        self.file = folder / "t.toml"
        self.log_file = folder / "log"
        (self.port,) = fixed_ports(1)
        self.socket = folder / "state" / "control.sock"
        self.client = Client(self.socket)
        self.node = Node()
        serving = threading.Thread(target=self.node.server.serve_forever)
        serving.start()
        for undo in (self.node.server.server_close, serving.join, self.node.server.shutdown):
            stack.callback(undo)
        stack.callback(self.node.go_on.set)

    def write(self, *listen: str, workers: int = 2, grace: str = "10s", more: str = "") -> None:
        """Write settings, as editors do: at once."""
        listeners = ", ".join(f'"{one}"' for one in listen or [f"127.0.0.1:{self.port}"])
        lines = [f"workers = {workers}", f'grace = "{grace}"', f'state_dir = "{self.folder}/state"', more]
        lines += ["[nodes]", f'node1 = {{ address = "{self.node.address}" }}']
        lines += ["[services.web]", 'protocol = "http"', f"listen = [{listeners}]"]
        draft = self.file.with_suffix(".draft")
        draft.write_text("\n".join(lines) + "\n")
        draft.replace(self.file)

    def start(self, *before: str, cwd: Path = ROOT, fds: tuple[int, ...] = (), **environment: str) -> None:
        """Serve the file; BEFORE: the program that runs the command line."""
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*before, *arguments("serve", "-c", self.file)],
                cwd=cwd,
                env=ENVIRONMENT | environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                pass_fds=fds,
                start_new_session=True,
            )
        self._stack.callback(self._end)

    def serve(self, **settings: Any) -> None:
        """Write settings, start, and wait until it serves."""
        self.write(**settings)
        self.start()
        self.expect(SERVING)

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    # --- what it says ---

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def expect(self, pattern: str, times: int = 1) -> None:
        """Wait until it has said so, so many times."""

        def said() -> bool:
            assert self.process.poll() is None, self.log
            return len(re.findall(pattern, self.log)) >= times

        await_fact(said)

    def tell(self, number: signal.Signals, pattern: str) -> None:
        """Send the supervisor a signal, and wait until it says once more what it has done."""
        before = len(re.findall(pattern, self.log))
        self.process.send_signal(number)
        self.expect(pattern, before + 1)

    def reload(self) -> None:
        self.tell(signal.SIGHUP, "(?<!not )reloaded: ")

    def upgrade(self) -> None:
        """Replace the program, and wait until only the new workers are left."""
        old = self.serving()
        self.tell(signal.SIGUSR2, r"generation \d+ has ended")
        await_fact(lambda: len(self.serving() - old) == len(old) and not old & children(self.process.pid))

    def ends(self, number: signal.Signals | None = None) -> int:
        """Send a signal; the exit code."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(DEADLINE_S)
        assert "Traceback" not in self.log
        return code

    # --- its processes ---

    def workers(self) -> set[int]:
        """Its workers and spare ones."""
        return {pid for pid in children(self.process.pid) if "worker_process" in command_line(pid)}

    def serving(self) -> set[int]:
        """The workers that take connections."""
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        listening = {row[9] for row in rows if row[3] == LISTENING and row[1].endswith(f":{self.port:04X}")}
        return {pid for pid in self.workers() if listening & _sockets(pid)}

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    # --- its clients ---

    def get(self, target: str = "/x") -> bytes:
        return fetch(self.port, target).body

    def slow(self) -> socket.socket:
        """A client with a request that the node has, and answers when it may go on."""
        client = self.connect()
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        assert self.node.arrived.wait(DEADLINE_S)
        return client

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), DEADLINE_S)
        self._stack.callback(client.close)
        return client

    def requests(self) -> int:
        """What all workers that ever ran have counted."""
        services = self.client.node("node1")["services"]
        return int(services["web"]["totals"]["requests"])


def _sockets(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):  # it has ended
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            found.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    return found


def answer(client: socket.socket) -> bytes:
    """What comes until the client is left, or reset."""
    said = b""
    with suppress(ConnectionResetError):
        while part := client.recv(4096):
            said += part
    return said


def zombies(parent: int) -> list[int]:
    """The children that have ended and that nobody has waited for."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split() if int(pid) not in children(parent)]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


class Crowd:
    """Clients that ask again and again; who loses a kept connection may connect once more for that request.

    lost: requests for which a connection of their own got no answer.
    """

    def __init__(self, stage: Stage, keep_alive: bool) -> None:
        self._stage, self._keep_alive = stage, keep_alive
        self._over = threading.Event()
        self.answered = [0] * 8
        self.lost: list[BaseException] = []

    def __enter__(self) -> Crowd:
        self._threads = ThreadPoolExecutor(len(self.answered))
        self._all = [self._threads.submit(self._ask, number) for number in range(len(self.answered))]
        await_fact(lambda: min(self.answered) > 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._all:
            one.result(DEADLINE_S)
        self._threads.shutdown()

    def goes_on(self) -> None:
        """Wait until each client has got two more answers."""
        before = [*self.answered]
        await_fact(lambda: all(now > then + 1 for now, then in zip(self.answered, before, strict=True)))

    def _ask(self, number: int) -> None:
        with closing(HTTPConnection("127.0.0.1", self._stage.port, timeout=DEADLINE_S)) as connection:
            while not self._over.is_set():
                try:
                    self._once(connection)
                    self.answered[number] += 1
                except (OSError, HTTPException) as error:
                    self.lost.append(error)
                    connection.close()

    def _once(self, connection: HTTPConnection) -> None:
        kept = connection.sock is not None
        try:
            connection.request("GET", "/x")
            assert connection.getresponse().read() == b"/x"
        except (OSError, HTTPException):
            connection.close()
            if not kept:
                raise
            self._once(connection)
        if not self._keep_alive:
            connection.close()


# --- crashes ---


def test_a_killed_worker_is_replaced_under_its_clients_and_the_log_says_how_it_died(stage: Stage) -> None:
    stage.serve()
    before = stage.serving()
    victim = min(before)
    with Crowd(stage, keep_alive=True) as crowd:
        os.kill(victim, signal.SIGKILL)
        stage.expect(r"worker [12] was killed by SIGKILL; another one starts\n")
        await_fact(lambda: len(stage.serving()) == 2 and victim not in stage.serving())
        crowd.goes_on()
    assert crowd.lost == []
    assert stage.serving() > before - {victim}
    assert stage.ends(signal.SIGTERM) == 0


def test_connections_that_arrive_while_no_worker_lives_are_answered(stage: Stage) -> None:
    stage.serve()
    before = stage.serving()
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    clients = [stage.connect() for _ in range(8)]
    for client in clients:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert all(answer(client).endswith(b"/x") for client in clients)


def test_who_dies_young_again_and_again_is_replaced_ever_more_slowly(stage: Stage) -> None:
    stage.serve(workers=1)
    for count in range(1, 5):
        (victim,) = stage.serving()
        os.kill(victim, signal.SIGKILL)
        stage.expect("was killed by SIGKILL", count)
        await_fact(lambda victim=victim: len(stage.serving() - {victim}) == 1)  # type: ignore[misc]
    pauses = re.findall(r"was killed by SIGKILL; another one starts(.*)", stage.log)
    assert pauses == ["", " in 0.1 s", " in 0.2 s", " in 0.4 s"]
    assert stage.get() == b"/x"


def test_workers_whose_supervisor_is_killed_answer_what_they_have_and_free_the_port(stage: Stage) -> None:
    stage.serve()
    workers = stage.workers()
    client = stage.slow()
    stage.process.kill()
    await_fact(lambda: refused(stage.port))
    stage.node.go_on.set()
    assert answer(client).endswith(b"/slow")
    await_fact(lambda: not any(command_line(pid) for pid in workers))
    socket.create_server(("127.0.0.1", stage.port)).close()


# --- the end ---


def test_ctrl_c_reaches_every_process_and_still_ends_in_good_order(stage: Stage) -> None:
    stage.serve()
    client = stage.slow()
    os.killpg(stage.process.pid, signal.SIGINT)
    stage.expect("stopping: open requests have 10 s to end")
    await_fact(lambda: refused(stage.port))
    stage.node.go_on.set()
    said = answer(client)
    assert b"\r\nConnection: close\r\n" in said
    assert said.endswith(b"/slow")
    assert stage.ends() == 0


def test_a_second_signal_ends_at_once(stage: Stage) -> None:
    stage.serve(grace="1h")
    client = stage.slow()
    stage.tell(signal.SIGTERM, "stopping: ")
    assert stage.ends(signal.SIGTERM) == 0
    assert answer(client) == b""


def test_new_clients_are_answered_during_the_shutdown_delay_which_a_second_signal_ends(stage: Stage) -> None:
    stage.serve(more='shutdown_delay = "1h"')
    stage.tell(signal.SIGTERM, "stopping in 3600 s")
    assert stage.get() == b"/x"
    assert stage.ends(signal.SIGTERM) == 0


def test_one_process_alone_serves_reloads_and_stops(stage: Stage) -> None:
    stage.serve(workers=0)
    client = stage.slow()
    stage.reload()
    assert stage.get() == b"/x"
    assert stage.workers() == set()
    stage.node.go_on.set()
    assert answer(client).endswith(b"/slow")
    assert stage.ends(signal.SIGTERM) == 0


# --- reloads ---


def test_a_reload_replaces_every_worker_and_loses_no_request(stage: Stage) -> None:
    stage.serve()
    before = stage.serving()
    with Crowd(stage, keep_alive=False) as crowd:
        stage.reload()
        await_fact(lambda: not before & stage.workers() and len(stage.serving()) == 2)
        crowd.goes_on()
    assert crowd.lost == []
    assert stage.ends(signal.SIGTERM) == 0


def test_what_cannot_be_served_changes_nothing_and_the_log_says_why(stage: Stage) -> None:
    stage.serve()
    before = stage.serving()
    stage.write(more="nonsense = 1")
    stage.tell(signal.SIGHUP, "not reloaded, the settings are wrong: .*nonsense")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = taken.getsockname()[1]
        stage.write(f"127.0.0.1:{stage.port}", f"127.0.0.1:{other}", workers=3)
        stage.tell(signal.SIGHUP, f"not reloaded: .*cannot listen on 127.0.0.1:{other}")
    assert [stage.get() for _ in range(8)] == [b"/x"] * 8
    assert stage.serving() == before


def test_a_reload_that_is_asked_for_during_the_start_comes_after_it(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stage.write()
        text = stage.file.read_text().replace(stage.node.address, f"127.0.0.1:{silent.getsockname()[1]}")
        stage.file.write_text(text + 'probe = { timeout = "1s" }\n')  # so the start takes a second
        stage.start()
        await_fact(stage.socket.exists)
        stage.write()
        stage.tell(signal.SIGHUP, "reloaded: generation 2 serves")
    assert stage.get() == b"/x"
    assert stage.ends(signal.SIGTERM) == 0


def test_a_kept_connection_gets_its_next_answer_after_a_reload_and_is_closed_with_it(stage: Stage) -> None:
    stage.serve()
    with closing(HTTPConnection("127.0.0.1", stage.port, timeout=DEADLINE_S)) as client:
        headers = []
        for _ in range(2):
            client.request("GET", "/x")
            response = client.getresponse()
            assert response.read() == b"/x"
            headers.append(response.headers["Connection"])
            if len(headers) == 1:
                stage.reload()
    assert headers == [None, "close"]


def test_a_tunnel_outlives_a_reload_until_its_grace_is_over(stage: Stage) -> None:
    stage.serve(grace="2s")
    tunnel = stage.connect()
    tunnel.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += tunnel.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    stage.reload()
    tunnel.sendall(b"!")
    assert tunnel.recv(1) == b"!"
    assert answer(tunnel) == b""
    stage.expect("generation 1 has ended")


def test_no_connection_is_lost_while_workers_become_fewer_and_more(stage: Stage) -> None:
    stage.serve(workers=2)
    with Crowd(stage, keep_alive=False) as crowd:
        for workers in (1, 3, 1):
            stage.write(workers=workers)
            stage.reload()
            await_fact(lambda workers=workers: len(stage.serving()) == workers)  # type: ignore[misc]
            crowd.goes_on()
    assert crowd.lost == []


def test_no_connection_is_lost_while_a_listener_moves_to_every_address_and_back(stage: Stage) -> None:
    stage.serve()
    with Crowd(stage, keep_alive=False) as crowd:
        for host in ("0.0.0.0", "127.0.0.1"):
            stage.write(f"{host}:{stage.port}")
            stage.reload()
            crowd.goes_on()
    assert crowd.lost == []


# --- upgrades ---


def test_reloads_and_upgrades_keep_the_pid_and_the_counts_and_leave_nothing_behind(stage: Stage) -> None:
    stage.serve(workers=1)
    client = stage.slow()
    workers = stage.serving()
    stage.tell(signal.SIGUSR2, SERVING)
    stage.node.go_on.set()
    assert answer(client).endswith(b"/slow")
    await_fact(lambda: not workers & stage.workers())
    await_fact(lambda: len(stage.workers()) == 2)  # one is spare
    before, asked = stage.descriptors(), stage.requests()
    for count in range(5):
        stage.get()
        stage.reload()
        stage.expect(f"generation {count + 2} has ended")
    await_fact(lambda: stage.descriptors() <= before + 2)  # for probes under way
    for _ in range(2):
        stage.get()
        stage.upgrade()
    await_fact(lambda: stage.requests() == asked + 7)
    await_fact(lambda: len(stage.workers()) == 2)
    assert zombies(stage.process.pid) == []
    await_fact(lambda: stage.descriptors() <= before + 2)  # for probes under way
    assert stage.ends(signal.SIGTERM) == 0


@pytest.mark.parametrize("broken", ["program", "settings"])
def test_an_upgrade_to_what_does_not_start_keeps_what_runs(stage: Stage, broken: str) -> None:
    shutil.copytree(ROOT / "trackproxy", stage.folder / "trackproxy")
    stage.write()
    stage.start(cwd=stage.folder)
    stage.expect(SERVING)
    before = stage.serving()
    if broken == "program":
        (stage.folder / "trackproxy" / "cli.py").write_text("raise SystemExit('half installed')")
    else:
        stage.file.write_text("workers = 2\n")
    stage.tell(signal.SIGUSR2, "not upgraded: the new program does not start: .")
    assert stage.get() == b"/x"
    assert stage.serving() == before
    assert stage.ends(signal.SIGTERM) == 0
