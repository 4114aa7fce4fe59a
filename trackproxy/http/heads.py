"""Start lines, read strictly, and the request on its way (RFC 9112, 3 and 4).

What leaves is made from what was read, so that both sides see one and the same message. A target
reaches the node byte for byte; an absolute-form one is turned into origin-form plus Host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trackproxy.errors import BadAnswer, BadRequest
from trackproxy.http.fields import (
    PLAIN,
    AnswerFields,
    RequestFields,
    RequestReader,
    answer_fields,
    remember,
)

if TYPE_CHECKING:
    from trackproxy.access.names import End, Phase
    from trackproxy.http.framing import RequestBody
    from trackproxy.http.retry import Failure
    from trackproxy.http.route import Route
    from trackproxy.http_sections import Limits
    from trackproxy.pool.endpoints import Endpoint
    from trackproxy.pool.stickiness import Pass

# RFC 9110, 9.2.2: may be sent again. A tracking hit is a GET; nodes drop repeats by hit id.
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
REFUSED = frozenset({b"CONNECT", b"TRACE"})
ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

# RFC 9110, 6.4.1: answers that end with their head.
BODILESS = frozenset({204, 304})

HEAD_END = b"\r\n\r\n"

# How the head of an answer ends, which also says what becomes of the client's connection.
CLOSE = b"Connection: close\r\n\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n\r\n"
PERSISTENT = b"\r\n"  # HTTP/1.1 needs no word for it

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VISIBLE = bytes(byte for byte in range(0x21, 0x7F) if byte != ord("#"))  # a fragment is never sent
_USUAL = bytes(byte for byte in _VISIBLE if byte not in b'"\\')
_EMPTY_LINES = re.compile(rb"(?:\r\n){1,4}")
# What no head may hold, whatever comes after it: controls, LF without CR, CR without LF.
_ILLEGAL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")
_VERSION = re.compile(rb"HTTP/[0-9](?:\.[0-9])?")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+;=%]+)(?::[0-9]{0,5})?")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")


class Request:
    """One request: what was asked, and how far it has come.

    What most requests never need is a default of the class, so that an ordinary one sets only what
    its head says.

    line: the request line for the node. host: the host that was asked for, None if none was named.
    ending: how the head of the answer ends (CLOSE, KEEP_ALIVE or PERSISTENT).
    deadline: until when an answer has to begin, all tries together. route: the class that it falls under.
    """

    route: Route  # set once it is dispatched
    endpoint: Endpoint | None = None  # set while it counts as active there
    tried: tuple[Endpoint, ...] = ()
    failure: Failure | None = None  # of the last of them
    doubted: tuple[Endpoint, ...] = ()  # of these, who answered with an error that another one may not make
    body: RequestBody | None = None
    head: bytes = b""  # as sent to a node, once one was found
    deadline: float = 0.0
    complete: bool = True  # the client has sent all of it
    one_zero: bool = False  # HTTP/1.0
    odd: bool = False  # anything but GET in HTTP/1.1 of a path without quotes and backslashes
    dispatched: bool = False
    waiting: bool = False  # in the queue, since every endpoint is full
    answered: bool = False  # a byte of the answer went to the client
    client: int = 0  # a number for whom policies take it to be from
    fresh: bool = False  # its client needs no new cookie where it belongs
    pass_: Pass | None = None  # what our own cookie says
    owner: Endpoint | None = None  # where it belongs
    wanted: Endpoint | None = None  # the same, while it waits for room there
    extra: bytes = b""  # lines of ours for the answer
    tag: bytes = b""  # what nodes are told that asks
    # For the access log; times are in seconds, moments on the monotonic clock.
    began: float = 0.0  # its head was read; 0 as long as nothing but one quick try has come of it
    receive_s: float = 0.0  # the client took for its body
    queue_s: float = 0.0
    connect_s: float = 0.0
    first_byte_s: float = 0.0  # the node took
    outcomes: tuple[tuple[Endpoint, str], ...] = ()  # tries that are over, with what came of each
    status: int = 0  # of the answer that has begun
    passed_on: int = 0  # octets of its body
    moved: str = ""  # why its client cannot stay where it belongs
    end: End | None = None  # how it ends, if no node's answer does it
    phase: Phase | None = None

    def __init__(self, method: bytes, line: bytes, host: bytes | None, fields: RequestFields) -> None:
        self.method = method
        self.line = line
        self.host = host
        self.fields = fields
        self.ending = CLOSE if fields.close else PERSISTENT

    def note(self, endpoint: Endpoint, outcome: str) -> None:
        """Note what came of a try at ENDPOINT."""
        self.outcomes = (*self.outcomes, (endpoint, outcome))

    def fails(self, end: End, phase: Phase | None = None) -> None:
        """Note how it ends, unless a node answers after all."""
        self.end, self.phase = end, phase


def read_request(line: bytes, block: bytes, reader: RequestReader = PLAIN) -> Request:
    """Read a head: the request LINE without its CRLF, the field BLOCK with the CRLF of each line.

    Raises BadRequest; its status is 400, 405, 417, 501 or 505.
    """
    try:
        method, target, version = line.split(b" ")
    except ValueError:
        raise BadRequest("malformed request line") from None
    if version != b"HTTP/1.1":
        return _read_other_version(method, target, version, block, reader)
    fields = reader.seen.get(block) or reader.read(block)
    if fields.host is None:  # RFC 9112, 3.2
        raise BadRequest("Host is missing")
    if method != b"GET" or not target.startswith(b"/") or target.translate(None, _USUAL):
        return _read_odd(method, target, line, fields)
    return Request(method, line, fields.host, fields)


def _read_odd(method: bytes, target: bytes, line: bytes, fields: RequestFields) -> Request:
    _check(method, target)
    other = not target.startswith(b"/")
    request = (
        _read_other_form(method, target, fields) if other else Request(method, line, fields.host, fields)
    )
    request.odd = True
    return request


def without_empty_lines(data: bytes) -> bytes:
    """Return DATA without the few empty lines that may stand before a request (RFC 9112, 2.2)."""
    empty = _EMPTY_LINES.match(data)
    return data[empty.end() :] if empty else data


def check_size(data: bytes, end: int, limits: Limits) -> None:
    """Check the head that is, or begins with, the first END bytes of DATA; raises BadRequest."""
    words = data[: end + 2].partition(b"\r\n")[0].split(b" ", 2)
    if len(words) > 1 and len(words[1]) > limits.target:
        raise BadRequest("the target is too long", 414)
    if end > limits.head:
        raise BadRequest("the head is too large", 431)


def check_beginning(data: bytes, checked: int, limits: Limits) -> None:
    """Refuse at once what can no longer become a valid head; raises BadRequest.

    The first CHECKED bytes of DATA have been looked at before.
    """
    line_end = data.find(b"\r\n")
    check_size(data, len(data), limits)
    if _ILLEGAL.search(data, max(checked - 1, 0)):
        raise BadRequest("character that is not allowed in a head")
    if line_end >= 0 and checked <= line_end + 2:
        words = data[:line_end].split(b" ")
        if len(words) != 3 or not _VERSION.fullmatch(words[2]):
            raise BadRequest("malformed request line")


def _check(method: bytes, target: bytes) -> None:
    if not _TOKEN.fullmatch(method):
        raise BadRequest("malformed method")
    if not target or target.translate(None, _VISIBLE):
        raise BadRequest("character in the target that is not allowed")
    if method in REFUSED:
        raise BadRequest("this method is not served here", 405)


def _read_other_version(
    method: bytes, target: bytes, version: bytes, block: bytes, reader: RequestReader
) -> Request:
    if version != b"HTTP/1.0":
        known = _VERSION.fullmatch(version)
        raise BadRequest("this version of HTTP is not spoken here", 505 if known else 400)
    fields = reader.read(block)
    if fields.length < 0:  # RFC 9112, 6.1: HTTP/1.0 knows no transfer codings
        raise BadRequest("Transfer-Encoding in HTTP/1.0")
    if fields.upgrade or fields.expects:
        fields = fields.in_one_zero()
    _check(method, target)
    if target[:1] == b"/":
        request = Request(method, b"%b %b HTTP/1.1" % (method, target), fields.host, fields)
    else:
        request = _read_other_form(method, target, fields)
    request.one_zero = request.odd = True
    request.ending = KEEP_ALIVE if fields.keep_alive and not fields.close else CLOSE
    return request


def _read_other_form(method: bytes, target: bytes, fields: RequestFields) -> Request:
    """Read absolute-form and asterisk-form (RFC 9112, 3.2.2 and 3.2.4)."""
    if target == b"*" and method == b"OPTIONS":
        return Request(method, b"OPTIONS * HTTP/1.1", fields.host, fields)
    absolute = _ABSOLUTE.fullmatch(target)
    if not absolute or not _AUTHORITY.fullmatch(absolute[1]):
        raise BadRequest("malformed target")
    rest = absolute[2]
    if not rest and method == b"OPTIONS":
        rest = b"*"
    elif not rest.startswith(b"/"):
        rest = b"/" + rest
    return Request(method, b"%b %b HTTP/1.1" % (method, rest), absolute[1], fields)


@dataclass(slots=True, eq=False)
class Answer:
    """The head of a node's answer; never changed after it was read.

    head: for the client, up to where the fields about its connection and a body without a length follow.
    family: the class of the status, 1 to 5. RFC 9110, 15: what is of none of them counts as 5.
    length: octets of the body, CHUNKED or UNTIL_CLOSE; 0 where the status forbids one.
    reusable: the connection may serve again. RFC 9112, 6.1: never after a coding in HTTP/1.0.
    """

    status: int
    family: int
    head: bytes
    length: int
    reusable: bool
    fields: AnswerFields


def read_answer(head: bytes) -> Answer:
    """Read the HEAD of an answer, each line with its CRLF; raises BadAnswer.

    Any reason phrase passes: the nodes' own is `200 Data follows`.
    """
    line, _, block = head.partition(b"\r\n")
    found = _STATUS_LINE.fullmatch(line)
    if not found:
        raise BadAnswer("malformed status line")
    fields = answer_fields(block)
    status = int(found[2])
    # RFC 9110, 8.6: neither 1xx nor 204 has a Content-Length.
    framing = b"" if status < 200 or status == 204 else fields.framing
    answer = Answer(
        status=status,
        family=min(status // 100, 5),
        head=b"HTTP/1.1 %b %b\r\n%b%b" % (found[2], found[3] or b"", fields.forward, framing),
        length=0 if status in BODILESS else fields.length,
        reusable=not fields.close and (found[1] == b"1" or (fields.keep_alive and fields.length >= 0)),
        fields=fields,
    )
    remember(seen_answers, head, answer)
    return answer


# Heads that were read, for whoever reads one: look here first.
seen_answers: dict[bytes, Answer] = {}
