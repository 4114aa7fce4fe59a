"""What the tests read and write: HTTP/1 messages as bytes, with nothing clever in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Fields = list[tuple[bytes, bytes]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Message:
    """One request or answer as it was read; `line` is its first line."""

    line: bytes
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.line.split(b" ")[1])

    @property
    def method(self) -> bytes:
        """The method of a request."""
        return self.line.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """The target of a request."""
        return self.line.split(b" ")[1]

    def values(self, name: str) -> list[bytes]:
        """The values of every field of this name, in order."""
        return [value for key, value in self.fields if key.lower() == name.lower().encode()]

    def value(self, name: str) -> bytes | None:
        """The value of the only field of this name; None without one."""
        found = self.values(name)
        assert len(found) <= 1, f"{name} is there {len(found)} times"
        return found[0] if found else None

    def tokens(self, name: str) -> set[bytes]:
        """The list elements of all fields of this name, in lower case."""
        return {token.strip().lower() for value in self.values(name) for token in value.split(b",")}


def fields_of(lines: Iterable[bytes]) -> Fields:
    """Split field lines; the white space around a value goes."""
    pairs = (line.partition(b":") for line in lines)
    return [(name, value.strip(b" \t")) for name, _, value in pairs]


def framing_of(fields: Fields, otherwise: bytes) -> bytes:
    """How a body ends: b"chunked", its length in digits, or `otherwise` (b"close", or b"none": no body)."""
    lower = {name.lower(): value for name, value in fields}
    if b"transfer-encoding" in lower:
        return b"chunked"
    return lower.get(b"content-length", b"0" if otherwise == b"none" else otherwise)


def request(
    target: str | bytes = "/", *fields: str | bytes, method: str = "GET", host: str = "a", body: bytes = b""
) -> bytes:
    """A request of HTTP/1.1; a body gets its Content-Length unless the fields speak of framing."""
    lines = [b"%s %s HTTP/1.1" % (method.encode(), _bytes(target)), b"Host: " + host.encode()]
    lines += [_bytes(line) for line in fields]
    if body and not any(b"transfer-encoding" in line.lower() for line in lines):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def post(target: str = "/", body: bytes = b"hello", *fields: str) -> bytes:
    """A POST with Content-Length."""
    return request(target, *fields, method="POST", body=body)


def answer(*fields: str, body: bytes = b"", status: str = "200 OK", version: str = "1.1") -> bytes:
    """An answer; it gets a Content-Length unless the fields speak of framing."""
    lines = [f"HTTP/{version} {status}", *fields]
    if not any(line.lower().startswith(("transfer-encoding", "content-length")) for line in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    """A chunked body of these pieces; `trailers` are whole lines with their CRLF."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return chunks + b"0\r\n" + trailers + b"\r\n"


def answers_in(stream: bytes) -> Iterator[bytes]:
    """The status lines in everything that a client received."""
    return (line for line in stream.split(b"\r\n") if line.startswith(b"HTTP/1."))


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
