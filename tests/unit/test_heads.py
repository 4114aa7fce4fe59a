"""Start lines: every form that is served, every form that is not, and refusal at the first possible byte."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.errors import BadAnswer, BadRequest
from trackproxy.http.fields import MEMO_BYTES, MEMO_ENTRIES
from trackproxy.http.heads import (
    CLOSE,
    KEEP_ALIVE,
    PERSISTENT,
    Request,
    check_beginning,
    check_size,
    read_answer,
    read_request,
    seen_answers,
    without_empty_lines,
)
from trackproxy.http_sections import Limits

LIMITS = Limits(target=40, head=200)


def request_of(line: bytes, block: bytes = b"Host: site\r\n") -> Request:
    return read_request(line, block)


def status_of(line: bytes, block: bytes = b"Host: site\r\n") -> int:
    with pytest.raises(BadRequest) as refusal:
        read_request(line, block)
    return refusal.value.status


# --- the request line ---


@pytest.mark.parametrize(
    "method", [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"get", b"M-SEARCH", b"!"]
)
@pytest.mark.parametrize(
    "target", [b"/", b"/t/1/2?a=b&c=%20", b"//a/../b", b"/%00%zz", b'/a;b"<>\\^`{|}[]', b"/?", b"/http://b/"]
)
def test_an_origin_form_request_reaches_the_node_as_it_was_written(method: bytes, target: bytes) -> None:
    line = b"%b %b HTTP/1.1" % (method, target)
    request = request_of(line)
    assert (request.method, request.line, request.host) == (method, line, b"site")


@pytest.mark.parametrize(
    ("method", "target", "line", "host"),
    [
        (b"GET", b"http://b/x?y", b"GET /x?y HTTP/1.1", b"b"),
        (b"GET", b"HTTPS://b:8443/x", b"GET /x HTTP/1.1", b"b:8443"),
        (b"GET", b"http://b", b"GET / HTTP/1.1", b"b"),
        (b"GET", b"http://b?y", b"GET /?y HTTP/1.1", b"b"),
        (b"GET", b"http://[2001:db8::1]:80/", b"GET / HTTP/1.1", b"[2001:db8::1]:80"),
        (b"GET", b"http://b//c", b"GET //c HTTP/1.1", b"b"),
        (b"OPTIONS", b"http://b", b"OPTIONS * HTTP/1.1", b"b"),
        (b"OPTIONS", b"http://b/", b"OPTIONS / HTTP/1.1", b"b"),
        (b"OPTIONS", b"http://b?y", b"OPTIONS /?y HTTP/1.1", b"b"),
        (b"OPTIONS", b"*", b"OPTIONS * HTTP/1.1", b"site"),
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_other_forms_become_origin_form_and_host(
    method: bytes, target: bytes, line: bytes, host: bytes, version: bytes
) -> None:
    request = request_of(b"%b %b HTTP/%b" % (method, target, version))
    assert (request.method, request.line, request.host) == (method, line, host)


REFUSED_LINES = {
    "nothing": (b"", 400),
    "one word": (b"GET", 400),
    "HTTP/0.9": (b"GET /", 400),
    "four words": (b"GET / x HTTP/1.1", 400),
    "two spaces": (b"GET  / HTTP/1.1", 400),
    "tab for a space": (b"GET\t/ HTTP/1.1", 400),
    "space at the end": (b"GET / HTTP/1.1 ", 400),
    "space at the beginning": (b" GET / HTTP/1.1", 400),
    "empty target": (b"GET  HTTP/1.1", 400),
    "no method": (b" / HTTP/1.1", 400),
    "comma in the method": (b"GE,T / HTTP/1.1", 400),
    "byte above 127 in the method": (b"GE\xe9 / HTTP/1.1", 400),
    "asterisk with GET": (b"GET * HTTP/1.1", 400),
    "asterisk and more": (b"OPTIONS *x HTTP/1.1", 400),
    "relative target": (b"GET x HTTP/1.1", 400),
    "another scheme": (b"GET ftp://b/ HTTP/1.1", 400),
    "no authority": (b"GET http:///x HTTP/1.1", 400),
    "user in the authority": (b"GET http://u@b/ HTTP/1.1", 400),
    "bad port": (b"GET http://b:x/ HTTP/1.1", 400),
    "authority without a scheme": (b"GET b:80 HTTP/1.1", 400),
    "fragment": (b"GET /#a HTTP/1.1", 400),
    "byte above 127 in the target": (b"GET /\xe9 HTTP/1.1", 400),
    "control in the target": (b"GET /\x01 HTTP/1.1", 400),
    "DEL in the target": (b"GET /\x7f HTTP/1.1", 400),
    "LF in the target": (b"GET /\nX HTTP/1.1", 400),
    "CR in the target": (b"GET /\rX HTTP/1.1", 400),
    "fragment in absolute-form": (b"GET http://b/#a HTTP/1.1", 400),
    "CONNECT": (b"CONNECT b:80 HTTP/1.1", 405),
    "CONNECT of a path": (b"CONNECT / HTTP/1.1", 405),
    "TRACE": (b"TRACE / HTTP/1.1", 405),
    "TRACE in HTTP/1.0": (b"TRACE / HTTP/1.0", 405),
    "HTTP/2.0": (b"GET / HTTP/2.0", 505),
    "HTTP/2": (b"PRI * HTTP/2", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2", 505),
    "HTTP/0.9 by name": (b"GET / HTTP/0.9", 505),
    "two digits": (b"GET / HTTP/1.10", 400),
    "lower case": (b"GET / http/1.1", 400),
    "another protocol": (b"GET / ICY/1.1", 400),
}


@pytest.mark.parametrize(("line", "status"), REFUSED_LINES.values(), ids=REFUSED_LINES.keys())
def test_any_other_request_line_is_refused(line: bytes, status: int) -> None:
    assert status_of(line) == status


def test_a_request_without_host_is_refused_in_http_1_1_only() -> None:
    assert status_of(b"GET / HTTP/1.1", b"") == 400
    assert status_of(b"GET http://b/ HTTP/1.1", b"") == 400
    assert request_of(b"GET / HTTP/1.0", b"").host is None


def test_a_coding_is_refused_in_http_1_0() -> None:
    assert status_of(b"POST / HTTP/1.0", b"Host: a\r\nTransfer-Encoding: chunked\r\n") == 400


def test_what_http_1_0_does_not_know_is_left_out_of_its_requests() -> None:
    block = b"Host: a\r\nExpect: 100-continue\r\nUpgrade: x\r\nConnection: Upgrade\r\n"
    old, new = request_of(b"GET / HTTP/1.0", block), request_of(b"GET / HTTP/1.1", block)
    assert (old.one_zero, old.fields.expects, old.fields.upgrade) == (True, False, b"")
    assert (new.one_zero, new.fields.expects, new.fields.upgrade) == (False, True, b"x")


@pytest.mark.parametrize(
    ("version", "connection", "ending"),
    [
        (b"1.1", b"x", PERSISTENT),
        (b"1.1", b"keep-alive", PERSISTENT),
        (b"1.1", b"close", CLOSE),
        (b"1.1", b"close, keep-alive", CLOSE),
        (b"1.0", b"x", CLOSE),
        (b"1.0", b"keep-alive", KEEP_ALIVE),
        (b"1.0", b"close", CLOSE),
        (b"1.0", b"close, keep-alive", CLOSE),
    ],
)
def test_the_answer_ends_as_the_client_wants_it(version: bytes, connection: bytes, ending: bytes) -> None:
    request = request_of(b"GET / HTTP/" + version, b"Host: a\r\nConnection: %b\r\n" % connection)
    assert request.ending == ending


def test_requests_share_nothing_that_changes() -> None:
    first, second = (request_of(b"GET / HTTP/1.1") for _ in range(2))
    first.tried, first.complete, first.answered = (None,), False, True  # type: ignore[assignment]
    assert (second.tried, second.complete, second.answered) == ((), True, False)


# --- sizes, and what can no longer become a head ---


@pytest.mark.parametrize(
    ("data", "empty"),
    [(b"\r\n", 2), (b"\r\n" * 4, 8), (b"\r\n" * 5, 8), (b"", 0), (b"\n", 0), (b"\r", 0), (b" \r\n", 0)],
)
def test_a_few_empty_lines_may_come_before_a_request(data: bytes, empty: int) -> None:
    assert without_empty_lines(data + b"GET") == (data + b"GET")[empty:]


@pytest.mark.parametrize(
    ("target", "field", "status"),
    [(39, 10, 0), (40, 10, 0), (41, 10, 414), (500, 10, 414), (1, 500, 431), (41, 500, 414)],
)
def test_what_is_too_large_is_refused_by_its_part(target: int, field: int, status: int) -> None:
    head = b"GET /%b HTTP/1.1\r\nHost: %b" % (b"x" * (target - 1), b"h" * field)
    refused = 0
    try:
        check_size(head + b"\r\n\r\nbody" * 100, len(head), LIMITS)
    except BadRequest as refusal:
        refused = refusal.status
    assert refused == status


def test_a_head_of_just_the_largest_size_passes() -> None:
    data = b"GET / HTTP/1.1\r\nA: ".ljust(LIMITS.head, b"x") + b"\r\n\r\n"
    check_size(data, LIMITS.head, LIMITS)
    with pytest.raises(BadRequest):
        check_size(data, LIMITS.head + 1, LIMITS)


def test_a_long_target_is_refused_before_its_end_is_there() -> None:
    with pytest.raises(BadRequest) as refusal:
        check_beginning(b"GET /" + b"x" * LIMITS.target, 0, LIMITS)
    assert refusal.value.status == 414


HOPELESS = {
    "bare LF in the line": b"GET / HTTP/1.1\n",
    "bare LF in a field": b"GET / HTTP/1.1\r\nA: 1\n",
    "bare CR in the line": b"GET /\r ",
    "bare CR in a field": b"GET / HTTP/1.1\r\nA\rB",
    "NUL": b"GET /\x00",
    "TLS": b"\x16\x03\x01\x02\x00",
    "control in a field": b"GET / HTTP/1.1\r\nA: \x1b",
    "DEL": b"GET /\x7f",
    "HTTP/0.9": b"GET /\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\n",
    "no HTTP": b"EHLO a.b c\r\n",
    "too long": b"GET / HTTP/1.1\r\nA: " + b"x" * LIMITS.head,
}
HOPEFUL = {
    "nothing": b"",
    "method": b"GE",
    "line without its end": b"GET / HTTP/1.1\r",
    "line": b"GET / HTTP/1.1\r\n",
    "field": b"GET / HTTP/1.1\r\nA: \t\xe9\r\nB",
    "version to be refused later": b"GET / HTTP/2.0\r\n",
}


def refused_in_pieces(data: bytes, cuts: list[int]) -> bool:
    """Tell whether DATA is refused when its beginnings up to CUTS are looked at one after the other."""
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    try:
        for checked, end in pairwise(ends):
            check_beginning(data[:end], checked, LIMITS)
    except BadRequest:
        return True
    return False


@pytest.mark.parametrize("data", HOPELESS.values(), ids=HOPELESS.keys())
def test_what_can_no_longer_become_a_head_is_refused_at_once_however_it_comes(data: bytes) -> None:
    assert refused_in_pieces(data, [])
    assert refused_in_pieces(data, [*range(len(data))])
    for cut in range(len(data)):
        assert refused_in_pieces(data, [cut])


@pytest.mark.parametrize("data", HOPEFUL.values(), ids=HOPEFUL.keys())
def test_what_may_still_become_a_head_is_waited_for_however_it_comes(data: bytes) -> None:
    check_beginning(data, 0, LIMITS)
    assert not refused_in_pieces(data, [*range(len(data))])


@given(
    st.lists(
        st.sampled_from(
            [
                b"GET",
                b" ",
                b"/",
                b"HTTP/1.1",
                b"\r\n",
                b"\r",
                b"\n",
                b"A:",
                b"\t",
                b"\x01",
                b"\xe9",
                b"x" * 30,
            ]
        )
    ),
    st.lists(st.integers(0, 60)),
)
def test_pieces_are_judged_like_the_whole(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    assert refused_in_pieces(data, cuts) == refused_in_pieces(data, [])


@given(
    st.sampled_from([b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"OPTIONS * HTTP/1.1"]),
    st.lists(st.sampled_from([b"A: 1", b"B:\t\xe9", b"C:", b"Accept: */*"]), max_size=6),
)
def test_no_beginning_of_a_good_head_is_refused(line: bytes, lines: list[bytes]) -> None:
    head = b"".join(part + b"\r\n" for part in [line, b"Host: a", *lines])
    read_request(line, head.partition(b"\r\n")[2])
    assert not refused_in_pieces(head, [*range(len(head))])


# --- answers ---


@pytest.mark.parametrize(
    ("line", "status", "rewritten"),
    [
        (b"HTTP/1.1 200 OK", 200, b"HTTP/1.1 200 OK"),
        (b"HTTP/1.0 200 Data follows", 200, b"HTTP/1.1 200 Data follows"),
        (b"HTTP/1.1 200", 200, b"HTTP/1.1 200 "),
        (b"HTTP/1.1 200 ", 200, b"HTTP/1.1 200 "),
        (b"HTTP/1.1 999 \xe9\t!", 999, b"HTTP/1.1 999 \xe9\t!"),
        (b"HTTP/1.1 100 Continue", 100, b"HTTP/1.1 100 Continue"),
    ],
)
def test_a_status_line_is_passed_on_as_http_1_1(line: bytes, status: int, rewritten: bytes) -> None:
    answer = read_answer(line + b"\r\nA: 1\r\n")
    assert (answer.status, answer.head) == (status, rewritten + b"\r\nA: 1\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"", b"HTTP/1.1", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 abc OK",
        b"HTTP/1.1  200 OK", b" HTTP/1.1 200 OK", b"HTTP/2.0 200 OK", b"HTTP/1.2 200 OK", b"http/1.1 200 OK",
        b"HTTP/1.1 200 O\x01K", b"HTTP/1.1 200 O\nK", b"HTTP/1.1 200 O\rK", b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200OK", b"ICY 200 OK", b"HTTP/1.1 \xb2\xb2\xb2 OK",
    ],
)  # fmt: skip
def test_any_other_status_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadAnswer):
        read_answer(line + b"\r\nA: 1\r\n")


@pytest.mark.parametrize(
    ("status", "field", "length", "framing"),
    [
        (200, b"Content-Length: 5\r\n", 5, b"Content-Length: 5\r\n"),
        (304, b"Content-Length: 5\r\n", 0, b"Content-Length: 5\r\n"),
        (204, b"Content-Length: 5\r\n", 0, b""),
        (204, b"Transfer-Encoding: chunked\r\n", 0, b""),
        (304, b"Transfer-Encoding: chunked\r\n", 0, b""),
        (103, b"Content-Length: 5\r\n", 5, b""),
        (200, b"Transfer-Encoding: chunked\r\n", -1, b""),
        (200, b"", -2, b""),
    ],
)
def test_the_status_and_the_fields_say_where_an_answer_ends(
    status: int, field: bytes, length: int, framing: bytes
) -> None:
    answer = read_answer(b"HTTP/1.1 %d x\r\n%b" % (status, field))
    assert (answer.length, answer.head) == (length, b"HTTP/1.1 %d x\r\n%b" % (status, framing))


@pytest.mark.parametrize(
    ("version", "block", "reusable"),
    [
        (b"1.1", b"Content-Length: 0\r\n", True),
        (b"1.1", b"Content-Length: 0\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: close, keep-alive\r\n", False),
        (b"1.1", b"Transfer-Encoding: chunked\r\n", True),
        (b"1.0", b"Content-Length: 0\r\n", False),
        (b"1.0", b"Content-Length: 0\r\nConnection: keep-alive\r\n", True),
        (b"1.0", b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n", False),
        (b"1.0", b"Connection: keep-alive\r\n", False),
    ],
)
def test_a_connection_serves_again_exactly_when_the_node_says_so(
    version: bytes, block: bytes, reusable: bool
) -> None:
    assert read_answer(b"HTTP/%b 200 OK\r\n%b" % (version, block)).reusable is reusable


def test_close_wins_over_keep_alive_in_http_1_0() -> None:
    head = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive, close\r\n"
    assert not read_answer(head).reusable


def test_an_answer_means_the_same_after_many_others() -> None:
    head = b"HTTP/1.1 200 Data follows\r\nContent-Length: 43\r\nKeep-Alive: timeout=9\r\n"
    before = read_answer(head)
    for number in range(5 * MEMO_ENTRIES):
        for _ in range(2):  # only what comes again is remembered
            read_answer(b"HTTP/1.1 200 OK\r\nETag: %d\r\n" % number)
    after = read_answer(head)
    assert (after.head, after.length, after.reusable) == (before.head, before.length, before.reusable)
    assert len(seen_answers) <= MEMO_ENTRIES
    long = b"HTTP/1.1 200 OK\r\nA: %b\r\n" % (b"x" * MEMO_BYTES)
    for _ in range(3):
        read_answer(long)
    assert long not in seen_answers


def test_a_refused_answer_is_not_remembered() -> None:
    bad = b"HTTP/1.1 200 OK\r\nA : 1\r\n"
    for _ in range(2):
        with pytest.raises(BadAnswer):
            read_answer(bad)
    assert bad not in seen_answers
