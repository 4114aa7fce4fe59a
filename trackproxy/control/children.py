"""Worker processes as the supervisor sees them: started fresh, spoken to over a socket, watched to their end.

What is spoken is in `orders`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from trackproxy.orders import Order

log = logging.getLogger(__name__)

# Ctrl-C reaches every process of a terminal, and `pkill` all of a name: workers take orders from their
# supervisor alone. A blocked signal stays blocked in the program that is started.
FOR_SUPERVISOR = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


SEND_S = 5.0  # for an order to be taken
LAST_WORDS_S = 1.0  # for its last reports to be read; longer only if somebody else has its socket
MOST_RESTS = 60


class Child:
    """One worker process. pid: its process id. ready, closed: set once it has reported that.

    death: its result is how it ended, in words; nothing of it runs any more then.
    """

    def __init__(self, pid: int, control: socket.socket, process: subprocess.Popen[bytes] | None) -> None:
        """Watch process PID over CONTROL. PROCESS: if it was started by this very program."""
        self.pid = pid
        self.control = control
        self.ready = asyncio.Event()
        self.closed = asyncio.Event()
        self.on_suspect: Callable[[int], None] = _nobody
        self.on_event: Callable[[bytes], None] = lambda line: None
        self._process = process
        self._loop = asyncio.get_running_loop()
        self.death: asyncio.Future[str] = self._loop.create_future()
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._ended)
        self._reports = self._loop.create_task(self._listen(), name=f"reports of worker {pid}")

    @classmethod
    def spawn(cls) -> Child:
        """Start a process that waits for its order; raises OSError if there is no room for another one."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, _signals_blocked():
                process = subprocess.Popen(
                    [sys.executable, "-m", "trackproxy.worker_process", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            return cls(process.pid, ours, process)
        except BaseException:
            ours.close()  # so that a process that has started ends
            raise

    def give(self, order: Order) -> None:
        """Give the process its order; if it has ended, `death` says so."""
        with self._blocking():
            order.send(self.control)

    # --- orders ---

    def retire(self, grace_s: float) -> None:
        """Others serve the listeners now: take no connections, let what is open end within GRACE_S."""
        self._send(f"retire {grace_s}\n".encode())

    def stop(self, grace_s: float) -> None:
        """Nobody serves the listeners any more: answer who waits there, then as `retire`, and be quick."""
        self._send(f"stop {grace_s}\n".encode())

    def end(self) -> None:
        """End at once what is open, then the process."""
        self._send(b"end\n")

    def reopen(self) -> None:
        """Its access logs have been moved away: have it write to new files."""
        self._send(b"reopen\n")

    def kill(self) -> None:
        """Kill it; it may hang. Does nothing if it has ended: its descriptor may be another file's by now."""
        if not self.death.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _send(self, order: bytes) -> None:
        with self._blocking():
            self.control.sendall(order)

    @contextmanager
    def _blocking(self) -> Iterator[None]:
        """Let orders be sent whole; a worker that does not take them is about to end, or hangs."""
        try:
            self.control.settimeout(SEND_S)
            yield
        except OSError as error:
            log.debug("worker %d takes no orders: %s", self.pid, error)

    # --- reports ---

    async def _listen(self) -> None:
        reader = asyncio.StreamReader()
        own = self.control.dup()
        transport, _ = await self._loop.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader), sock=own
        )
        try:
            with suppress(OSError):  # its process has ended
                while line := await _line(reader):
                    self._take(line)
        finally:
            transport.close()  # the end of the lines alone does not close it

    def _take(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if word == b"event":
            self.on_event(rest)
            return
        match line.split():
            case [b"ready"]:
                self.ready.set()
            case [b"closed"]:
                self.closed.set()
            case [b"suspect", number]:
                self.on_suspect(int(number))

    def _ended(self) -> None:
        """It has ended: hear what it has said last, then tell."""
        self._loop.remove_reader(self._pidfd)
        alarm = self._loop.call_later(LAST_WORDS_S, self._reports.cancel)
        self._reports.add_done_callback(lambda reports: self._heard_all(alarm))

    def _heard_all(self, alarm: asyncio.TimerHandle) -> None:
        alarm.cancel()
        os.close(self._pidfd)
        self.control.close()
        self.death.set_result(_in_words(self.reap()))

    def reap(self) -> int:
        """Wait for its end; return the exit code, negative for the number of a signal."""
        if self._process is not None:
            return self._process.wait()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


class Ended:
    """A worker that had ended before another program took its generation over."""

    pid = 0

    def __init__(self) -> None:
        self.ready, self.closed = asyncio.Event(), asyncio.Event()
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.death.set_result("ended")
        self.on_suspect: Callable[[int], None] = lambda index: None

    def retire(self, grace_s: float) -> None:
        """It is gone."""

    stop = retire

    def end(self) -> None:
        """It is gone."""

    kill = reopen = end


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Return the next line, nothing at the end of all; one that is too long is left out."""
    while True:
        with suppress(ValueError):
            return await reader.readline()


def _nobody(endpoint: int) -> None:
    """Nobody wants to hear of suspicions yet."""


def _in_words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_SUPERVISOR)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Spare:
    """A process that has started and waits for an order: who replaces a dead worker need not wait for it."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._rests = 0  # calls of `refill` that start nothing, after one that died unasked
        self._rest = 0

    def refill(self, *, wanted: bool) -> None:
        """Have one ready, or none if it is not WANTED; to be called about once a second."""
        if self._child is not None and self._child.death.done():
            log.warning("the spare worker %s", self._child.death.result())
            self._child = None
            self._rests = min(2 * self._rests or 1, MOST_RESTS)
            self._rest = self._rests
        if not wanted:
            self.end()
        elif self._rest:
            self._rest -= 1
        elif self._child is None:
            try:
                self._child = Child.spawn()
            except OSError as error:
                log.warning("no spare worker can be started: %s", error)

    def take(self) -> Child:
        """Return a process to give an order to; raises OSError if there is none to be had."""
        child, self._child = self._child, None
        return child if child is not None and not child.death.done() else Child.spawn()

    def end(self) -> None:
        """Let it go; a process without an order ends when its socket closes."""
        if self._child is not None and not self._child.death.done():
            self._child.kill()
            self._child.reap()
        self._child = None
