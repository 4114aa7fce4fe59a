"""trackproxy beside itself with other settings: what stickiness costs, and what many routes do.

As in `rounds`, they take turns under the same load, and a ratio is the median of those within a round.
Cookies that one node gives within a second are alike: with heads that are otherwise the same, a proxy which
remembers heads or cookies has seen nearly all of them before. With varied ones it has not.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchlib.children import BenchError
from benchlib.load import Load, run_load
from benchlib.machine import Cores
from benchlib.nodes import HOST, running_nodes, verify
from benchlib.peers import TRACKPROXY, Peer, RunningPeer, Site, running_peer, trackproxy_with
from benchlib.rounds import Act, Entry, Row, Times, by_wrk, take_turns

OFF, COOKIE, NO_COOKIE = "off", "cookie", "no-cookie"
COOKIE_NAME = "TPNODE"
STICKY = 'sticky = { mode = "cookie", secrets = ["nobody-may-guess-this-0123456789"] }\n'
STICKY_REQUIRED = f"1.1 × {OFF}"
COOKIES = 64  # asked for before each turn; those of one node and one second are alike

NO_ROUTES, FEW, MANY = 0, 5, 500
ROUTES_REQUIRED = f"{MANY} routes at most 1.05 × {FEW} routes"
LOG_FORMATS = ("json", "combined")
LOG_REQUIRED = f"1.15 × {OFF}"
RULES = "timeouts = { response_head = 30 }"  # the same for all


def routes_name(count: int) -> str:
    return f"{count} routes" if count else "no routes"


def measure_sticky(load: Load, rounds: int, cores: Cores, folder: Path) -> list[Row]:
    """Without stickiness, with a cookie in each request, and with none, so that each answer sets one."""
    peers = {
        OFF: _variant("trackproxy, sticky off", ""),
        COOKIE: _variant("trackproxy, sticky", STICKY),
        NO_COOKIE: _variant("the same, no cookie sent", STICKY),
    }
    with _running(peers, cores, folder) as (off, cookie, no_cookie):
        for peer in (cookie, no_cookie):
            _check_stickiness(peer)
        with_cookies = _with_cookies(cookie.port, load)  # the same requests for both
        entries = [Entry(off, with_cookies), Entry(cookie, with_cookies), Entry(no_cookie, by_wrk(load))]
        return take_turns("sticky", entries, Times(rounds, load.seconds), [OFF])


def measure_routes(load: Load, rounds: int, cores: Cores, folder: Path) -> list[Row]:
    """Requests are spread over all routes; where there are none, they are the same as with FEW."""
    counts = (NO_ROUTES, FEW, MANY)
    peers = {
        routes_name(count): _variant(f"trackproxy, {routes_name(count)}", _routes(count)) for count in counts
    }
    with _running(peers, cores, folder) as running:
        entries = [
            Entry(peer, by_wrk(replace(load, words=(f"routes={count or FEW}",))))
            for peer, count in zip(running, counts, strict=True)
        ]
        references = [routes_name(FEW), routes_name(NO_ROUTES)]
        return take_turns("routes", entries, Times(rounds, load.seconds), references)


def measure_access_log(load: Load, rounds: int, cores: Cores, folder: Path) -> list[Row]:
    """Without an access log, and with one in each of two formats."""
    peers = {OFF: _variant("trackproxy, no access log", "")}
    for name in LOG_FORMATS:
        settings = f'access_log = {{ path = "{folder}/{name}.log", format = "{name}" }}\n'
        peers[name] = _variant(f"trackproxy, {name}", settings)
    with _running(peers, cores, folder) as running:
        entries = [Entry(peer, by_wrk(load)) for peer in running]
        rows = take_turns("access log", entries, Times(rounds, load.seconds), [OFF])
    for name in LOG_FORMATS:
        if not (folder / f"{name}.log").stat().st_size:
            raise BenchError(f"access log: nothing was written as {name}")
    return rows


def _variant(title: str, settings: str) -> Peer:
    def argv(site: Site) -> list[str]:
        return trackproxy_with(site, f'listen = ["127.0.0.1:{site.port}"]\n{settings}')

    return Peer(title, str(TRACKPROXY), argv)


def _routes(count: int) -> str:
    """Names and paths as `heads.lua` asks for them."""
    names = [f"r{number:03}" for number in range(1, count + 1)]
    return "".join(
        f'\n[[services.web.routes]]\nname = "{name}"\npath = "/{name}/"\n{RULES}\n' for name in names
    )


@contextlib.contextmanager
def _running(peers: dict[str, Peer], cores: Cores, folder: Path) -> Iterator[list[RunningPeer]]:
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(running_nodes(folder, cores.load))
        running = [
            stack.enter_context(running_peer(name, nodes, folder, cores.proxy, peers)) for name in peers
        ]
        for peer in running:
            verify(peer.name, peer.port)
        yield running


def _with_cookies(port: int, load: Load) -> Callable[[int], Act]:
    """For `Entry.prepare`. The cookies are new in each turn: old ones would be replaced in each answer."""

    def prepare(seconds: int) -> Act:
        words = tuple(f"cookie={cookie}" for cookie in _cookies(port))
        return partial(run_load, replace(load, seconds=seconds, words=words))

    return prepare


def _cookies(port: int) -> Sequence[str]:
    """What so many new clients are given, as they send it back. Raises BenchError."""
    cookies = [_cookie_for(port) for _ in range(COOKIES)]
    if not all(cookie.startswith(f"{COOKIE_NAME}=") for cookie in cookies):
        raise BenchError(f"sticky: {cookies} came as cookies")
    return sorted(set(cookies))


def _check_stickiness(peer: RunningPeer) -> None:
    """Who comes with a cookie is not given another one. Raises BenchError."""
    for cookie in _cookies(peer.port):
        if other := _cookie_for(peer.port, cookie):
            raise BenchError(f"sticky: {peer.name} does not believe {cookie} and sets {other}")


def _cookie_for(port: int, sent: str = "") -> str:
    """NAME=VALUE that an answer sets, empty if none."""
    headers = {"Host": HOST} | ({"Cookie": sent} if sent else {})
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/db/1/1/1.gif", headers=headers)
        return (connection.getresponse().getheader("Set-Cookie") or "").partition(";")[0]
