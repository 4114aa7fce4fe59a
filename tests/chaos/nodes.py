"""The three nodes of the stage, and what their records say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.node import RECORD
from tests.chaos.processes import ChaosError
from tests.chaos.talk import Program


@dataclass(frozen=True, slots=True)
class Received:
    """One arrival of a request at a node; `at` is CLOCK_MONOTONIC in seconds."""

    at: float
    number: int
    post: bool


class Node:
    """The handle of one node; every method returns once its effect is in force."""

    def __init__(self, name: str, port: int, folder: Path) -> None:
        self.name = name
        self.port = port
        self._records = folder / f"{name}.records"
        self._records.touch()
        self._program = Program("tests.chaos.node", name, port, self._records)
        self._program.tell("up")

    def ready(self) -> None:
        """Wait until it serves for the first time."""
        self._confirmed("up", self._program.read())

    def obey(self, word: str) -> None:
        """One of the commands of `node`."""
        self._confirmed(word, self._program.ask(word))

    def _confirmed(self, word: str, line: str) -> None:
        if line != "ok":
            raise ChaosError(f"node {self.name} answers {line!r} to {word!r}")

    @property
    def newest(self) -> int:
        """The number of the request that has reached it last; 0 if none has."""
        with self._records.open("rb") as records:
            count = records.seek(0, os.SEEK_END) // RECORD.size
            records.seek(max(count - 1, 0) * RECORD.size)
            return int(RECORD.unpack(records.read(RECORD.size))[1]) if count else 0

    def received(self) -> Iterator[Received]:
        """Every request that has reached it so far, in order of arrival."""
        whole = self._records.read_bytes()
        for at, number, post in RECORD.iter_unpack(whole[: len(whole) // RECORD.size * RECORD.size]):
            yield Received(at, number, bool(post))

    def close(self) -> None:
        """End it."""
        self._program.close()
