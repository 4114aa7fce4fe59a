"""The way of lines to a file: gathered in the event loop, written by a thread, many at once.

Promise: the loop never waits for a disk, and memory is bounded: what does not fit any more is dropped,
counted and told. Several processes may write one file, since each write appends whole lines. When the disk
takes nothing, lines wait for it as far as they fit. A `kill -9` costs the lines of the last beats.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

log = logging.getLogger(__name__)

STDOUT = "-"
BATCH_S = 0.04  # from one batch to the next, at least
CROWD = 1024  # lines that are a batch whatever the time
RETRY_S = 1.0  # after the disk has failed
TELL_S = 10.0  # between two warnings of lines that were dropped
PIPE_BYTES = 4096  # PIPE_BUF: so much goes into a pipe in one piece
MODE = 0o640
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def unusable(path: str) -> str:
    """Return why PATH cannot be a log, nothing if it can; opens and creates nothing."""
    if path in ("", STDOUT):
        return ""
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        return f'"{path}" is a folder'
    if os.path.exists(path):
        return "" if os.access(path, os.W_OK) else f'"{path}" cannot be written by this user'
    if not os.path.isdir(folder):
        return f'there is no folder "{folder}"'
    return "" if os.access(folder, os.W_OK | os.X_OK) else f'this user may create no file in "{folder}"'


class File:
    """One open log, used by one thread at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._whole = True  # it takes what is written in one piece: a pipe does not
        self._mend = False  # a write has failed: a line may have been cut, by us or by another process

    def open(self) -> None:
        """Open it, or another file that has its name now; raises OSError, and the old one stays."""
        if self._path == STDOUT:
            fd = self._fd if self._fd >= 0 else os.dup(1)
        else:
            fd = os.open(self._path, FLAGS, MODE)
        old, self._fd = self._fd, fd
        self._whole = stat.S_ISREG(os.fstat(fd).st_mode)
        if old not in (-1, fd):
            os.close(old)

    def write(self, data: bytes) -> tuple[int, OSError | None]:
        """Append whole lines; return how many bytes of whole lines are there, and why not all."""
        done = 0
        try:
            if self._fd < 0:
                self.open()
            if self._mend:
                self._mend_line()
            while done < len(data):
                done += os.write(self._fd, self._piece(data, done))
        except OSError as error:
            self._mend = True
            return data.rfind(b"\n", 0, done) + 1, error
        return done, None

    def _piece(self, data: bytes, start: int) -> memoryview:
        end = len(data)
        if not self._whole and end - start > PIPE_BYTES:
            end = data.rfind(b"\n", start, start + PIPE_BYTES) + 1 or data.index(b"\n", start) + 1
        return memoryview(data)[start:end]

    def _mend_line(self) -> None:
        """End a line that was cut, so that nothing is taken for its end."""
        if not self._whole or _is_cut(self._path):
            os.write(self._fd, b"\n")
        self._mend = False

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_cut(path: str) -> bool:
    """Return whether the last line of a file lacks its end; it does if nobody can tell."""
    try:
        with open(path, "rb") as file:
            return file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
    except OSError:
        return True


class Writer:
    """The log at one path, for one event loop, whose owner calls `beat` many times a second.

    lines: what has come since the last batch; whoever is in a hurry appends to it, and calls `crowd` once it
    has `crowd_at` of them. Each ends with a line break. dropped: lines that found no room.
    """

    def __init__(self, path: str, most_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        """MOST_BYTES: what may wait here at most, beside CROWD lines."""
        self.path = path
        self.lines: list[bytes] = []
        self.crowd_at = CROWD
        self.dropped = 0
        self._most = most_bytes
        self._loop = loop
        self._file = File(path)
        self._thread = ThreadPoolExecutor(1, "access log")
        self._writing: asyncio.Future[tuple[int, OSError | None]] | None = None
        self._batch = b""  # what is being written, or could not be
        self._failing = False
        self._next = 0.0  # no batch before that
        self._untold = 0
        self._tell_from = 0.0
        self._closing = False
        self._submit(self._open)

    # --- lines ---

    def put(self, line: bytes) -> None:
        """Have LINE written."""
        self.lines.append(line)
        if len(self.lines) >= self.crowd_at:
            self.crowd()

    def crowd(self) -> None:
        """There are `crowd_at` lines: do not wait for the next beat."""
        if self._writing is None and not self._failing:
            self._write()
        else:
            self._trim()
            self.crowd_at = len(self.lines) + CROWD

    def beat(self, now: float) -> None:
        """Have the thread write what has come, if it is idle and the last batch is BATCH_S old."""
        if self._writing is None and now >= self._next and (self.lines or self._batch):
            self._next = now + BATCH_S
            self._write()

    def _write(self) -> None:
        self._trim()
        self._batch += b"".join(self.lines)
        self.lines.clear()
        self.crowd_at = CROWD
        self._writing = self._loop.run_in_executor(self._thread, self._file.write, self._batch)
        self._writing.add_done_callback(lambda done: self._written(*done.result()))

    def _trim(self) -> None:
        """Drop what there is no room for, the last lines first."""
        size = len(self._batch) + sum(map(len, self.lines))
        while self.lines and size > self._most:
            size -= len(self.lines.pop())
            self.dropped += 1
            self._untold += 1

    def _written(self, done: int, error: OSError | None) -> None:
        self._writing = None
        self._batch = self._batch[done:] if error else b""
        if error is None:
            if self._failing:
                log.warning("access log %s: it is written again", self.path)
            self._failing = False
            self._tell_dropped()
            return
        if not self._failing:
            log.error("access log %s cannot be written, its lines wait: %s", self.path, error)
        self._failing = True
        self._next = self._loop.time() + RETRY_S

    def _tell_dropped(self) -> None:
        now = self._loop.time()
        if self._untold and (now >= self._tell_from or self._closing):
            text = "access log %s: %d lines were dropped, since too many waited"
            log.warning(text, self.path, self._untold)
            self._untold, self._tell_from = 0, now + TELL_S

    # --- the file ---

    def reopen(self) -> None:
        """Write to a file that is new at the path, from the next batch on."""
        self._submit(self._open)

    def _submit(self, work: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # it is closed
            self._thread.submit(work)

    def _open(self) -> None:
        try:
            self._file.open()
        except OSError as error:
            log.error("access log %s cannot be opened: %s", self.path, error)

    async def close(self, wait_s: float) -> None:
        """Write what is left, for WAIT_S at most, and end the thread; nothing may be put any more."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self._writing is not None or (self.lines and not self._failing):
                    if self._writing is None:
                        self._write()
                    elif not self._writing.done():
                        await asyncio.wait({self._writing})
                    else:
                        await asyncio.sleep(0)  # `_written` comes next
        left = len(self.lines) + self._batch.count(b"\n")
        if left:
            log.error("access log %s: the disk does not take the last %d lines", self.path, left)
        self._tell_dropped()
        self._submit(self._file.close)
        self._thread.shutdown(wait=False)


class Writers:
    """The logs of one process: one writer for each path."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writers: dict[str, Writer] = {}

    def __bool__(self) -> bool:
        return bool(self._writers)

    def at(self, path: str, most_bytes: int) -> Writer:
        """Return the writer for PATH; the first one who asks says how much may wait."""
        if path not in self._writers:
            self._writers[path] = Writer(path, most_bytes, self._loop)
        return self._writers[path]

    def beat(self, now: float) -> None:
        """To be called many times a second."""
        for writer in self._writers.values():
            writer.beat(now)

    def reopen(self) -> None:
        """Their files have been moved away: write to new ones."""
        for writer in self._writers.values():
            writer.reopen()

    async def close(self, wait_s: float) -> None:
        """Write what is left within WAIT_S."""
        await asyncio.gather(*(writer.close(wait_s) for writer in self._writers.values()))
