"""What the load counts, and what it reads of an answer's head."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
NODE = re.compile(rb"\r\nx-node: *(\S+)", re.IGNORECASE)


@dataclass(slots=True)
class Tally:
    """What the load has counted; times are CLOCK_MONOTONIC in seconds.

    failed: requests other than POST, and connects. posts, posts_failed: POSTs alone; they are in `requests`
    too. refused: connects that were allowed to be. gap_s: the longest time without any answer. longest_s:
    the longest wait for an answer; not of a POST, which has to wait for the node that has it.
    """

    requests: int = 0
    failed: int = 0
    posts: int = 0
    posts_failed: int = 0
    connects: int = 0
    closed_idle: int = 0
    refused: int = 0
    gap_s: float = 0.0
    gap_at: float = 0.0
    longest_s: float = 0.0
    longest_at: float = 0.0
    longest_number: int = 0
    nodes: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer: its body's length, whether the connection ends with it, and who answered."""

    status: int
    length: int
    closes: bool
    node: str


def read_head(head: bytes) -> Head:
    """Take the head of an answer apart; a length of -1 is none."""
    length, node = LENGTH.search(head), NODE.search(head)
    return Head(
        status=int(head[9:12]) if head[9:12].isdigit() else 0,
        length=int(length[1]) if length else -1,
        closes=CLOSES.search(head) is not None,
        node=node[1].decode() if node else "",
    )
