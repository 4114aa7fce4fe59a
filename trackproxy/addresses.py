"""IP addresses as connections show them: what they mean for trust, limits and policies, in all protocols.

An IPv4 address that an IPv6 socket has put into an IPv6 one is the IPv4 address; zones mean nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

MEMO_ENTRIES = 4096  # what addresses mean is remembered: image proxies come again and again
ADDRESS_LENGTH = 64  # longer texts are no addresses; the longest one has 39 characters, then there is a zone

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@lru_cache(MEMO_ENTRIES)
def address_of(host: str) -> Address | None:
    """Return the address that HOST is, without its zone; None if it is none."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache
def is_ip(host: str) -> bool:
    """Return whether HOST is an IP address, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def plain_host(host: str) -> str:
    """Return the IPv4 address that the kernel shows as an IPv4-mapped one; anything else as it is."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host


def number_of(host: str) -> int:
    """Return the number of an address, for policies; 0 if HOST is none."""
    address = address_of(host)
    return 0 if address is None else int(address)


@lru_cache(MEMO_ENTRIES)
def client_key(host: str, v4_bits: int = 32, v6_bits: int = 64) -> str:
    """Return the text of the network around HOST that counts as one client; HOST itself if it is no address.

    One customer usually has a whole IPv6 /64, so that its single addresses tell nothing.
    """
    address = address_of(host)
    if address is None:
        return host
    return str(ip_network((address, v4_bits if address.version == 4 else v6_bits), strict=False))


class Trust:
    """Tells who is in one of some networks, such as our own proxies."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = [_plain_network(network) for network in networks]
        self._believed = lru_cache(MEMO_ENTRIES)(self._look)

    def trusts(self, host: str) -> bool:
        """Whether HOST is in one of the networks; what is no address is not."""
        return bool(self._networks) and len(host) <= ADDRESS_LENGTH and self._believed(host)

    def _look(self, host: str) -> bool:
        address = address_of(host)
        return address is not None and any(address in network for network in self._networks)


def _plain_network(network: Network) -> Network:
    """Return the IPv4 network that an IPv4-mapped one stands for: addresses are compared as IPv4."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None:
        return network
    return IPv4Network((mapped, network.prefixlen - 96))
