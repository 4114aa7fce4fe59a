"""Newsgroups through trackproxy: real readers before real INN servers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.processes import fixed_ports
from tests.e2e.inn import GROUP, Inn, Session, passable_folder, running_inn, talking
from tests.e2e.test_cli import DEADLINE_S, ENVIRONMENT, ROOT, arguments, run
from tests.e2e.test_commands import await_fact
from trackproxy.commands.client import Client

Reader = Callable[[int, Path], Path]

ARTICLES = 24
POSTERS = 8  # at once
PER_SESSION = 5  # articles
# Lines that begin with dots, bytes that are no text, and more of them than sockets and pipes hold.
LARGE = b"".join(b"." * (n % 3) + b"%d \x01\x80\xff %s\r\n" % (n, b"x" * (n % 900)) for n in range(18_000))
PROBE = {"interval": "200ms", "fast_interval": "100ms", "timeout": "500ms"}


class Proxy:
    """Two nodes, a settings file that names them, and the trackproxy that serves it."""

    def __init__(self, folder: Path, nodes: list[Inn]) -> None:
        self.nodes = nodes
        (self.port,) = fixed_ports(1)
        self._file, self._log_file = folder / "t.toml", folder / "log"
        self._client = Client(folder / "state" / "control.sock")
        self._process: subprocess.Popen[bytes] | None = None
        lines = ["workers = 2", f'state_dir = "{folder}/state"']
        for node in nodes:
            lines += [f"[nodes.{node.name}]", f'address = "127.0.0.1:{node.port}"']
        lines += ["[services.news]", 'protocol = "nntp"', f'listen = ["127.0.0.1:{self.port}"]']
        lines += ['greeting_timeout = "500ms"', "[services.news.probe]"]
        lines += [f'{key} = "{value}"' for key, value in PROBE.items()]
        self._file.write_text("\n".join(lines) + "\n")

    def serve(self) -> None:
        """Start, and wait until all nodes are up."""
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                arguments("serve", "-c", self._file),
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        await_fact(self._is_serving)
        for node in self.nodes:
            self.await_health(node, "up")

    def _is_serving(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log_file.read_text()
        return "serving on" in self._log_file.read_text()

    def await_health(self, node: Inn, health: str) -> None:
        """Wait until this is so of a node."""
        await_fact(lambda: self.look(node)["services"]["news"]["health"] == health)

    def command(self, *words: str) -> None:
        """Give it a command, which must come out well."""
        done = run(*words, "-c", self._file)
        assert done.returncode == 0, done.stdout + done.stderr

    def look(self, node: Inn) -> dict[str, Any]:
        """What it knows of a node."""
        return self._client.node(node.name)

    def open(self) -> list[int]:
        """How much it has open at each node."""
        return [sum(self.look(node)["left"].values()) for node in self.nodes]

    def end(self) -> None:
        """Have it end in good order."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(DEADLINE_S) == 0
        assert "Traceback" not in self._log_file.read_text()

    def kill(self) -> None:
        """End all of its processes, whatever they do; nothing is left if it has ended."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(DEADLINE_S)

    @contextmanager
    def sessions(self, number: int) -> Iterator[list[Session]]:
        """Sessions that are open at once; each has been told that it may post."""
        with ExitStack() as stack:
            opened = [stack.enter_context(talking(self.port)) for _ in range(number)]
            assert all(session.greeting.startswith("200 ") for session in opened)
            yield opened

    def visited(self, number: int = 10) -> set[str]:
        """Which nodes greet so many readers, one after another."""
        found = set()
        for _ in range(number):
            with self.sessions(1) as (session,):
                found.add(session.node)
                session.leave()
        return found


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with ExitStack() as stack:
        folder = stack.enter_context(passable_folder())
        nodes = [stack.enter_context(running_inn(folder / name)) for name in ("n1", "n2")]
        proxy = Proxy(folder, nodes)
        stack.callback(proxy.kill)
        proxy.serve()
        yield proxy
        proxy.end()


# --- readers ---


def execute(program: str, *words: str | Path, **environment: str) -> None:
    """Run a program of the package of its name, which must come out well."""
    if shutil.which(program) is None:
        pytest.skip(f"needs Debian's package {program}")
    done = subprocess.run(
        [program, *words],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def read_with_slrnpull(port: int, home: Path) -> Path:
    """Have it get all articles, over commands that do not wait for answers; the folder where they are."""
    (home / "out.going").mkdir(parents=True)
    (home / "slrnpull.conf").write_text(f"{GROUP} 0 0\n")  # all of them, for ever
    execute("slrnpull", "-d", home, "-h", f"127.0.0.1:{port}")
    return home / "news"


def read_with_tin(port: int, home: Path) -> Path:
    """Have it save all unread articles; the folder where they are."""
    (home / ".tin").mkdir(parents=True)
    (home / ".tin" / "tinrc").write_text("mailer_format=true\n")  # it would mail what it has done
    (home / "newsrc").write_text(f"{GROUP}:\n")
    words = ("-r", "-Q", "-S", "-s", home / "News", "-f", home / "newsrc", "-g", "127.0.0.1", "-p", str(port))
    execute("tin", *words, HOME=str(home), TIN_HOMEDIR=str(home), TERM="dumb", NNTPSERVER="127.0.0.1")
    return home / "News"


@pytest.mark.parametrize("read", [read_with_slrnpull, read_with_tin], ids=["slrnpull", "tin"])
def test_real_readers_get_every_article_that_was_posted(proxy: Proxy, tmp_path: Path, read: Reader) -> None:
    names = [f"<{number}@client.test>" for number in range(ARTICLES)]
    with proxy.sessions(2) as sessions:
        assert {session.node for session in sessions} == {"n1", "n2"}
        for session in sessions:
            for name in names:
                assert session.post(name, name.encode() + b"\r\n").startswith("240 ")
            session.leave()
    folder = read(proxy.port, tmp_path / "home")
    texts = [file.read_text() for file in (folder / "trackproxy/test").glob("[0-9]*")]
    assert len(texts) == ARTICLES
    assert sorted(text.partition("\n\n")[2].strip() for text in texts) == sorted(names)


def test_slrnpull_posts_what_was_written_offline(proxy: Proxy, tmp_path: Path) -> None:
    outgoing = tmp_path / "out.going"
    outgoing.mkdir()
    names = [f"<{number}@client.test>" for number in range(ARTICLES)]
    for number, name in enumerate(names):
        head = f"From: a@client.test\nNewsgroups: {GROUP}\nSubject: x\nMessage-ID: {name}\n"
        (outgoing / f"X{number}").write_text(f"{head}\n.Hello.\n")
    execute("slrnpull", "-d", tmp_path, "-h", f"127.0.0.1:{proxy.port}", "--post-only")
    assert sorted(found for node in proxy.nodes for found in node.articles()) == sorted(names)


def test_a_large_article_comes_back_byte_for_byte(proxy: Proxy) -> None:
    with proxy.sessions(1) as (session,):
        assert session.post("<large@client.test>", LARGE).startswith("240 ")
        assert session.article("<large@client.test>") == LARGE
        session.leave()


# --- nodes ---


def test_open_sessions_are_spread_over_the_nodes_and_leave_nothing_behind(proxy: Proxy) -> None:
    with proxy.sessions(12) as sessions:
        assert all(session.ask("DATE").startswith("111 ") for session in sessions)
        assert Counter(session.node for session in sessions) == {"n1": 6, "n2": 6}
        await_fact(lambda: proxy.open() == [6, 6])
    await_fact(lambda: proxy.open() == [0, 0])
    await_fact(lambda: [node.sessions() for node in proxy.nodes] == [0, 0])  # but for probes


@pytest.mark.parametrize(
    "fault", [Inn.kill, Inn.freeze, Inn.throttle], ids=["killed", "hanging", "out of service"]
)
def test_readers_do_not_see_that_a_node_is_down(proxy: Proxy, fault: Callable[[Inn], None]) -> None:
    sick, _ = proxy.nodes
    fault(sick)
    assert proxy.visited() == {"n2"}  # whoever is first comes before any probe
    proxy.await_health(sick, "down")
    assert proxy.visited() == {"n2"}
    sick.restart()
    proxy.await_health(sick, "up")
    await_fact(lambda: proxy.visited() == {"n1", "n2"})


def test_a_drain_lets_readers_finish_and_sends_new_ones_elsewhere(proxy: Proxy) -> None:
    drained, _ = proxy.nodes
    with proxy.sessions(2) as sessions:
        (stays, goes) = sorted(sessions, key=lambda session: session.node)
        goes.leave()
        assert stays.node == "n1"
        proxy.command("drain", "n1", "--timeout", "10s", "--no-wait")
        await_fact(lambda: proxy.visited() == {"n2"})
        assert stays.post("<late@client.test>").startswith("240 ")
        assert stays.ask(f"GROUP {GROUP}") == f"211 1 1 1 {GROUP}"
        assert proxy.look(drained)["state"] == "drain"
        stays.leave()
    await_fact(lambda: proxy.look(drained)["state"] == "disabled")
    assert proxy.look(drained)["drain"]["outcome"] == "empty"
    proxy.command("ready", "n1")
    await_fact(lambda: proxy.visited() == {"n1", "n2"})


class Poster:
    """Posts articles in sessions side by side; each article once, whatever comes of it.

    accepted: by Message-ID, the node that greeted. unclear: the same if the session ended before the answer.
    """

    def __init__(self, port: int) -> None:
        self.accepted: dict[str, str] = {}
        self.unclear: dict[str, str] = {}
        self.over = threading.Event()
        self._port = port

    def run(self, name: str) -> None:
        """Post until it is over. Sessions must begin well; those that are under way may be cut off."""
        numbers = count()
        while not self.over.is_set():
            with talking(self._port) as session:
                assert session.greeting.startswith("200 "), session.greeting
                self._post(session, [f"<{name}.{next(numbers)}@client.test>" for _ in range(PER_SESSION)])

    def _post(self, session: Session, names: list[str]) -> None:
        for name in names:
            try:
                answer = session.post(name)
            except ConnectionError:
                self.unclear[name] = session.node
                return
            assert answer.startswith("240 "), answer
            self.accepted[name] = session.node

    def posts(self, more: int, node: str) -> None:
        """Wait until a node has accepted so many more."""
        enough = self._accepted_by(node) + more
        await_fact(lambda: self._accepted_by(node) >= enough)

    def _accepted_by(self, node: str) -> int:
        return list(self.accepted.values()).count(node)


@contextmanager
def posting(port: int) -> Iterator[Poster]:
    """A poster in the background, which is over with the block; raises what went wrong in it."""
    poster = Poster(port)
    with ThreadPoolExecutor(POSTERS) as threads:
        running = [threads.submit(poster.run, f"p{number}") for number in range(POSTERS)]
        try:
            yield poster
        finally:
            poster.over.set()
        for one in running:
            one.result(DEADLINE_S)


def test_every_acknowledged_article_is_on_one_node_when_one_is_killed(proxy: Proxy) -> None:
    n1, n2 = proxy.nodes
    with posting(proxy.port) as poster:
        for node in (n1, n2):
            poster.posts(50, node.name)
        n1.kill()
        poster.posts(100, n2.name)
        n1.restart()
        poster.posts(50, n1.name)
    held = {node.name: Counter(node.articles()) for node in proxy.nodes}
    assert {name: node for name, node in poster.accepted.items() if held[node][name] != 1} == {}
    assert set((held["n1"] + held["n2"]).values()) == {1}
    assert set(poster.unclear.values()) <= {"n1"}
    assert len(poster.unclear) <= POSTERS
