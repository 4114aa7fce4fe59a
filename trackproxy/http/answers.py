"""Answers that the proxy gives itself: small, fixed, never cached."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

from trackproxy.http.heads import ALLOWED

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def local_answer(status: int, reason: str, ending: bytes, time_s: float, retry_after_s: int = 0) -> bytes:
    """Return a whole answer whose text is REASON and whose head ends with ENDING.

    time_s: seconds since 1970 for Date. retry_after_s: for 503 (RFC 9110, 10.2.3); 0 says nothing.
    """
    body = f"{status} {HTTPStatus(status).phrase}: {reason}\n".encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Date: {formatdate(time_s, usegmt=True)}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
    ]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append(f"Allow: {ALLOWED}")
    if retry_after_s:
        lines.append(f"Retry-After: {retry_after_s}")
    return "\r\n".join(lines).encode() + b"\r\n" + ending + body


def without_body(answer: bytes) -> bytes:
    """Return ANSWER as HEAD gets it (RFC 9110, 9.3.2)."""
    return answer[: answer.index(b"\r\n\r\n") + 4]
