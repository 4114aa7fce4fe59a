"""The proxy's own answers: complete, never cached, and without a body for HEAD."""

from __future__ import annotations

import h11
import pytest

from trackproxy.http.answers import CONTINUE, local_answer, without_body
from trackproxy.http.heads import CLOSE, KEEP_ALIVE, PERSISTENT

EPOCH_DATE = b"Thu, 01 Jan 1970 00:00:00 GMT"


def parsed(answer: bytes, method: bytes = b"GET") -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, fields and body of what a client reads; nothing is left over."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert not client.trailing_data[0]
    return head.status_code, dict(head.headers), body


@pytest.mark.parametrize("status", [400, 405, 408, 413, 414, 417, 431, 500, 501, 502, 503, 504, 505])
def test_an_answer_is_complete_and_says_why(status: int) -> None:
    read, fields, body = parsed(local_answer(status, "the reason", PERSISTENT, 0.0))
    assert read == status
    assert b"the reason" in body
    assert fields[b"date"] == EPOCH_DATE
    assert fields[b"cache-control"] == b"no-store"
    assert (b"allow" in fields) is (status == 405)


@pytest.mark.parametrize(
    ("ending", "connection"), [(CLOSE, b"close"), (KEEP_ALIVE, b"keep-alive"), (PERSISTENT, None)]
)
def test_an_answer_says_what_becomes_of_the_connection(ending: bytes, connection: bytes | None) -> None:
    assert parsed(local_answer(502, "x", ending, 0.0))[1].get(b"connection") == connection


@pytest.mark.parametrize(("retry_after_s", "expected"), [(0, None), (7, b"7")])
def test_an_answer_says_when_to_come_back_if_that_is_known(
    retry_after_s: int, expected: bytes | None
) -> None:
    assert parsed(local_answer(503, "x", CLOSE, 0.0, retry_after_s))[1].get(b"retry-after") == expected


def test_allow_does_not_name_what_is_refused() -> None:
    allowed = parsed(local_answer(405, "x", CLOSE, 0.0))[1][b"allow"].split(b", ")
    assert b"GET" in allowed
    assert not {b"CONNECT", b"TRACE"} & set(allowed)


def test_head_gets_the_same_fields_without_a_body() -> None:
    whole = local_answer(502, "the reason", PERSISTENT, 0.0)
    _, fields, body = parsed(without_body(whole), b"HEAD")
    assert fields == parsed(whole)[1]
    assert body == b""


def test_continue_is_an_interim_answer() -> None:
    assert CONTINUE == b"HTTP/1.1 100 Continue\r\n\r\n"
