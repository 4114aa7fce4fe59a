"""The PROXY protocol: every valid header is read whatever follows it, and the first wrong byte is refused."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trackproxy.errors import Side, TrackproxyError
from trackproxy.proxy_protocol import (
    LOCAL_V2,
    MAX_BYTES,
    Peer,
    ProxyHeader,
    ProxyProtocolError,
    header,
    header_v1,
    header_v2,
    parse,
)

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
V4 = bytes((192, 0, 2, 7, 198, 51, 100, 9)) + bytes.fromhex("dc04 01bb")
V6 = bytes.fromhex("20010db8000000000000000000000007 20010db8000000000000000000000009 dc04 01bb")
FROM_V4: Peer = ("192.0.2.7", 56324)
TO_V4: Peer = ("198.51.100.9", 443)
FROM_V6: Peer = ("2001:db8::7", 56324)
TO_V6: Peer = ("2001:db8::9", 443)
TOLD_V4 = ProxyHeader(FROM_V4, TO_V4)
TOLD_V6 = ProxyHeader(FROM_V6, TO_V6)
NOTHING = ProxyHeader(None, None)

# What came of the bytes: the header and its size; None if more is needed; or the word "refused".
Outcome = tuple[ProxyHeader, int] | str | None


def outcome(data: bytes) -> Outcome:
    try:
        return parse(data)
    except ProxyProtocolError:
        return "refused"


def binary(command: int, family: int, block: bytes) -> bytes:
    """Return a header of version 2; COMMAND is the byte, with the version in it."""
    return SIGNATURE + bytes((command, family)) + len(block).to_bytes(2, "big") + block


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def told(source: Peer, destination: Peer) -> ProxyHeader:
    return ProxyHeader(source, destination)


FULL_V6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
LONGEST_V6 = f"PROXY TCP6 {FULL_V6} {FULL_V6} 65535 65535\r\n".encode()
LONGEST_UNKNOWN = f"PROXY UNKNOWN {FULL_V6} {FULL_V6} 65535 65535\r\n".encode()

GOOD: dict[str, tuple[bytes, ProxyHeader]] = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.7 198.51.100.9 56324 443\r\n", TOLD_V4),
    "v1 TCP4 of zeros": (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", told(("0.0.0.0", 0), ("0.0.0.0", 0))),
    "v1 longest TCP4": (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        told(("255.255.255.255", 65535), ("255.255.255.255", 65535)),
    ),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::7 2001:db8::9 56324 443\r\n", TOLD_V6),
    "v1 TCP6 of zeros": (b"PROXY TCP6 :: :: 0 0\r\n", told(("::", 0), ("::", 0))),
    "v1 longest TCP6": (LONGEST_V6, told((FULL_V6, 65535), (FULL_V6, 65535))),
    "v1 TCP6 in long text": (b"PROXY TCP6 2001:0DB8:0:0::7 2001:DB8:0:0:0:0:0:9 56324 443\r\n", TOLD_V6),
    "v1 TCP6 ending in zeros": (
        b"PROXY TCP6 1:2:3:4:5:6:7:: 1:: 1 2\r\n",
        told(("1:2:3:4:5:6:7:0", 1), ("1::", 2)),
    ),
    "v1 TCP6 with a dotted end": (
        b"PROXY TCP6 64:ff9b::192.0.2.7 1:2:3:4:5:6:0.7.0.8 1 2\r\n",
        told(("64:ff9b::c000:207", 1), ("1:2:3:4:5:6:7:8", 2)),
    ),
    "v1 mapped": (b"PROXY TCP6 ::ffff:192.0.2.7 ::FFFF:c633:6409 56324 443\r\n", TOLD_V4),
    "v1 mapped source only": (b"PROXY TCP6 ::ffff:c000:207 2001:db8::9 56324 443\r\n", told(FROM_V4, TO_V6)),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", NOTHING),
    "v1 UNKNOWN with addresses": (b"PROXY UNKNOWN 192.0.2.7 198.51.100.9 56324 443\r\n", NOTHING),
    "v1 UNKNOWN with anything": (b"PROXY UNKNOWN\x00\xff  %n\r\n", NOTHING),
    "v1 longest UNKNOWN": (LONGEST_UNKNOWN, NOTHING),
    "v2 TCP4": (binary(0x21, 0x11, V4), TOLD_V4),
    "v2 TCP6": (binary(0x21, 0x21, V6), TOLD_V6),
    "v2 mapped": (
        binary(0x21, 0x21, bytes(10) + b"\xff\xff" + V4[:4] + bytes(10) + b"\xff\xff" + V4[4:]),
        TOLD_V4,
    ),
    "v2 TCP4 with a TLV": (binary(0x21, 0x11, V4 + tlv(5, b"\r\nid")), TOLD_V4),
    "v2 TCP6 with TLVs": (
        binary(0x21, 0x21, V6 + tlv(4, b"") + tlv(0xE0, bytes(300)) + tlv(1, b"h2")),
        TOLD_V6,
    ),
    "v2 longest": (binary(0x21, 0x11, V4 + tlv(4, bytes(4096 - 12 - 3))), TOLD_V4),
    "v2 LOCAL": (LOCAL_V2, NOTHING),
    "v2 LOCAL with a block": (binary(0x20, 0x11, V4), NOTHING),
    "v2 LOCAL with a block that is none": (binary(0x20, 0x21, b"?"), NOTHING),
    "v2 LOCAL of an unknown family": (binary(0x20, 0xFF, b""), NOTHING),
    "v2 longest LOCAL": (binary(0x20, 0x00, bytes(4096)), NOTHING),
    "v2 UNSPEC": (binary(0x21, 0x00, b""), NOTHING),
    "v2 UNSPEC with a block": (binary(0x21, 0x00, b"?"), NOTHING),
    "v2 unix stream": (binary(0x21, 0x31, b"/run/a".ljust(108, b"\x00") * 2), NOTHING),
}  # fmt: skip


@pytest.mark.parametrize(("data", "meaning"), GOOD.values(), ids=GOOD.keys())
def test_a_valid_header_tells_whose_connection_it_is(data: bytes, meaning: ProxyHeader) -> None:
    assert parse(data) == (meaning, len(data))


@pytest.mark.parametrize(("data", "_meaning"), GOOD.values(), ids=GOOD.keys())
def test_more_is_needed_until_the_last_byte_of_a_header_is_there(data: bytes, _meaning: ProxyHeader) -> None:
    assert [size for size in range(len(data)) if parse(data[:size]) is not None] == []


@pytest.mark.parametrize(("data", "_meaning"), GOOD.values(), ids=GOOD.keys())
@pytest.mark.parametrize("rest", [b"\n", b"\r\n", b"\x00", b"PROXY ", b"GET /", LOCAL_V2, bytes(70_000)])
def test_what_follows_a_header_changes_nothing(data: bytes, _meaning: ProxyHeader, rest: bytes) -> None:
    assert parse(data + rest) == parse(data)


def test_of_no_bytes_nothing_is_known() -> None:
    assert parse(b"") is None


# Each ends with its first wrong byte.
BAD_V1 = {
    "HTTP": b"G",
    "TLS": b"\x16",
    "SMTP": b"E",
    "space first": b" ",
    "LF first": b"\n",
    "lower case": b"p",
    "another word": b"PROXYP",
    "no family": b"PROXY \r",
    "tab": b"PROXY\t",
    "two spaces before the family": b"PROXY  ",
    "UDP": b"PROXY UD",
    "TCP5": b"PROXY TCP5",
    "lower-case family": b"PROXY t",
    "short UNKNOWN": b"PROXY UNKNOW\r",
    "end after the family": b"PROXY TCP4\r",
    "no source": b"PROXY TCP4 \r",
    "two spaces before the source": b"PROXY TCP4  ",
    "tab after the source": b"PROXY TCP4 192.0.2.7\t",
    "two spaces before the destination": b"PROXY TCP4 192.0.2.7  ",
    "two spaces before a port": b"PROXY TCP4 192.0.2.7 198.51.100.9  ",
    "space before the end": b"PROXY TCP4 192.0.2.7 198.51.100.9 1 2 ",
    "no destination": b"PROXY TCP4 192.0.2.7\r",
    "empty destination": b"PROXY TCP4 192.0.2.7 \r",
    "no port": b"PROXY TCP4 192.0.2.7 198.51.100.9\r",
    "no destination port": b"PROXY TCP4 192.0.2.7 198.51.100.9 1\r",
    "empty destination port": b"PROXY TCP4 192.0.2.7 198.51.100.9 1 \r",
    "bare LF": b"PROXY TCP4 192.0.2.7 198.51.100.9 1 2\n",
    "bare CR": b"PROXY TCP4 192.0.2.7 198.51.100.9 1 2\rG",
    "two CRs": b"PROXY TCP4 192.0.2.7 198.51.100.9 1 2\r\r",
    "NUL": b"PROXY TCP4 192.0.2.7 198.51.100.9 1 2\x00",
    "octet above 255": b"PROXY TCP4 192.0.2.256",
    "source octet with a leading zero": b"PROXY TCP4 01",
    "octet of two zeros": b"PROXY TCP4 192.00",
    "destination octet with a leading zero": b"PROXY TCP4 192.0.2.7 198.01",
    "octet of four digits": b"PROXY TCP4 192.0.2.1000",
    "three octets": b"PROXY TCP4 192.0.2 ",
    "five octets": b"PROXY TCP4 192.0.2.7.",
    "empty octet": b"PROXY TCP4 192..",
    "octet with a sign": b"PROXY TCP4 -",
    "hexadecimal octet": b"PROXY TCP4 0x",
    "digit that is not ASCII": b"PROXY TCP4 192.0.2.\xb2",
    "digit in UTF-8": b"PROXY TCP4 \xd9",
    "name": b"PROXY TCP4 l",
    "network": b"PROXY TCP4 192.0.2.7/",
    "v6 source as TCP4": b"PROXY TCP4 :",
    "v6 destination as TCP4": b"PROXY TCP4 192.0.2.7 20:",
    "v4 source as TCP6": b"PROXY TCP6 192.",
    "v4 destination as TCP6": b"PROXY TCP6 :: 198.",
    "group of five digits": b"PROXY TCP6 00001",
    "not hexadecimal": b"PROXY TCP6 g",
    "nine groups": b"PROXY TCP6 1:2:3:4:5:6:7:8:",
    "seven groups": b"PROXY TCP6 1:2:3:4:5:6:7 ",
    "seven groups and a colon": b"PROXY TCP6 1:2:3:4:5:6:7: ",
    "gap for no group": b"PROXY TCP6 1::2:3:4:5:6:7:",
    "two gaps": b"PROXY TCP6 1::2::",
    "three colons": b"PROXY TCP6 :::",
    "one colon first": b"PROXY TCP6 :1",
    "zone": b"PROXY TCP6 fe80::1%",
    "zone of the destination": b"PROXY TCP6 fe80::1 fe80::1%",
    "prefix length": b"PROXY TCP6 ::1/",
    "brackets": b"PROXY TCP6 [",
    "dotted end too early": b"PROXY TCP6 1:2:3:4:5:6.",
    "dotted end too late": b"PROXY TCP6 1:2:3:4:5:6:7:8.",
    "dotted end of three octets": b"PROXY TCP6 ::ffff:192.0.2 ",
    "dotted end with a leading zero": b"PROXY TCP6 ::ffff:192.00",
    "dotted end above 255": b"PROXY TCP6 ::ffff:192.256",
    "hexadecimal dotted end": b"PROXY TCP6 ::ffff:a.",
    "group after a dotted end": b"PROXY TCP6 ::192.0.2.7:",
    "source port above 65535": b"PROXY TCP4 192.0.2.7 198.51.100.9 65536",
    "destination port above 65535": b"PROXY TCP4 192.0.2.7 198.51.100.9 1 65536",
    "source port of six digits": b"PROXY TCP4 192.0.2.7 198.51.100.9 100000",
    "source port with a leading zero": b"PROXY TCP4 192.0.2.7 198.51.100.9 01",
    "destination port with a leading zero": b"PROXY TCP4 192.0.2.7 198.51.100.9 1 00",
    "port with a plus": b"PROXY TCP4 192.0.2.7 198.51.100.9 +",
    "port with a minus": b"PROXY TCP4 192.0.2.7 198.51.100.9 1 -",
    "port with an underscore": b"PROXY TCP4 192.0.2.7 198.51.100.9 1_",
    "hexadecimal port": b"PROXY TCP4 192.0.2.7 198.51.100.9 a",
    "port that is not ASCII": b"PROXY TCP4 192.0.2.7 198.51.100.9 1\xb2",
    "UNKNOWN with a bare LF": b"PROXY UNKNOWN\n",
    "UNKNOWN with a bare LF after text": b"PROXY UNKNOWN a\n",
    "UNKNOWN with a bare CR": b"PROXY UNKNOWN\rG",
    "UNKNOWN without end": LONGEST_UNKNOWN[:-2] + b"?",
    "line of 108 bytes": b"PROXY UNKNOWN".ljust(106),
}
BAD_V2 = {
    "CRLF": b"\r\nG",
    "signature": SIGNATURE[:-1] + b"\r",
    "version 1": SIGNATURE + b"\x11",
    "version 3": SIGNATURE + b"\x31",
    "command 2": SIGNATURE + b"\x22",
    "command 15": SIGNATURE + b"\x2f",
    "UDP over IPv4": SIGNATURE + b"\x21\x12",
    "UDP over IPv6": SIGNATURE + b"\x21\x22",
    "unix datagram": SIGNATURE + b"\x21\x32",
    "IPv4 over anything": SIGNATURE + b"\x21\x10",
    "TCP over anything": SIGNATURE + b"\x21\x01",
    "family 4": SIGNATURE + b"\x21\x41",
    "transport 3": SIGNATURE + b"\x21\x13",
    "longer than 4096": SIGNATURE + b"\x21\x11\x10\x01",
    "far longer than 4096": SIGNATURE + b"\x21\x11\x11",
    "LOCAL longer than 4096": SIGNATURE + b"\x20\x00\x10\x01",
    "UNSPEC longer than 4096": SIGNATURE + b"\x21\x00\x10\x01",
    "TCP4 without addresses": SIGNATURE + b"\x21\x11\x00\x00",
    "TCP4 too short": SIGNATURE + b"\x21\x11\x00\x0b",
    "TCP6 too short": SIGNATURE + b"\x21\x21\x00\x23",
    "one byte where a TLV belongs": SIGNATURE + b"\x21\x11\x00\x0d",
    "two bytes where a TLV belongs": SIGNATURE + b"\x21\x21\x00\x26",
    "TLV longer than the header": SIGNATURE + b"\x21\x11\x00\x10" + V4 + b"\x04\x00\x02",
    "TLV far longer than the header": SIGNATURE + b"\x21\x11\x00\x10" + V4 + b"\x04\x01",
    "one byte after a TLV": SIGNATURE + b"\x21\x11\x00\x11" + V4 + b"\x04\x00\x01",
    "two bytes after a TLV": SIGNATURE + b"\x21\x21\x00\x29" + V6 + b"\x04\x00\x00",
    "second TLV longer than the header": SIGNATURE + b"\x21\x11\x00\x12" + V4 + b"\x04\x00\x00\x04\x00\x01",
}
BAD = {**BAD_V1, **{f"v2: {name}": data for name, data in BAD_V2.items()}}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_header_is_refused_at_its_first_wrong_byte(data: bytes) -> None:
    assert [size for size in range(len(data)) if outcome(data[:size]) is not None] == []
    with pytest.raises(ProxyProtocolError):
        parse(data)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("rest", [b"\r\n", b"\n", b" 1 2\r\n", bytes(5000)])
def test_what_is_refused_stays_refused_whatever_follows(data: bytes, rest: bytes) -> None:
    assert outcome(data + rest) == "refused"


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_refusal_says_what_is_wrong_in_a_short_printable_sentence(data: bytes) -> None:
    with pytest.raises(ProxyProtocolError) as refusal:
        parse(data + b"\x1b[2J\xff")
    message = str(refusal.value)
    assert message.isascii()
    assert message.isprintable()
    assert 10 < len(message) < 80


def test_a_refused_header_is_the_clients_fault() -> None:
    assert issubclass(ProxyProtocolError, TrackproxyError)
    assert ProxyProtocolError.side is Side.CLIENT


def test_no_header_is_longer_than_max_bytes() -> None:
    assert max(len(data) for data, _ in GOOD.values()) == MAX_BYTES == 4112


WRITTEN = {
    "TCP4": (FROM_V4, TO_V4, GOOD["v1 TCP4"][0], GOOD["v2 TCP4"][0]),
    "TCP6": (FROM_V6, TO_V6, GOOD["v1 TCP6"][0], GOOD["v2 TCP6"][0]),
    "TCP6 in long text": (
        ("2001:0DB8:0::7", 56324),
        ("2001:db8::0:9", 443),
        GOOD["v1 TCP6"][0],
        GOOD["v2 TCP6"][0],
    ),
    "highest ports": (
        ("192.0.2.7", 65535),
        ("198.51.100.9", 65535),
        b"PROXY TCP4 192.0.2.7 198.51.100.9 65535 65535\r\n",
        binary(0x21, 0x11, V4[:8] + b"\xff\xff\xff\xff"),
    ),
    "lowest ports": (
        ("192.0.2.7", 0),
        ("198.51.100.9", 0),
        b"PROXY TCP4 192.0.2.7 198.51.100.9 0 0\r\n",
        binary(0x21, 0x11, V4[:8] + bytes(4)),
    ),
    "both mapped": (
        ("::ffff:192.0.2.7", 56324),
        ("::ffff:c633:6409", 443),
        GOOD["v1 TCP4"][0],
        GOOD["v2 TCP4"][0],
    ),
    "mapped source": (("::ffff:192.0.2.7", 56324), TO_V4, GOOD["v1 TCP4"][0], GOOD["v2 TCP4"][0]),
    "mapped destination": (FROM_V4, ("::ffff:198.51.100.9", 443), GOOD["v1 TCP4"][0], GOOD["v2 TCP4"][0]),
    "zones": (("2001:db8::7%eth0", 56324), ("2001:db8::9%2", 443), GOOD["v1 TCP6"][0], GOOD["v2 TCP6"][0]),
}


@pytest.mark.parametrize(("source", "destination", "text", "bytes_"), WRITTEN.values(), ids=WRITTEN.keys())
def test_a_header_is_written_with_the_addresses(
    source: Peer, destination: Peer, text: bytes, bytes_: bytes
) -> None:
    assert header_v1(source, destination) == header("v1", source, destination) == text
    assert header_v2(source, destination) == header("v2", source, destination) == bytes_


UNTOLD: dict[str, tuple[Peer | None, Peer | None]] = {
    "neither": (None, None),
    "no source": (None, TO_V4),
    "no destination": (FROM_V4, None),
    "IPv4 to IPv6": (FROM_V4, TO_V6),
    "IPv6 to IPv4": (FROM_V6, TO_V4),
    "mapped to IPv6": (("::ffff:192.0.2.7", 1), TO_V6),
    "name as source": (("localhost", 1), TO_V4),
    "name as destination": (FROM_V4, ("localhost", 1)),
    "unix socket": (("", 0), ("/run/a.sock", 0)),
    "line in an address": (("192.0.2.7\r\n", 1), TO_V4),
    "line in a zone": (("fe80::1%a b\r\n", -1), TO_V6),
    "network": (("192.0.2.0/24", 1), TO_V4),
    "source port below 0": (("192.0.2.7", -1), TO_V4),
    "source port above 65535": (("192.0.2.7", 65536), TO_V4),
    "destination port below 0": (FROM_V6, ("2001:db8::9", -1)),
    "destination port above 65535": (FROM_V6, ("2001:db8::9", 65536)),
}  # fmt: skip


@pytest.mark.parametrize(("source", "destination"), UNTOLD.values(), ids=UNTOLD.keys())
def test_a_header_tells_nothing_unless_both_addresses_are_of_one_family(
    source: Peer | None, destination: Peer | None
) -> None:
    assert header_v1(source, destination) == header("v1", source, destination) == b"PROXY UNKNOWN\r\n"
    assert header_v2(source, destination) == header("v2", source, destination) == LOCAL_V2


def test_a_zone_never_gets_into_a_line() -> None:
    assert header_v1(("fe80::1%a b\r\n", 1), TO_V6) == b"PROXY TCP6 fe80::1 2001:db8::9 1 443\r\n"


def test_the_header_of_probes_is_sixteen_bytes_of_local_without_family_and_block() -> None:
    assert LOCAL_V2 == SIGNATURE + b"\x20\x00\x00\x00"
    assert len(LOCAL_V2) == 16


def test_there_are_no_other_versions() -> None:
    with pytest.raises(KeyError):
        header("v3", FROM_V4, TO_V4)


VERSIONS = st.sampled_from(["v1", "v2"])
PORTS = st.integers(0, 65535)
V4_PEERS = st.tuples(st.ip_addresses(v=4).map(str), PORTS)
V6_PEERS = st.tuples(st.ip_addresses(v=6).map(str).filter(lambda ip: not IPv6Address(ip).ipv4_mapped), PORTS)
PEERS = st.one_of(st.tuples(V4_PEERS, V4_PEERS), st.tuples(V6_PEERS, V6_PEERS))


@st.composite
def valid_headers(draw: st.DrawFn) -> bytes:
    """Return a header as it is written, or with TLVs, or one of the examples."""
    if draw(st.booleans()):
        return draw(st.sampled_from([data for data, _ in GOOD.values()]))
    data = header(draw(VERSIONS), *draw(PEERS))
    if not data.startswith(SIGNATURE):
        return data
    kinds = st.integers(0, 255)
    tlvs = b"".join(
        tlv(*drawn) for drawn in draw(st.lists(st.tuples(kinds, st.binary(max_size=20)), max_size=3))
    )
    return binary(data[12], data[13], data[16:] + tlvs)


@st.composite
def mutated_headers(draw: st.DrawFn) -> bytes:
    """Return a valid header in which up to three pieces were replaced, removed or inserted."""
    data = draw(valid_headers())[:300]
    pieces = st.one_of(
        st.binary(max_size=3), st.sampled_from([b" ", b"\r", b"\n", b"0", b":", b".", b"%", b"\xff"])
    )
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(pieces) + data[at + draw(st.integers(0, 2)) :]
    return data


ANY_BYTES = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=60).map(lambda tail: b"PROXY TCP4 " + tail),
    st.text(" 0129af:.\r\n", max_size=60).map(lambda tail: b"PROXY TCP6 " + tail.encode()),
    st.binary(max_size=60).map(lambda tail: SIGNATURE + tail),
    st.binary(max_size=60).map(lambda tail: SIGNATURE + b"\x21\x11\x00" + tail),
    valid_headers(),
    mutated_headers(),
)


@given(VERSIONS, PEERS)
def test_what_is_written_is_read_again(version: str, peers: tuple[Peer, Peer]) -> None:
    data = header(version, *peers)
    assert parse(data) == (ProxyHeader(*peers), len(data))


@given(VERSIONS, V4_PEERS, V4_PEERS)
def test_mapped_addresses_are_written_and_read_as_ipv4(version: str, source: Peer, destination: Peer) -> None:
    mapped = [(f"::ffff:{ip}", port) for ip, port in (source, destination)]
    assert header(version, *mapped) == header(version, source, destination)
    (ip, port), (to_ip, to_port) = mapped
    line = f"PROXY TCP6 {ip} {to_ip} {port} {to_port}\r\n".encode()
    assert parse(line) == (ProxyHeader(source, destination), len(line))


@given(valid_headers(), st.binary())
def test_every_beginning_of_a_valid_header_is_incomplete_and_nothing_after_it_counts(
    data: bytes, rest: bytes
) -> None:
    told = parse(data)
    assert told is not None
    assert told[1] == len(data)
    assert parse(data + rest) == told
    assert [size for size in range(len(data)) if parse(data[:size]) is not None] == []


@given(ANY_BYTES)
def test_whatever_comes_is_undecided_until_one_byte_decides_it_for_good(data: bytes) -> None:
    outcomes = [outcome(data[:size]) for size in range(len(data) + 1)]
    decided = [found for found in outcomes if found is not None]
    assert outcomes == [None] * (len(outcomes) - len(decided)) + decided[:1] * len(decided)
    if decided and decided[0] != "refused":
        assert decided[0][1] == len(outcomes) - len(decided)


LIKELY = b"\r\n 0:.1" + bytes(range(256))


@given(st.one_of(valid_headers(), mutated_headers(), ANY_BYTES), st.data())
def test_whatever_is_incomplete_can_still_become_valid(data: bytes, cut: st.DataObject) -> None:
    data = data[: cut.draw(st.integers(0, len(data)))]
    assume(outcome(data) is None)
    assert any(outcome(data + bytes((byte,))) != "refused" for byte in LIKELY)


def is_ip(text: str, family: socket.AddressFamily) -> bool:
    try:
        return bool(socket.inet_pton(family, text))
    except (OSError, ValueError):
        return False


@st.composite
def address_texts(draw: st.DrawFn) -> str:
    """Return what looks like an address, and may be one."""
    if draw(st.booleans()):
        groups = draw(
            st.lists(st.sampled_from(["", "0", "1f", "ffff", "00001", "g", "1.2.3.4"]), max_size=10)
        )
        return ":".join(groups)
    octets = draw(st.lists(st.sampled_from(["", "0", "00", "9", "255", "256", "1000"]), max_size=6))
    return draw(st.sampled_from(["", "::", "1:2:3:4:5:6:", "::ffff:"])) + ".".join(octets)


@given(address_texts())
def test_an_address_is_one_exactly_if_the_system_takes_it_for_one(text: str) -> None:
    as_v4 = outcome(f"PROXY TCP4 {text} {text} 1 2\r\n".encode())
    as_v6 = outcome(f"PROXY TCP6 {text} {text} 1 2\r\n".encode())
    assert (as_v4 != "refused") == is_ip(text, socket.AF_INET)
    assert (as_v6 != "refused") == is_ip(text, socket.AF_INET6)


@pytest.mark.parametrize("version", ["TCP4 192.0.2.7 192.0.2.7", "TCP6 :: ::"])
def test_a_port_is_a_decimal_number_that_fits_in_two_bytes(version: str) -> None:
    for text in ["", *map(str, range(0, 70_000, 613)), "65535", "65536", "065535", "99999", "1e3", "0x1"]:
        fits = text.isdecimal() and str(int(text)) == text and int(text) <= 65535
        assert (outcome(f"PROXY {version} {text} 1\r\n".encode()) != "refused") == fits
        assert (outcome(f"PROXY {version} 1 {text}\r\n".encode()) != "refused") == fits
