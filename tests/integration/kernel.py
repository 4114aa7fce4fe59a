"""What the kernel holds of a TCP stream, so that a test can tell how much the proxy itself holds."""

from __future__ import annotations

from pathlib import Path

_LISTENING = "0A"


def queued_bytes(*addresses: str) -> int:
    """Bytes in the send and receive queues of all connections from or to these addresses (IPv4)."""
    ports = {int(address.rpartition(":")[2]) for address in addresses}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return sum(
        _queues(row[4]) for row in rows if row[3] != _LISTENING and {_port(row[1]), _port(row[2])} & ports
    )


def _port(address: str) -> int:
    return int(address.split(":")[1], 16)


def _queues(both: str) -> int:
    sending, receiving = both.split(":")
    return int(sending, 16) + int(receiving, 16)
