"""What operators see and how: tables, JSON, over TCP, in shells; another process each time."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

import pytest

from tests.e2e.test_cli import DEADLINE_S, ENVIRONMENT, ROOT, arguments, run, running
from tests.e2e.test_commands import Cluster, await_fact, free_port, status
from tests.integration.scripted_admin import ScriptedAdmin, scripted_admin
from tests.unit.operator_samples import event

ASKING = [
    ["status"],
    ["services"],
    ["nodes"],
    ["events"],
    ["top"],
    ["reload"],
    ["drain", "node2"],
    ["disable", "node2"],
    ["ready", "node2"],
    ["weight", "node2", "3"],
    ["limit", "node2", "9"],
    ["remove", "node2"],
]


class Operated(Cluster):
    """A trackproxy that is reached by a port, too."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        self.admin_port = free_port()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """One with two nodes; no test leaves it changed."""
    with ExitStack() as stack:
        one = Operated(tmp_path_factory.mktemp("operating"), stack)
        one.write("node1", "node2")
        stack.enter_context(serving_all_the_while(one))
        yield one


@contextmanager
def serving_all_the_while(cluster: Operated) -> Iterator[None]:
    """Serve inside this block, however many tests that are."""
    silent = subprocess.DEVNULL
    words = arguments("serve", "-c", cluster.file)
    environment = ENVIRONMENT | {"TRACKPROXY_ADMIN__LISTEN": f"127.0.0.1:{cluster.admin_port}"}
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=silent, stderr=silent) as process:
        try:
            await_fact(lambda: status(cluster.socket, "/readyz") == 200)
            yield
        finally:
            process.kill()


@pytest.fixture
def admin() -> Iterator[ScriptedAdmin]:
    with scripted_admin() as script:
        yield script


def url(cluster: Operated) -> list[str]:
    return ["--url", f"http://127.0.0.1:{cluster.admin_port}"]


# --- tables ---


def test_status_tells_of_the_program_and_its_workers(cluster: Operated) -> None:
    done = cluster.command("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"trackproxy \S+, pid \d+, up \d+ s, since ", done.stdout)
    assert f"settings     {cluster.file}\n" in done.stdout
    assert f"state        {cluster.folder}/state\n" in done.stdout


def test_services_has_a_line_for_each(cluster: Operated) -> None:
    done = cluster.command("services")
    assert (done.returncode, done.stderr) == (0, "")
    head, line = done.stdout.splitlines()
    assert head.split()[:3] == ["SERVICE", "STATUS", "USABLE"]
    assert line.split()[:3] == ["web", "up", "2/2"]
    assert line.endswith(f"127.0.0.1:{cluster.port}")


def test_top_without_a_terminal_is_one_look_with_rates(cluster: Operated) -> None:
    done = cluster.command("top", "--interval", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines() if line][:6] == [
        "trackproxy",
        "SERVICE",
        "web",
        "NODE",
        "node1",
        "node2",
    ]
    assert done.stdout.splitlines()[3].split()[5] == "0.0"


def test_a_command_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    words = ["-X", "importtime", "-m", "trackproxy", "nodes", "--socket", str(tmp_path / "none")]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert "no trackproxy answers" in done.stderr
    loaded = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "trackproxy.commands.client" in loaded
    assert not loaded & {"textual", "rich", "aiohttp", "uvloop", "asyncio", "pydantic_settings"}


# --- JSON ---


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["status"], {"version", "workers"}),
        (["services"], {"services"}),
        (["nodes"], {"nodes"}),
        (["top"], {"status", "services", "nodes", "events"}),
        (["reload"], {"outcome"}),
        (["weight", "node2", "config"], {"name", "state", "services"}),
        (["limit", "node2", "config"], {"name", "state", "services"}),
        (["ready", "node2"], {"name", "state", "services"}),
        (["check"], {"file", "ok", "problems"}),
        (["check", "--url", "http://a.example/"], {"request", "service", "nodes"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_json_is_one_document(cluster: Operated, words: list[str], keys: set[str]) -> None:
    done = cluster.command(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert keys <= json.loads(done.stdout).keys()


def test_a_drain_in_json_is_the_node_at_its_end(cluster: Operated) -> None:
    done = cluster.command("drain", "node2", "--json")
    assert done.returncode == 0
    drained = json.loads(done.stdout)
    assert (drained["name"], drained["state"], drained["drain"]["outcome"]) == ("node2", "disabled", "empty")
    assert done.stderr.endswith("node2 is empty, and disabled now\n")
    assert json.loads(cluster.command("ready", "node2", "--json").stdout)["state"] == "ready"


def test_a_node_comes_and_goes_in_json(cluster: Operated) -> None:
    address = cluster.nodes["node1"].address
    added = cluster.command("add", "node3", address, "--json")
    assert json.loads(added.stdout)["name"] == "node3"
    removed = cluster.command("remove", "node3", "--json")
    assert json.loads(removed.stdout) == {"outcome": "removed: node3"}


def test_a_refusal_in_json_is_a_problem_on_stderr(cluster: Operated) -> None:
    done = cluster.command("ready", "nod1", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr) == {
        "type": "about:blank",
        "title": "Refused",
        "detail": 'nod1: unknown node, did you mean "node1"?',
        "status": 404,
    }


def test_nobody_there_in_json_is_a_problem_on_stderr(tmp_path: Path) -> None:
    done = run("nodes", "--json", "--socket", tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr)["title"] == "Unreachable"


def test_check_in_json_has_the_problems_that_check_has(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('worker = "1"\n')
    plain, done = run("check", "-c", file), run("check", "-c", file, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert (told["ok"], told["served"], told["file"]) == (False, False, str(file))
    assert plain.stderr.splitlines()[:-1] == told["problems"]


# --- over TCP ---


def test_all_commands_reach_a_trackproxy_by_its_url(cluster: Operated) -> None:
    for words in (["nodes"], ["services"], ["status"], ["ready", "node1"], ["weight", "node1", "config"]):
        done = run(*words, *url(cluster))
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", ASKING, ids=lambda words: words[0])
def test_a_token_that_is_needed_is_asked_for(admin: ScriptedAdmin, words: list[str]) -> None:
    for path in ("status", "services", "nodes", "events", "reload", "nodes/node2"):
        admin.refuse(f"/api/v1/{path}", 401, "who are you")
    for verb in ("drain", "disable", "ready"):
        admin.refuse(f"/api/v1/nodes/node2/{verb}", 401, "who are you")
    done = run(*words, "--url", admin.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "trackproxy: who are you; give --token-file FILE\n"


def test_a_token_that_may_only_read_reads(tmp_path: Path) -> None:
    secret, _, settings = run("token", "alice").stdout.partition("\n")
    file = tmp_path / "token"
    file.write_text(secret)
    with ExitStack() as stack:
        cluster = Operated(tmp_path, stack)
        cluster.write("node1")
        cluster.file.write_text(cluster.file.read_text() + settings)
        stack.enter_context(serving_all_the_while(cluster))
        words = [*url(cluster), "--token-file", str(file)]
        assert run("nodes", *words).returncode == 0
        done = run("disable", "node1", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith('; the token in --token-file needs the role "write"\n')
        done = run("nodes", *url(cluster))
        assert done.stderr.endswith("; give --token-file FILE\n")
        assert cluster.command("disable", "node1").returncode == 0


def test_a_token_comes_from_a_file(admin: ScriptedAdmin, tmp_path: Path) -> None:
    admin.answer("/api/v1/nodes", {"nodes": []})
    file = tmp_path / "token"
    file.write_text("secret\n")
    assert run("nodes", "--url", admin.url, "--token-file", file).returncode == 0
    assert admin.headers_of("/api/v1/nodes")[0]["authorization"] == "Bearer secret"


def test_a_weight_can_depend_on_the_version_that_was_seen(admin: ScriptedAdmin) -> None:
    admin.refuse("/api/v1/nodes/node1", 412, "node1 has been changed since")
    done = run("weight", "node1", "2", "--if-version", "v7", "--url", admin.url)
    assert done.returncode == 1
    assert done.stderr.startswith("trackproxy: node1 has been changed since; look again")
    assert admin.headers_of("/api/v1/nodes/node1")[0]["if-match"] == '"v7"'


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--url", "127.0.0.1:8400"], "give a URL such as"),
        (["--url", "http://a", "--socket", "b"], "give either --url or --socket"),
        (["--url", "http://me:secret@a"], "a token is read from --token-file"),
    ],
)
def test_a_wrong_place_is_wrong_usage(words: list[str], why: str) -> None:
    done = run("nodes", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in " ".join(done.stderr.split())


def test_a_weight_is_not_changed_if_the_node_has_been_changed_since(cluster: Operated) -> None:
    version = cluster.client.node("node1")["version"]
    changed = cluster.command("weight", "node1", "4", "--if-version", version, "--json")
    assert json.loads(changed.stdout)["services"]["web"]["weight"] == 4
    done = cluster.command("weight", "node1", "5", "--if-version", version)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("; look again with `trackproxy nodes --json`\n")
    assert cluster.command("weight", "node1", "config").returncode == 0


def test_who_says_nothing_of_the_place_is_told_how_to() -> None:
    done = run("nodes")
    assert done.returncode == 1
    assert done.stderr.endswith("; or give -c FILE as to serve, --socket or --url\n")


@pytest.mark.parametrize("command", ["status", "services", "events", "top"])
def test_an_older_trackproxy_is_said_to_be_one(admin: ScriptedAdmin, command: str) -> None:
    done = run(command, "--url", admin.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "trackproxy: the running trackproxy is older than this command: it has no /api"
    )


# --- events ---


def test_events_shows_the_last_ones_that_are_wanted(admin: ScriptedAdmin) -> None:
    admin.answer("/api/v1/events", {"events": [event(1), event(2, "drain"), event(3, "drain")]})
    done = run("events", "--url", admin.url, "--kind", "drain", "--last", "1", TZ="UTC")
    assert done.stdout == "1970-01-01 00:00:03  info     drain           event 3\n"
    done = run("events", "--url", admin.url, "--json")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1, 2, 3]


def test_following_shows_what_comes_says_that_it_waits_and_ends_with_ctrl_c(admin: ScriptedAdmin) -> None:
    admin.answer("/api/v1/events", {"events": [event(1)]})
    with running("events", "--follow", "--json", "--url", admin.url) as follower:
        follower.wait_for('"id": 1,', follower.process.stdout)
        admin.send(event(2))
        follower.wait_for('"id": 2,', follower.process.stdout)
        admin.answer("/api/v1/events", {"events": [event(1), event(2), event(3)]})
        admin.end_stream()
        follower.wait_for("^trackproxy: connection lost: ", follower.process.stderr)
        follower.wait_for("^trackproxy: connected again$", follower.process.stderr)
        follower.wait_for('"id": 3,', follower.process.stdout)
        assert follower.stop(signal.SIGINT) == 130
        assert follower.process.stderr is not None
        assert follower.process.stderr.read() == ""


def test_events_of_a_running_trackproxy_are_shown(cluster: Operated) -> None:
    assert cluster.command("disable", "node2").returncode == 0
    assert cluster.command("ready", "node2").returncode == 0
    done = cluster.command("events", "--kind", "node_state", "--last", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split("  ")[-1] for line in done.stdout.splitlines()] == [
        "node node2: disabled, was ready",
        "node node2: ready, was disabled",
    ]


def test_following_goes_on_with_the_trackproxy_that_comes_after(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = Cluster(tmp_path, stack)
        cluster.write("node1")
        with cluster.serving() as first:
            follower = stack.enter_context(running("events", "-f", "-c", cluster.file))
            follower.wait_for("started: generation 1", follower.process.stdout)
            assert first.stop(signal.SIGTERM) == 0
            follower.wait_for("  stop ", follower.process.stdout)
            follower.wait_for("connection lost", follower.process.stderr)
        with cluster.serving():
            follower.wait_for("connected again", follower.process.stderr)
            follower.wait_for("started: generation 1", follower.process.stdout)
            assert cluster.command("disable", "node1").returncode == 0
            follower.wait_for("node node1: disabled, was ready", follower.process.stdout)


# --- terminals ---


class Screen:
    """A terminal in which a command runs. seen: all that it has got so far."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: FileIO) -> None:
        self.process = process
        self.seen = ""
        self._terminal = terminal

    def wait_for(self, pattern: str) -> None:
        """Read until what was seen matches; the watchdog ends a silent process."""
        while not re.search(pattern, self.seen):
            assert self._read(), f"ended without {pattern!r}: {self.seen[-500:]!r}"

    def type(self, keys: str) -> None:
        """Type keys."""
        self._terminal.write(keys.encode())

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(DEADLINE_S)

    def _read(self) -> bool:
        try:
            piece = self._terminal.read(65536)
        except OSError:  # EIO: nobody has it open any more
            return False
        self.seen += piece.decode(errors="replace")
        return bool(piece)


@contextmanager
def on_a_terminal(*words: str | Path) -> Iterator[Screen]:
    """A command on a terminal of 80 columns without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    looks = {"TERM": "xterm", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    with FileIO(ours, "r+") as terminal:
        process = subprocess.Popen(
            arguments(*words), cwd=ROOT, env=ENVIRONMENT | looks, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        watchdog = threading.Timer(DEADLINE_S, process.kill)
        watchdog.start()
        try:
            yield Screen(process, terminal)
        finally:
            process.kill()
            process.wait()
            watchdog.cancel()


def test_a_drain_on_a_terminal_shows_a_bar_that_goes(cluster: Operated) -> None:
    cluster.slow("node1", "node2")
    [name] = [name for name, node in cluster.nodes.items() if node.arrived.is_set()]
    with on_a_terminal("drain", name, "-c", cluster.file) as screen:
        screen.wait_for(rf"\r─{{24}} {name}: 1 request left, \d+ s to go\x1b\[K")
        cluster.nodes[name].go_on.set()
        assert screen.end() == 0
        assert screen.seen.endswith(f"\r{name} is empty, and disabled now\x1b[K\r\n")
    assert cluster.command("ready", name).returncode == 0
    cluster.nodes[name].arrived.clear()
    cluster.nodes[name].go_on.clear()


def test_top_on_a_terminal_shows_all_and_ends_with_q(cluster: Operated) -> None:
    with on_a_terminal("top", "-c", cluster.file) as screen:
        for what in ("generation ", "web ", "node1 ", "node2 ", " info ", "Quit"):
            screen.wait_for(what)
        assert "\x1b[31m" not in screen.seen
        screen.type("q")
        assert screen.end() == 0


# --- shells ---


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program of the name that shells know."""
    folder = tmp_path_factory.mktemp("bin")
    file = folder / "trackproxy"
    file.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m trackproxy "$@"\n')
    file.chmod(0o755)
    return folder


def complete(program: Path, line: str, folder: Path | str = "/nowhere") -> list[str]:
    """What a real bash offers for the last word of a line, if state is in FOLDER."""
    words = line.split(" ")
    script = f"""
        eval "$(trackproxy completion bash)"
        complete -p trackproxy
        COMP_WORDS=({" ".join(word or "''" for word in words)}) COMP_CWORD={len(words) - 1}
        _trackproxy_completion trackproxy
        printf "%s\\n" "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=ENVIRONMENT | {"STATE_DIRECTORY": str(folder), "PATH": f"{program}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stderr == ""
    registered, *offered = done.stdout.splitlines()
    assert registered == "complete -o default -F _trackproxy_completion trackproxy"
    return [word for word in offered if word]


def test_bash_completes_commands_and_options(program: Path) -> None:
    assert complete(program, "trackproxy no") == ["nodes"]
    assert complete(program, "trackproxy drain --t") == ["--timeout", "--token-file"]


def test_bash_completes_names_that_the_running_trackproxy_knows(cluster: Operated, program: Path) -> None:
    state = cluster.folder / "state"
    assert complete(program, "trackproxy drain ", state) == ["node1", "node2"]
    assert complete(program, "trackproxy disable nodex", state) == []
    assert complete(program, f"trackproxy drain -c {cluster.file} node") == ["node1", "node2"]
    assert complete(program, "trackproxy weight --service w", state) == ["web"]


def test_bash_completes_no_names_and_says_nothing_if_nobody_is_there(program: Path, tmp_path: Path) -> None:
    assert complete(program, "trackproxy drain ", tmp_path) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    done = run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"complete_{shell}" in done.stdout


def test_another_shell_is_wrong_usage() -> None:
    assert run("completion", "tcsh").returncode == 2


# --- help ---


def test_help_groups_commands_by_what_they_are_for() -> None:
    text = run("--help").stdout
    order = ["To serve:", "  serve ", "To see what ", "  nodes ", "To change what ", "  drain "]
    places = [text.index(f"\n{piece}") for piece in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "command", ["serve", "check", "demo", "add", "completion", *(one[0] for one in ASKING)]
)
def test_each_command_has_an_example(command: str) -> None:
    text = run(command, "--help").stdout
    assert re.search(rf"\n  Example: .*trackproxy {command}", text)
