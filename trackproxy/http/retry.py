"""What may be sent to another endpoint after a failure, and how often."""

from __future__ import annotations

from enum import Enum

from trackproxy.health.outliers import Cause
from trackproxy.http.heads import IDEMPOTENT, Request
from trackproxy.http_sections import Retry

SAVED_S = 10  # seconds of the guaranteed minimum that may be saved up
SAVED_RETRIES = 1000  # and of everything: every request in flight on a node that dies wants one at once


class Failure(Enum):
    """How an attempt failed: (text for the client, status, whether it may be sent again at all, what it says
    against the endpoint).
    """

    CONNECT = ("the node takes no connection", 502, True, Cause.CONNECT)
    LOST = ("the node closed the connection without an answer", 502, True, Cause.LOST)
    SILENT = ("the node did not answer in time", 504, True, Cause.SILENT)
    STALLED = ("the node did not take the request in time", 504, True, Cause.SILENT)
    MALFORMED = ("the node's answer is malformed", 502, False, Cause.MALFORMED)
    STATUS = ("the node answered with an error", 502, True, Cause.STATUS)
    DOWN = ("the node is down", 504, True, None)
    ENDED = ("the node was taken out", 502, True, None)

    def __init__(self, text: str, status: int, repeatable: bool, cause: Cause | None) -> None:
        self.text = text
        self.status = status
        self.repeatable = repeatable
        self.cause = cause


class Budget:
    """Bounds how many requests are sent again, so that failing nodes are not flooded by repeats.

    It saves PERCENT of all requests and a minimum per second, up to a bound, and each retry takes one.
    Trying elsewhere after a failed connect is free: nothing was sent, so no node has had any load from it.
    """

    def __init__(self, percent: int, minimum_per_s: int, now: float) -> None:
        self._share = percent / 100
        self._minimum_per_s = minimum_per_s
        self._saved = float(minimum_per_s * SAVED_S)
        self._requests = 0
        self._now = now

    def take(self, requests: int, now: float) -> bool:
        """Take one retry if there is one; REQUESTS is how many have been sent to nodes so far."""
        self._saved += (requests - self._requests) * self._share + (now - self._now) * self._minimum_per_s
        self._saved = min(self._saved, SAVED_RETRIES)
        self._requests, self._now = requests, now
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


def may_retry(request: Request, failure: Failure, retry: Retry, now: float) -> bool:
    """Tell whether the rules let REQUEST go to another endpoint; the budget is asked by the caller.

    A failed connect has sent nothing, so any method may go on. After bytes have left, only what is
    idempotent and still held in full may (RFC 9110, 9.2.2).
    """
    if request.answered or len(request.tried) >= retry.tries or now >= request.deadline:
        return False
    if failure is Failure.CONNECT:
        return True
    held = request.body is None or request.body.repeatable
    return failure.repeatable and held and request.method in IDEMPOTENT
