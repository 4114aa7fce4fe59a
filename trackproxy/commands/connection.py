"""One HTTP exchange with a trackproxy, over its unix socket or TCP: every wait has a deadline, and whatever
goes wrong below HTTP is one sentence that says where, and what to look for."""

from __future__ import annotations

import http.client
import os
import pwd
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from trackproxy.commands.place import Url
from trackproxy.errors import TrackproxyError

Place = Path | Url


class Unreachable(TrackproxyError):
    """Nobody answers; the message says where, and what to look for."""


@contextmanager
def exchange(
    place: Place, method: str, target: str, deadline_s: float, body: str | None, headers: Mapping[str, str]
) -> Iterator[http.client.HTTPResponse]:
    """Yield the answer to a request, to be read inside this block; raises Unreachable, there too.

    DEADLINE_S is for each wait: to connect, for the head, for a piece of the body.
    """
    try:
        with closing(_connection(place, deadline_s)) as connection:
            path = place.path if isinstance(place, Url) else ""
            connection.request(method, path + target, body, dict(headers))
            yield connection.getresponse()
    except TimeoutError as error:
        text = f"the trackproxy at {place} has not answered within {deadline_s:g} s"
        raise Unreachable(text) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(_sentence(place, error)) from error


def _connection(place: Place, deadline_s: float) -> http.client.HTTPConnection:
    if isinstance(place, Path):
        return _UnixConnection(place, deadline_s)
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    return kind(place.host, place.port, timeout=deadline_s)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the path instead of the host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _sentence(place: Place, error: Exception) -> str:
    if isinstance(place, Path):
        if isinstance(error, PermissionError):
            return f"{place}: permission denied; it answers {_owner(place)} and root; try sudo"
        return f"no trackproxy answers at {place}; is it running, with this state_dir?"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"nobody answers at {place}: {reason}; is trackproxy running there, with this admin.listen?"
    return f"what answers at {place} is no trackproxy; is this its admin.listen?"


def _owner(path: Path) -> str:
    """Return whose a path is, as far as we may look."""
    for place in (path, *path.parents):
        try:
            owner = place.stat().st_uid
        except OSError:
            continue
        if owner in (0, os.geteuid()):
            break
        try:
            return f"its own user, {pwd.getpwuid(owner).pw_name},"
        except KeyError:
            return f"its own user, number {owner},"
    return "its own user"
