"""Three nodes to try trackproxy with, all in this process and on loopback.

They answer the documented forms: open pixel, click, unsubscribe, and a web page whose session lives in one
node's memory, so that it has to stay on its node while all else goes round. `demo_sessions` has their
newsgroups and their mail. Their sockets are open before the settings are made, since those name the ports.
"""

from __future__ import annotations

import html
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from trackproxy.demo_sessions import Mail, MailSession, NewsSession, Store, serving
from trackproxy.units import EVERYWHERE, Address, parse_address

NODES = ("node1", "node2", "node3")
PROTOCOLS = {"web": "http", "news": "nntp", "mail": "smtp"}
# As mail exchangers do it: equal numbers share, a higher one is in reserve.
PRIORITIES = {"mail": {"node1": 10, "node2": 10, "node3": 50}}
SESSIONS = 1000  # kept by each node; the oldest goes first

PIXEL = bytes.fromhex(
    "47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b"
)
NEVER_CACHED = {"Cache-Control": "no-cache, no-store, must-revalidate, max-age=0", "Pragma": "no-cache"}

BANNER = """\
trackproxy demo: three nodes in this process. X-Demo-Node or a greeting says which one answered.

{services}{dashboard}
  the nodes:       {command} nodes --socket {socket}
                   {command} drain node1 --sticky move --socket {socket}
                   (likewise: disable node1, ready node1)

Ctrl-C ends it."""

ADMIN = "127.0.0.1:8400"  # as without any settings: if it is taken, there is a warning and no dashboard
DASHBOARD = """
  the dashboard:   {url}
"""

# By service. url: with what curl reaches it.
TO_TRY = {
    "web": """\
  an open:         curl -D - -o /dev/null {url}/db/7/42/1.gif
  a click:         curl -i {url}/t/7/42/3/1/
  unsubscribe:     curl -i {url}/u/7/42/
   with one click: curl -i -d List-Unsubscribe=One-Click {url}/u/7/42/
  a web session:   curl -i -b cookies.txt -c cookies.txt {url}/
                   (cookies.txt keeps it on its node, which counts it, while opens and clicks go round; drain
                   that node with --sticky move, or disable it: the session starts anew on another one)
""",
    "news": """\
  newsgroups:      curl {url}
                   (then type: GROUP demo.test, ARTICLE, POST, QUIT; drain its node meanwhile)
""",
    "mail": """\
  incoming mail:   echo Hello | curl -v --mail-from a@example.com --mail-rcpt list@example.com -T - {url}
                   (to node1 or node2; with both drained, to node3)
""",
}
SCHEMES = {"web": "http", "news": "telnet", "mail": "smtp"}  # of curl


@dataclass(frozen=True, slots=True)
class Places:
    """Where clients connect, as on the command line; empty is not at all."""

    web: str
    news: str = ""
    mail: str = ""
    admin: str = ""

    @property
    def services(self) -> dict[str, str]:
        """The place of each service that has one."""
        every = {"web": self.web, "news": self.news, "mail": self.mail}
        return {service: place for service, place in every.items() if place}


class Node:
    """One demo node; its sessions are in its own memory, as those of a real one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._visits: dict[str, int] = {}

    def application(self) -> web.Application:
        """Return the node's routes; every answer carries the node's name."""
        application = web.Application()
        application.on_response_prepare.append(self._sign)
        application.add_routes(
            [
                web.get("/db/{mailing}/{member}/1.gif", self.open),
                web.get("/t/{mailing}/{member}/{url}/{group}/", self.click),
                web.get("/page/{url}", self.page),
                web.get("/u/{mailing}/{member}/", self.unsubscribe_page),
                web.post("/u/{mailing}/{member}/", self.unsubscribe),
                web.get("/", self.web_page),
            ]
        )
        return application

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Demo-Node"] = self.name

    async def open(self, request: web.Request) -> web.Response:
        """Count an open: a pixel that is never cached."""
        return web.Response(body=PIXEL, content_type="image/gif", headers=NEVER_CACHED)

    async def click(self, request: web.Request) -> web.Response:
        """Count a click: on to the target, here a page of the demo itself."""
        return web.Response(status=302, headers={"Location": f"/page/{request.match_info['url']}"})

    async def page(self, request: web.Request) -> web.Response:
        """Return the target of a click."""
        return _page(f"The target of link {request.match_info['url']}")

    async def unsubscribe_page(self, request: web.Request) -> web.Response:
        """Ask for confirmation: a GET alone, which scanners send too, unsubscribes nobody."""
        return _page("Leave this list?", '<form method="post"><button>Unsubscribe</button></form>')

    async def unsubscribe(self, request: web.Request) -> web.Response:
        """Unsubscribe at once: RFC 8058 wants no redirect and no cookie."""
        return web.Response(text=f"Member {request.match_info['member']} is unsubscribed.\n")

    async def web_page(self, request: web.Request) -> web.Response:
        """Count the visits of a session; another node knows nothing of them."""
        session = request.cookies.get("session", "")
        if len(session) != 32 or not session.isalnum():
            session = secrets.token_hex(16)
        response = _page(f"Visit {self._visit(session)} of this session to {self.name}")
        response.set_cookie("session", session, httponly=True, samesite="Lax")
        return response

    def _visit(self, session: str) -> int:
        if session not in self._visits and len(self._visits) >= SESSIONS:
            del self._visits[next(iter(self._visits))]
        self._visits[session] = self._visits.get(session, 0) + 1
        return self._visits[session]


def _page(title: str, body: str = "") -> web.Response:
    text = f"<!doctype html><title>trackproxy demo</title><h1>{html.escape(title)}</h1>{body}\n"
    return web.Response(text=text, content_type="text/html")


Sockets = dict[str, list[socket.socket]]  # by service, in the order of NODES


@contextmanager
def open_sockets(places: Places) -> Iterator[Sockets]:
    """Yield listening sockets for each node, on free ports of loopback; close them at the end."""
    with ExitStack() as stack:
        yield {
            service: [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in NODES]
            for service in places.services
        }


@asynccontextmanager
async def running(sockets: Sockets) -> AsyncIterator[None]:
    """Serve the nodes on their sockets within the running event loop."""
    store = Store()
    async with AsyncExitStack() as stack:
        for name, listener in zip(NODES, sockets["web"], strict=True):
            runner = web.AppRunner(Node(name).application(), access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.SockSite(runner, listener).start()
        for name, listener in zip(NODES, sockets.get("news", ()), strict=False):
            await stack.enter_async_context(serving(partial(NewsSession, store, name), listener))
        for name, listener in zip(NODES, sockets.get("mail", ()), strict=False):
            await stack.enter_async_context(serving(partial(MailSession, Mail(), name), listener))
        yield


def overrides(places: Places, balance: str, sockets: Sockets, folder: str) -> dict[str, Any]:
    """Return the settings that put the services in front of the nodes; FOLDER: for state."""
    # One worker, so that the nodes come in turn; each worker takes turns of its own.
    return {
        "workers": 1,
        "state_dir": folder,
        **({} if places.admin == ADMIN else {"admin": {"listen": places.admin}}),
        "nodes": {name: {"address": "127.0.0.1"} for name in NODES},
        "services": {
            service: {
                "protocol": PROTOCOLS[service],
                "listen": [place],
                "balance": balance,
                "nodes": _endpoints(service, sockets[service]),
                **(_routes() if service == "web" else {}),
            }
            for service, place in places.services.items()
        },
    }


def _routes() -> dict[str, Any]:
    """Return how web sessions stay on their nodes while opens, clicks and unsubscribes go round."""
    sticky = {"mode": "cookie", "secrets": [secrets.token_urlsafe(24)]}  # as the sessions, it ends with us
    return {"preset": "list-manager", "sticky": sticky}


def _endpoints(service: str, sockets: list[socket.socket]) -> dict[str, dict[str, int]]:
    priorities = PRIORITIES.get(service, {})
    return {
        name: {"port": listener.getsockname()[1], "priority": priorities.get(name, 0)}
        for name, listener in zip(NODES, sockets, strict=True)
    }


def checked_place(text: str) -> Address:
    """Return where to serve; raise ValueError if it cannot stand in a URL."""
    address = parse_address(text, None)
    if not address.port:
        raise ValueError("the demo needs an address with a port, such as 127.0.0.1:8080")
    return address


def banner(places: Places, command: str, socket_path: Path) -> str:
    """Return what to try; raise ValueError if a listener's address cannot stand in a URL.

    COMMAND: how this program is called. SOCKET_PATH: where it answers commands.
    """
    to_try = (TO_TRY[service].format(url=_url(service, place)) for service, place in places.services.items())
    dashboard = DASHBOARD.format(url=f"http://{places.admin}/") if places.admin else ""
    services = "\n".join(to_try)
    return BANNER.format(services=services, dashboard=dashboard, command=command, socket=socket_path)


def _url(service: str, place: str) -> str:
    address = checked_place(place)
    host = "::1" if address.host == "::" else "127.0.0.1" if address.host in EVERYWHERE else address.host
    return f"{SCHEMES[service]}://{Address(host, address.port)}"
