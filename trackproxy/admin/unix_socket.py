"""Where operators on this machine reach us: a unix socket in the state folder, for our own user alone.

It is never a reason not to serve: without it a warning says what does not work. The new socket is bound
under another name and renamed over the one that a dead process has left, so that nobody finds a socket
without its mode, or none. An upgrade in place closes it (execve); the program that follows replaces it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web

from trackproxy.admin.connections import Connections
from trackproxy.control.memory import CONTROL_SOCKET
from trackproxy.errors import TrackproxyError
from trackproxy.units import SUN_PATH_BYTES

log = logging.getLogger(__name__)

BACKLOG = 16
KNOCK_S = 1.0  # for a process that listens there to show that it does
END_S = 1.0  # for answers that are still on their way when all is over


Identity = tuple[int, int]


class Unavailable(TrackproxyError):
    """The socket cannot be ours; the message says why."""


@asynccontextmanager
async def reachable(application: web.Application, folder: Path) -> AsyncIterator[None]:
    """Serve APPLICATION at FOLDER/control.sock inside this block, if that can be done."""
    path = folder / CONTROL_SOCKET
    opened = _open_or_warn(path)
    if opened is None:
        yield
        return
    listener, ours = opened
    runner = web.AppRunner(application, shutdown_timeout=END_S)
    try:
        await runner.setup()
        assert runner.server is not None
        connections = Connections(runner.server)
        server = await asyncio.get_running_loop().create_unix_server(connections, sock=listener)
        try:
            yield
        finally:
            remove_path(path, ours)
            server.close()
    finally:
        await runner.cleanup()
        listener.close()


def _open_or_warn(path: Path) -> tuple[socket.socket, Identity] | None:
    try:
        return opened_path(path)
    except (Unavailable, OSError) as error:
        log.warning("no commands (reload, nodes, drain, …) reach this process: %s", why(path, error))
        return None


def opened_path(place: Path | str) -> tuple[socket.socket, Identity]:
    """Return a socket that listens at PLACE, and how to know it again; raises Unavailable or OSError."""
    path = Path(place)
    size_bytes = len(os.fsencode(path))
    if size_bytes > SUN_PATH_BYTES:
        raise Unavailable(
            f"the path {path} has {size_bytes} bytes, the system allows {SUN_PATH_BYTES}; set state_dir"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _must_be_free(path)
    draft = path.with_name(f".c{os.getpid()}")  # no longer than CONTROL_SOCKET
    draft.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(draft))
        draft.chmod(0o600)
        listener.listen(BACKLOG)  # only now can anybody connect
        listener.setblocking(False)
        ours = identity_of(draft)
        draft.replace(path)
    except BaseException:
        listener.close()
        draft.unlink(missing_ok=True)
        raise
    return listener, ours


def _must_be_free(path: Path) -> None:
    """Raise Unavailable unless there is nothing at PATH, or what a dead process has left there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Unavailable(f"{path} is in the way and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocking:
        knocking.settimeout(KNOCK_S)
        try:
            with suppress(TimeoutError, BlockingIOError):  # its queue is full: somebody listens, if slowly
                knocking.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
    raise Unavailable(f"they reach another trackproxy, which answers at {path}; set state_dir")


def why(path: Path | str, error: Exception) -> str:
    """Return what keeps us from PATH."""
    if isinstance(error, OSError):
        return f"{path} cannot be opened: {error.strerror or error}"
    return str(error)


def identity_of(path: Path | str) -> Identity:
    """Return what tells the socket at PATH from any other there; raises OSError."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def remove_path(place: Path | str, ours: Identity) -> None:
    """Remove PLACE, unless it is another process's by now."""
    path = Path(place)
    with suppress(OSError):
        if identity_of(path) == ours:
            path.unlink()
