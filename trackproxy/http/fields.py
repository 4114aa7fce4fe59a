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
from dataclasses import dataclass, replace
from itertools import filterfalse
from typing import TypeVar

import httptools

from trackproxy.errors import BadAnswer, BadRequest
from trackproxy.http.cookies import set_by_node, split_cookies

# Lengths of bodies that no number of octets tells.
CHUNKED = -1
UNTIL_CLOSE = -2

MEMO_BYTES = 2048
MEMO_ENTRIES = 1024
COOKIE_ENTRIES = 4096

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
# In Connection, these are no names of fields to drop.
NEVER_NAMED = frozenset({b"", b"close", b"keep-alive", b"upgrade"})
# What a client says about itself here is forged unless it is a trusted proxy.
IDENTITY = frozenset(
    {
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"forwarded",
        b"x-request-id",
        b"x-trackproxy-agent",
    }
)
# RFC 9110, 6.5.1: fields that must not come as trailers because they change how the message is read.
NOT_TRAILERS = HOP_BY_HOP | IDENTITY | {b"host", b"expect", b"trailer", b"content-encoding", b"content-type"}

# RFC 9110, 7.2 and RFC 3986, 3.2.2; a comma would make two hosts out of one for some servers.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+;=%]*)(?::[0-9]{0,5})?")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,;\s])timeout\s*=\s*\"?([0-9]{1,6})", re.IGNORECASE)

_LOCATION = re.compile(rb"(?:^|\n)location:([^\r\n]*)", re.IGNORECASE)

Values = dict[bytes, list[bytes]]  # by lower-case name


# The results below are never changed after they were made. They are not frozen, since that makes making
# one several times as expensive, and one is made for every block that was not met before.


@dataclass(slots=True, eq=False)
class RequestFields:
    """What the fields of a request say.

    forward: the end-to-end field lines for the node, each with its CRLF, without Host and framing.
    framing: the lines that frame the body for the node or ask it to switch protocols, or nothing.
    upgrade: the protocols to switch to; nothing with a body, which would have to be waited for.
    length: octets of the body, 0 without one, or CHUNKED.
    host: value of Host, None if there is none.
    named: X-Forwarded-For, -Proto, -Host, -Port, Forwarded and X-Request-ID as the client gave them.
    usual: all the lines above and X-Forwarded-Host, beginning with the CRLF of the request line; it is the
        same for most requests. Nothing without Host.
    count: number of field lines.
    found: values of the cookies that the reader looks for, by name.
    plain: there is no body, expectation or upgrade to look after.
    in_json, in_combined: how lines of an access log tell of it; nothing before the first one does.
    """

    forward: bytes
    framing: bytes
    length: int
    host: bytes | None
    named: dict[bytes, bytes]
    usual: bytes
    count: int
    close: bool
    keep_alive: bool
    expects: bool
    upgrade: bytes
    plain: bool
    found: dict[bytes, list[bytes]]
    in_json: bytes = b""
    in_combined: bytes = b""

    def in_one_zero(self) -> RequestFields:
        """Return what is left in HTTP/1.0, which knows neither Expect nor Upgrade (RFC 9110, 7.8, 10.1.1)."""
        framing = b"" if self.upgrade else self.framing
        return replace(
            self,
            upgrade=b"",
            expects=False,
            framing=framing,
            usual=_usual(self.host, self.forward, framing),
            plain=not self.length,
        )


@dataclass(slots=True, eq=False)
class AnswerFields:
    """What the fields of an answer say.

    forward: the end-to-end field lines for the client, each with its CRLF, without framing.
    framing: the Content-Length line, or nothing.
    length: octets of the body, CHUNKED, or UNTIL_CLOSE if only the end of the connection ends it.
    idle_s: how long the node keeps an idle connection (Keep-Alive: timeout=), None if it does not say.
    cookies: what the answer sets, by name. location: of a redirect, if it has one.
    """

    forward: bytes
    framing: bytes
    length: int
    close: bool
    keep_alive: bool
    upgrade: bytes
    idle_s: float | None
    cookies: dict[bytes, bytes]
    location: bytes


class _Judge:
    """llhttp set on field blocks, without callbacks: what it accepts is split at CRLF afterwards.

    It reads each block as that of a 304 answer, which has no body whatever the fields say: after it the
    parser is ready for the next one.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._parser = httptools.HttpResponseParser(object())

    def split(self, block: bytes) -> list[bytes]:
        """Return the field lines of BLOCK, in which each ends with CRLF, without that.

        Each is a name, a colon, and a value that may have blanks around it. Raises ValueError, with
        llhttp's reason, if this is no valid sequence of field lines.
        """
        message = b"HTTP/1.1 304 \r\n%b\r\n" % block
        try:
            self._parser.feed_data(message)
        except httptools.HttpParserError:
            self._judge_again(message)
        return block[:-2].split(b"\r\n") if block else []

    def _judge_again(self, message: bytes) -> None:
        """Have a fresh parser look: the old one reads nothing more after an error or Connection: close."""
        self._renew()
        try:
            self._parser.feed_data(message)
        except httptools.HttpParserError as error:
            raise ValueError(str(error)) from error


split_block = _Judge().split


class _Met:
    """Tells what comes for the second time: what comes once is not worth keeping.

    It keeps hashes alone, and forgets all of them after LIMIT; a collision costs a kept line, no more.
    """

    LIMIT = 4096

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def again(self, text: bytes) -> bool:
        mark = hash(text)
        if mark in self._hashes:
            return True
        if len(self._hashes) >= self.LIMIT:
            self._hashes.clear()
        self._hashes.add(mark)
        return False


class _Sorter:
    """Tells fields that mean something here from those that are only passed on.

    Even in blocks that differ most lines are the same, so lines that are passed on are remembered, up to
    LINES of up to LINE_BYTES: only what is new or means something is looked at.
    """

    LINES = 2048
    LINE_BYTES = 256

    def __init__(self, meant: frozenset[bytes], forged: frozenset[bytes]) -> None:
        """Take lower-case names. FORGED ones are dropped with "_" for "-", too: the same to CGI nodes."""
        self._meant = meant
        self._forged = forged
        self._passed: set[bytes] = set()
        self._met = _Met()

    def sort(self, lines: list[bytes]) -> tuple[list[bytes], Values]:
        """Return the lines to pass on, and the values of the fields that are meant by lower-case name."""
        meant: set[bytes] = set()
        values: Values = {}
        for line in filterfalse(self._passed.__contains__, lines):
            name, _, value = line.partition(b":")
            key = name.lower()
            if key in self._meant:
                meant.add(line)
                values.setdefault(key, []).append(value.strip(b" \t"))
            elif b"_" in key and key.replace(b"_", b"-") in self._forged:
                meant.add(line)
            elif len(line) <= self.LINE_BYTES and self._met.again(line):
                self._passed.add(line)
        if len(self._passed) > self.LINES:
            self._passed.clear()
        return [*filterfalse(meant.__contains__, lines)], values


REQUEST = HOP_BY_HOP | IDENTITY | {b"host", b"expect"}
_ANSWER = _Sorter(HOP_BY_HOP, forged=frozenset())


def _tokens(values: Values, name: bytes) -> frozenset[bytes]:
    """Return the lower-case members of the list field NAME (RFC 9110, 5.6.1)."""
    given = values.get(name)
    if given is None:
        return _NO_TOKENS
    if len(given) == 1 and given[0] in _USUAL_TOKENS:
        return _USUAL_TOKENS[given[0]]
    return frozenset(token.strip(b" \t").lower() for value in given for token in value.split(b","))


_NO_TOKENS: frozenset[bytes] = frozenset()
_USUAL_TOKENS = {
    text: frozenset({text.lower()}) for text in (b"keep-alive", b"Keep-Alive", b"close", b"Close")
}


def _joined(lines: list[bytes], connection: frozenset[bytes]) -> bytes:
    """Return LINES, each with CRLF, without those that Connection names (RFC 9110, 7.6.1)."""
    named = connection - NEVER_NAMED
    if named:
        lines = [line for line in lines if line.partition(b":")[0].lower() not in named]
    return b"\r\n".join([*lines, b""])


def _body(values: Values) -> tuple[int | None, bytes]:
    """Return the length of the body, CHUNKED or None if nothing is said, and the line that says so.

    Raises ValueError, or BadRequest with 501 for any coding but exactly chunked (RFC 9112, 6.1).
    """
    if b"transfer-encoding" in values:
        if b"content-length" in values:  # RFC 9112, 6.1: the classic of request smuggling
            raise ValueError("Content-Length beside Transfer-Encoding")
        codings = values[b"transfer-encoding"]
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadRequest("Transfer-Encoding is not exactly chunked", 501)
        return CHUNKED, b"Transfer-Encoding: chunked\r\n"
    if b"content-length" in values:
        lengths = values[b"content-length"]
        if len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0]):
            raise ValueError("invalid Content-Length")
        length = int(lengths[0])
        return length, b"Content-Length: %d\r\n" % length
    return None, b""


def _host(values: Values) -> bytes | None:
    given = values.get(b"host")
    if given is None:
        return None
    if len(given) > 1:
        raise ValueError("more than one Host")
    if not _HOST.fullmatch(given[0]):
        raise ValueError("invalid Host")
    return given[0]


def _expects(values: Values) -> bool:
    """Tell whether a 100 is expected; raises BadRequest for any other expectation (RFC 9110, 10.1.1)."""
    if _tokens(values, b"expect") != {b"100-continue"}:
        raise BadRequest("unknown expectation", 417)
    return True


def _upgrade(values: Values, connection: frozenset[bytes]) -> bytes:
    """Return the protocols asked for, without h2c: HTTP/2 inside a tunnel would evade every rule here."""
    if b"upgrade" not in connection:
        return b""
    asked = [protocol.strip(b" \t") for value in values.get(b"upgrade", ()) for protocol in value.split(b",")]
    return b", ".join(protocol for protocol in asked if protocol and protocol.lower() not in (b"h2c", b"h2"))


def _named(values: Values) -> dict[bytes, bytes]:
    """Return the identity fields; lines of one name are joined as one list (RFC 9110, 5.3)."""
    return {name: b", ".join(given) for name, given in values.items() if name in IDENTITY}


def _idle_s(values: Values) -> float | None:
    if b"keep-alive" not in values:
        return None
    hint = _KEEP_ALIVE_TIMEOUT.search(b",".join(values[b"keep-alive"]))
    return float(hint[1]) if hint else None


def _location(block: bytes) -> bytes:
    found = _LOCATION.search(block)
    return found[1].strip(b" \t") if found else b""


def switch_lines(protocols: bytes) -> bytes:
    """Return the lines that ask for, or confirm, a switch of protocols (RFC 9110, 7.8)."""
    return b"Connection: Upgrade\r\nUpgrade: %b\r\n" % protocols


def _usual(host: bytes | None, forward: bytes, framing: bytes) -> bytes:
    if host is None:
        return b""
    return b"\r\nHost: %b\r\n%b%bX-Forwarded-Host: %b\r\n" % (host, forward, framing, host)


def _read_answer_fields(block: bytes) -> AnswerFields:
    passed, values = _ANSWER.sort(split_block(block))
    connection = _tokens(values, b"connection")
    length, framing = _body(values)
    return AnswerFields(
        forward=_joined(passed, connection),
        framing=b"" if length == CHUNKED else framing,
        length=UNTIL_CLOSE if length is None else length,
        close=b"close" in connection,
        keep_alive=b"keep-alive" in connection,
        upgrade=_upgrade(values, connection),
        idle_s=_idle_s(values),
        cookies=set_by_node(block),
        location=_location(block),
    )


def answer_fields(block: bytes) -> AnswerFields:
    """Read the field lines of an answer, each with its CRLF; raises BadAnswer."""
    try:
        return _read_answer_fields(block)
    except (ValueError, BadRequest) as error:
        raise BadAnswer(str(error)) from error


def trailer_lines(block: bytes) -> bytes:
    """Return the trailer lines of BLOCK as they are forwarded; raises ValueError if one may not be there."""
    lines = split_block(block)
    if any(line.partition(b":")[0].lower().replace(b"_", b"-") in NOT_TRAILERS for line in lines):
        raise ValueError("this field may not be a trailer")
    return b"\r\n".join([*lines, b""])


Result = TypeVar("Result")
_MET = _Met()


def remember(seen: dict[bytes, Result], text: bytes, result: Result) -> None:
    """Keep what TEXT means if it comes again. When there is too much, all is forgotten: soon it is back."""
    if len(text) <= MEMO_BYTES and _MET.again(text):
        if len(seen) >= MEMO_ENTRIES:
            seen.clear()
        seen[text] = result


NO_COOKIES: dict[bytes, list[bytes]] = {}


class RequestReader:
    """Reads the fields of requests, for services that look for the same cookies.

    seen: blocks that were read, for whoever reads one: look there first.
    """

    def __init__(self, ours: frozenset[bytes] = frozenset(), asked: frozenset[bytes] = frozenset()) -> None:
        """OURS: names of cookies that are kept from nodes. ASKED: of those that are looked for, OURS too."""
        self.seen: dict[bytes, RequestFields] = {}
        self._ours = ours
        self._asked = asked
        self._sorter = _Sorter(REQUEST | {b"cookie"} if asked else REQUEST, forged=IDENTITY)
        self._usual: re.Pattern[bytes] | None = None
        if len(asked) == 1 and asked == ours:
            self._usual = re.compile(rb"(?:\A|; )%b=([\w\-]+)(?=; |\Z)" % re.escape(next(iter(ours))))
        self._cookies: dict[bytes, tuple[dict[bytes, list[bytes]], list[bytes]]] = {}

    def read(self, block: bytes) -> RequestFields:
        """Read the field lines of a request, each with its CRLF; raises BadRequest."""
        try:
            fields = self._read(block)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        remember(self.seen, block, fields)
        return fields

    def _read(self, block: bytes) -> RequestFields:
        lines = split_block(block)
        passed, values = self._sorter.sort(lines)
        connection = _tokens(values, b"connection")
        length, framing = _body(values)
        expects = b"expect" in values and _expects(values)
        upgrade = b""
        if b"upgrade" in values and not framing:
            upgrade = _upgrade(values, connection)
            framing = switch_lines(upgrade) if upgrade else b""
        found = NO_COOKIES
        if b"cookie" in values:
            found, left = self._split(values[b"cookie"])
            passed += left
        host = _host(values)
        forward = _joined(passed, connection)
        return RequestFields(
            forward=forward,
            framing=framing,
            usual=_usual(host, forward, framing),
            length=length or 0,
            host=host,
            named=_named(values) if values.keys() & IDENTITY else {},
            count=len(lines),
            close=b"close" in connection,
            keep_alive=b"keep-alive" in connection,
            expects=expects,
            upgrade=upgrade,
            plain=not (length or expects or upgrade),
            found=found,
        )

    def _split(self, given: list[bytes]) -> tuple[dict[bytes, list[bytes]], list[bytes]]:
        """Return the cookies that are looked for in the values of Cookie, and the lines that nodes get.

        A client sends the same ones with all of its requests, so what a value means is remembered.
        """
        if len(given) == 1 and given[0] in self._cookies:
            return self._cookies[given[0]]
        result = self._usual_split(given)
        if result is None:
            found, left = split_cookies(given, self._ours)
            if self._asked != self._ours:
                found, _ = split_cookies(given, self._asked)
            result = found, [b"Cookie: " + value for value in left]
        if len(given) == 1 and len(given[0]) <= MEMO_BYTES:
            if len(self._cookies) >= COOKIE_ENTRIES:
                self._cookies.clear()
            self._cookies[given[0]] = result
        return result

    def _usual_split(self, given: list[bytes]) -> tuple[dict[bytes, list[bytes]], list[bytes]] | None:
        """Do the same at half the price for one cookie of ours as browsers write it; else return None."""
        if self._usual is None or len(given) > 1:
            return None
        (name,), (value,) = self._ours, given
        if value.count(name) != 1 or not (pair := self._usual.search(value)):
            return None
        left = (value[: pair.start()] + value[pair.end() :]).removeprefix(b"; ")
        return {name: [pair[1]]}, [b"Cookie: " + left] if left else []


PLAIN = RequestReader()
request_fields, seen_requests = PLAIN.read, PLAIN.seen
