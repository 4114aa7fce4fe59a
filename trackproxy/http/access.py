"""The access log of one HTTP service: what is told of each request, once, at its end.

Who sees an end calls `whole` or `relayed` for an answer of a node, `local` for one of ours, `refused` for
what is no request, `cut` and `gone` for answers that did not arrive, `tunnelled` for what was upgraded.

A record is made first, then a line of it; `quick_access` has a shorter way for most requests.
"""

from __future__ import annotations

import time
from random import random
from ssl import SSLObject
from time import monotonic
from typing import TYPE_CHECKING

from trackproxy.access.lines import (
    Value,
    make_style,
)
from trackproxy.access.names import (
    REQUEST_FIELDS,
    UNANSWERED,
    USUAL_ENDS,
    End,
    Phase,
)
from trackproxy.http.agents import said_in, without_password
from trackproxy.tls import told_of

if TYPE_CHECKING:
    from trackproxy.access.writer import Writer
    from trackproxy.http.edge import Edge
    from trackproxy.http.fields import RequestFields
    from trackproxy.http.heads import Request
    from trackproxy.pool.endpoints import Endpoint
    from trackproxy.sections import AccessLog
    from trackproxy.tunnel import Tunnel

Told = dict[str, Value]

LINE_BYTES = 1024  # of the line of a request that could not be read
ID_FIELD = b"\r\nX-Request-ID: "
ID_AT = -(len(ID_FIELD) + 36)  # from the end of a head, where the id of ours is the last of all


class Client:
    """What is told of a connection. part: how it stands in a line; empty if it differs from line to line."""

    __slots__ = ("part", "told")

    def __init__(self, told: Told, part: bytes) -> None:
        self.told = told
        self.part = part


class Access:
    """Tells of the requests of one service. stopping: what is open now is ended by us."""

    def __init__(self, service_name: str, settings: AccessLog, writer: Writer) -> None:
        self.stopping = False
        self._service = service_name
        self._sample = settings.sample
        self._samples = settings.sample < 1
        self._query = settings.query
        self._writer = writer
        self._lines = writer.lines
        self._style = make_style(settings.format, settings.fields, REQUEST_FIELDS)
        self._second = -1
        self._epoch_s = 0.0  # when the monotonic clock was 0

    # --- connections ---

    def met(self, edge: Edge, peer: object) -> Client:
        """A client has connected, from PEER as far as is known."""
        told: Told = {"service": self._service}
        if edge.host:
            told["client"] = edge.host
        if isinstance(peer, tuple):
            told["client_port"] = int(peer[1])
        shown = edge.transport.get_extra_info("peername")
        if isinstance(shown, tuple) and shown != peer:  # a proxy has told who is behind it
            told["peer"] = str(shown[0])
        secure = edge.transport.get_extra_info("ssl_object") if edge.tls else None
        if isinstance(secure, SSLObject):
            told |= told_of(secure)
        return Client(told, b"" if edge.trusted or not self._query else self._client_part(told))

    def _client_part(self, told: Told) -> bytes:
        return b""

    # --- answers of nodes ---

    def whole(  # noqa: PLR0913 - as it is called for each request
        self,
        edge: Edge,
        request: Request,
        endpoint: Endpoint,
        status: int,
        size: int,
        sent: float,
        took_s: float,
    ) -> None:
        """ENDPOINT has answered at once, SIZE octets, TOOK_S after the request was SENT (monotonic)."""
        told = self._asked(edge, request, request.began or sent)
        told |= {"status": status, "bytes": size, "first_byte_ms": took_s * 1000}
        self._answered(told, request, endpoint, status, sent + took_s)

    def relayed(self, edge: Edge, request: Request, endpoint: Endpoint) -> None:
        """The answer of ENDPOINT has gone to the client, piece by piece."""
        told = self._asked(edge, request, request.began) | _told_so_far(request)
        self._answered(told, request, endpoint, request.status, monotonic())

    def _answered(self, told: Told, request: Request, endpoint: Endpoint, status: int, now: float) -> None:
        told |= self._tries(request, endpoint, str(status))
        if sticky := sticky_of(request, endpoint, status):
            told["sticky"] = sticky
        self._end(told, End.OK, None, now)

    # --- other ends ---

    def local(self, edge: Edge, request: Request, answer: bytes) -> None:
        """REQUEST gets an ANSWER of ours."""
        end = request.end or End.FAILED
        now = monotonic()
        told = self._asked(edge, request, request.began or now)
        told |= self._tries(request, None, "") | _told_of(answer, b"" if request.method == b"HEAD" else None)
        self._end(told, end, request.phase, now)

    def refused(self, edge: Edge, request: Request | None, said: bytes, answer: bytes) -> None:
        """What a client has SAID, or sends for REQUEST, is refused with ANSWER."""
        now = monotonic()
        told = (
            self._asked(edge, request, request.began or now) if request else self._not_read(edge, said, now)
        )
        told |= _told_of(answer, None)
        if request is not None:
            told |= self._tries(request, request.endpoint, UNANSWERED)
        end = End.CLIENT_SLOW if told["status"] == 408 else End.BAD_REQUEST
        self._end(told, end, Phase.SENDING, now)

    def turned_away(self, edge: Edge, answer: bytes) -> None:
        """A connection was one too many."""
        now = monotonic()
        self._end(self._not_read(edge, b"", now) | _told_of(answer, None), End.LIMITED, None, now)

    def cut(self, edge: Edge, request: Request) -> None:
        """An answer that had begun was not completed; the request says why."""
        self._lost(edge, request, request.end or End.FAILED, Phase.ANSWERING)

    def gone(self, edge: Edge, request: Request) -> None:
        """The connection of the client is over before the answer was."""
        end = End.SHUTDOWN if self.stopping else edge.end or End.CLIENT_GONE
        self._lost(edge, request, end, _phase_of(edge, request))

    def _lost(self, edge: Edge, request: Request, end: End, phase: Phase) -> None:
        now = monotonic()
        told = self._asked(edge, request, request.began or now)
        if request.answered:
            told |= _told_so_far(request)
        outcome = str(request.status) if request.answered else UNANSWERED
        told |= self._tries(request, request.endpoint, outcome)
        self._end(told, end, phase, now)

    def tunnelled(self, edge: Edge, request: Request, tunnel: Tunnel) -> None:
        """A tunnel is over that REQUEST has asked for."""
        end = tunnel.end
        up, down = tunnel.moved
        told = self._asked(edge, request, request.began) | _told_so_far(request)
        told |= {"bytes": down, "bytes_in": up}
        told |= self._tries(request, tunnel.endpoint, "101")
        self._end(told, end, None if end is End.OK else Phase.RELAYING, monotonic())

    # --- records ---

    def _asked(self, edge: Edge, request: Request, began: float) -> Told:
        """Return what is known of a request that BEGAN then (monotonic)."""
        told = self._met(edge) | {
            "time": began,
            "method": request.method,
            "target": request.line.split(b" ")[1],
        }
        told["protocol"] = "HTTP/1.0" if request.one_zero else "HTTP/1.1"
        if request.host is not None:
            told["host"] = request.host
        told |= self._said(request.fields)
        if not self._query:
            told |= {name: _without_query(told[name]) for name in ("target", "referer") if name in told}
        if request.head:
            told["request_id"] = id_in(request)
        if request.body is not None:
            told["bytes_in"] = request.body.received
        for name, took_s in (
            ("receive_ms", request.receive_s),
            ("queue_ms", request.queue_s),
            ("connect_ms", request.connect_s),
        ):
            if took_s:
                told[name] = took_s * 1000
        return told

    def _met(self, edge: Edge) -> Told:
        """Return what is known of the connection; behind a proxy each request has a client of its own."""
        told = dict(edge.met.told)
        if edge.trusted and edge.host != told.get("client"):
            told["peer"] = told.pop("client", "")
            told.pop("client_port", None)
            told["client"] = edge.host
        return told

    def _said(self, fields: RequestFields) -> Told:
        return {
            name: value for name, value in zip(("referer", "agent"), said_in(fields), strict=True) if value
        }

    def _not_read(self, edge: Edge, said: bytes, now: float) -> Told:
        told = self._met(edge) | {"time": now}
        line = said.lstrip(b"\r\n").partition(b"\r\n")[0]
        if line:
            asked = line if self._query else line.partition(b"?")[0]
            told["request"] = without_password(asked)[:LINE_BYTES]
        return told

    def _tries(self, request: Request, endpoint: Endpoint | None, outcome: str) -> Told:
        """Return which endpoints had the request; OUTCOME: at ENDPOINT, the last one, if there is one."""
        tries = [*request.outcomes, (endpoint, outcome)] if endpoint is not None else [*request.outcomes]
        if not tries:
            return {}
        last, outcome = tries[-1]
        told: Told = {"node": last.node.name, "address": str(last.address)}
        if len(tries) > 1 or not outcome.isdigit():
            told["tried"] = [f"{one.node.name}:{what}" for one, what in tries]
        if len(tries) > 1:
            told["retries"] = len(tries) - 1
        if request.route.name:
            told["route"] = request.route.name
        return told

    def _end(self, told: Told, end: End, phase: Phase | None, now: float) -> None:
        status = told.get("status", 0)
        assert isinstance(status, int)
        if self._samples and end in USUAL_ENDS and status < 500 and random() >= self._sample:
            return
        began = told["time"]
        assert isinstance(began, float)
        told |= {"end": end.value, "total_ms": (now - began) * 1000, "time": self._wall_s(began)}
        if phase is not None and end is not End.OK:
            told["phase"] = phase.value
        self._writer.put(self._style.line(told))

    def _wall_s(self, at: float) -> float:
        """Return the seconds since 1970 at a moment of the monotonic clock."""
        second = int(at)
        if second > self._second:
            self._second, self._epoch_s = second, time.time() - monotonic()
        return at + self._epoch_s


def sticky_of(request: Request, endpoint: Endpoint, status: int) -> str:
    """Return how the client of REQUEST stays at a node, if it does; ENDPOINT has answered."""
    own = request.owner
    if own is None:
        sticking = request.route.sticking
        return "new" if sticking is not None and sticking.knows_clients else ""
    if own is endpoint or (own in request.doubted and status >= 500):
        return "kept"
    return f"moved/{'failed' if own in request.tried else request.moved}"


def id_in(request: Request) -> bytes:
    """Return the X-Request-ID that nodes get with REQUEST."""
    head = request.head
    at = head.rfind(ID_FIELD) + len(ID_FIELD)
    return head[at : head.index(b"\r\n", at)]


def _told_of(answer: bytes, body: bytes | None) -> Told:
    """Return the status and the size of an answer of ours; BODY: what goes out of it, if not all."""
    sent = answer[answer.index(b"\r\n\r\n") + 4 :] if body is None else body
    return {"status": int(answer[9:12]), "bytes": len(sent)}


def _told_so_far(request: Request) -> Told:
    """Return what is known of an answer that has begun."""
    return {
        "status": request.status,
        "bytes": request.passed_on,
        "first_byte_ms": request.first_byte_s * 1000,
    }


def _phase_of(edge: Edge, request: Request) -> Phase:
    if request.answered:
        return Phase.ANSWERING
    if request.waiting:
        return Phase.QUEUED
    if not request.complete:
        return Phase.SENDING
    return Phase.CONNECTING if edge.upstream is None else Phase.WAITING


def _without_query(value: Value) -> Value:
    assert isinstance(value, bytes)
    return value.partition(b"?")[0]
