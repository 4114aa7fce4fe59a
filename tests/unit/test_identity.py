"""Who asked: what nodes are told, who is believed, and how addresses are written."""

from __future__ import annotations

import pytest

from trackproxy.http.identity import UNKNOWN, Connection, RequestIds, full_lines, plain_lines

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
