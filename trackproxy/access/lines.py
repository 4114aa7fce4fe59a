r"""Lines of an access log, made of records: JSON, Apache's Combined, or chosen fields.

Promise: whatever a client sends, a record makes exactly one line of printable UTF-8, and its values can be
read back. Text keeps what is printable UTF-8; a backslash in it is doubled, and each other byte is `\xHH`.
JSON, or the quotes around it in the other formats, come on top of that.

The trick: most of a line is the same for many requests, so that parts of it (`Json.members`, `quoted`) are
made once and joined by whoever keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from trackproxy.access.names import REQUEST_FIELDS

# bytes: from outside. float: milliseconds, but for "time", which is in seconds since 1970.
Value = bytes | str | int | float | Sequence[str]
Record = Mapping[str, Value]

_SAFE = bytes(byte for byte in range(0x20, 0x7F) if byte != ord("\\"))
SAFE_IN_QUOTES = _SAFE.replace(b'"', b"")
_PLAIN = re.compile(rb"[!#-~]+")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
NONE = b"-"


def escaped(raw: bytes) -> bytes:
    """Return RAW as printable UTF-8 in one line, see above."""
    if not raw.translate(None, _SAFE):
        return raw
    return "".join(map(_shown, raw.decode("utf-8", "surrogateescape"))).encode()


def _shown(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def quoted(raw: bytes) -> bytes:
    """Return RAW in quotes, as Combined and fields have it; "-" in quotes for nothing."""
    if raw.translate(None, SAFE_IN_QUOTES):
        raw = escaped(raw).replace(b'"', b'\\"')
    return b'"%b"' % (raw or NONE)


def json_text(raw: bytes) -> bytes:
    """Return RAW as what stands between the quotes of a JSON string."""
    if not raw.translate(None, SAFE_IN_QUOTES):
        return raw
    return escaped(raw).replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def milliseconds(value: float) -> bytes:
    """Return a time with microseconds as decimals."""
    return b"%.3f" % value


def iso_second(second: int) -> bytes:
    """Return the beginning of a time in UTC (RFC 3339), up to its second."""
    return datetime.fromtimestamp(second, UTC).isoformat()[: len("2026-01-01T00:00:00")].encode()


def apache_second(second: int) -> bytes:
    """Return a time in UTC as Apache's logs have it, whatever the locale."""
    at = datetime.fromtimestamp(second, UTC)
    return f"{at.day:02}/{_MONTHS[at.month - 1]}/{at:%Y:%H:%M:%S} +0000".encode()


class Style(Protocol):
    """One format: `line` makes a line, its line break included."""

    def line(self, record: Record) -> bytes: ...


class Json:
    """One JSON object for each line. fields: what it may have, in its order."""

    def __init__(self, fields: Sequence[str] = REQUEST_FIELDS) -> None:
        self.fields = tuple(fields)

    def line(self, record: Record) -> bytes:
        return b"{%b}\n" % self.members(record, self.fields).removesuffix(b",")

    def members(self, record: Record, names: Sequence[str]) -> bytes:
        """Return those of NAMES that RECORD has as members of an object, each with a comma behind it."""
        return b"".join(
            b'"%b":%b,' % (name.encode(), _json(name, record[name])) for name in names if name in record
        )


def _json(name: str, value: Value) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, float):
        return milliseconds(value) if name != "time" else b'"%b"' % _iso(value)
    if isinstance(value, str | bytes):
        return b'"%b"' % json_text(_raw(value))
    return b"[%b]" % b",".join(b'"%b"' % json_text(item.encode()) for item in value)


class Combined:
    """Apache's Combined Log Format; needs a client, which may be "-"."""

    def line(self, record: Record) -> bytes:
        asked = [_raw(record[name]) for name in ("method", "target", "protocol") if name in record]
        request = b" ".join(asked) if len(asked) == 3 else _raw(record.get("request", b""))
        tail = [quoted(_raw(record.get(name, b""))) for name in ("referer", "agent")]
        second = apache_second(int(_number(record["time"])))
        status, size = (_number(record.get(name, 0)) for name in ("status", "bytes"))
        who = escaped(_raw(record.get("client", NONE)))
        head = b"%b - - [%b] %b %b %d" % (
            who,
            second,
            quoted(request),
            b"%03d" % status if status else NONE,
            size,
        )
        return b"%b %b\n" % (head, b" ".join(tail))


class Fields:
    """Chosen fields with a space between them, in quotes where that is needed; "-" for none."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)

    def line(self, record: Record) -> bytes:
        return (
            b" ".join([_word(name, record[name]) if name in record else NONE for name in self.fields]) + b"\n"
        )


def _word(name: str, value: Value) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, float):
        return milliseconds(value) if name != "time" else _iso(value)
    raw = _raw(value) if isinstance(value, str | bytes) else ",".join(value).encode()
    text = escaped(raw).replace(b'"', b'\\"')
    return text if _PLAIN.fullmatch(text) and text != NONE else b'"%b"' % text


def _raw(value: Value) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    assert isinstance(value, bytes)
    return value


def _number(value: Value) -> float:
    assert isinstance(value, int | float)
    return value


def _iso(at: float) -> bytes:
    second = int(at)
    return b"%b.%03dZ" % (iso_second(second), int((at - second) * 1000))


def make_style(name: str, fields: Sequence[str], every: Sequence[str]) -> Style:
    """Return the format NAME with FIELDS, or EVERY one if none are chosen; see the settings."""
    match name:
        case "json":
            return Json(fields or every)
        case "combined":
            return Combined()
    return Fields(fields)
