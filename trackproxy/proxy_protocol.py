"""The PROXY protocol: a proxy's word, before the first byte of a connection, for whose it is.

Both versions, read and written, as haproxy.org's proxy-protocol.txt has them (2.1 and 2.2). Reading keeps
nothing: all that has come in is given again until there is a header or it is refused. It is refused at the
first byte after which none can be valid any more, so whoever speaks another protocol is never waited for.
Whether to believe a header is for the caller to know.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct

from trackproxy.errors import Side, TrackproxyError

Peer = tuple[str, int]  # IP as text, port
_Ip = IPv4Address | IPv6Address
_Family = type[IPv4Address] | type[IPv6Address]

_MAX_LINE = 107  # bytes of version 1, CRLF included (2.1)
_STARTS: dict[bytes, _Family | None] = {
    b"PROXY TCP4 ": IPv4Address,
    b"PROXY TCP6 ": IPv6Address,
    b"PROXY UNKNOWN": None,
}
_LINE_END = re.compile(rb"[\r\n]")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_FIELDS = {IPv4Address: ("0.0.0.0", "0.0.0.0", "0", "0"), IPv6Address: ("::", "::", "0", "0")}
# What may begin an address or a port is a whole one as it is, or with one of these after it.
_ENDINGS = ("0", "::", ":", ".0", "0.0", ".0.0", "0.0.0", ".0.0.0", "0.0.0.0")

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED = 16  # bytes: signature, version and command, family and transport, length of what follows
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _UNIX_STREAM, _TCP4, _TCP6 = 0x00, 0x31, 0x11, 0x21
_ADDRESSES: dict[int, tuple[_Family, Struct] | None] = {
    _UNSPEC: None,
    _UNIX_STREAM: None,
    _TCP4: (IPv4Address, Struct("!4s4sHH")),
    _TCP6: (IPv6Address, Struct("!16s16sHH")),
}
LOCAL_V2 = _SIGNATURE + bytes((_LOCAL, _UNSPEC, 0, 0))  # for probes: the connection is our own

# The most a header may take, of either version. The limit is ours: the format has 65,535 bytes follow.
MAX_BYTES = _FIXED + 4096


class ProxyProtocolError(TrackproxyError):
    """A connection does not begin with a valid header; the message repeats no text that came in."""

    side = Side.CLIENT  # the proxy in front of us


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Whose connection it is, as a proxy says; both None: the connection's own addresses hold.

    IPs are in their shortest text (RFC 5952); of an IPv4-mapped one, it is that of the IPv4 address.
    """

    source: Peer | None
    destination: Peer | None


_OWN_ADDRESSES = ProxyHeader(None, None)


def parse(data: bytes) -> tuple[ProxyHeader, int] | None:
    """Return the header that DATA starts with and its size in bytes; None if more is needed to tell.

    At most MAX_BYTES are looked at. After TCP addresses in version 2, TLVs must be well-formed; they are not
    read (so no CRC32C is checked). Raises ProxyProtocolError.
    """
    return _parse_v2(data) if data.startswith(b"\r") else _parse_v1(data)


def _parse_v1(data: bytes) -> tuple[ProxyHeader, int] | None:
    start = next((start for start in _STARTS if data.startswith(start)), None)
    if start is None:
        if any(start.startswith(data) for start in _STARTS):
            return None
        raise ProxyProtocolError("it does not start with a PROXY header")
    family, end = _STARTS[start], _line_end(data)
    header = _OWN_ADDRESSES
    if family is not None:
        fields = data[len(start) : end].decode("latin-1").split(" ")
        header = _read_fields(fields if end is not None else _completed(fields, family), family)
    return (header, end + 2) if end is not None and len(data) >= end + 2 else None


def _line_end(data: bytes) -> int | None:
    """Return where the CR is; None if it has not come in."""
    found = _LINE_END.search(data, 0, _MAX_LINE - 1)
    if found is None:
        if len(data) >= _MAX_LINE - 1:
            raise ProxyProtocolError(f"its line is longer than {_MAX_LINE} bytes")
        return None
    if not b"\r\n".startswith(data[found.start() : found.start() + 2]):
        raise ProxyProtocolError("its line does not end with CRLF")
    return found.start()


def _completed(fields: list[str], family: _Family) -> list[str]:
    """Return four valid fields that begin as these do; if there are none, four (or more) invalid ones."""
    *whole, last = fields
    missing = _FIELDS[family][len(fields) :]
    for ending in _ENDINGS:
        with suppress(ProxyProtocolError):
            _read_fields(completed := [*whole, last + ending, *missing], family)
            return completed
    return [*fields, *missing]


def _read_fields(fields: list[str], family: _Family) -> ProxyHeader:
    if len(fields) != 4:
        raise ProxyProtocolError("its line does not have two addresses and two ports")
    source, destination = _read_ip(fields[0], family), _read_ip(fields[1], family)
    return ProxyHeader((source, _read_port(fields[2])), (destination, _read_port(fields[3])))


def _read_ip(text: str, family: _Family) -> str:
    with suppress(ValueError):
        if "%" not in text:  # a zone means something on one machine only
            return str(_unmapped(family(text)))
    raise ProxyProtocolError("an address in its line is not one of its family")


def _read_port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 0xFFFF:
        raise ProxyProtocolError("a port in its line is not a number from 0 to 65535")
    return int(text)


def _parse_v2(data: bytes) -> tuple[ProxyHeader, int] | None:
    size = _size_v2(data)
    if len(data) < _FIXED:
        return None
    form = _ADDRESSES[data[13]] if data[12] == _PROXY else None
    if form is not None:
        _check_tlvs(data, _FIXED + form[1].size, size)
    if len(data) < size:
        return None
    return (_OWN_ADDRESSES if form is None else _read_addresses(data, *form)), size


def _size_v2(data: bytes) -> int:
    """Return the size of the header in bytes; the least it may be, while its length has not come in."""
    if not _SIGNATURE.startswith(data[: len(_SIGNATURE)]):
        raise ProxyProtocolError("it does not start with a PROXY header")
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise ProxyProtocolError(f"its version and command are 0x{data[12]:02x}")
    if len(data) > 13 and data[12] == _PROXY and data[13] not in _ADDRESSES:
        raise ProxyProtocolError(f"its family and transport are 0x{data[13]:02x}")
    size = _FIXED + _number_at(data, 14)
    if size > MAX_BYTES:
        raise ProxyProtocolError(f"it is longer than {MAX_BYTES} bytes")
    return size


def _check_tlvs(data: bytes, at: int, end: int) -> None:
    """Raise unless nothing but TLVs (type, length, value) may fill AT to END, as far as DATA shows."""
    while at != end:
        shown = len(data) >= at + 3
        at += 3 + _number_at(data, at + 1)
        if at > end:
            raise ProxyProtocolError("its length is not that of its addresses and TLVs")
        if not shown:
            return


def _number_at(data: bytes, at: int) -> int:
    """Return the two bytes at AT as a number; the least it may be, if they have not come in whole."""
    return int.from_bytes(data[at : at + 2].ljust(2, b"\x00"), "big")


def _read_addresses(data: bytes, family: _Family, form: Struct) -> ProxyHeader:
    ip, to_ip, port, to_port = form.unpack_from(data, _FIXED)
    return ProxyHeader((str(_unmapped(family(ip))), port), (str(_unmapped(family(to_ip))), to_port))


def header(version: str, source: Peer | None, destination: Peer | None) -> bytes:
    """Return a header of a VERSION, "v1" or "v2"; it is UNKNOWN or LOCAL if addresses cannot be told.

    They cannot if one is None or not an IP with a port from 0 to 65535, or if they are of two families.
    IPv4-mapped ones are written as IPv4, a zone is left out: neither version has a place for it.
    """
    return {"v1": header_v1, "v2": header_v2}[version](source, destination)


def header_v1(source: Peer | None, destination: Peer | None) -> bytes:
    """Return a header in text, as header() does."""
    known = _known(source, destination)
    if known is None:
        return b"PROXY UNKNOWN\r\n"
    ip, to_ip, port, to_port = known
    return f"PROXY TCP{ip.version} {ip} {to_ip} {port} {to_port}\r\n".encode("ascii")


def header_v2(source: Peer | None, destination: Peer | None) -> bytes:
    """Return a binary header without TLVs, as header() does."""
    known = _known(source, destination)
    if known is None:
        return LOCAL_V2
    ip, to_ip, port, to_port = known
    family = _TCP4 if ip.version == 4 else _TCP6
    block = ip.packed + to_ip.packed + port.to_bytes(2, "big") + to_port.to_bytes(2, "big")
    return _SIGNATURE + bytes((_PROXY, family, 0, len(block))) + block


def _known(source: Peer | None, destination: Peer | None) -> tuple[_Ip, _Ip, int, int] | None:
    if source is None or destination is None:
        return None
    (ip_text, port), (to_text, to_port) = source, destination
    with suppress(ValueError):
        ip, to_ip = _unmapped(_without_zone(ip_text)), _unmapped(_without_zone(to_text))
        if ip.version == to_ip.version and 0 <= port <= 0xFFFF and 0 <= to_port <= 0xFFFF:
            return ip, to_ip, port, to_port
    return None


def _without_zone(text: str) -> _Ip:
    return ip_address(ip_address(text).packed)


def _unmapped(ip: _Ip) -> _Ip:
    """Return the IPv4 address inside an IPv4-mapped one (RFC 4291, 2.5.5.2); any other as it is."""
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip
