"""The admin endpoint of a running trackproxy, as curl and programs meet it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import test_cli
from tests.e2e.test_cli import DEADLINE_S, ENVIRONMENT, run
from tests.e2e.test_commands import Cluster, await_fact, free_port
from trackproxy.admin.connections import BOUNDS

LONG_S = 120.0  # that a test may take: some ask much, on machines that have much to do


class Token:
    """What `trackproxy token` gives: the secret, and the lines for the settings."""

    def __init__(self, name: str, role: str) -> None:
        made = run("token", name, "--role", role)
        assert (made.returncode, made.stderr) == (0, "")
        self.secret, _, rest = made.stdout.partition("\n")
        self.lines = rest[rest.index("[[admin.tokens]]") :]


class Stage:
    """A cluster with an admin endpoint at PORT."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.port = free_port()

    def write(self, *tokens: Token, workers: int = 0, more: str = "") -> None:
        admin = [f'[admin]\nlisten = "127.0.0.1:{self.port}"', *(token.lines for token in tokens), more]
        self.cluster.write("node1", "node2", workers=workers, more="\n".join(admin))

    def curl(self, target: str, *words: str, secret: str = "") -> tuple[int, Any]:
        """Status and JSON of what curl gets."""
        bearing = ["-H", f"Authorization: Bearer {secret}"] if secret else []
        done = subprocess.run(
            ["curl", "-sS", "-m", "60", "-w", "\n%{http_code}", *bearing, *words, self.url(target)],
            capture_output=True,
            text=True,
            timeout=LONG_S,
            check=True,
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body)

    def url(self, target: str) -> str:
        return f"http://127.0.0.1:{self.port}{target}"

    def ask(
        self, method: str, target: str, order: object = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON over a connection of its own."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)) as connection:
            body = None if order is None else json.dumps(order)
            kind = {} if order is None else {"Content-Type": "application/json"}
            connection.request(method, target, body, kind | headers)
            response = connection.getresponse()
            return response.status, dict(response.headers), json.loads(response.read())


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.delitem(ENVIRONMENT, "TRACKPROXY_ADMIN__LISTEN")
    monkeypatch.setattr(test_cli, "DEADLINE_S", LONG_S)
    with ExitStack() as stack:
        yield Stage(Cluster(tmp_path, stack))


NODE = "/api/v1/nodes/node1"


def test_a_token_that_was_made_is_pasted_and_used(stage: Stage) -> None:
    writer, reader = Token("alice", "write"), Token("bob", "read")
    assert re.fullmatch(r"tp_[A-Za-z0-9_-]{43}", writer.secret)  # 256 bits
    assert writer.secret != reader.secret
    stage.write(writer, reader)
    assert writer.secret not in stage.cluster.file.read_text()
    with stage.cluster.serving():
        assert stage.curl("/api/v1/session", secret=writer.secret)[1]["name"] == "alice"
        assert stage.curl("/api/v1/session")[0] == 401
        assert stage.curl(f"{NODE}/disable", "-X", "POST", secret=reader.secret)[0] == 403
        status, node = stage.curl(f"{NODE}/disable", "-X", "POST", secret=writer.secret)
        assert (status, node["state"], node["sources"]["state"]["changed_by"]) == (200, "disabled", "alice")
        shown = stage.cluster.command("nodes").stdout
        assert "alice" in shown
        assert stage.cluster.client.ready("node1")["state"] == "ready"  # the control socket needs no token


@pytest.mark.parametrize("name", ["a b", "", "-x", "a" * 64])
def test_no_token_is_made_for_what_is_no_name(name: str) -> None:
    made = run("token", "--", name)
    assert (made.returncode, made.stdout) == (2, "")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_reload_changes_tokens_and_cuts_no_connection(stage: Stage, workers: int) -> None:
    first, second = Token("first", "read"), Token("second", "read")
    stage.write(first, workers=workers)
    with (
        stage.cluster.serving(),
        closing(http.client.HTTPConnection("127.0.0.1", stage.port, timeout=DEADLINE_S)) as connection,
    ):

        def status(token: Token) -> int:
            connection.request("GET", "/api/v1/session", headers={"Authorization": f"Bearer {token.secret}"})
            response = connection.getresponse()
            response.read()
            return response.status

        assert (status(first), status(second)) == (200, 401)
        sock = connection.sock
        stage.write(second, workers=workers)
        assert stage.cluster.command("reload").returncode == 0
        assert (status(first), status(second)) == (401, 200)
        assert connection.sock is sock


def test_a_page_of_another_site_changes_nothing(stage: Stage) -> None:
    """Without tokens, as on a developer's own machine: DNS rebinding and forged requests (CSRF)."""
    stage.write()
    with stage.cluster.serving():
        drain = f"{NODE}/drain"
        assert stage.curl(drain, "-X", "POST", "-H", "Host: evil.example")[0] == 421
        assert stage.curl("/api/v1/nodes", "-H", f"Host: evil.example:{stage.port}")[0] == 421
        assert stage.curl(drain, "-X", "POST", "-H", "Origin: http://evil.example")[0] == 403
        assert stage.curl(drain, "-X", "POST", "-H", "Sec-Fetch-Site: cross-site")[0] == 403
        status, problem = stage.curl(drain, "-d", '{"timeout": "1s"}')
        assert status == 415
        assert "Content-Type: application/json" in problem["detail"]
        assert stage.curl(drain, "-F", "timeout=1s")[0] == 415
        assert stage.curl(NODE)[1]["state"] == "ready"
        own = f"Origin: http://127.0.0.1:{stage.port}"
        kind = "Content-Type: application/json"
        status, node = stage.curl(drain, "-d", '{"timeout": "1h"}', "-H", own, "-H", kind)
        assert (status, node["sources"]["state"]["changed_by"]) == (200, "anonymous")
        assert stage.curl("/readyz", "-H", "Host: 10.0.0.1")[0] == 200


def test_each_change_is_told_with_who_made_it_and_from_what_to_what(stage: Stage) -> None:
    alice, bob = Token("alice", "write"), Token("bob", "read")
    stage.write(alice, bob)
    with stage.cluster.serving():
        stage.curl(f"{NODE}/drain", "-X", "POST", secret=bob.secret)  # may not, so nothing is changed
        stage.curl(f"{NODE}/disable", "-X", "POST", secret=alice.secret)
        stage.curl(f"{NODE}/ready", "-X", "POST", "-H", 'If-Match: "old"', secret=alice.secret)
        stage.cluster.client.change("node1", {"weight": 4})
        events = stage.curl("/api/v1/events", secret=bob.secret)[1]["events"]
    told = [event for event in events if event["kind"] == "audit"]
    assert [(one["who"], one["what"], one["node"]) for one in told] == [
        ("alice", "disable", "node1"),
        ("alice", "ready", "node1"),
        ("local socket", "values", "node1"),
    ]
    disabled, ready, values = told
    assert (disabled["from"], disabled["to"], disabled["outcome"]) == ("ready", "disabled", "done")
    assert ready["outcome"].startswith("not done: node1 has been changed by somebody else meanwhile")
    assert (values["from"], values["to"]) == ("weight 1", "weight 4")


# --- versions ---


@pytest.mark.parametrize("workers", [0, 1])
def test_of_many_changes_of_one_version_exactly_one_is_made(stage: Stage, workers: int) -> None:
    stage.write(workers=workers)
    orders = [
        ("PATCH", NODE, {"weight": 7}),
        ("PATCH", "/api/v1/services/web/nodes/node1", {"weight": 8}),
        ("POST", f"{NODE}/disable", None),
        ("PATCH", NODE, {"max_connections": 9}),
    ] * 3
    with stage.cluster.serving(), ThreadPoolExecutor(len(orders)) as threads:
        for _ in range(3):
            seen = stage.ask("GET", NODE)[1]["ETag"]
            together = threading.Barrier(len(orders))

            def change(
                order: tuple[str, str, Any], seen: str = seen, together: threading.Barrier = together
            ) -> int:
                together.wait(DEADLINE_S)
                return stage.ask(*order, **{"If-Match": seen})[0]

            statuses = sorted(threads.map(change, orders))
            assert statuses == [200] + [412] * (len(orders) - 1)
            stage.ask("POST", f"{NODE}/ready")
            for target in (NODE, "/api/v1/services/web/nodes/node1"):
                assert stage.ask("PATCH", target, {"weight": None, "max_connections": None})[0] == 200


def test_two_clients_do_not_undo_each_others_changes(stage: Stage) -> None:
    stage.write()
    with stage.cluster.serving():
        alices, bobs = (stage.ask("GET", NODE)[1]["ETag"] for _ in range(2))
        status, headers, _ = stage.ask("PATCH", NODE, {"weight": 5}, **{"If-Match": alices})
        assert status == 200
        status, refused, problem = stage.ask("PATCH", NODE, {"weight": 6}, **{"If-Match": bobs})
        assert (status, refused["ETag"]) == (412, headers["ETag"])
        assert headers["ETag"] in problem["detail"]
        assert stage.ask("PATCH", NODE, {"weight": 6}, **{"If-Match": refused["ETag"]})[0] == 200


# --- settings ---


def test_settings_are_checked_as_the_command_does_it(stage: Stage) -> None:
    stage.write()
    with stage.cluster.serving():
        send = ("--data-binary", f"@{stage.cluster.file}", "-H", "Content-Type: application/toml")
        found = stage.curl("/api/v1/check", *send)
        assert found == (200, {"ok": True, "services": 1, "nodes": 2, "warnings": []})
        stage.write(more='hosts = "x"\n[nodes2]')
        checked = stage.cluster.command("check").stderr.splitlines()[:-1]
        status, problem = stage.curl("/api/v1/check", *send)
        assert status == 422
        assert problem["problems"] == [line.replace(str(stage.cluster.file), "posted") for line in checked]
        assert len(checked) > 1


def test_an_endpoint_that_others_reach_is_refused_without_tokens(stage: Stage) -> None:
    stage.cluster.write("node1", more='[admin]\nlisten = ":8400"')
    for command in ("check", "serve"):
        done = stage.cluster.command(command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "admin.tokens" in done.stderr
        assert "trackproxy token NAME" in done.stderr


def test_a_chosen_place_that_is_taken_is_the_reason_why_nothing_is_served(stage: Stage) -> None:
    stage.write()
    with stage.cluster.serving():
        other = stage.cluster.folder / "other.toml"
        text = stage.cluster.file.read_text().replace("/state", "/other")
        other.write_text(text.replace(str(stage.cluster.port), str(free_port())))
        done = run("serve", "-c", other)
        assert done.returncode == 1
        assert (
            f"the admin endpoint cannot listen on 127.0.0.1:{stage.port}: the port is in use" in done.stderr
        )


def test_a_service_that_needs_a_node_makes_us_ready_only_with_one(stage: Stage) -> None:
    stage.write()
    with stage.cluster.file.open("a") as file:
        file.write("ready_needs_node = true\n")
    with stage.cluster.serving():
        for node in ("node1", "node2"):
            stage.ask("POST", f"/api/v1/nodes/{node}/disable")
        status, _, problem = stage.ask("GET", "/readyz")
        assert (status, problem["problems"]) == (503, ["web"])
        stage.ask("POST", "/api/v1/nodes/node2/ready")
        await_fact(lambda: stage.ask("GET", "/readyz")[0] == 200)


def test_an_upgrade_refuses_nobody(stage: Stage) -> None:
    stage.write(workers=1)
    with stage.cluster.serving() as running:
        over = threading.Event()

        def ask_on() -> set[int]:
            """Ask again and again, each time over a connection of its own."""
            found = set()
            while not over.is_set():
                found.add(stage.ask("GET", "/healthz")[0])
            return found

        with ThreadPoolExecutor() as pool:
            asking = pool.submit(ask_on)
            running.process.send_signal(signal.SIGUSR2)
            await_fact(lambda: stage.ask("GET", "/api/v1/status")[2]["generation"] == 2)
            over.set()
            assert asking.result(DEADLINE_S) == {200}


def test_whoever_takes_all_connections_keeps_nobody_from_the_control_socket(stage: Stage) -> None:
    stage.write(workers=1)
    with stage.cluster.serving(), ExitStack() as held:
        for _ in range(BOUNDS.most):
            held.enter_context(socket.create_connection(("127.0.0.1", stage.port), timeout=DEADLINE_S))

        def is_full() -> bool:
            with closing(socket.create_connection(("127.0.0.1", stage.port), timeout=DEADLINE_S)) as one:
                return one.recv(12) == b"HTTP/1.1 503"

        await_fact(is_full)
        assert stage.cluster.command("nodes").returncode == 0
        assert stage.cluster.client.ready("node1")["state"] == "ready"
