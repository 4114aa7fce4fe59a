"""A program of the stage at the other end of two pipes: a command goes in, a line comes out."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from tests.chaos.processes import DEADLINE_S, ROOT, ChaosError, end

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TRACKPROXY_")}
ENVIRONMENT["TRACKPROXY_ADMIN__LISTEN"] = ""


class Program:
    """`python -m MODULE ARGUMENTS` in a session of its own; `close` ends it and what it has started."""

    def __init__(self, module: str, *arguments: str | int | Path) -> None:
        self._name = " ".join(map(str, (module, *arguments)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def ask(self, command: str) -> str:
        """Give a command; the line that answers it."""
        self.tell(command)
        return self.read()

    def tell(self, command: str) -> None:
        """Give a command; `read` brings what it is answered with."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
        except BrokenPipeError:
            raise ChaosError(f"{self._name} has ended") from None

    def read(self, deadline_s: float = DEADLINE_S) -> str:
        """The next line that the program says."""
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], deadline_s)[0] or not (line := out.readline()):
            raise ChaosError(f"{self._name} says nothing (exit code {self._process.poll()})")
        return line.strip()

    def close(self) -> None:
        """End it; it may have ended before."""
        end(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # an unread command; nobody is there to read it
