"""The way of lines to a file: batches, bounds, disks that are full or slow, files that are moved away."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from trackproxy.access.writer import CROWD, PIPE_BYTES, File, Writer, Writers, unusable

DEADLINE_S = 5.0
CLOSE_S = 2.0
MIB = 1 << 20

Make = Callable[..., Writer]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes writers, by default to a file called log, and closes them."""
    async with AsyncExitStack() as stack:

        def made(path: str | Path = tmp_path / "log", most_bytes: int = MIB) -> Writer:
            writer = Writer(str(path), most_bytes, asyncio.get_running_loop())
            stack.push_async_callback(writer.close, CLOSE_S)
            return writer

        yield made


def beat(writer: Writer) -> None:
    """A beat at which nothing has to wait any longer."""
    writer._next = 0.0
    writer.beat(asyncio.get_running_loop().time())


def content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


class Disk:
    """Stands for `os.write`: takes bytes when it may, and fails when it must.

    error: what it fails with. room: bytes until then. gate: it hangs while this is not set.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error = 0
        self.room = 1 << 40
        self.gate = threading.Event()
        self.gate.set()
        self.hangs = threading.Event()
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: Any) -> int:
        if not self.gate.is_set():
            self.hangs.set()
            self.gate.wait(DEADLINE_S)
        if self.error and not self.room:
            raise OSError(self.error, os.strerror(self.error))
        done = self._write(fd, bytes(data)[: self.room])
        self.room -= done if self.error else 0
        return done


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def test_lines_are_in_the_file_after_a_beat(make: Make, tmp_path: Path) -> None:
    writer = make()
    writer.put(b"1\n")
    writer.put(b"2\n")
    assert writer.lines
    beat(writer)
    await until(lambda: content(tmp_path / "log") == b"1\n2\n")


async def test_what_is_left_is_written_at_the_end(make: Make, tmp_path: Path) -> None:
    writer = make()
    writer.put(b"1\n")
    beat(writer)
    writer.put(b"2\n")
    await writer.close(CLOSE_S)
    assert (tmp_path / "log").read_bytes() == b"1\n2\n"


async def test_a_crowd_does_not_wait_for_the_beat(make: Make, tmp_path: Path) -> None:
    writer = make()
    for number in range(CROWD):
        writer.put(b"%d\n" % number)
    assert not writer.lines
    await until(lambda: content(tmp_path / "log").count(b"\n") == CROWD)


async def test_lines_stay_whole_and_in_order_however_many_come(make: Make, tmp_path: Path) -> None:
    writer = make(most_bytes=100 * MIB)
    for number in range(20 * CROWD):
        writer.put(b"%d\n" % number)
        if not number % 500:
            beat(writer)
            await asyncio.sleep(0)
    await writer.close(CLOSE_S)
    assert [*map(int, (tmp_path / "log").read_bytes().split())] == [*range(20 * CROWD)]


async def test_the_loop_does_not_wait_for_a_disk_that_hangs_and_memory_is_bounded(
    make: Make, tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.gate.clear()
    writer = make(most_bytes=10_000)
    writer.put(b"first\n")
    beat(writer)
    await asyncio.to_thread(disk.hangs.wait, DEADLINE_S)
    for _ in range(10 * CROWD):
        writer.put(b"x" * 99 + b"\n")
        beat(writer)
    assert len(writer.lines) < CROWD + 100
    disk.gate.set()
    await writer.close(CLOSE_S)
    written = (tmp_path / "log").read_bytes().splitlines()
    assert written[0] == b"first"
    assert len(written) + writer.dropped == 10 * CROWD + 1
    (warning,) = [record for record in caplog.records if "dropped" in record.message]
    assert f"{writer.dropped} lines were dropped" in warning.message


@pytest.mark.parametrize("error", [28, 5], ids=["ENOSPC", "EIO"])
async def test_lines_wait_for_a_disk_that_fails_and_it_is_told_once(
    make: Make, tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    caplog.set_level(logging.INFO)
    writer = make()
    disk.error, disk.room = error, 7  # in the middle of the second line
    writer.put(b"12345\n")
    writer.put(b"67890\n")
    for _ in range(3):
        beat(writer)
        await until(lambda: writer._writing is None)
    assert (tmp_path / "log").read_bytes() == b"12345\n6"
    (told,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert os.strerror(error) in told.message
    disk.error, disk.room = 0, MIB
    writer.put(b"abcde\n")
    beat(writer)
    await until(lambda: "it is written again" in caplog.text)
    assert (tmp_path / "log").read_bytes() == b"12345\n6\n67890\nabcde\n", "the cut line is a line of its own"


async def test_nobody_waits_at_the_end_for_a_disk_that_is_full(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make("/dev/full")
    writer.put(b"1\n")
    writer.put(b"2\n")
    async with asyncio.timeout(1):
        await writer.close(60)
    assert "does not take the last 2 lines" in caplog.text


async def test_a_file_that_was_moved_away_is_followed_by_a_new_one(make: Make, tmp_path: Path) -> None:
    writer, path = make(), tmp_path / "log"
    writer.put(b"old\n")
    beat(writer)
    await until(lambda: content(path) != b"" and writer._writing is None)
    path.rename(tmp_path / "log.1")
    writer.put(b"still old\n")
    beat(writer)
    writer.reopen()
    writer.put(b"new\n")
    await writer.close(CLOSE_S)
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "log.1").read_bytes() == b"old\nstill old\n"


async def test_a_file_that_cannot_be_opened_anew_is_written_on(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    writer = make(folder / "log")
    writer.put(b"1\n")
    beat(writer)
    await until(lambda: (folder / "log").exists())
    folder.rename(tmp_path / "elsewhere")
    writer.reopen()
    writer.put(b"2\n")
    await writer.close(CLOSE_S)
    assert (tmp_path / "elsewhere" / "log").read_bytes() == b"1\n2\n"
    assert "cannot be opened" in caplog.text


async def test_a_folder_that_comes_later_gets_the_lines_that_waited(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    writer = make(folder / "log")
    writer.put(b"1\n")
    beat(writer)
    await until(lambda: writer._failing)
    folder.mkdir()
    beat(writer)
    await until(lambda: (folder / "log").exists() and (folder / "log").read_bytes() == b"1\n")


async def test_two_writers_share_a_file_line_by_line(make: Make, tmp_path: Path) -> None:
    writers = [make(), make()]
    for _ in range(5 * CROWD):
        for number, writer in enumerate(writers):
            writer.put(b"%d" % number * 200 + b"\n")
        await asyncio.sleep(0) if not _ % 100 else None
    for writer in writers:
        await writer.close(CLOSE_S)
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert sorted(set(lines)) == [b"0" * 200, b"1" * 200]
    assert len(lines) == 10 * CROWD - sum(writer.dropped for writer in writers)


def test_a_pipe_gets_pieces_of_whole_lines_that_stay_together(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    file, pieces = File("-"), []
    file._fd, file._whole = writing, False
    data = b"".join(b"%d\n" % number * 3 for number in range(1000)) + b"x" * 2 * PIPE_BYTES + b"\n" + b"end\n"
    start = 0
    while start < len(data):
        piece = bytes(file._piece(data, start))
        pieces.append(piece)
        start += len(piece)
    file.close()
    os.close(reading)
    assert b"".join(pieces) == data
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= PIPE_BYTES or piece.count(b"\n") == 1 for piece in pieces)


async def test_services_with_one_path_have_one_writer(tmp_path: Path) -> None:
    writers = Writers(asyncio.get_running_loop())
    assert not writers
    first, second = (writers.at(str(tmp_path / name), MIB) for name in ("a", "b"))
    assert writers.at(str(tmp_path / "a"), MIB) is first is not second
    await writers.close(CLOSE_S)


def test_a_file_is_not_readable_for_everybody(tmp_path: Path) -> None:
    before = os.umask(0)
    with suppress(OSError):
        file = File(str(tmp_path / "log"))
        file.open()
        file.close()
    os.umask(before)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_a_log_is_told_without_making_it(tmp_path: Path) -> None:
    assert unusable("") == unusable("-") == unusable("/dev/null") == unusable(str(tmp_path / "new")) == ""
    assert "is a folder" in unusable(str(tmp_path))
    assert "there is no folder" in unusable(str(tmp_path / "none" / "log"))
    assert "there is no folder" in unusable("/dev/null/log")
    assert [*tmp_path.iterdir()] == []
