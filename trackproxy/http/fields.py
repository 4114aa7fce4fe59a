"""Field lines of a message head, read strictly and once (RFC 9110, 5; RFC 9112, 5).

A field block goes through llhttp without any leniency, which refuses bare CR or LF, obs-fold, space
before the colon, control characters, repeated or non-numeric Content-Length, and Content-Length beside
Transfer-Encoding. What it lets pass and the RFCs forbid is refused here.

The trick: what a block means does not depend on the request line before it, and clients of one kind
send the same block over and over (mail image proxies by the thousand). So reading is a pure function
from bytes to an immutable result, and the last results are remembered: a repeated block costs one
look-up. Memory is bounded: MEMO_ENTRIES blocks of at most MEMO_BYTES each per kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import httptools

from trackproxy.errors import BadAnswer, BadRequest

MEMO_BYTES = 2048
MEMO_ENTRIES = 1024

# RFC 9110, 7.6.1, with the non-standard Proxy-Connection; none of them is forwarded.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"content-length",  # written anew from what was read
    }
)
# RFC 9110, 7.6.1: a sender must not name these in Connection; honouring it would change the message.
NEVER_DROPPED = frozenset({b"host", b"content-length", b"transfer-encoding"})
# What a client says about itself here is forged unless it is a trusted proxy.
IDENTITY = frozenset(
    {
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"forwarded",
        b"x-request-id",
    }
)
# RFC 9110, 6.5.1: fields that must not come as trailers because they change how the message is read.
NOT_TRAILERS = HOP_BY_HOP | IDENTITY | {b"host", b"expect", b"trailer", b"content-encoding", b"content-type"}

# RFC 9110, 7.2 and RFC 3986, 3.2.2; a comma would make two hosts out of one for some servers.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+;=%]*)(?::[0-9]{0,5})?")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,;\s])timeout\s*=\s*\"?([0-9]{1,6})", re.IGNORECASE)

Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class RequestFields:
    """What the fields of a request say.

    forward: the end-to-end field lines for the node, each with its CRLF, without Host and framing.
    framing: the lines that frame the body for the node or ask it to switch protocols, or nothing.
    upgrade: the protocols to switch to; nothing with a body, which would have to be waited for.
    length: octets of the body, 0 without one, -1 for chunked.
    host: value of Host, None if there is none.
    named: X-Forwarded-For, -Proto, -Host, -Port, Forwarded and X-Request-ID as the client gave them.
    count: number of field lines.
    plain: there is no body, expectation or upgrade to look after.
    """

    forward: bytes
    framing: bytes
    length: int
    host: bytes | None
    named: dict[bytes, bytes]
    count: int
    close: bool
    keep_alive: bool
    expects: bool
    upgrade: bytes
    plain: bool


@dataclass(frozen=True, slots=True)
class AnswerFields:
    """What the fields of an answer say.

    forward: the end-to-end field lines for the client, each with its CRLF, without framing.
    framing: the Content-Length line, or nothing.
    length: octets of the body, -1 for chunked, -2 if only the end of the connection ends it.
    idle_s: how long the node keeps an idle connection (Keep-Alive: timeout=), None if it does not say.
    """

    forward: bytes
    framing: bytes
    length: int
    close: bool
    keep_alive: bool
    upgrade: bytes
    idle_s: float | None
    count: int


class _Collector:
    """Receives llhttp's events; one per parser, emptied before each block."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: Pairs = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name, value.rstrip(b" \t")))


class _BlockParser:
    """llhttp set on field blocks.

    It reads each block as that of a 304 answer, which has no body whatever the fields say: after it the
    parser is ready for the next one. One that has seen the end of a connection or an error is replaced.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._collector = _Collector()
        self._parser = httptools.HttpResponseParser(self._collector)

    def read(self, block: bytes) -> Pairs:
        """Return the (name, value) pairs of BLOCK, whose lines each end with CRLF.

        Raises ValueError, with llhttp's reason, if it is not a valid sequence of field lines.
        """
        collector = self._collector
        pairs: Pairs = []
        collector.pairs = pairs
        try:
            self._parser.feed_data(b"HTTP/1.1 304 \r\n" + block + b"\r\n")
        except httptools.HttpParserError as error:
            self._renew()
            raise ValueError(str(error)) from error
        if b"close" in block.lower():  # perhaps in Connection or Proxy-Connection: llhttp would read no more
            self._renew()
        return pairs


_BLOCKS = _BlockParser()
read_block = _BLOCKS.read


def _tokens(pairs: Pairs, name: bytes) -> list[bytes]:
    """Return the lower-case members of the list field NAME (RFC 9110, 5.6.1)."""
    values = [value for key, value in pairs if key.lower() == name]
    return [token.strip(b" \t").lower() for value in values for token in value.split(b",")]


def _lines(pairs: Pairs, dropped: frozenset[bytes]) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in pairs if pair[0].lower() not in dropped)


def _dropped(connection: list[bytes]) -> frozenset[bytes]:
    named = frozenset(connection) - NEVER_DROPPED
    return HOP_BY_HOP | named


def _length(pairs: Pairs) -> int | None:
    """Return Content-Length, None without one; raises ValueError."""
    values = [value for name, value in pairs if name.lower() == b"content-length"]
    if not values:
        return None
    if len(values) > 1 or not _DIGITS.fullmatch(values[0]):
        raise ValueError("invalid Content-Length")
    return int(values[0])


def _chunked(pairs: Pairs) -> bool:
    """Tell whether the body is chunked; raises BadRequest for any other coding (RFC 9112, 6.1: 501)."""
    codings = [value for name, value in pairs if name.lower() == b"transfer-encoding"]
    if not codings:
        return False
    if len(codings) > 1 or codings[0].lower() != b"chunked":
        raise BadRequest("Transfer-Encoding is not exactly chunked", 501)
    return True


def _framing(length: int | None, chunked: bool) -> bytes:
    if chunked:
        if length is not None:  # RFC 9112, 6.1: the classic of request smuggling
            raise ValueError("Content-Length beside Transfer-Encoding")
        return b"Transfer-Encoding: chunked\r\n"
    return b"" if length is None else b"Content-Length: %d\r\n" % length


def switch_lines(protocols: bytes) -> bytes:
    """Return the lines that ask for, or confirm, a switch of protocols (RFC 9110, 7.8)."""
    return b"Connection: Upgrade\r\nUpgrade: %b\r\n" % protocols


def _host(pairs: Pairs) -> bytes | None:
    hosts = [value for name, value in pairs if name.lower() == b"host"]
    if not hosts:
        return None
    if len(hosts) > 1:
        raise ValueError("more than one Host")
    if not _HOST.fullmatch(hosts[0]):
        raise ValueError("invalid Host")
    return hosts[0]


def _upgrade(pairs: Pairs, connection: list[bytes]) -> bytes:
    """Return the protocols asked for, without h2c: HTTP/2 inside a tunnel would evade every rule here."""
    if b"upgrade" not in connection:
        return b""
    values = [value for name, value in pairs if name.lower() == b"upgrade"]
    protocols = [protocol.strip(b" \t") for value in values for protocol in value.split(b",")]
    return b", ".join(p for p in protocols if p and p.lower() not in (b"h2c", b"h2"))


def _named(pairs: Pairs) -> dict[bytes, bytes]:
    """Return the identity fields; lines of one name are joined as one list (RFC 9110, 5.3)."""
    named: dict[bytes, bytes] = {}
    for name, value in pairs:
        key = name.lower()
        if key in IDENTITY:
            named[key] = named[key] + b", " + value if key in named else value
    return named


def _disguised(name: bytes) -> bytes:
    """Return NAME as a CGI-like node would see it: there X_Forwarded_For is X-Forwarded-For."""
    return name.lower().replace(b"_", b"-")


def _read_request_fields(block: bytes) -> RequestFields:
    pairs = read_block(block)
    connection = _tokens(pairs, b"connection")
    length, chunked = _length(pairs), _chunked(pairs)
    expectations = _tokens(pairs, b"expect")
    if any(expectation != b"100-continue" for expectation in expectations):
        raise BadRequest("unknown expectation", 417)
    upgrade = b"" if length or chunked else _upgrade(pairs, connection)
    end_to_end = [pair for pair in pairs if _disguised(pair[0]) not in IDENTITY]
    return RequestFields(
        forward=_lines(end_to_end, _dropped(connection) | {b"host", b"expect"}),
        framing=_framing(length, chunked) if not upgrade else switch_lines(upgrade),
        length=-1 if chunked else length or 0,
        host=_host(pairs),
        named=_named(pairs),
        count=len(pairs),
        close=b"close" in connection,
        keep_alive=b"keep-alive" in connection,
        expects=bool(expectations),
        upgrade=upgrade,
        plain=not (chunked or length or expectations or upgrade),
    )


def _read_answer_fields(block: bytes) -> AnswerFields:
    pairs = read_block(block)
    connection = _tokens(pairs, b"connection")
    length, chunked = _length(pairs), _chunked(pairs)
    framing = _framing(length, chunked)
    hint = _KEEP_ALIVE_TIMEOUT.search(
        b",".join(value for name, value in pairs if name.lower() == b"keep-alive")
    )
    return AnswerFields(
        forward=_lines(pairs, _dropped(connection)),
        framing=b"" if chunked else framing,
        length=-1 if chunked else -2 if length is None else length,
        close=b"close" in connection,
        keep_alive=b"keep-alive" in connection,
        upgrade=_upgrade(pairs, connection),
        idle_s=float(hint[1]) if hint else None,
        count=len(pairs),
    )


Result = TypeVar("Result")


def _remembered(read: Callable[[bytes], Result]) -> Callable[[bytes], Result]:
    """Remember the last results of READ for blocks of ordinary size."""
    remembered = lru_cache(MEMO_ENTRIES)(read)

    def read_or_remember(block: bytes) -> Result:
        return remembered(block) if len(block) <= MEMO_BYTES else read(block)

    return read_or_remember


_request_fields = _remembered(_read_request_fields)
_answer_fields = _remembered(_read_answer_fields)


def request_fields(block: bytes) -> RequestFields:
    """Read the field lines of a request, each with its CRLF; raises BadRequest."""
    try:
        return _request_fields(block)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def answer_fields(block: bytes) -> AnswerFields:
    """Read the field lines of an answer, each with its CRLF; raises BadAnswer."""
    try:
        return _answer_fields(block)
    except (ValueError, BadRequest) as error:
        raise BadAnswer(str(error)) from error


def trailer_lines(block: bytes) -> bytes:
    """Return the trailer lines of BLOCK as they are forwarded; raises ValueError if one may not be there."""
    pairs = read_block(block)
    if any(name.lower() in NOT_TRAILERS for name, _ in pairs):
        raise ValueError("this field may not be a trailer")
    return _lines(pairs, frozenset())
