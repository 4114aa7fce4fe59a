"""The quick way to a line of an access log: nearly all requests are whole, and nothing about them is unusual.

What is the same for all requests of a client, of a block of fields, and of an endpoint is kept as it stands
in a line. Everything else goes the way of `access`; a test holds both against each other.
"""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING

from trackproxy.access.lines import (
    SAFE_IN_QUOTES,
    Json,
    apache_second,
    iso_second,
    json_text,
    quoted,
)
from trackproxy.access.names import ANSWER_FIELDS, CLIENT_FIELDS, HEAD_FIELDS, End
from trackproxy.http.access import ID_AT, ID_FIELD, Access, Told, id_in, sticky_of
from trackproxy.http.agents import AGENT, REFERER, said_in

if TYPE_CHECKING:
    from trackproxy.access.writer import Writer
    from trackproxy.http.edge import Edge
    from trackproxy.http.fields import RequestFields
    from trackproxy.http.heads import Request
    from trackproxy.pool.endpoints import Endpoint
    from trackproxy.sections import AccessLog

MEMO_ENTRIES = 4096


class _Quick(Access):
    """Keeps parts of lines.

    A line begins with `_start`, which is the same for the second between `_from` and `_to` (monotonic).
    """

    def __init__(self, service_name: str, settings: AccessLog, writer: Writer) -> None:
        super().__init__(service_name, settings, writer)
        self._from = self._to = 0.0
        self._start = b""
        self._append = writer.lines.append
        self._answers: dict[tuple[object, ...], bytes] = {}

    def _find_second(self, at: float) -> None:
        wall_s = self._wall_s(at)
        second = int(wall_s)
        self._from = at - (wall_s - second)
        self._to = self._from + 1
        self._start = self._start_of(second)

    def _start_of(self, second: int) -> bytes:
        raise NotImplementedError


HEAD_IN_JSON = b'","protocol":"HTTP/1.1","host":"%b","referer":"%b","agent":"%b",'
MS_JSON = [b'.%03dZ",' % ms for ms in range(1000)]


class QuickJson(_Quick):
    """JSON with all fields."""

    def _client_part(self, told: Told) -> bytes:
        return Json().members(told, CLIENT_FIELDS) + b'"method":"GET","target":"'

    def _start_of(self, second: int) -> bytes:
        return b'{"time":"' + iso_second(second)

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
        client = edge.met
        if request.began or request.odd or not client.part:
            super().whole(edge, request, endpoint, status, size, sent, took_s)
            return
        if self._samples and status < 500 and random() >= self._sample:
            return
        if not self._from <= sent < self._to:
            self._find_second(sent)
        head, route, lines = request.head, request.route, self._lines
        sticky = "" if route.sticking is None else sticky_of(request, endpoint, status)
        key = (endpoint, status, route, sticky)
        ms = b"%.3f" % (took_s * 1000)
        lines.append(
            b"".join(
                (
                    self._start,
                    MS_JSON[int((sent - self._from) * 1000)],
                    client.part,
                    request.line[4:-9],
                    request.fields.in_json or self._note(request.fields),
                    self._answers.get(key) or self._note_answer(key, request, endpoint, status, sticky),
                    b"%d" % size,
                    b',"first_byte_ms":',
                    ms,
                    b',"total_ms":',
                    ms,
                    b',"request_id":"',
                    head[-36:-4] if head.startswith(ID_FIELD, ID_AT) else json_text(id_in(request)),
                    b'"}\n',
                )
            )
        )
        if len(lines) >= self._writer.crowd_at:
            self._writer.crowd()

    def _note(self, fields: RequestFields) -> bytes:
        """Return the members of HEAD_FIELDS; what Host may be needs no escapes."""
        host, block = fields.host or b"", fields.usual
        # `said_in` and `json_text` written out, for those who write both fields so: all heads may be new.
        referer_at, agent_at = block.find(REFERER), block.find(AGENT)
        if referer_at >= 0 and agent_at >= 0:
            referer = block[referer_at + len(REFERER) : block.find(b"\r", referer_at)].strip()
            agent = block[agent_at + len(AGENT) : block.find(b"\r", agent_at)].strip()
            plain = not (referer + agent).translate(None, SAFE_IN_QUOTES) and b"@" not in referer
            if referer and agent and plain:
                fields.in_json = part = HEAD_IN_JSON % (host, referer, agent)
                return part
        members = Json().members(self._said(fields), HEAD_FIELDS)
        fields.in_json = part = b'","protocol":"HTTP/1.1","host":"%b",%b' % (host, members)
        return part

    def _note_answer(
        self, key: tuple[object, ...], request: Request, endpoint: Endpoint, status: int, sticky: str
    ) -> bytes:
        told = self._tries(request, endpoint, str(status)) | {"status": status, "end": End.OK.value}
        if sticky:
            told["sticky"] = sticky
        if len(self._answers) >= MEMO_ENTRIES:
            self._answers.clear()
        part = self._answers[key] = Json().members(told, ANSWER_FIELDS) + b'"bytes":'
        return part


class QuickCombined(_Quick):
    """Apache's Combined."""

    def _client_part(self, told: Told) -> bytes:
        return b"%b - - [" % str(told.get("client", "-")).encode()

    def _start_of(self, second: int) -> bytes:
        return apache_second(second) + b'] "'

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
        client, fields = edge.met, request.fields
        if request.began or request.odd or not client.part:
            super().whole(edge, request, endpoint, status, size, sent, took_s)
            return
        if self._samples and status < 500 and random() >= self._sample:
            return
        if not self._from <= sent < self._to:
            self._find_second(sent)
        head = fields.in_combined or self._note(fields)
        self._append(b'%b%b%b" %d %d %b' % (client.part, self._start, request.line, status, size, head))
        if len(self._lines) >= self._writer.crowd_at:
            self._writer.crowd()

    def _note(self, fields: RequestFields) -> bytes:
        referer, agent = said_in(fields)
        if referer and agent and not (referer + agent).translate(None, SAFE_IN_QUOTES):
            part = b'"%b" "%b"\n' % (referer, agent)
        else:
            part = b"%b %b\n" % (quoted(referer), quoted(agent))
        fields.in_combined = part
        return part


def make_access(service_name: str, settings: AccessLog, writer: Writer) -> Access:
    """Return what tells of the requests of a service as its settings want it."""
    kind = Access
    if settings.format == "combined":
        kind = QuickCombined
    elif settings.format == "json" and not settings.fields:
        kind = QuickJson
    return kind(service_name, settings, writer)
