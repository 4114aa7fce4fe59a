"""A worker's process: takes its order from the supervisor, serves, and does what it is told until it ends.

If the supervisor is gone, nobody probes nodes or replaces workers any more: it ends in good order, so that
the next supervisor finds the addresses free.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from contextlib import suppress

import uvloop

from trackproxy.board import Board
from trackproxy.logs import log_to_stderr
from trackproxy.orders import Order
from trackproxy.worker import Worker, raise_file_limit, tune_collector

log = logging.getLogger(__name__)


def main() -> None:
    """Serve until the supervisor says otherwise; the argument is the descriptor of its socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        order = Order.receive(control)
    except EOFError:
        return  # it was a spare one, or its supervisor is gone
    sys.unraisablehook = _unraisable
    log_to_stderr(order.settings.log_level, f"worker {order.number + 1}")
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(order, control))


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    """Note what nobody could catch; clients cause some, such as by a name in TLS that is none."""
    log.debug("ignored in %r: %r", what.object, what.exc_value)


async def _serve(order: Order, control: socket.socket) -> None:
    control.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=control)
    board = Board.open(order.board_fd)
    worker = Worker(order.settings, board, order.number, lambda index: writer.write(b"suspect %d\n" % index))
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
            _obey_one(worker, line.split())
            writer.write(b"closed\n")
    log.warning("the supervisor is gone: this worker takes no more connections and ends")
    worker.quit(order.settings.grace)


def _obey_one(worker: Worker, words: list[bytes]) -> None:
    match words:
        case [b"retire", grace_s]:
            worker.retire(float(grace_s))
        case [b"stop", grace_s]:
            worker.quit(float(grace_s))
        case [b"end"]:
            worker.end()


if __name__ == "__main__":
    main()
