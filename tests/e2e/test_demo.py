"""`trackproxy demo` and the example of a whole cluster, as somebody new meets them."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.processes import fixed_ports
from tests.e2e.inn import talking
from tests.e2e.test_cli import DEADLINE_S, ROOT, Running, fetch, run, running
from tests.e2e.test_commands import await_fact
from tests.unit.test_certificates import put
from trackproxy.route_sections import PLACEHOLDER

CLUSTER = ROOT / "conf" / "cluster.toml"
ARTICLE = "From: a@b.test\r\nSubject: x\r\nNewsgroups: demo.test\r\nMessage-ID: <1@b.test>\r\n\r\nHi.\r\n."


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


class Demo:
    """A demo that serves. banner: what it has told to try."""

    def __init__(self, ports: list[int]) -> None:
        self.web, self.news, self.mail = ports
        self.banner = ""

    def options(self) -> list[str]:
        ports = {"--listen": self.web, "--news": self.news, "--mail": self.mail}
        return [word for option, port in ports.items() for word in (option, f"127.0.0.1:{port}")]

    def command(self, *words: str) -> str:
        """What a command says that the demo is asked."""
        place = re.search(r"nodes --socket (\S+)", self.banner)
        assert place
        done = run(*words, "--socket", place[1])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def send(self) -> str:
        """Send a message as the banner says, with curl; the answer to it."""
        assert f"smtp://127.0.0.1:{self.mail}" in self.banner
        people = ["--mail-from", "a@example.com", "--mail-rcpt", "list@example.com"]
        done = subprocess.run(
            ["curl", "-sv", *people, "-T", "-", f"smtp://127.0.0.1:{self.mail}"],
            input="Subject: x\n\n.hello\n",
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return next(line for line in done.stderr.splitlines() if "has taken message" in line)

    def browse(self, folder: Path) -> tuple[int, str]:
        """Open the web page as the banner says, with curl and cookies.txt in FOLDER; which visit, to whom."""
        words = re.search(r"a web session: +(curl .*)", self.banner)
        assert words
        done = subprocess.run(
            words[1].split(), cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, check=True
        )
        visit = re.search(r"Visit (\d+) of this session to (node\d)", done.stdout)
        assert visit, done.stdout
        return int(visit[1]), visit[2]


@contextmanager
def _demo() -> Iterator[tuple[Demo, Running]]:
    demo = Demo(fixed_ports(3))
    with running("demo", *demo.options()) as proxy:
        demo.banner = proxy.wait_for("Ctrl-C", proxy.process.stdout)
        yield demo, proxy


def test_an_article_is_posted_and_read_through_the_demo() -> None:
    with _demo() as (demo, proxy):
        assert f"curl telnet://127.0.0.1:{demo.news}" in demo.banner
        with talking(demo.news) as poster, talking(demo.news) as reader:
            assert [poster.greeting[:4], reader.greeting[:4]] == ["200 ", "200 "]
            assert poster.greeting != reader.greeting  # another node each
            assert reader.ask("GROUP demo.test") == "211 1 1 1 demo.test"
            assert poster.ask("POST").startswith("340 ")
            assert poster.ask(ARTICLE).startswith("240 ")
            assert reader.article("<1@b.test>") == b"Hi.\r\n"
            poster.leave()
            reader.leave()
        assert proxy.stop(signal.SIGINT) == 0


@needs_curl
def test_mail_goes_to_the_node_in_reserve_when_the_others_are_drained() -> None:
    with _demo() as (demo, _):
        nodes = {re.findall("node.", demo.send())[0] for _ in range(4)}
        assert nodes == {"node1", "node2"}
        for node in sorted(nodes):
            demo.command("drain", node)
        assert "node3 has taken message 1," in demo.send()


@needs_curl
def test_a_web_session_stays_on_its_node_while_opens_and_clicks_go_round(tmp_path: Path) -> None:
    with _demo() as (demo, _):
        _, home = demo.browse(tmp_path)
        opens = {fetch(demo.web, "/db/7/42/1.gif").headers["x-demo-node"] for _ in range(3)}
        clicks = {fetch(demo.web, "/t/7/42/3/1/").headers["x-demo-node"] for _ in range(3)}
        assert [demo.browse(tmp_path) for _ in range(3)] == [(2, home), (3, home), (4, home)]
        assert opens == clicks == {"node1", "node2", "node3"}


@needs_curl
@pytest.mark.parametrize("words", [["drain", "--sticky", "move"], ["disable"]], ids=["drain", "disable"])
def test_a_web_session_starts_anew_elsewhere_when_its_node_is_taken_out(
    tmp_path: Path, words: list[str]
) -> None:
    with _demo() as (demo, _):
        assert "drain node1 --sticky move" in demo.banner
        first = demo.browse(tmp_path)
        demo.command(words[0], first[1], *words[1:])
        await_fact(
            lambda: first[1] not in {fetch(demo.web, "/page/1").headers["x-demo-node"] for _ in range(6)}
        )
        visits = [demo.browse(tmp_path) for _ in range(2)]
        assert [number for number, _ in visits] == [1, 2]
        assert visits[0][1] == visits[1][1] != first[1]


def test_the_demo_has_three_nodes_in_three_services() -> None:
    with _demo() as (demo, _):
        rows = [line.split() for line in demo.command("nodes").splitlines()[1:]]
        assert [(row[0], row[2]) for row in rows] == [
            (node, service) for node in ("node1", "node2", "node3") for service in ("web", "news", "mail")
        ]


def test_an_empty_place_turns_a_service_off() -> None:
    web, *_ = fixed_ports(1)
    with running("demo", "--listen", f"127.0.0.1:{web}", "--news", "", "--mail", "") as proxy:
        banner = proxy.wait_for("Ctrl-C", proxy.process.stdout)
        assert [word in banner for word in ("http://", "telnet://", "smtp://")] == [True, False, False]


@pytest.mark.parametrize("option", ["--news", "--mail"])
def test_a_wrong_place_is_named(option: str) -> None:
    done = run("demo", option, "127.0.0.1:0")
    assert done.returncode == 2
    assert option in done.stderr
    assert "needs an address with a port" in done.stderr


@pytest.mark.parametrize("option", ["--news", "--mail"])
def test_a_port_in_use_is_named(option: str) -> None:
    web, *_ = fixed_ports(1)
    others = {"--news": "", "--mail": "", "--listen": f"127.0.0.1:{web}"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("demo", *(word for pair in (others | {option: place}).items() for word in pair))
    assert done.returncode == 1
    assert re.search(rf"^trackproxy: .*{place}.* in use", done.stderr, re.MULTILINE)


def test_the_example_of_a_cluster_is_right() -> None:
    done = run("check", "-c", CLUSTER)
    assert (done.returncode, done.stdout) == (0, f"{CLUSTER}: ok (3 services, 3 nodes)\n"), done.stderr


def test_what_the_example_of_a_cluster_has_in_comments_is_right_too(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^# (?=\[|\w+ = )", "", CLUSTER.read_text())
    live = tmp_path / "live"
    live.mkdir()
    put(live / "a.pem", "a.test")
    file = tmp_path / "t.toml"
    text = text.replace('listen = [":25"]', 'listen = ["192.0.2.3:25"]')
    text = text.replace(PLACEHOLDER, "a secret of our own")
    text = re.sub(r"secrets = \[.*?\]", 'secrets = ["a secret of this test"]', text)
    file.write_text(text.replace("/etc/letsencrypt/live", str(live)))
    done = run("check", "-c", file)
    assert (done.returncode, done.stdout) == (0, f"{file}: ok (6 services, 3 nodes)\n"), done.stderr
