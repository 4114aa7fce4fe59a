"""The control plane: opens the listening sockets, runs the data plane, and ends it in good order.

This release runs the one worker in its own process.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress

import uvloop

from trackproxy.errors import ListenError
from trackproxy.settings import Settings
from trackproxy.units import Address
from trackproxy.worker import Worker

log = logging.getLogger(__name__)

Companion = Callable[[], AbstractAsyncContextManager[None]]
Sockets = dict[str, list[socket.socket]]

# A request leaves few objects that only the collector frees; looking for them every 700 allocations, as
# Python does by default, costs more than they hold.
GC_THRESHOLDS = (20_000, 20, 50)


def serve(settings: Settings, *, companion: Companion | None = None, banner: str = "") -> int:
    """Serve SETTINGS until SIGTERM or SIGINT; return the exit code.

    companion: entered in the event loop before the first request, left after the last one.
    banner: printed once clients can connect. Raises ListenError; nothing is open then.
    """
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    _raise_file_limit()
    sockets = open_sockets(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, sockets, companion or nullcontext, banner))


async def _serve(
    settings: Settings,
    sockets: Sockets,
    companion: Companion,
    banner: str,
) -> int:
    stop, at_once = asyncio.Event(), asyncio.Event()
    _on_signals(stop, at_once)
    async with companion():
        worker = Worker(settings)
        addresses = {name: [_name(listener) for listener in opened] for name, opened in sockets.items()}
        await worker.start(sockets)
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        for name, listeners in addresses.items():
            log.info("%s: serving on %s", name, ", ".join(listeners))
        if banner:
            sys.stdout.write(banner + "\n")
            sys.stdout.flush()
        await stop.wait()
        log.info(
            "stopping: open requests have %g s to end; a second signal ends them at once", settings.grace
        )
        _remove_paths(settings)  # first: a successor may bind them while this process drains
        await _drain(worker, settings.grace, at_once)
    log.info("stopped")
    return 0


async def _drain(worker: Worker, grace_s: float, at_once: asyncio.Event) -> None:
    drain = asyncio.create_task(worker.stop(grace_s), name="drain")
    second = asyncio.create_task(at_once.wait(), name="second signal")
    await asyncio.wait({drain, second}, return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    if not drain.done():
        drain.cancel()
        await worker.stop(0)


def _on_signals(stop: asyncio.Event, at_once: asyncio.Event) -> None:
    """Set STOP at the first SIGTERM or SIGINT, AT_ONCE at the second."""

    def heard() -> None:
        (at_once if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard)


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- listening sockets ---


def open_sockets(settings: Settings) -> Sockets:
    """Bind the listeners of all services, all or none; raises ListenError."""
    opened: Sockets = {}
    try:
        for name, service in settings.services.items():
            opened[name] = []
            for address in service.listen:
                opened[name] += _open(name, address)
    except ListenError:
        for listeners in opened.values():
            for listener in listeners:
                listener.close()
        raise
    return opened


def _open(name: str, address: Address) -> list[socket.socket]:
    try:
        if address.path:
            return [_open_path(address.path)]
        return [_bind(family, sockaddr) for family, sockaddr in _resolve(address)]
    except OSError as error:
        raise ListenError(
            f"service {name} cannot listen on {_text(address)}: {_advice(error, address)}"
        ) from error


def _resolve(address: Address) -> list[tuple[int, tuple[str, int]]]:
    """Return (family, socket address) pairs; an empty host is every interface, IPv6 where there is any."""
    if not address.host:
        both: list[tuple[int, tuple[str, int]]] = [(socket.AF_INET, ("0.0.0.0", address.port))]
        return [*both, (socket.AF_INET6, ("::", address.port))] if _ipv6_works() else both
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, (str(sockaddr[0]), address.port)) for family, _, _, _, sockaddr in found]


def _ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _bind(family: int, sockaddr: tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(sockaddr)
        listener.listen(1)  # the worker sets the real backlog; this makes a second bind fail
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _open_path(path: str) -> socket.socket:
    """Bind a unix socket; one that a dead process left behind is replaced."""
    if _is_left_behind(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(1)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _is_left_behind(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _remove_paths(settings: Settings) -> None:
    for service in settings.services.values():
        for address in service.listen:
            if address.path:
                with suppress(FileNotFoundError):
                    os.unlink(address.path)


def _advice(error: OSError, address: Address) -> str:
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


def _name(listener: socket.socket) -> str:
    name = listener.getsockname()
    return str(Address(name[0], name[1])) if isinstance(name, tuple) else f"unix:{name}"
