"""Incoming mail through trackproxy to real Postfix servers: none lost, none twice, and none from nobody."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path
from smtplib import SMTP, SMTPResponseException
from typing import Any

import pytest

from tests.chaos.processes import fixed_ports
from tests.e2e.postfix import Postfix, passable_folder, running_postfix
from tests.e2e.test_cli import DEADLINE_S, ENVIRONMENT, ROOT, arguments, run
from tests.e2e.test_commands import await_fact
from trackproxy.commands.client import Client

CLIENT = "127.0.0.5"
SESSIONS = 8  # at once
PER_SESSION = 5  # messages
RETRY_S = 0.02
COMPLAINT = re.compile(r".*(?:lost connection|timeout|warning|error|fatal|improper).*")
UNAVAILABLE = b"421 mail Service not available, closing transmission channel\r\n"

versions = pytest.mark.parametrize("version", ["v1", "v2"])


class Proxy:
    """A settings file with one service, and the trackproxy that serves it."""

    def __init__(self, folder: Path, nodes: list[Postfix]) -> None:
        self.nodes = nodes
        (self.port,) = fixed_ports(1)
        self._folder = folder
        self._file, self._log_file = folder / "t.toml", folder / "log"
        self._client = Client(folder / "state" / "control.sock")
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self, version: str, endpoints: dict[str, str]) -> None:
        """Start, and wait until all nodes are up. ENDPOINTS: by node, what the service says of it."""
        lines = ["workers = 2", f'state_dir = "{self._folder}/state"']
        for node in self.nodes:
            lines += [f"[nodes.{node.name}]", f'address = "127.0.0.1:{node.port}"']
        lines += ["[services.mail]", 'protocol = "smtp"', f'listen = ["127.0.0.1:{self.port}"]']
        lines += [f'proxy_protocol = "{version}"', "[services.mail.probe]", 'interval = "200ms"']
        lines += ["[services.mail.nodes]"]
        lines += [f"{node.name} = {{ {endpoints.get(node.name, '')} }}" for node in self.nodes]
        self._file.write_text("\n".join(lines) + "\n")
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                arguments("serve", "-c", self._file),
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._await_serving()
        self.await_health("up")

    def _await_serving(self) -> None:
        def serving() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self._log_file.read_text()
            return "serving on" in self._log_file.read_text()

        await_fact(serving)

    def look(self) -> dict[str, dict[str, Any]]:
        """What `trackproxy nodes --json` says of each node."""
        return {node["name"]: node["services"]["mail"] for node in self._client.nodes()["nodes"]}

    def await_health(self, health: str) -> None:
        """Wait until this is so of all nodes."""
        await_fact(lambda: {node["health"] for node in self.look().values()} == {health})

    def await_sessions(self, name: str, open_ones: int) -> None:
        """Wait until it counts so many of a node: it learns when a client has closed a moment later."""
        await_fact(lambda: bool(self.look()[name]["gauges"]["active"] == open_ones))

    def command(self, *words: str) -> None:
        """Give it a command, which must come out well."""
        done = run(*words, "-c", self._file)
        assert done.returncode == 0, done.stdout + done.stderr

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
def proxied(version: str = "off", **endpoints: str) -> Iterator[Proxy]:
    """A proxy before n1 and n2. VERSION: of the PROXY protocol; ENDPOINTS: what the service says of each."""
    with ExitStack() as stack:
        folder = stack.enter_context(passable_folder())
        speak = version != "off"
        nodes = [stack.enter_context(running_postfix(folder / name, speak)) for name in ("n1", "n2")]
        proxy = Proxy(folder, nodes)
        stack.callback(proxy.kill)
        proxy.serve(version, endpoints)
        yield proxy
        proxy.end()


def program(name: str, package: str) -> str:
    """Where it is; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs Debian's package {package}")
    return found


def finish(*words: str) -> None:
    """Run a program that must come out well."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def counts(nodes: list[Postfix]) -> Counter[str]:
    """How often the nodes have each message."""
    return Counter(one for node in nodes for one in node.messages())


def greeting(port: int) -> tuple[SMTP, str]:
    """A session, and the name of the node that it is with."""
    session = SMTP(timeout=DEADLINE_S)
    code, text = session.connect("127.0.0.1", port)
    assert code == 220, text
    return session, text.decode().partition(".")[0]


def leave(session: SMTP) -> None:
    """Say goodbye, and wait until the other side has closed."""
    assert session.docmd("QUIT")[0] == 221
    assert session.sock is not None
    assert session.sock.recv(1) == b""
    session.close()


def all_that_is_said(port: int) -> bytes:
    """What a client reads that only listens."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
        return client.makefile("rb").read()


# --- senders ---


class Sender:
    """Sends messages in sessions side by side, and each again until it is accepted, as senders do.

    accepted: Message-IDs, in order. unclear: by Message-ID, how often its session was lost after the final
    dot and before the reply: a node may have it, and it has to be sent again (RFC 1047).
    """

    def __init__(self, port: int) -> None:
        self.accepted: list[str] = []
        self.unclear: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.over = threading.Event()
        self._port = port

    def run(self, name: str) -> None:
        """Send until it is over and nothing is left."""
        numbers = count()
        while not self.over.is_set():
            self._deliver([f"{name}.{next(numbers)}@sender.test" for _ in range(PER_SESSION)])

    def _deliver(self, pending: list[str]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while pending:
            assert time.monotonic() < deadline, f"not accepted: {pending}, {self.failures}"
            try:
                self._session(pending)
            except OSError as error:  # SMTPException too
                self.failures[str(error)] += 1
                threading.Event().wait(RETRY_S)

    def _session(self, pending: list[str]) -> None:
        with closing(SMTP("127.0.0.1", self._port, "sender.test", DEADLINE_S)) as session:
            session.ehlo_or_helo_if_needed()
            while pending:
                self._send(session, pending[0])
                self.accepted.append(pending.pop(0))
            session.quit()

    def _send(self, session: SMTP, message_id: str) -> None:
        _expect(250, session.mail("a@sender.test"))
        _expect(250, session.rcpt("b@list.test"))
        _expect(354, session.docmd("DATA"))
        session.send(f"Message-ID: <{message_id}>\r\n\r\nSubscribe.\r\n.\r\n")
        try:
            reply = session.getreply()
        except OSError:
            self.unclear[message_id] += 1
            raise
        _expect(250, reply)

    def sends(self, more: int) -> None:
        """Wait until so many more have been accepted."""
        enough = len(self.accepted) + more
        await_fact(lambda: len(self.accepted) >= enough)


def _expect(code: int, reply: tuple[int, bytes]) -> None:
    if reply[0] != code:
        raise SMTPResponseException(*reply)


@contextmanager
def sending(port: int) -> Iterator[Sender]:
    """A sender in the background, which has nothing left to send in the end."""
    sender = Sender(port)
    with ThreadPoolExecutor(SESSIONS) as threads:
        running = [threads.submit(sender.run, f"s{number}") for number in range(SESSIONS)]
        try:
            yield sender
        finally:
            sender.over.set()
        for one in running:
            one.result(DEADLINE_S)


# --- what holds ---


@pytest.mark.parametrize(("version", "messages"), [("v2", 2000), ("v1", 500)])
def test_every_message_of_many_sessions_reaches_exactly_one_node(version: str, messages: int) -> None:
    source = program("smtp-source", "postfix")
    with proxied(version) as proxy:
        load = [
            "-m",
            str(messages),
            "-s",
            "20",
            "-M",
            "client.test",
            "-f",
            "a@client.test",
            "-t",
            "b@list.test",
        ]
        finish(source, *load, f"127.0.0.1:{proxy.port}")
        held = counts(proxy.nodes)
        assert (held.total(), len(held)) == (messages, messages)
        assert all(node.messages() for node in proxy.nodes)


@versions
def test_nodes_know_the_real_address_of_a_client(version: str) -> None:
    swaks = program("swaks", "swaks")
    with proxied(version) as proxy:
        finish(
            *(swaks, "--server", "127.0.0.1", "--port", str(proxy.port), "--local-interface", CLIENT),
            *("--helo", "client.test", "--from", "a@client.test", "--to", "b@list.test"),
        )
        (node,) = (node for node in proxy.nodes if node.messages())
        await_fact(lambda: f"disconnect from unknown[{CLIENT}]" in node.log())
        assert f"connect from unknown[{CLIENT}]" in node.log()
        assert f"client=unknown[{CLIENT}]" in node.log()


def test_no_accepted_message_is_lost_or_doubled_when_nodes_are_killed_and_drained() -> None:
    with proxied() as proxy:
        n1, n2 = proxy.nodes
        with sending(proxy.port) as sender:
            for killed, drained in ((n1, n2), (n2, n1)):
                sender.sends(200)
                killed.kill()
                sender.sends(200)
                killed.start()
                _gets_more(killed)
                proxy.command("drain", drained.name, "--timeout", "5s")
                before = len(drained.messages())
                sender.sends(200)
                assert len(drained.messages()) == before
                proxy.command("ready", drained.name)
                _gets_more(drained)
        held = counts(proxy.nodes)
    assert set(held) == set(sender.accepted)
    assert {one: times for one, times in held.items() if times > 1 + sender.unclear[one]} == {}
    assert sender.unclear.total() <= 2 * SESSIONS  # whatever was under way at either kill


def _gets_more(node: Postfix) -> None:
    before = len(node.messages())
    await_fact(lambda: len(node.messages()) >= before + 10)


def test_a_node_in_reserve_gets_what_is_too_much_for_the_preferred_one() -> None:
    with proxied(n1="priority = 10, max_connections = 2", n2="priority = 50") as proxy, ExitStack() as stack:
        sessions, names = zip(*(greeting(proxy.port) for _ in range(3)), strict=True)
        for session in sessions:
            stack.callback(session.close)
        assert names == ("n1", "n1", "n2")
        leave(sessions[1])
        proxy.await_sessions("n1", 1)
        session, name = greeting(proxy.port)
        stack.callback(session.close)
        assert name == "n1"


def test_with_no_node_a_client_is_told_to_come_back_later() -> None:
    with proxied() as proxy:
        for node in proxy.nodes:
            node.kill()
        assert all_that_is_said(proxy.port) == UNAVAILABLE  # nobody has noticed yet
        proxy.await_health("down")
        assert all_that_is_said(proxy.port) == UNAVAILABLE
        for node in proxy.nodes:
            node.restart()
        proxy.await_health("up")
        session, _ = greeting(proxy.port)
        leave(session)


@pytest.mark.parametrize("version", ["off", "v1", "v2"])
def test_probes_leave_nothing_to_complain_about_in_the_log_of_a_node(version: str) -> None:
    with proxied(version) as proxy:
        for node in proxy.nodes:
            await_fact(lambda: node.log().count("ehlo=1 quit=1 commands=2") >= 5)  # noqa: B023 - awaited here
            assert COMPLAINT.findall(node.log()) == []
