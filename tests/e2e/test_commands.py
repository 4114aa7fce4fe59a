"""Commands to a running trackproxy, as an operator gives them: other processes, real sockets, exit codes."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_cli import DEADLINE_S, Answer, Running, fetch, run, running
from trackproxy.commands.client import Client

both_kinds = pytest.mark.parametrize("workers", [0, 2], ids=["in one process", "with workers"])


class Node:
    """A node that says its name, and keeps requests for /slow waiting until it is told otherwise."""

    def __init__(self, name: str) -> None:
        self.arrived, self.go_on = threading.Event(), threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, name.encode()))
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"


def _handler(node: Node, name: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/slow":
                node.arrived.set()
                node.go_on.wait(DEADLINE_S)
            with suppress(ConnectionError):
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    return Handler


class Cluster:
    """Two nodes, a settings file that names them, and the trackproxy that serves it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.folder = folder
        self.file = folder / "t.toml"
        self.socket = folder / "state" / "control.sock"
        self.client = Client(self.socket)
        self.port = free_port()
        self.nodes = {name: self._start(name) for name in ("node1", "node2")}
        self.threads = stack.enter_context(ThreadPoolExecutor())

    def _start(self, name: str) -> Node:
        node = Node(name)
        thread = threading.Thread(target=node.server.serve_forever)
        thread.start()
        self._stack.callback(node.server.server_close)
        self._stack.callback(thread.join)
        self._stack.callback(node.server.shutdown)
        self._stack.callback(node.go_on.set)
        return node

    def write(self, *names: str, workers: int = 0, port: int | None = None, more: str = "") -> None:
        """Write settings with these nodes, as editors do: at once."""
        lines = [
            f'state_dir = "{self.folder}/state"',
            f"workers = {workers}",
            'grace = "10s"',
            more,
            "[nodes]",
        ]
        lines += [f'{name} = {{ address = "{self.nodes[name].address}" }}' for name in names]
        lines += ["[services.web]", 'protocol = "http"', f'listen = ["127.0.0.1:{port or self.port}"]']
        draft = self.file.with_suffix(".draft")
        draft.write_text("\n".join(lines) + "\n")
        draft.replace(self.file)

    @contextmanager
    def serving(self, *words: str) -> Iterator[Running]:
        """The trackproxy that serves the file, once it can be told what to do."""
        with running("serve", "-c", self.file, *words) as proxy:
            proxy.wait_for("serving on", proxy.process.stderr)
            await_fact(lambda: status(self.socket, "/readyz") == 200)
            yield proxy
            for node in self.nodes.values():
                node.go_on.set()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What comes of a command to it."""
        return run(*words, "-c", self.file)

    def slow(self, *names: str) -> Future[Answer]:
        """A request that one of these nodes has, and answers only when it may go on."""
        answer = self.threads.submit(fetch, self.port, "/slow")
        await_fact(lambda: any(self.nodes[name].arrived.is_set() for name in names))
        return answer

    def answers(self, count: int = 6) -> set[str]:
        """Which nodes answer."""
        return {fetch(self.port, "/").body.decode() for _ in range(count)}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path, stack)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def await_fact(fact: Callable[[], bool]) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline, "this has not come about"
        time.sleep(0.01)  # another process: it can only be asked again


def status(path: Path, target: str) -> int:
    """The status of the admin API's answer; 0 if nobody answers."""
    connection = http.client.HTTPConnection("localhost", timeout=DEADLINE_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", target)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), DEADLINE_S).close()
    except ConnectionRefusedError:
        return True
    return False


# --- reload ---


@both_kinds
def test_a_reload_serves_the_changed_file_and_says_so(cluster: Cluster, workers: int) -> None:
    cluster.write("node1", workers=workers)
    with cluster.serving() as proxy:
        assert cluster.answers() == {"node1"}
        cluster.write("node2", workers=workers, port=free_port())
        other = int(re.findall(r":(\d+)\"\]", cluster.file.read_text())[0])
        done = cluster.command("reload")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("reloaded: generation 2 serves, 1 service, 1 node, ")
        assert fetch(other, "/").body == b"node2"
        assert refused(cluster.port)
        assert proxy.stop(signal.SIGTERM) == 0


def test_a_reload_with_another_file_than_is_served_says_so_and_changes_nothing(cluster: Cluster) -> None:
    cluster.write("node1")
    with cluster.serving():
        other = cluster.file.with_name("other.toml")
        other.write_text(cluster.file.read_text())
        done = run("reload", "-c", other)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"it serves {cluster.file}, and reads that again, not {other}" in done.stderr
        link = cluster.file.with_name("link.toml")
        link.symlink_to(cluster.file)
        assert run("reload", "-c", link).returncode == 0


@pytest.mark.parametrize("mistake", ["workers = many\n", 'worker = "1"\n'], ids=["no TOML", "a wrong key"])
def test_a_wrong_file_is_reported_as_check_reports_it_and_changes_nothing(
    cluster: Cluster, mistake: str
) -> None:
    cluster.write("node1")
    with cluster.serving():
        cluster.file.write_text(cluster.file.read_text().replace("workers = 0\n", mistake))
        done, check = cluster.command("reload"), cluster.command("check")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == check.stderr
        assert done.stderr.endswith("1 problem\n")
        assert cluster.answers() == {"node1"}


def test_a_listener_that_cannot_be_opened_is_the_reason_that_a_reload_gives(cluster: Cluster) -> None:
    cluster.write("node1")
    with cluster.serving(), socket.create_server(("127.0.0.1", 0)) as taken:
        cluster.write("node2", port=taken.getsockname()[1])
        done = cluster.command("reload")
        assert done.returncode == 1
        assert re.search(r"cannot listen on .* in use.*\n1 problem\n$", done.stderr)
        assert cluster.answers() == {"node1"}


@both_kinds
def test_serve_watch_reloads_a_changed_file_and_reports_a_wrong_one_once(
    cluster: Cluster, workers: int
) -> None:
    cluster.write("node1", workers=workers)
    with cluster.serving("--watch") as proxy:
        cluster.write("node1", workers=workers, more="nonsense = 1")
        proxy.wait_for("not reloaded, the settings are wrong", proxy.process.stderr)
        cluster.write("node2", workers=workers)
        said = proxy.wait_for("reloaded: generation 2 serves", proxy.process.stderr)
        assert "not reloaded" not in said
        assert cluster.answers() == {"node2"}
        assert proxy.stop(signal.SIGTERM) == 0


# --- nodes ---


@both_kinds
def test_nodes_shows_a_line_for_each_endpoint(cluster: Cluster, workers: int) -> None:
    cluster.write("node1", "node2", workers=workers)
    with cluster.serving():
        cluster.answers(6)
        await_fact(
            lambda: (
                sum(one["services"]["web"]["totals"]["requests"] for one in cluster.client.nodes()["nodes"])
                == 6
            )
        )
        done = cluster.command("nodes")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        head = "NODE STATE SERVICE ADDRESS HEALTH WEIGHT ACTIVE REQUESTS ERRORS LAST PROBE"
        assert lines[0].split() == head.split()
        for line, name in zip(lines[1:], cluster.nodes, strict=True):
            seen = line.split(maxsplit=9)
            assert seen[:5] == [name, "ready", "web", cluster.nodes[name].address, "up"]
            assert seen[5:7] + seen[8:9] == ["1", "0", "0"]
            assert seen[9].startswith("passed: ")
        assert sum(int(line.split()[7]) for line in lines[1:]) == 6
        as_json = json.loads(cluster.command("nodes", "--json").stdout)
        assert [node["name"] for node in as_json["nodes"]] == ["node1", "node2"]


@both_kinds
def test_a_disabled_node_gets_nothing_until_it_is_ready_again(cluster: Cluster, workers: int) -> None:
    cluster.write("node1", "node2", workers=workers)
    with cluster.serving():
        done = cluster.command("disable", "node1")
        assert (done.returncode, done.stdout.splitlines()[1].split()[:2]) == (0, ["node1", "disabled*"])
        await_fact(lambda: cluster.answers() == {"node2"})
        assert cluster.answers(10) == {"node2"}
        done = cluster.command("ready", "node1")
        assert (done.returncode, done.stdout.splitlines()[1].split()[:2]) == (0, ["node1", "ready"])
        await_fact(lambda: cluster.answers() == {"node1", "node2"})


def test_an_unknown_node_is_one_sentence(cluster: Cluster) -> None:
    cluster.write("node1")
    with cluster.serving():
        for verb, *words in (["drain"], ["disable"], ["ready"], ["weight", "2"], ["limit", "2"], ["remove"]):
            done = cluster.command(verb, "nod1", *words)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == 'trackproxy: nod1: unknown node, did you mean "node1"?\n'


# --- drain ---


@both_kinds
def test_a_drain_waits_for_what_is_open_and_ends_once_the_node_is_empty(
    cluster: Cluster, workers: int
) -> None:
    cluster.write("node1", workers=workers)
    with cluster.serving():
        answer = cluster.slow("node1")
        with running("drain", "node1", "-c", cluster.file) as drain:
            drain.wait_for(r"^node1: 1 request left, \d+ s to go$", drain.process.stdout)
            cluster.nodes["node1"].go_on.set()
            drain.wait_for("^node1 is empty, and disabled now$", drain.process.stdout)
            assert drain.process.wait(DEADLINE_S) == 0
        assert answer.result(DEADLINE_S).body == b"node1"
        assert cluster.client.node("node1")["state"] == "disabled"


@both_kinds
def test_a_drain_that_its_deadline_ends_exits_with_3(cluster: Cluster, workers: int) -> None:
    cluster.write("node1", "node2", workers=workers)
    with cluster.serving():
        cluster.slow("node1", "node2")
        [name] = [name for name, node in cluster.nodes.items() if node.arrived.is_set()]
        done = cluster.command("drain", name, "--timeout", "1s")
        assert done.returncode == 3
        assert done.stdout.splitlines()[-1] == (
            f"{name} is disabled now; what was still open at the deadline was ended"
        )


def test_no_wait_returns_while_the_drain_goes_on(cluster: Cluster) -> None:
    cluster.write("node1")
    with cluster.serving():
        cluster.slow("node1")
        done = cluster.command("drain", "node1", "--no-wait", "--sticky", "move", "--timeout", "5m")
        assert done.returncode == 0
        drain = cluster.client.node("node1")["drain"]
        assert (drain["sticky"], drain["outcome"]) == ("move", None)
        assert 200 < drain["seconds_left"] <= 300


def test_ctrl_c_ends_the_waiting_and_not_the_drain(cluster: Cluster) -> None:
    cluster.write("node1")
    with cluster.serving():
        cluster.slow("node1")
        with running("drain", "node1", "-c", cluster.file) as drain:
            drain.wait_for("1 request", drain.process.stdout)
            drain.process.send_signal(signal.SIGINT)
            drain.wait_for("^not waiting any more; the drain of node1 goes on$", drain.process.stdout)
            assert drain.process.wait(DEADLINE_S) == 130
        assert cluster.client.node("node1")["drain"]["outcome"] is None


def test_a_drain_that_another_operator_ends_exits_with_1(cluster: Cluster) -> None:
    cluster.write("node1")
    with cluster.serving():
        cluster.slow("node1")
        with running("drain", "node1", "-c", cluster.file) as drain:
            drain.wait_for("1 request", drain.process.stdout)
            assert cluster.command("ready", "node1").returncode == 0
            drain.wait_for("the node is ready now$", drain.process.stdout)
            assert drain.process.wait(DEADLINE_S) == 1


def test_a_wrong_timeout_is_a_problem(cluster: Cluster) -> None:
    cluster.write("node1")
    with cluster.serving():
        done = cluster.command("drain", "node1", "--timeout", "soon")
        assert done.returncode == 1
        assert done.stderr.startswith("timeout: must be a duration")
        assert cluster.client.node("node1")["state"] == "ready"


# --- where trackproxy is reached ---


@pytest.mark.parametrize(
    "words",
    [
        ["reload"],
        ["nodes"],
        ["drain", "a"],
        ["disable", "a"],
        ["ready", "a"],
        ["weight", "a", "1"],
        ["limit", "a", "config"],
        ["add", "a", "10.0.0.1"],
        ["remove", "a"],
    ],
)
def test_if_nobody_is_there_a_command_says_where_it_looked(cluster: Cluster, words: list[str]) -> None:
    cluster.write("node1")
    done = cluster.command(*words)
    assert (done.returncode, done.stdout) == (1, "")
    question = "is it running, with this state_dir?"
    assert done.stderr == f"trackproxy: no trackproxy answers at {cluster.socket}; {question}\n"


def test_the_environment_and_socket_say_where_to_look_too(cluster: Cluster) -> None:
    cluster.write("node1")
    with cluster.serving():
        assert run("nodes", TRACKPROXY_STATE_DIR=str(cluster.folder / "state")).returncode == 0
        assert run("nodes", "--socket", cluster.socket).returncode == 0
        assert run("nodes", TRACKPROXY_STATE_DIR=str(cluster.folder)).returncode == 1


def test_a_file_that_is_not_there_names_no_trackproxy(tmp_path: Path) -> None:
    done = run("nodes", "-c", tmp_path / "typo.toml")
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path}/typo.toml: cannot be read: No such file or directory\n1 problem\n"


def test_the_socket_goes_with_its_trackproxy(cluster: Cluster) -> None:
    cluster.write("node1")
    with cluster.serving() as proxy:
        assert cluster.socket.stat().st_mode & 0o777 == 0o600
        assert proxy.stop(signal.SIGTERM) == 0
        assert not cluster.socket.exists()


def test_a_trackproxy_after_one_that_was_killed_is_reached(cluster: Cluster) -> None:
    cluster.write("node1")
    with cluster.serving() as proxy:
        proxy.stop(signal.SIGKILL)
    assert cluster.socket.exists()
    with cluster.serving():
        assert cluster.command("nodes").returncode == 0


def test_a_second_trackproxy_with_the_same_folder_serves_without_a_socket(cluster: Cluster) -> None:
    cluster.write("node1")
    first_port = cluster.port
    with cluster.serving():
        cluster.write("node1", port=free_port())
        with running("serve", "-c", cluster.file) as second:
            said = second.wait_for("serving on", second.process.stderr)
            assert f"another trackproxy, which answers at {cluster.socket}" in said
            assert second.stop(signal.SIGTERM) == 0
        assert cluster.client.nodes()["nodes"]
        assert fetch(first_port, "/").status == 200


def test_an_upgrade_in_place_is_reached_afterwards(cluster: Cluster) -> None:
    cluster.write("node1", workers=2)
    with cluster.serving() as proxy:
        before = cluster.socket.stat().st_ino
        proxy.process.send_signal(signal.SIGUSR2)
        await_fact(lambda: cluster.socket.exists() and cluster.socket.stat().st_ino != before)
        await_fact(lambda: status(cluster.socket, "/readyz") == 200)
        assert cluster.command("nodes").returncode == 0
        assert proxy.stop(signal.SIGTERM) == 0
        assert not cluster.socket.exists()


@both_kinds
def test_a_stop_that_drains_is_told_and_not_disturbed(cluster: Cluster, workers: int) -> None:
    cluster.write("node1", workers=workers)
    with cluster.serving() as proxy:
        answer = cluster.slow("node1")
        proxy.process.send_signal(signal.SIGTERM)
        await_fact(lambda: status(cluster.socket, "/readyz") == 503)
        assert status(cluster.socket, "/healthz") == 200
        assert cluster.command("nodes").returncode == 0
        done = cluster.command("reload")
        assert done.returncode == 1
        assert done.stderr == "trackproxy: this trackproxy is about to start or to stop\n"
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_for("not reloaded: this trackproxy is stopping", proxy.process.stderr)
        cluster.nodes["node1"].go_on.set()
        assert answer.result(DEADLINE_S).body == b"node1"
        assert proxy.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("number", ["-1", "1.5", "all", "1e9"])
def test_a_weight_is_a_number_or_the_configurations(number: str) -> None:
    done = run("weight", "a", "--", number)
    assert done.returncode == 2
    assert f'give a whole number, or "config", not "{number}"' in " ".join(done.stderr.split())


def test_there_must_be_a_file_to_watch() -> None:
    done = run("serve", "--listen", ":80", "--to", "a:80", "--watch")
    assert done.returncode == 2
    assert "there is no file to watch" in done.stderr
