"""New connections for probes: to a UNIX socket, an IP address, or whatever a name stands for now."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from trackproxy.addresses import is_ip
from trackproxy.units import Address

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)


class Connector:
    """Connects, and keeps the lookups of names that are under way.

    A lookup cannot be called off: it occupies a thread until the resolver gives up. So there is one at a time
    for each name, and who comes while it lasts waits for the same.
    """

    def __init__(self) -> None:
        self._lookups: dict[str, asyncio.Future[list[str]]] = {}

    async def connect(
        self,
        address: Address,
        protocol: Callable[[], ProtocolT],
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> ProtocolT:
        """Return the protocol of a new connection, which the caller closes; raises OSError.

        SERVER_NAME: what its certificate has to name, needed with TLS.

        Of the addresses of a name the first that takes a connection is used, in the resolver's order.
        """
        loop = asyncio.get_running_loop()
        more: dict[str, Any] = {"ssl": tls, "server_hostname": server_name} if tls else {}
        if address.path:
            return (await loop.create_unix_connection(protocol, address.path, **more))[1]
        *others, last = await self._hosts(address.host)
        for host in others:
            try:
                return (await loop.create_connection(protocol, host, address.port, **more))[1]
            except OSError:
                continue
        return (await loop.create_connection(protocol, last, address.port, **more))[1]

    async def _hosts(self, host: str) -> list[str]:
        if is_ip(host):
            return [host]
        if host not in self._lookups:
            self._lookups[host] = lookup = asyncio.ensure_future(look_up(host))
            lookup.add_done_callback(lambda _: self._lookups.pop(host))
        return await asyncio.shield(self._lookups[host])


async def look_up(host: str) -> list[str]:
    """Return the IP addresses of a name, at least one; raises OSError."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in infos]
