"""What is left of something that takes its time: one line that is rewritten on a terminal, else a line each
second."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

from trackproxy.commands.terminal import GREEN, PLAIN, has_colours, is_terminal, takes

LINE_S = 1.0  # from one line to the next where lines are not rewritten
BAR = 24  # columns of the bar
SHORTEST = 6  # a bar that is worth its place
BLOCKS = ("━", "─")
PLAIN_BLOCKS = ("#", "-")
CLEAR = "\x1b[K"  # to the end of the line


class Show:
    """Writes what is left. width: returns the columns of the terminal."""

    def __init__(
        self,
        out: TextIO,
        clock: Callable[[], float] = time.monotonic,
        width: Callable[[], int] = lambda: shutil.get_terminal_size().columns,
    ) -> None:
        self._out = out
        self._clock = clock
        self._width = width
        self._terminal = is_terminal(out)
        self._colours = has_colours(out)
        self._next = clock()

    def progress(self, text: str, done: float = 0.0) -> None:
        """Show TEXT for now, and on a terminal how much is DONE, from 0 to 1."""
        if self._terminal:
            self._write(f"\r{self._bar(text, done)}{CLEAR}")
        elif self._clock() >= self._next:
            self._next = self._clock() + LINE_S
            self._write(text + "\n")

    def end(self, text: str) -> None:
        """Show TEXT for good."""
        self._write((f"\r{text}{CLEAR}" if self._terminal else text) + "\n")

    def _bar(self, text: str, done: float) -> str:
        """Return bar and text in one line of the terminal: what does not fit would begin a second one."""
        room = self._width() - 1
        size = min(BAR, room - len(text) - 1)
        if size < SHORTEST:
            return text[:room]
        full, empty = BLOCKS if takes(self._out, "".join(BLOCKS)) else PLAIN_BLOCKS
        filled = full * round(size * min(max(done, 0.0), 1.0))
        rest = empty * (size - len(filled))
        return f"{GREEN}{filled}{PLAIN}{rest} {text}" if self._colours else f"{filled}{rest} {text}"

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
