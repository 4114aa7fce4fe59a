"""The command line as an operator meets it: other processes, real sockets, exit codes."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import pytest

from trackproxy.demo import PIXEL
from trackproxy.explain import explain
from trackproxy.settings import Settings

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf" / "trackproxy.toml"
DEADLINE_S = 20.0
WEB_ONLY = ("--news", "", "--mail", "")  # a demo, which else wants ports that somebody else may have

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TRACKPROXY_")}
STATE = TemporaryDirectory(prefix="trackproxy-test-")  # of what names no folder of its own
ENVIRONMENT["STATE_DIRECTORY"] = STATE.name
ENVIRONMENT["TRACKPROXY_ADMIN__LISTEN"] = ""


def arguments(*words: str | Path) -> list[str]:
    """The command line that runs trackproxy in a process of its own."""
    return [sys.executable, "-m", "trackproxy", *map(str, words)]


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        arguments(*words),
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


class Running:
    """A command that serves until it is told to stop."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def wait_for(self, pattern: str, stream: IO[str] | None) -> str:
        """Read the stream until a line matches; the lines so far. The watchdog ends a silent process."""
        assert stream is not None
        lines = ""
        for line in stream:
            lines += line
            if re.search(pattern, line):
                return lines
        raise AssertionError(f"ended without {pattern!r}:\n{lines}")

    def stop(self, number: signal.Signals) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@contextmanager
def running(*words: str | Path) -> Iterator[Running]:
    """A serving command; a watchdog and the end of the test both kill it."""
    process = subprocess.Popen(
        arguments(*words),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    try:
        with process:
            yield Running(process)
            process.kill()
    finally:
        process.kill()
        watchdog.cancel()


class Echo(BaseHTTPRequestHandler):
    """A node that answers with what it was asked."""

    def do_GET(self) -> None:
        """Answer with the target."""
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def node() -> Iterator[str]:
    """The address of a small node."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got; header names are in lower case. cookies: as a browser would send them back."""

    status: int
    headers: dict[str, str]
    body: bytes
    cookies: str


def fetch(port: int, target: str, body: bytes | None = None, **headers: str) -> Answer:
    """The answer to a GET, or with a body to a POST; redirects are not followed."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as connection:
        connection.request("GET" if body is None else "POST", target, body, headers)
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        cookies = [line.partition(";")[0] for line in answer.headers.get_all("Set-Cookie", [])]
        return Answer(answer.status, fields, answer.read(), "; ".join(cookies))


def test_a_right_file_is_ok() -> None:
    done = run("check", "-c", CONF)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{CONF}: ok (1 service, 2 nodes)\n", "")


def test_a_wrong_file_gets_a_line_for_each_problem_and_their_number(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[nodes]\na = { adress = "b" }\n[services.web]\nprotocol = "http"\nlisten = [":80"]\n')
    done = run("check", "-c", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"{file}:2: nodes.a.address: is required",
        f'{file}:2: nodes.a.adress: unknown key, did you mean "address"?',
        "2 problems",
    ]


def test_serve_refuses_what_check_refuses(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text("workers = 4\n")
    check, serve = run("check", "-c", file), run("serve", "-c", file)
    assert (serve.returncode, serve.stderr) == (1, check.stderr)


def test_check_reads_the_environment_too() -> None:
    done = run("check", "-c", CONF, TRACKPROXY_WORKER="1")
    assert done.returncode == 1
    assert done.stderr.startswith('TRACKPROXY_WORKER: worker: unknown key, did you mean "workers"?')


def test_explain_shows_every_setting_without_a_file() -> None:
    done = run("check", "--explain")
    assert done.returncode == 0
    assert done.stdout == "\n".join(explain(Settings)) + "\n"


def test_check_shows_which_way_a_request_goes() -> None:
    done = run("check", "-c", CONF, "--url", "http://news.example.com:8080/t/1/", "--method", "POST")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "request  POST /t/1/, Host: news.example.com:8080",
        'service  web, by its listener ":8080"',
        "route    no route: the service's own rules",
    ]
    assert lines[-1] == "         node2  172.16.0.2:80  weight 1, priority 0"


def test_the_version_is_shown() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert re.fullmatch(
        r"trackproxy (\d+\.\d+\.\d+\S*|\(run from its sources, not installed\))\n", done.stdout
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["serve"], "give -c FILE, or --listen and --to"),
        (["serve", "--listen", ":80"], "give -c FILE, or --listen and --to"),
        (["serve", "-c", str(CONF), "--to", "a:80"], "give either -c FILE or --listen, --to and --balance"),
        (["check"], "give -c FILE to check, or --explain"),
        (["check", "--url", "http://a/"], "give -c FILE to check, or --explain"),
        (["check", "-c", str(CONF), "--url", "a/b"], '"a/b" is no URL such as "http://news.example.com'),
        (["demo", "--listen", "8080"], 'did you mean ":8080"?'),
        (["demo", "--listen", "127.0.0.1:0"], "needs an address with a port"),
        (["serv"], "No such command"),
        (["serve", "--lisen", ":80"], "No such option"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(words: list[str], sentence: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--listen", "x", "--to", "a"], 'command line: services.web.listen[0]: "x" names no port'),
        (["--listen", ":80", "--to", "a:b"], 'command line: nodes.a-b.address: "b" is not a port'),
        (
            ["--listen", ":80", "--to", "a", "--balance", "fair"],
            'command line: services.web.balance: must be "round_robin"',
        ),
    ],
)
def test_a_wrong_flag_is_a_problem_of_the_command_line(words: list[str], sentence: str) -> None:
    done = run("serve", *words)
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_from_its_nodes_and_ends_cleanly(
    tmp_path: Path, node: str, port: int, number: signal.Signals
) -> None:
    file = tmp_path / "t.toml"
    file.write_text(
        f'[nodes]\na = {{ address = "{node}" }}\n'
        f'[services.web]\nprotocol = "http"\nlisten = ["127.0.0.1:{port}"]\n'
    )
    with running("serve", "-c", file) as proxy:
        proxy.wait_for("serving on", proxy.process.stderr)
        assert fetch(port, "/db/7/42/1.gif?a=%2F").body == b"/db/7/42/1.gif?a=%2F"
        assert proxy.stop(number) == 0
        assert proxy.process.stderr is not None
        assert "Traceback" not in proxy.process.stderr.read()


def test_the_quick_form_serves_without_a_file(node: str, port: int) -> None:
    with running("serve", "--listen", f"127.0.0.1:{port}", "--to", node, "--to", node) as proxy:
        proxy.wait_for("serving on", proxy.process.stderr)
        assert fetch(port, "/x").body == b"/x"
        assert proxy.stop(signal.SIGTERM) == 0


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", "--listen", address, "--to", "127.0.0.1:9")
    assert done.returncode == 1
    assert re.fullmatch(rf"trackproxy: .*{address}.* in use.*\n", done.stderr)


def test_the_demo_answers_what_its_banner_says(port: int) -> None:
    with running("demo", *WEB_ONLY, "--listen", f"127.0.0.1:{port}") as proxy:
        banner = proxy.wait_for("Ctrl-C", proxy.process.stdout)
        targets = re.findall(rf"http://127\.0\.0\.1:{port}(/\S*)", banner)
        assert targets == ["/db/7/42/1.gif", "/t/7/42/3/1/", "/u/7/42/", "/u/7/42/", "/"]
        pixel, click, page, _, web = (fetch(port, target) for target in targets)
        assert (pixel.status, pixel.body, pixel.headers["pragma"]) == (200, PIXEL, "no-cache")
        assert (click.status, click.headers["location"]) == (302, "/page/3")
        assert fetch(port, "/page/3").status == 200
        assert b"<form" in page.body
        assert b"Visit 1 " in web.body
        assert {answer.headers["x-demo-node"] for answer in (pixel, click, page)} == {
            "node1",
            "node2",
            "node3",
        }
        assert proxy.stop(signal.SIGINT) == 0


def test_one_click_in_the_demo_gets_neither_a_redirect_nor_a_cookie(port: int) -> None:
    with running("demo", *WEB_ONLY, "--listen", f"127.0.0.1:{port}") as proxy:
        proxy.wait_for("Ctrl-C", proxy.process.stdout)
        answer = fetch(port, "/u/7/42/", b"List-Unsubscribe=One-Click")
        assert answer.status == 200
        assert "set-cookie" not in answer.headers


def test_a_demo_session_is_counted_by_the_node_that_it_stays_on(port: int) -> None:
    with running("demo", *WEB_ONLY, "--listen", f"127.0.0.1:{port}", "--balance", "source_hash") as proxy:
        proxy.wait_for("Ctrl-C", proxy.process.stdout)
        first = fetch(port, "/")
        second = fetch(port, "/", Cookie=first.cookies)
        assert b"Visit 2 " in second.body
        assert first.headers["x-demo-node"] == second.headers["x-demo-node"]


def test_the_pixel_is_the_documented_size() -> None:
    assert len(PIXEL) == 43
