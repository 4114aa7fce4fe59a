"""A dashboard in a real Chromium: a trackproxy with an admin address, nginx as its nodes, wrk as its clients.

A `Tab` writes down what no page may do: console errors, violations of its policy, requests to other hosts.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from tests.chaos.processes import end, fixed_ports
from tests.e2e.chromium import PROGRAM
from tests.e2e.test_cli import DEADLINE_S, ENVIRONMENT, ROOT, arguments
from tests.e2e.test_commands import await_fact, status
from trackproxy.commands.client import Client

expect.set_options(timeout=DEADLINE_S * 1000)

OPTIONS = ("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
NGINX = """
daemon off; user root root; worker_processes 1; pid {folder}/pid; error_log stderr error;
events {{ worker_connections 512; }}
http {{
  access_log off; keepalive_requests 100000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ {listeners} location / {{ empty_gif; }} }}
}}
"""

needs_programs = pytest.mark.skipif(
    not all([PROGRAM, shutil.which("nginx"), shutil.which("wrk")]), reason="needs chromium, nginx and wrk"
)


@contextmanager
def nginx(folder: Path, ports: Sequence[int]) -> Iterator[None]:
    """Nodes that answer everything with a pixel."""
    folder.mkdir()
    listeners = " ".join(f"listen {port};" for port in ports)
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(folder=folder, listeners=listeners))
    process = subprocess.Popen(
        ["nginx", "-p", folder, "-c", conf], stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        await_fact(lambda: (folder / "pid").exists())
        yield
    finally:
        end(process)


class Stage:
    """A trackproxy whose nodes are ADDRESSES by name; it serves each of SERVICES on all of them.

    url: of the dashboard. client: gives commands over the local socket.
    """

    def __init__(
        self, folder: Path, addresses: dict[str, str], services: Sequence[str] = ("web",), more: str = ""
    ) -> None:
        folder.mkdir()
        admin, *ports = fixed_ports(1 + len(services))
        self.port = ports[0]
        self.admin = f"127.0.0.1:{admin}"
        self.url = f"http://{self.admin}/"
        self.file = folder / "t.toml"
        self.socket = folder / "state" / "control.sock"
        self.client = Client(self.socket)
        self._log = folder / "log"
        self._process: subprocess.Popen[str] | None = None
        lines = [f'state_dir = "{folder}/state"', "workers = 1", 'grace = "1s"', "[nodes]"]
        lines += [f'{name} = {{ address = "{address}" }}' for name, address in addresses.items()]
        for service, port in zip(services, ports, strict=True):
            lines += [f"[services.{service}]", 'protocol = "http"', f'listen = ["127.0.0.1:{port}"]']
            lines += ['probe = { interval = "500ms" }']
        self.file.write_text("\n".join([*lines, more, ""]))

    def start(self) -> None:
        """Serve, or serve again."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                arguments("serve", "-c", self.file),
                cwd=ROOT,
                env=ENVIRONMENT | {"TRACKPROXY_ADMIN__LISTEN": self.admin},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        await_fact(lambda: status(self.socket, "/readyz") == 200)

    def kill(self) -> None:
        """End it and its workers at once."""
        if self._process is not None:
            end(self._process)

    def node(self, name: str = "node1") -> dict[str, Any]:
        """What the API tells of a node."""
        return self.client.node(name)

    def reset(self, names: Sequence[str]) -> None:
        """Make these nodes as the settings have them."""
        for name in names:
            node = self.node(name)
            if node["state"] != "ready":
                self.client.ready(name)
            if node["sources"]["weight"]["source"] == "run time":
                self.client.change(name, {"weight": None})


@contextmanager
def load(port: int, connections: int = 4) -> Iterator[subprocess.Popen[str]]:
    """Clients that ask all the time, until the end or `failures`."""
    command = ["wrk", "-t1", f"-c{connections}", "-d300s", f"http://127.0.0.1:{port}/pixel.gif"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    with process:
        try:
            yield process
        finally:
            end(process)


def failures(clients: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """End the clients: how many requests were answered, and what wrk says went wrong."""
    clients.send_signal(signal.SIGINT)
    out, _ = clients.communicate(timeout=DEADLINE_S)
    answered = re.search(r"(\d+) requests in", out)
    assert answered, out
    return int(answered[1]), re.findall(r"Socket errors.*|Non-2xx.*", out)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium; nothing else may use asyncio meanwhile in this thread."""
    options = [*OPTIONS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=options)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page that shows a dashboard, and what it did wrong. allowed: console errors that a test provokes."""

    def __init__(self, context: BrowserContext, admin: str) -> None:
        self._admin = admin
        self.allowed = "$^"
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(DEADLINE_S * 1000)
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def _asked(self, url: str) -> None:
        if urlsplit(url).netloc != self._admin:
            self.elsewhere.append(url)

    def open(self) -> Page:
        """Show the dashboard; return the page once it has been told of nodes."""
        self.page.goto(f"http://{self._admin}/")
        expect(self.page.locator("article.node").first).to_be_visible()
        return self.page

    def node(self, name: str = "node1") -> Locator:
        """What is shown of a node."""
        return self.page.get_by_role("article", name=name, exact=True)

    def press(self, verb: str, name: str = "node1") -> None:
        """Click a button of a node."""
        self.node(name).get_by_role("button", name=re.compile(f"^{verb}")).click()

    def has_state(self, words: str, name: str = "node1") -> None:
        """Wait until a node is shown in this state."""
        expect(self.node(name).locator(".state")).to_have_text(words)

    def has_result(self, words: str | re.Pattern[str]) -> None:
        """Wait until the page has said what came of a change."""
        expect(self.page.get_by_role("status").filter(has_text=words)).to_be_visible()

    def judge(self) -> None:
        """Fail if the page has done what no page may."""
        assert [error for error in self.errors if not re.search(self.allowed, error)] == []
        assert self.elsewhere == []


Opener = Callable[..., Tab]


@contextmanager
def tabs(browser: Browser) -> Iterator[Opener]:
    """Opens tabs, each as in a browser of its own; all are judged at the end."""
    contexts: list[BrowserContext] = []
    opened: list[Tab] = []

    def open_tab(stage: Stage, width: int = 1280, **options: Any) -> Tab:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        opened.append(Tab(contexts[-1], stage.admin))
        return opened[-1]

    try:
        yield open_tab
        for tab in opened:
            tab.judge()
    finally:
        for context in contexts:
            context.close()
