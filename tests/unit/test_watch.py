"""Watching the settings file: which changes count, and when."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from trackproxy.control import watch
from trackproxy.control.watch import FileWatch, stamp
from trackproxy.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "t.toml"
    file.write_text("a")
    return file


def test_a_file_that_stays_as_it_was_is_not_read_again(file: Path) -> None:
    watch = FileWatch(file)
    assert [watch.look(stamp(file)) for _ in range(3)] == [False, False, False]


def test_a_change_is_taken_once_and_only_after_it_has_rested_for_a_look(file: Path) -> None:
    watch = FileWatch(file)
    file.write_text("ab")
    first = watch.look(stamp(file))
    file.write_text("abc")
    assert [first, *(watch.look(stamp(file)) for _ in range(4))] == [False, False, True, False, False]


def test_a_change_before_the_first_look_counts(file: Path) -> None:
    watch = FileWatch(file)
    file.write_text("ab")
    assert [watch.look(stamp(file)) for _ in range(2)] == [False, True]


def test_a_replaced_file_of_the_same_size_and_time_counts(file: Path) -> None:
    watch = FileWatch(file)
    new = file.with_suffix(".new")
    new.write_text("b")
    found = file.stat()
    os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))
    new.replace(file)
    assert [watch.look(stamp(file)) for _ in range(2)] == [False, True]


def test_a_missing_file_is_waited_for(file: Path) -> None:
    watch = FileWatch(file)
    file.unlink()
    gone = [watch.look(stamp(file)) for _ in range(3)]
    file.write_text("ab")
    assert gone == [False, False, False]
    assert [watch.look(stamp(file)) for _ in range(3)] == [False, True, False]


def test_a_link_that_leads_elsewhere_counts(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.toml").write_text(name)
    (tmp_path / "..data").symlink_to("one")
    file = tmp_path / "t.toml"
    file.symlink_to("..data/t.toml")
    watch = FileWatch(file)
    (tmp_path / "..tmp").symlink_to("two")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    assert [watch.look(stamp(file)) for _ in range(2)] == [False, True]


async def test_what_is_said_against_a_change_does_not_end_the_watch(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.01)
    settings = Settings(file)
    watching = FileWatch(file)
    settings.write("bad")
    async with asyncio.timeout(5):
        with pytest.raises(EndOfTest):
            await watching.run(settings.reload)
    assert settings.read == ["bad", "good"]


class Settings:
    """A file that is wrong at first, and right once that has been said."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.read: list[str] = []

    def write(self, text: str) -> None:
        self.file.write_text(text)

    async def reload(self) -> None:
        self.read.append(self.file.read_text())
        if len(self.read) == 2:
            raise EndOfTest
        self.write("good")
        raise ConfigError(["wrong"])


class EndOfTest(Exception):
    """All that was to be seen has been seen."""
