"""A real Chromium, headless, driven through its DevTools protocol; it reaches nothing but loopback.

One process serves many tests: each drives it over a connection of its own and has cookies of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.chaos.processes import end
from tests.e2e.test_cli import DEADLINE_S
from tests.e2e.test_commands import await_fact

PROGRAM = shutil.which("chromium")
ACTIVE_PORT = "DevToolsActivePort"  # in its profile: port and path of the protocol, a line each
OPTIONS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--ignore-certificate-errors",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--password-store=basic",
)

needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="needs chromium")


@contextmanager
def chromium(folder: Path) -> Iterator[str]:
    """Run it with its profile in FOLDER; yields where it is driven."""
    assert PROGRAM is not None
    place = folder / ACTIVE_PORT
    options = [*OPTIONS, f"--user-data-dir={folder}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [PROGRAM, *options, "about:blank"],
            env=os.environ | {"HOME": str(folder), "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        await_fact(lambda: place.exists() and place.read_text().count("\n") == 1)
        port, path = place.read_text().split("\n")
        yield f"ws://127.0.0.1:{port}{path}"
    finally:
        end(process)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page shows, and with which status and which Set-Cookie, a line each, it came."""

    status: int
    cookies: list[str]
    text: str


class Page:
    """One tab, with cookies of its own."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._news = asyncio.Event()
        self._statuses: dict[str, int] = {}  # by loader, which each navigation has one of
        self._heads: dict[str, list[dict[str, Any]]] = {}  # likewise, of redirects too
        self._loaded: list[str] = []

    async def open(self, url: str) -> Seen:
        """Go to a URL, as if it was typed."""
        begun = await self.call("Page.navigate", url=url)
        assert "errorText" not in begun, f"{url}: {begun['errorText']}"
        return await self._see(lambda: begun["loaderId"] if begun["loaderId"] in self._loaded else None)

    async def click(self, selector: str) -> Seen:
        """Click with the mouse on what leads to another page."""
        before = len(self._loaded)
        box = await self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({_box(selector)})")
        mouse: dict[str, Any] = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, **mouse)
        return await self._see(lambda: self._loaded[-1] if len(self._loaded) > before else None)

    async def run(self, script: str) -> Any:
        """What a script, or a promise that it makes, comes to."""
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def cookies(self) -> dict[str, dict[str, Any]]:
        """The cookies that the page's requests carry, by name."""
        return {cookie["name"]: cookie for cookie in (await self.call("Network.getCookies"))["cookies"]}

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol on this tab."""
        return await self._browser.call(method, self._session, **parameters)

    def heard(self, method: str, event: dict[str, Any]) -> None:
        """Take an event of this tab."""
        if method == "Network.responseReceived" and event["type"] == "Document":
            self._statuses[event["loaderId"]] = event["response"]["status"]
        elif method == "Network.responseReceivedExtraInfo":
            self._heads.setdefault(event["requestId"], []).append(event)
        elif method == "Page.lifecycleEvent" and event["name"] == "load":
            self._loaded.append(event["loaderId"])
        self._news.set()

    async def _see(self, loader: Callable[[], str | None]) -> Seen:
        """Wait until a page is loaded; LOADER: returns which one, None so long."""
        async with asyncio.timeout(DEADLINE_S):
            while (found := loader()) is None or not self._is_known(found):
                self._news.clear()
                await self._news.wait()
        lines = [_fields(head).get("set-cookie", "") for head in self._heads[found]]
        cookies = "\n".join(filter(None, lines)).splitlines()
        return Seen(self._statuses[found], cookies, await self.run("document.body.innerText"))

    def _is_known(self, loader: str) -> bool:
        """Has the head of its last answer been told? Heads as they came are told apart from the rest."""
        status = self._statuses.get(loader)
        return any(head["statusCode"] == status for head in self._heads.get(loader, ()))


def _fields(head: dict[str, Any]) -> dict[str, str]:
    return {name.lower(): str(value) for name, value in head["headers"].items()}


class Browser:
    """A connection to a Chromium that runs; see `driving`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def call(self, method: str, session: str = "", /, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; what it returns."""
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        async with asyncio.timeout(DEADLINE_S):
            return await answer

    async def page(self) -> Page:
        """A new tab without a cookie."""
        context = await self.call("Target.createBrowserContext", disposeOnDetach=True)
        target = await self.call("Target.createTarget", url="about:blank", **context)
        attached = await self.call("Target.attachToTarget", flatten=True, **target)
        session = attached["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Network", "Runtime"):
            await page.call(f"{domain}.enable")
        await page.call("Page.setLifecycleEventsEnabled", enabled=True)
        return page

    async def read(self) -> None:
        """Hand on what comes, until the connection ends."""
        async for frame in self._socket:
            message = json.loads(frame.data)
            if "id" not in message:
                if page := self._pages.get(message.get("sessionId", "")):
                    page.heard(message["method"], message["params"])
                continue
            answer = self._calls.pop(message["id"])
            if "error" in message:
                answer.set_exception(RuntimeError(str(message["error"])))
            elif not answer.done():
                answer.set_result(message["result"])


@asynccontextmanager
async def driving(place: str) -> AsyncIterator[Browser]:
    """Drive the Chromium at PLACE; its tabs end with this."""
    async with aiohttp.ClientSession() as session, session.ws_connect(place, max_msg_size=0) as socket:
        browser = Browser(socket)
        reading = asyncio.create_task(browser.read(), name="what Chromium says")
        try:
            yield browser
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading


def _box(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
