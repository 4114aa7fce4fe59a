"""Who asked, as nodes are told: X-Forwarded-*, Forwarded (RFC 7239), Via, X-Request-ID.

What a client says about itself is believed only if it is a trusted proxy; everybody else's words are
replaced by what the connection shows.
"""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass

UNKNOWN = b"unknown"  # RFC 7239, 6.2: a client without an address, on a unix socket


class RequestIds:
    """Makes values of X-Request-ID: 32 hex digits, 16 random ones per process and a count."""

    def __init__(self) -> None:
        self.prefix = secrets.token_hex(8).encode()
        self.next = itertools.count(1).__next__

    def make(self) -> bytes:
        return b"%b%016x" % (self.prefix, self.next())


@dataclass(frozen=True, slots=True)
class Connection:
    """What a client's connection shows.

    peer: its IP address in text, UNKNOWN without one. port: the port that it reached, 0 without one.
    """

    peer: bytes
    port: int
    scheme: bytes = b"http"


def plain_lines(connection: Connection, via: str, ids: RequestIds) -> bytes:
    """Return the lines that are the same for all requests of an untrusted connection.

    They end in the middle of X-Request-ID: its count and CRLF are to be appended.
    """
    text = (
        b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Port: %d\r\n"
        b"Via: 1.1 %b\r\nX-Request-ID: %b"
    )
    return text % (connection.peer, connection.scheme, connection.port, via.encode(), ids.prefix)


def full_lines(
    connection: Connection,
    host: bytes,
    named: dict[bytes, bytes],
    via: bytes,
    request_id: bytes,
    forwarded: bool,
) -> bytes:
    """Return all lines for one request; NAMED is what a trusted peer said, empty for others.

    via: the received version and our name (RFC 9110, 7.6.3). forwarded: RFC 7239 is wanted, too.
    """
    given = named.get
    lines = {
        b"X-Forwarded-For": _appended(given(b"x-forwarded-for"), connection.peer),
        b"X-Forwarded-Proto": given(b"x-forwarded-proto") or connection.scheme,
        b"X-Forwarded-Host": given(b"x-forwarded-host") or host,
        b"X-Forwarded-Port": given(b"x-forwarded-port") or b"%d" % connection.port,
        b"Via": via,
        b"X-Request-ID": given(b"x-request-id") or request_id,
    }
    if forwarded:
        lines[b"Forwarded"] = _appended(given(b"forwarded"), _forwarded(connection, host))
    elif b"forwarded" in named:
        lines[b"Forwarded"] = named[b"forwarded"]
    return b"".join(b"%b: %b\r\n" % line for line in lines.items())


def _appended(list_so_far: bytes | None, member: bytes) -> bytes:
    return list_so_far + b", " + member if list_so_far else member


def _forwarded(connection: Connection, host: bytes) -> bytes:
    """Return one element of Forwarded (RFC 7239, 4); IPv6 addresses are bracketed and quoted (6)."""
    peer = b'"[%b]"' % connection.peer if b":" in connection.peer else connection.peer
    return b'for=%b;host="%b";proto=%b' % (peer, host, connection.scheme)
