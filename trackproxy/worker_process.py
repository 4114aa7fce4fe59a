"""A worker's process: takes its order from the supervisor, serves, and does what it is told until it ends.

If the supervisor is gone, nobody probes nodes or replaces workers any more: it ends in good order, so that
the next supervisor finds the addresses free.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import time
from contextlib import suppress

import uvloop

from trackproxy.board import Board
from trackproxy.logs import handing_on, log_to_stderr, log_what_nobody_catches
from trackproxy.orders import Order
from trackproxy.telling import Event, event
from trackproxy.worker import Worker, raise_file_limit, tune_collector

log = logging.getLogger(__name__)

MOST_UNSENT_BYTES = 64 * 1024  # events that come while so much waits for the supervisor are dropped


def main() -> None:
    """Serve until the supervisor says otherwise; the argument is the descriptor of its socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        order = Order.receive(control)
    except EOFError:
        return  # it was a spare one, or its supervisor is gone
    log_to_stderr(order.settings.log_level, order.settings.log_format, f"worker {order.number + 1}")
    log_what_nobody_catches()
    sys.unraisablehook = _unraisable
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(order, control))


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    """Note what nobody could catch; clients cause some, such as by a name in TLS that is none."""
    log.debug("ignored in %r: %r", what.object, what.exc_value)


async def _serve(order: Order, control: socket.socket) -> None:
    control.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=control)
    reports = Reports(writer)
    with handing_on(reports.event):
        await _serve_until_over(order, reports, reader, writer)


async def _serve_until_over(
    order: Order, reports: Reports, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    board = Board.open(order.board_fd)
    worker = Worker(order.settings, board, order.number, reports.suspect)
    listeners = {name: [_opened(fd) for fd in fds] for name, fds in order.listeners.items()}
    await worker.start(listeners)
    tune_collector()
    writer.write(b"ready\n")
    orders = asyncio.create_task(_obey(worker, order, reader, writer), name="orders")
    over = asyncio.create_task(worker.over.wait(), name="end")
    await asyncio.wait({orders, over}, return_when=asyncio.FIRST_COMPLETED)
    if orders.done():
        orders.result()  # raises what went wrong: better to end than to serve without orders
    await over
    orders.cancel()


class Reports:
    """What goes up to the supervisor of suspicions and events: without waiting for it, and bounded."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._dropped = 0

    def suspect(self, index: int) -> None:
        """Have an endpoint probed, unless too much waits: among that are others of the kind."""
        if not self._writer.is_closing() and not self._is_full():
            self._writer.write(b"suspect %d\n" % index)

    def _is_full(self) -> bool:
        return self._writer.transport.get_write_buffer_size() > MOST_UNSENT_BYTES

    def event(self, told: Event) -> None:
        """Send an event, unless the supervisor does not take what it has been sent; these are counted."""
        if self._writer.is_closing():
            return
        if self._is_full():
            self._dropped += 1
            return
        if self._dropped:
            text = f"{self._dropped} events have not reached the supervisor; they are in the log"
            self._send(event(time.time(), "warning", "worker", text, {"state": "events dropped"}))
            self._dropped = 0
        self._send(told)

    def _send(self, told: Event) -> None:
        self._writer.write(b"event %b\n" % json.dumps(told, ensure_ascii=False).encode())


def _opened(fd: int) -> socket.socket:
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    return listener


async def _obey(
    worker: Worker, order: Order, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Do what each line says; at the end of the lines, the supervisor's end, stop."""
    with suppress(OSError):  # a supervisor that was killed with our reports unread
        while line := await reader.readline():
            if _obey_one(worker, line.split()):
                writer.write(b"closed\n")
    log.warning("the supervisor is gone: this worker takes no more connections and ends")
    worker.quit(order.settings.grace)


def _obey_one(worker: Worker, words: list[bytes]) -> bool:
    """Do what is said, if it is understood; return whether no more connections are taken now."""
    match words:
        case [b"retire", grace_s]:
            worker.retire(float(grace_s))
        case [b"stop", grace_s]:
            worker.quit(float(grace_s))
        case [b"end"]:
            worker.end()
        case [b"reopen"]:
            worker.reopen_logs()
            return False
        case _:
            return False
    return True


if __name__ == "__main__":
    main()
