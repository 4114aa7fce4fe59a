"""Greetings: what a node says first, before a client sees a byte of it."""

from __future__ import annotations

from enum import Enum

from trackproxy.dialects import Dialect

MAX_BYTES = 8192  # of a greeting; RFC 5321, 4.5.3.1.5 allows 512 octets a line


class Greeting(Enum):
    """What a greeting means. PARTIAL: it is not complete yet, and may become a good one."""

    GOOD = "the node is ready"
    REFUSED = "the node does not serve now"
    MALFORMED = "this is no greeting of the protocol"
    PARTIAL = "the greeting is not complete"


def judge(dialect: Dialect, said: bytes) -> Greeting:
    """Return what SAID, all that came from a node so far, means in DIALECT, which speaks first.

    RFC 3977, 5.1: one line of 200 or 201. RFC 5321, 4.2 and 4.3.1: lines of 220, all but the last with "-".
    What says anything else is judged by its first line.
    """
    if len(said) > MAX_BYTES:
        return Greeting.MALFORMED
    *lines, rest = said.split(b"\n")
    for line in lines:
        found = _judge_line(dialect, line)
        if found is not Greeting.PARTIAL:
            return found
    return Greeting.PARTIAL if not rest or _may_be_code(rest[:3]) else Greeting.MALFORMED


def _may_be_code(text: bytes) -> bool:
    """Whether TEXT is a reply code, or the beginning of one (RFC 3977, 3.2; RFC 5321, 4.2.1)."""
    return text.isdigit() and b"1" <= text[:1] <= b"5"


def _judge_line(dialect: Dialect, line: bytes) -> Greeting:
    """Return what one complete line means; PARTIAL if another one follows."""
    code, mark = line[:3], line[3:4]
    if len(code) < 3 or not _may_be_code(code) or mark not in (b" ", b"-", b"\r", b""):
        return Greeting.MALFORMED
    if code not in dialect.greetings:
        return Greeting.REFUSED
    if mark == b"-":
        return Greeting.PARTIAL if dialect.continued else Greeting.MALFORMED
    return Greeting.GOOD
