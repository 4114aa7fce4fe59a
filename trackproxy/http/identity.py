"""Who asked, as nodes are told: X-Forwarded-*, Forwarded (RFC 7239), Via, X-Request-ID.

What a client says about itself is believed only if it is a trusted proxy; everybody else's words are
replaced by what the connection shows.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

UNKNOWN = b"unknown"  # RFC 7239, 6.2: a client without an address, on a unix socket

MEMO_ENTRIES = 4096  # what addresses mean is remembered: image proxies come again and again
ADDRESS_LENGTH = 64  # longer texts are no addresses; the longest one has 39 characters, then there is a zone
HOPS = 32  # entries of X-Forwarded-For that are looked at

# An entry of X-Forwarded-For: an address, or "address:port" with IPv6 in brackets.
_V4, _V6 = rb"([0-9.]+)", rb"([0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%\w+)?)"
_ENTRY = re.compile(rb"(?:%b|\[%b\])(?::[0-9]{1,5})?|%b" % (_V4, _V6, _V6))

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@lru_cache(MEMO_ENTRIES)
def _address(host: str) -> Address | None:
    """Return the address that HOST is, without its zone; an IPv4-mapped one is the IPv4 address."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def plain_host(host: str) -> str:
    """Return the IPv4 address that the kernel shows as an IPv4-mapped one; anything else as it is."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host


def number_of(host: str) -> int:
    """Return the number of an address, for policies; 0 if HOST is none."""
    address = _address(host)
    return 0 if address is None else int(address)


@lru_cache(MEMO_ENTRIES)
def client_key(host: str, v4_bits: int = 32, v6_bits: int = 64) -> str:
    """Return the text of the network around HOST that counts as one client; HOST itself if it is no address.

    One customer usually has a whole IPv6 /64, so that its single addresses tell nothing.
    """
    address = _address(host)
    if address is None:
        return host
    return str(ip_network((address, v4_bits if address.version == 4 else v6_bits), strict=False))


class Trust:
    """Tells which peers are our own proxies, and who the client is behind them."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = [_plain_network(network) for network in networks]
        self._believed = lru_cache(MEMO_ENTRIES)(self._look)

    def trusts(self, host: str) -> bool:
        """Whether HOST is in one of the networks; what is no address is not."""
        return bool(self._networks) and len(host) <= ADDRESS_LENGTH and self._believed(host)

    def _look(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded_for: bytes | None) -> tuple[str, bytes]:
        """Return the address of the client, and what nodes are told in X-Forwarded-For.

        Each trusted hop is believed in whom it saw, so the list is read from its right end up to the first
        address that is not trusted. What is further left anybody may have written: nodes do not see it.
        """
        if not forwarded_for or not self.trusts(peer):
            return peer, peer.encode()
        hops = [peer]
        for entry in reversed(forwarded_for.rsplit(b",", HOPS)[-HOPS:]):
            host = _host_in(entry.strip(b" \t"))
            if host is None:
                break
            hops.append(host)
            if not self.trusts(host):
                break
        return hops[-1], ", ".join(reversed(hops)).encode()


def _plain_network(network: Network) -> Network:
    """Return the IPv4 network that an IPv4-mapped one stands for: addresses are compared as IPv4."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None:
        return network
    return IPv4Network((mapped, network.prefixlen - 96))


def _host_in(entry: bytes) -> str | None:
    """Return the address in an entry of X-Forwarded-For, as it is usually written; None if there is none."""
    parts = _ENTRY.fullmatch(entry) if len(entry) <= ADDRESS_LENGTH else None
    if parts is None:
        return None
    address = _address((parts[1] or parts[2] or parts[3]).decode())
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
