"""What a stream can show: whether lines can be rewritten, colours, characters; and what may be shown."""

from __future__ import annotations

import os
from typing import TextIO

RED, YELLOW, GREEN, PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[39m"


def is_terminal(out: TextIO) -> bool:
    """Return whether lines of a stream can be rewritten."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


def has_colours(out: TextIO) -> bool:
    """Return whether colours are wanted there (no-color.org: not if NO_COLOR is there and not empty)."""
    return is_terminal(out) and not os.environ.get("NO_COLOR")


def takes(out: TextIO, text: str) -> bool:
    """Return whether a stream's encoding has these characters."""
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def printable(text: str) -> str:
    """Return text without what would steer a terminal: nodes have a say in what is told of them."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "�" for one in text)
