"""What addresses mean: who is trusted, who counts as one client, and the number that policies take."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from trackproxy.addresses import MEMO_ENTRIES, Trust, client_key, number_of

TRUST = Trust([ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"), ip_network("fe80::/10")])


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("2001:db8:1::7", True),
        ("2001:db8:2::7", False),
        ("fe80::1%eth0", True),
        ("unknown", False),
        ("", False),
        ("10.1.2.3" * 100, False),
    ],
)
def test_trusted_is_who_is_in_one_of_the_networks(host: str, trusted: bool) -> None:
    assert [TRUST.trusts(host), TRUST.trusts(host)] == [trusted, trusted]


def test_a_network_may_be_written_as_ipv4_mapped() -> None:
    trust = Trust([ip_network("::ffff:10.0.0.0/104")])
    assert trust.trusts("10.1.2.3")
    assert not trust.trusts("11.1.2.3")


def test_nobody_is_trusted_without_networks() -> None:
    assert not Trust([]).trusts("10.1.2.3")


def test_more_addresses_than_are_remembered_are_told_all_the_same() -> None:
    hosts = [f"{10 + number % 2}.0.{number // 256}.{number % 256}" for number in range(2 * MEMO_ENTRIES)]
    for _ in range(2):
        assert [TRUST.trusts(host) for host in hosts] == [host.startswith("10.") for host in hosts]


@pytest.mark.parametrize(
    ("host", "number"),
    [
        ("192.0.2.7", 0xC0000207),
        ("::ffff:192.0.2.7", 0xC0000207),
        ("::7", 7),
        ("fe80::1%eth0", 0xFE80 << 112 | 1),
        ("unknown", 0),
    ],
)
def test_an_address_has_a_number(host: str, number: int) -> None:
    assert number_of(host) == number


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network(host: str, key: str) -> None:
    assert client_key(host) == key


def test_how_wide_a_client_is_can_be_chosen() -> None:
    assert client_key("192.0.2.7", 24, 48) == client_key("192.0.2.200", 24, 48) == "192.0.2.0/24"
    assert client_key("2001:db8:1:2::3", 24, 48) == "2001:db8:1::/48"
    assert client_key("192.0.2.7", 0, 0) == "0.0.0.0/0"
