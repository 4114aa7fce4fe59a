"""Who asked: what nodes are told, and who is believed."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.addresses import Trust
from trackproxy.http.identity import (
    HOPS,
    UNKNOWN,
    Connection,
    RequestIds,
    client_behind,
    full_lines,
    plain_lines,
)

V4 = Connection(b"192.0.2.7", 80)
V6 = Connection(b"2001:db8::7", 8080)

SAID = {
    b"x-forwarded-for": b"198.51.100.1, 10.0.0.1",
    b"x-forwarded-proto": b"https",
    b"x-forwarded-host": b"said.example",
    b"x-forwarded-port": b"443",
    b"x-request-id": b"theirs",
    b"forwarded": b"for=198.51.100.1",
}


def told(
    connection: Connection = V4, named: dict[bytes, bytes] | None = None, forwarded: bool = False
) -> dict[bytes, bytes]:
    lines = full_lines(connection, b"site", named or {}, b"1.1 proxy", b"ours", forwarded)
    assert lines.endswith(b"\r\n")
    pairs = [line.split(b": ", 1) for line in lines[:-2].split(b"\r\n")]
    assert len({name for name, _ in pairs}) == len(pairs)
    return {name: value for name, value in pairs}


def test_of_an_untrusted_client_nodes_hear_what_its_connection_shows() -> None:
    assert told() == {
        b"X-Forwarded-For": b"192.0.2.7",
        b"X-Forwarded-Proto": b"http",
        b"X-Forwarded-Host": b"site",
        b"X-Forwarded-Port": b"80",
        b"Via": b"1.1 proxy",
        b"X-Request-ID": b"ours",
    }


def test_what_a_trusted_proxy_says_is_kept_and_its_address_appended() -> None:
    assert told(named=SAID) == {
        b"X-Forwarded-For": b"198.51.100.1, 10.0.0.1, 192.0.2.7",
        b"X-Forwarded-Proto": b"https",
        b"X-Forwarded-Host": b"said.example",
        b"X-Forwarded-Port": b"443",
        b"Via": b"1.1 proxy",
        b"X-Request-ID": b"theirs",
        b"Forwarded": b"for=198.51.100.1",
    }


@pytest.mark.parametrize("name", sorted(SAID))
def test_a_trusted_proxy_that_names_nothing_is_replaced_in_that(name: bytes) -> None:
    assert told(named={name: b""}, forwarded=True) == told(forwarded=True)


@pytest.mark.parametrize(
    ("connection", "element"),
    [
        (V4, b'for=192.0.2.7;host="site";proto=http'),
        (V6, b'for="[2001:db8::7]";host="site";proto=http'),
        (Connection(UNKNOWN, 0), b'for=unknown;host="site";proto=http'),
        (Connection(b"192.0.2.7", 443, b"https"), b'for=192.0.2.7;host="site";proto=https'),
    ],
)
def test_forwarded_is_written_where_it_is_wanted(connection: Connection, element: bytes) -> None:
    assert told(connection, forwarded=True)[b"Forwarded"] == element
    assert told(connection, SAID, forwarded=True)[b"Forwarded"] == b"for=198.51.100.1, " + element


def test_an_ipv6_address_is_bare_in_x_forwarded_for() -> None:
    assert told(V6)[b"X-Forwarded-For"] == b"2001:db8::7"


@pytest.mark.parametrize("connection", [V4, V6, Connection(UNKNOWN, 0)])
def test_the_lines_of_a_connection_are_those_of_a_single_request(connection: Connection) -> None:
    ids = RequestIds()
    plain = plain_lines(connection, "proxy", ids) + b"%016x\r\n" % 5
    full = full_lines(connection, b"site", {}, b"1.1 proxy", ids.prefix + b"%016x" % 5, False)
    assert set(plain.split(b"\r\n")) | {b"X-Forwarded-Host: site"} == set(full.split(b"\r\n"))


def test_no_two_requests_of_one_process_have_the_same_id() -> None:
    ids = RequestIds()
    made = [ids.make() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in made)


def test_the_ids_of_two_processes_differ() -> None:
    assert RequestIds().make() != RequestIds().make()


# --- who the client is ---

TRUST = Trust([ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"), ip_network("fe80::/10")])


@pytest.mark.parametrize(
    ("peer", "said", "client", "told"),
    [
        ("192.0.2.7", None, "192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "198.51.100.1", "192.0.2.7", "192.0.2.7"),
        ("unknown", "198.51.100.1", "unknown", "unknown"),
        ("10.0.0.1", None, "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.7", "192.0.2.7", "192.0.2.7, 10.0.0.1"),
        (
            "10.0.0.1",
            "192.0.2.7,10.0.0.2 ,\t10.0.0.3",
            "192.0.2.7",
            "192.0.2.7, 10.0.0.2, 10.0.0.3, 10.0.0.1",
        ),
        ("10.0.0.1", "1.1.1.1, 192.0.2.7", "192.0.2.7", "192.0.2.7, 10.0.0.1"),
        ("10.0.0.1", "10.9.9.9, 192.0.2.7", "192.0.2.7", "192.0.2.7, 10.0.0.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3", "10.0.0.3, 10.0.0.2, 10.0.0.1"),
        ("::ffff:10.0.0.1", "192.0.2.7", "192.0.2.7", "192.0.2.7, ::ffff:10.0.0.1"),
        ("fe80::1%eth0", "192.0.2.7", "192.0.2.7", "192.0.2.7, fe80::1%eth0"),
    ],
)
def test_the_client_is_the_first_from_the_right_who_is_not_trusted(
    peer: str, said: str | None, client: str, told: str
) -> None:
    assert client_behind(peer, None if said is None else said.encode(), TRUST) == (client, told.encode())


@pytest.mark.parametrize(
    "entry",
    [
        "", " ", "unknown", "_hidden", "garbage", "192.0.2", "192.0.2.7.", "192.0.2.256", "192.0.2.7:",
        "192.0.2.7:port", "192.0.2.7:123456", "192.0.2.7%eth0", "[192.0.2.7]", "2001:db8::7::1",
        "[2001:db8::7", "[2001:db8::7]80", '"[2001:db8::7]"', "[unknown]:80", "192.0.2.7 x", "192.0.2.7\0",
        "\xb9.0.2.7", "1" * 5000,
    ],
)  # fmt: skip
def test_an_entry_that_is_no_address_ends_the_walk_at_the_last_good_one(entry: str) -> None:
    said = f"192.0.2.9, {entry}, 10.0.0.2".encode("latin-1")
    assert client_behind("10.0.0.1", said, TRUST) == ("10.0.0.2", b"10.0.0.2, 10.0.0.1")
    assert client_behind("10.0.0.1", entry.encode("latin-1"), TRUST) == ("10.0.0.1", b"10.0.0.1")


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("192.0.2.7:1234", "192.0.2.7"),
        ("[2001:db8::7]:1234", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:DB8:0::0007", "2001:db8::7"),
        ("2001:db8::7%eth0", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:80", "192.0.2.7"),
        ("::1", "::1"),
    ],
)
def test_an_address_is_read_without_its_port_and_told_in_its_usual_form(entry: str, address: str) -> None:
    assert client_behind("10.0.0.1", entry.encode(), TRUST) == (address, f"{address}, 10.0.0.1".encode())
    assert client_behind("10.0.0.1", f"10.0.0.9, {entry}".encode(), TRUST)[0] == address


def test_a_hop_with_a_port_is_passed_if_it_is_trusted() -> None:
    assert client_behind("10.0.0.1", b"192.0.2.7, 10.0.0.2:443", TRUST)[1] == b"192.0.2.7, 10.0.0.2, 10.0.0.1"


@pytest.mark.parametrize(("hops", "reached"), [(HOPS - 1, True), (HOPS, False), (5000, False)])
def test_a_long_list_ends_the_walk(hops: int, reached: bool) -> None:
    said = b"192.0.2.7" + b", 10.0.0.2" * hops
    client, told = client_behind("10.0.0.1", said, TRUST)
    assert client == ("192.0.2.7" if reached else "10.0.0.2")
    assert told.count(b",") == HOPS


ADDRESSES = st.ip_addresses().map(str) | st.integers(0, 255).map("10.0.0.{}".format)


@given(
    peer=ADDRESSES,
    trusted=st.lists(st.integers(0, 255).map("10.0.0.{}".format), max_size=5),
    forged=st.binary(),
)
def test_what_anybody_may_have_written_changes_nothing(peer: str, trusted: list[str], forged: bytes) -> None:
    honest = ", ".join(["192.0.2.7", *trusted]).encode()
    assert client_behind(peer, forged + b"," + honest, TRUST) == client_behind(peer, honest, TRUST)
    client, told = client_behind(peer, forged, TRUST)
    hosts = told.decode().split(", ")
    assert (client, peer) == (hosts[0], hosts[-1])
    assert all(TRUST.trusts(host) for host in hosts[1:])


def test_a_ready_made_value_replaces_what_was_said() -> None:
    told = full_lines(
        V4, b"site", SAID, b"1.1 proxy", b"ours", True, forwarded_for=b"198.51.100.9, 192.0.2.7"
    )
    assert b"X-Forwarded-For: 198.51.100.9, 192.0.2.7\r\n" in told
    assert b"10.0.0.1" not in told
    assert b'Forwarded: for=198.51.100.1, for=192.0.2.7;host="site";proto=http\r\n' in told
