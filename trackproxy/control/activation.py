"""What systemd and its likes are told, and what they hand over (sd_notify(3), sd_listen_fds(3)).

Both protocols are a few environment variables and datagrams; without them nothing here does anything.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)

FIRST_FD = 3  # SD_LISTEN_FDS_START


class Notifier:
    """Tells the service manager about our state.

    watchdog_s: how often it wants to hear from us; 0 is never.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(usec) / 2e6 if mine and usec.isdecimal() else 0.0  # half of what it allows

    def ready(self, status: str) -> None:
        """Clients can connect."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` says that it is over, well or not."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """No new connections any more."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The supervisor's loop turns."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            try:
                sender.sendto("\n".join(lines).encode(), address)
            except OSError:
                return  # nobody listens any more; there is nobody else to tell


def activated_sockets(environment: Mapping[str, str] = os.environ) -> Iterator[socket.socket]:
    """Yield the listening stream sockets that the service manager has opened for us."""
    for fd in _fds(environment):
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
        if listener.type == socket.SOCK_STREAM:
            listener.setblocking(False)
            yield listener
        else:
            log.warning("the service manager's socket %s is of a kind that nothing here serves", fd)
            listener.close()


def is_theirs(fd: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether FD is the service manager's, also after an upgrade: its path is not ours to remove."""
    return fd in _fds(environment)


def _fds(environment: Mapping[str, str]) -> range:
    count = environment.get("LISTEN_FDS", "")
    mine = environment.get("LISTEN_PID") == str(os.getpid()) and count.isdecimal()
    return range(FIRST_FD, FIRST_FD + int(count)) if mine else range(0)
