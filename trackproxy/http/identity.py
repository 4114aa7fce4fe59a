"""Who asked, as nodes are told: X-Forwarded-*, Forwarded (RFC 7239), Via, X-Request-ID.

What a client says about itself is believed only if it is a trusted proxy; everybody else's words are
replaced by what the connection shows.
"""

from __future__ import annotations

import itertools
import re
import secrets
from dataclasses import dataclass

from trackproxy.addresses import ADDRESS_LENGTH, Trust, address_of

UNKNOWN = b"unknown"  # RFC 7239, 6.2: a client without an address, on a unix socket

HOPS = 32  # entries of X-Forwarded-For that are looked at

# An entry of X-Forwarded-For: an address, or "address:port" with IPv6 in brackets.
_V4, _V6 = rb"([0-9.]+)", rb"([0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%\w+)?)"
_ENTRY = re.compile(rb"(?:%b|\[%b\])(?::[0-9]{1,5})?|%b" % (_V4, _V6, _V6))


def client_behind(peer: str, forwarded_for: bytes | None, trust: Trust) -> tuple[str, bytes]:
    """Return the address of the client, and what nodes are told in X-Forwarded-For.

    Each trusted hop is believed in whom it saw, so the list is read from its right end up to the first
    address that is not trusted. What is further left anybody may have written: nodes do not see it.
    """
    if not forwarded_for or not trust.trusts(peer):
        return peer, peer.encode()
    hops = [peer]
    for entry in reversed(forwarded_for.rsplit(b",", HOPS)[-HOPS:]):
        host = _host_in(entry.strip(b" \t"))
        if host is None:
            break
        hops.append(host)
        if not trust.trusts(host):
            break
    return hops[-1], ", ".join(reversed(hops)).encode()


def _host_in(entry: bytes) -> str | None:
    """Return the address in an entry of X-Forwarded-For, as it is usually written; None if there is none."""
    parts = _ENTRY.fullmatch(entry) if len(entry) <= ADDRESS_LENGTH else None
    if parts is None:
        return None
    address = address_of((parts[1] or parts[2] or parts[3]).decode())
    return None if address is None else str(address)


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


def full_lines(  # noqa: PLR0913 - one for each line
    connection: Connection,
    host: bytes,
    named: dict[bytes, bytes],
    via: bytes,
    request_id: bytes,
    forwarded: bool,
    *,
    forwarded_for: bytes | None = None,
) -> bytes:
    """Return all lines for one request; NAMED is what a trusted peer said, empty for others.

    via: the received version and our name (RFC 9110, 7.6.3). forwarded: RFC 7239 is wanted, too.
    forwarded_for: the whole value of X-Forwarded-For, from `Trust.client`; without it the peer is appended
        to what NAMED says.
    """
    given = named.get
    lines = {
        b"X-Forwarded-For": forwarded_for or _appended(given(b"x-forwarded-for"), connection.peer),
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
