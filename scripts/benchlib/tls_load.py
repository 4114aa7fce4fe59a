"""Clients over TLS: a new connection for each request, or one that stays.

wrk does for requests on kept connections, but not here: it resumes the session of the connection before, if
the server lets it, and does not say so. Each of these handshakes is looked at.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from statistics import quantiles

from benchlib.bodies import STALL_S
from benchlib.children import BenchError
from benchlib.idle import ask, connect, source_bound
from benchlib.load import Counted
from benchlib.nodes import HOST, unverified_context
from benchlib.tcp_load import SOURCES
from benchlib.tcp_node import tuned

REQUEST = f"GET /db/1/1/1.gif HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
PIECE_BYTES = 16 * 1024
VERSION = "TLSv1.3"
WANTED = (VERSION, "http/1.1")  # with what is chosen by ALPN
CONTEXT = unverified_context()  # one for all: a session is resumed in the context that it began in


def enter_over_tls(port: int, number: int) -> ssl.SSLSocket:
    """The numberth of many connections, after its handshake and one request. Raises BenchError or OSError."""
    client = CONTEXT.wrap_socket(connect(port, number), server_hostname=HOST)
    ask(client)
    return client


def negotiated(name: str, port: int) -> str:
    """The cipher that a peer takes; raises BenchError unless all else is as WANTED."""
    with enter_over_tls(port, 0) as client:
        cipher = client.cipher()
        agreed = (client.version(), client.selected_alpn_protocol())
    if agreed != WANTED or cipher is None:
        raise BenchError(f"tls: {name} speaks {agreed}, not {WANTED}")
    return cipher[0]


def handshakes(port: int, at_once: int, seconds: float, resumed: bool) -> Counted:
    """Connect, shake hands, ask, read the answer up to the end, close; again and again.

    resumed: with the session that came last. A handshake that is not so, or is although it should not, counts
    as an error.
    """
    with _Turnstile(port, resumed) as turnstile:
        began = time.monotonic()
        for _ in range(at_once):
            turnstile.enter()
        while (now := time.monotonic()) < began + seconds:
            turnstile.step()
        return turnstile.counted(now - began)


class _Visit:
    """One connection. asked: the handshake is over. heard: the answer so far."""

    __slots__ = ("asked", "began", "client", "heard")

    def __init__(self, client: ssl.SSLSocket, began: float) -> None:
        self.client, self.began = client, began
        self.asked = False
        self.heard = b""

    def over(self) -> bool:
        """Do what can be done; return whether the proxy has ended the connection. Raises OSError."""
        try:
            if not self.asked:
                self.client.do_handshake()
                self.client.send(REQUEST)
                self.asked = True
            while piece := self.client.recv(PIECE_BYTES):
                self.heard += piece
        except ssl.SSLWantReadError:
            return False
        return True

    def good(self, resumed: bool) -> bool:
        answered = self.heard.startswith(b"HTTP/1.1 200 ") and b"\r\n\r\nGIF89a" in self.heard
        return answered and self.client.session_reused is resumed


class _Turnstile:
    """Visits under way: when one is over, the next one enters. Closes what is left on exit."""

    def __init__(self, port: int, resumed: bool) -> None:
        self._address = ("127.0.0.1", port)
        self._resumed = resumed
        self._session = _first_session(port) if resumed else None
        self._epoll = select.epoll()
        self._open: dict[int, _Visit] = {}
        self._taken_ms: list[float] = []
        self._entered = self._errors = 0

    def __enter__(self) -> _Turnstile:
        return self

    def __exit__(self, *_: object) -> None:
        for visit in self._open.values():
            visit.client.close()
        self._epoll.close()

    def enter(self) -> None:
        began = time.monotonic()
        plain = source_bound(self._entered % SOURCES)
        self._entered += 1
        plain.settimeout(STALL_S)
        plain.connect(self._address)
        client = CONTEXT.wrap_socket(
            tuned(plain), do_handshake_on_connect=False, server_hostname=HOST, session=self._session
        )
        visit = _Visit(client, began)
        self._open[client.fileno()] = visit
        self._epoll.register(client, select.EPOLLIN)
        with contextlib.suppress(OSError):  # it says hello, and waits; what goes wrong shows in the next step
            client.do_handshake()

    def step(self) -> None:
        for file, _ in self._epoll.poll(STALL_S) or _stalled():
            visit = self._open[file]
            try:
                if not visit.over():
                    continue
                good = visit.good(self._resumed)
            except OSError:
                good = False
            self._leave(file, visit, good)
            self.enter()

    def _leave(self, file: int, visit: _Visit, good: bool) -> None:
        if good:
            self._taken_ms.append((time.monotonic() - visit.began) * 1e3)
            if self._resumed:
                self._session = visit.client.session
        self._errors += not good
        del self._open[file]
        visit.client.close()

    def counted(self, seconds: float) -> Counted:
        taken = self._taken_ms
        if len(taken) < 2:
            raise BenchError(f"tls: {len(taken)} connections went well, {self._errors} did not")
        percentiles = quantiles(taken, n=100)
        return Counted(len(taken), seconds, percentiles[49], percentiles[98], self._errors)


def _first_session(port: int) -> ssl.SSLSession:
    with CONTEXT.wrap_socket(_plain(port), server_hostname=HOST) as client:
        client.sendall(REQUEST)
        while client.recv(PIECE_BYTES):  # tickets come before the answer, or with it
            pass
        session = client.session
    if session is None or not session.has_ticket:
        raise BenchError("tls: there is no session ticket")
    return session


def _plain(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=STALL_S)


def _stalled() -> list[tuple[int, int]]:
    raise BenchError(f"tls: nothing has come for {STALL_S:g} s")
