"""Listening sockets: opened once, kept across reloads and crashes, one for each worker.

The sockets of one address share its connections (SO_REUSEPORT): the kernel spreads them, and each has an
accept queue of its own. What waits in a queue is lost when its socket closes, so a socket stays open for as
long as its address is served, also while no worker reads it; if workers become fewer, those that are left
read the sockets of the others too. A path (unix socket) and what systemd hands over have one socket for all.

A socket for a port that is served already is only bound here, and its first worker has it listen. Until then
the kernel gives it no connections, which would be lost if that worker did not start.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from trackproxy.control.activation import is_theirs
from trackproxy.errors import ListenError
from trackproxy.settings import Settings, listeners_of, tls_name
from trackproxy.units import Address

BACKLOG = 4096


class Place(NamedTuple):
    """Where a socket is bound: an address as resolved; `host` is the path of a unix socket."""

    family: int
    host: str
    port: int

    @classmethod
    def of(cls, listener: socket.socket) -> Place:
        """Return the place of a bound socket."""
        name = listener.getsockname()
        return cls(listener.family, *name[:2]) if isinstance(name, tuple) else cls(listener.family, name, 0)

    def __str__(self) -> str:
        return f"unix:{self.host}" if self.family == socket.AF_UNIX else str(Address(self.host, self.port))


Row = list[socket.socket]  # the sockets of one place: one for each worker, or one for all
Hand = Callable[[Place], Row]  # returns the sockets of a place that are open already, none if there are none


class Listeners:
    """All listening sockets of a supervisor.

    rows: place as configured → its sockets. services: name as of `listeners_of` → the places of its
    listeners.
    """

    def __init__(self, inherited: Mapping[Place, Row] | None = None) -> None:
        """INHERITED: sockets that are open already, from systemd or from the program before an upgrade."""
        self.rows: dict[Place, Row] = dict(inherited or {})
        self.services: dict[str, list[Place]] = {}

    def open(self, settings: Settings, workers: int) -> Listeners:
        """Return the listeners of SETTINGS for so many WORKERS; those that are open already are shared.

        Raises ListenError; nothing that was not open before is open then.
        """
        wanted = Listeners()
        try:
            for name, address in listeners_of(settings):
                places = wanted.services.setdefault(name, [])
                places += self._open(wanted, name, address, max(workers, 1))
        except ListenError:
            wanted.close(keep=self)
            raise
        return wanted

    def _open(self, wanted: Listeners, name: str, address: Address, workers: int) -> list[Place]:
        try:
            places = [place for place in places_of(address) if not self._is_covered(place)]
            for place in places:
                row = list(self.rows.get(place, ()))
                wanted.rows[place] = row
                _fill(row, place, workers, ours=self._has_port(place))
        except OSError as error:
            raise ListenError(
                f"service {name} cannot listen on {_text(address)}: {advice(error, address)}"
            ) from error
        return places

    def _is_covered(self, place: Place) -> bool:
        """Return whether a socket for IPv6 that is open already, from systemd, takes PLACE's IPv4 too."""
        every = self.rows.get(Place(socket.AF_INET6, "::", place.port))
        return (
            (place.family, place.host) == (socket.AF_INET, "0.0.0.0")
            and every is not None
            and not every[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        )

    def _has_port(self, place: Place) -> bool:
        return any(one.port == place.port and one.family == place.family for one in self.rows)

    def hand(self, place: Place) -> Row:
        """Give away the sockets of a place that no service has; none if there are none."""
        taken = any(place in places for places in self.services.values())
        return [] if taken else self.rows.pop(place, [])

    def of_worker(self, number: int, workers: int) -> dict[str, Row]:
        """Return the sockets that worker NUMBER of so many WORKERS reads, for each service."""
        return {
            name: [listener for place in places for listener in _share(self.rows[place], number, workers)]
            for name, places in self.services.items()
        }

    def names(self, service: str) -> list[str]:
        """Return where clients reach a service, nothing once that is closed."""
        listeners = [self.rows[place][0] for place in self.services[service]]
        return [str(Place.of(listener)) for listener in listeners if listener.fileno() >= 0]

    def reached(self, service: str) -> list[str]:
        """Return where clients reach a service, with TLS too; nothing once all is closed."""
        names = [name for name in (service, tls_name(service)) if name in self.services]
        return [str(place) for name in names for place in self.names(name)] if self.rows else []

    def close(self, *, keep: Listeners | None = None) -> None:
        """Close all sockets but those that KEEP has; paths are removed with theirs."""
        kept = {listener for row in (keep.rows.values() if keep else ()) for listener in row}
        for place, row in self.rows.items():
            bound = [listener for listener in row if not is_theirs(listener.fileno())]  # by us
            for listener in row:
                if listener not in kept:
                    listener.close()
            if place.family == socket.AF_UNIX and bound and not (keep and place in keep.rows):
                with suppress(OSError):
                    os.unlink(place.host)


def _share(row: Row, number: int, workers: int) -> Row:
    """Return the sockets of a row that a worker reads; a single one is read by all."""
    return row if len(row) == 1 else row[number::workers]


def places_of(address: Address) -> list[Place]:
    """Return the places of an address; an empty host is every interface, IPv6 where there is any."""
    if address.path:
        return [Place(socket.AF_UNIX, address.path, 0)]
    if not address.host:
        both = [Place(socket.AF_INET, "0.0.0.0", address.port)]
        return [*both, Place(socket.AF_INET6, "::", address.port)] if _ipv6_works() else both
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [Place(family, str(sockaddr[0]), address.port) for family, _, _, _, sockaddr in found]


def _ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _fill(row: Row, place: Place, workers: int, *, ours: bool) -> None:
    """Open what a row lacks; raises OSError. OURS: whoever listens on the port, at another address, is us."""
    if place.family == socket.AF_UNIX:
        if not row:
            row.append(_open_path(place.host))
        return
    fresh = not row and not ours
    if not row:
        if fresh:
            _claim(place)
        row.append(_bind(place, listening=fresh))
    elif not row[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        return  # systemd opened it, for all workers
    while len(row) < workers:
        row.append(_bind(place._replace(port=row[0].getsockname()[1]), listening=fresh))


def _claim(place: Place) -> None:
    """Raise OSError if another process listens here: with SO_REUSEPORT it would lose connections to us."""
    with _socket(place.family) as probe:
        probe.bind((place.host, place.port))
        probe.listen(1)


def _socket(family: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return listener


def _bind(place: Place, *, listening: bool) -> socket.socket:
    with _opened(_socket(place.family)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((place.host, place.port))
        if listening:
            listener.listen(BACKLOG)
    return listener


def _open_path(path: str) -> socket.socket:
    """Bind a unix socket; one that a dead process left behind is replaced."""
    if _is_left_behind(path):
        os.unlink(path)
    with _opened(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        listener.bind(path)
        listener.listen(BACKLOG)
    return listener


def open_alone(place: Place) -> socket.socket:
    """Return a socket that listens at PLACE and shares it with no other; raises OSError."""
    with _opened(_socket(place.family)) as listener:
        listener.bind((place.host, place.port))
        listener.listen(BACKLOG)
    return listener


@contextmanager
def _opened(listener: socket.socket) -> Iterator[socket.socket]:
    """Close LISTENER if this block fails; never wait for it afterwards."""
    try:
        yield listener
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)


def _is_left_behind(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # somebody whose queue is full would have us wait
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def advice(error: OSError, address: Address) -> str:
    """Return what is wrong and what to do about it."""
    if isinstance(error, PermissionError) and not address.path:
        return (
            "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE"
            " (setcap, or AmbientCapabilities in a systemd unit), or choose a higher port"
        )
    if error.errno == errno.EADDRINUSE and not address.path:
        return f"the port is in use; `ss -ltnp 'sport = :{address.port}'` shows by whom"
    if error.errno == errno.EADDRINUSE:
        return "the path is in use by another process, or is no socket"
    return error.strerror or str(error)


def _text(address: Address) -> str:
    return str(address) if address.host or address.path else f":{address.port}"


def by_place(sockets: Iterable[socket.socket]) -> dict[Place, Row]:
    """Return open sockets in rows, those of one place together."""
    rows: dict[Place, Row] = {}
    for listener in sockets:
        rows.setdefault(Place.of(listener), []).append(listener)
    return rows
