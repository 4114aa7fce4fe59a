"""Field blocks: what passes, what stays, what is refused, and that remembering changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.errors import BadAnswer, BadRequest
from trackproxy.http import fields
from trackproxy.http.cookies import split_cookies
from trackproxy.http.fields import (
    HOP_BY_HOP,
    IDENTITY,
    MEMO_BYTES,
    MEMO_ENTRIES,
    AnswerFields,
    RequestFields,
    RequestReader,
    answer_fields,
    request_fields,
    seen_requests,
    split_block,
    switch_lines,
    trailer_lines,
)

COOKIE_PAIRS = (b"TP=abc-_1", b"a=b", b"TP=", b" TP=x", b"xTP=y", b'TP="q"', b"TPx=1", b"c", b"")


def block_of(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in lines)


def request_of(*lines: bytes) -> RequestFields:
    return request_fields(block_of(b"Host: a", *lines))


def answer_of(*lines: bytes) -> AnswerFields:
    return answer_fields(block_of(*lines))


# --- what is no sequence of field lines at all ---

MALFORMED = {
    "no colon": b"Name value",
    "no name": b": value",
    "space before the colon": b"Name : value",
    "tab before the colon": b"Name\t: value",
    "space inside the name": b"Na me: value",
    "leading space": b" Name: value",
    "folded line": b"Name: one\r\n two",
    "folded line after a tab": b"Name: one\r\n\ttwo",
    "bare LF": b"Name: one\nOther: two",
    "bare CR": b"Name: one\rOther: two",
    "CR before CRLF": b"Name: one\r",
    "NUL": b"Name: o\x00ne",
    "control character": b"Name: o\x01ne",
    "DEL": b"Name: o\x7fne",
    "vertical tab": b"Name: o\x0bne",
    "control character in the name": b"Na\x01me: one",
    "byte above 127 in the name": b"Na\xe9me: one",
    "comma in the name": b"Na,me: one",
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_lines_are_refused_in_requests_answers_and_trailers(line: bytes) -> None:
    block = block_of(b"First: 1", line, b"Last: 1")
    with pytest.raises(BadRequest):
        request_fields(block_of(b"Host: a", line))
    with pytest.raises(BadAnswer):
        answer_fields(block)
    with pytest.raises(ValueError, match=r"."):
        trailer_lines(block)


@pytest.mark.parametrize(
    "line",
    [
        b"Name:",
        b"Name:  \t",
        b"Name: one",
        b"Name:one",
        b"Name: \xe9\xff",
        b"!#$%&'*+-.^_`|~1: x",
        b"A: b\tc",
    ],
)
def test_a_line_that_is_allowed_passes_as_it_was_written(line: bytes) -> None:
    assert request_of(line).forward == line + b"\r\n"
    assert answer_of(line).forward == line + b"\r\n"


def test_an_empty_block_has_no_lines() -> None:
    assert split_block(b"") == []


# --- what passes and what stays ---


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {b"content-length", b"transfer-encoding"}))
def test_hop_by_hop_fields_do_not_pass_in_either_direction(name: bytes) -> None:
    line = name.title() + b": x"
    assert request_of(b"A: 1", line, b"B: 2").forward == b"A: 1\r\nB: 2\r\n"
    assert answer_of(b"A: 1", line, b"B: 2").forward == b"A: 1\r\nB: 2\r\n"


@pytest.mark.parametrize(
    "connection",
    [b"X-Private", b"x-private", b"close, X-PRIVATE", b"keep-alive ,\tx-private,", b",,X-Private"],
)
def test_fields_that_connection_names_do_not_pass(connection: bytes) -> None:
    lines = (b"A: 1", b"x-Private: 2", b"Connection: " + connection, b"B: 3")
    assert request_of(*lines).forward == b"A: 1\r\nB: 3\r\n"
    assert answer_of(*lines).forward == b"A: 1\r\nB: 3\r\n"


def test_all_lines_of_connection_count() -> None:
    read = request_of(b"Connection: X-One", b"Connection: X-Two, close", b"X-One: 1", b"X-Two: 2", b"C: 3")
    assert read.forward == b"C: 3\r\n"
    assert read.close


def test_a_line_that_passed_before_stays_when_connection_names_it() -> None:
    assert request_of(b"X-Later-Named: 1").forward == b"X-Later-Named: 1\r\n"
    assert request_of(b"X-Later-Named: 1", b"Connection: x-later-named").forward == b""


def test_connection_removes_neither_host_nor_framing() -> None:
    read = request_of(b"Content-Length: 3", b"Connection: Host, Content-Length, close")
    assert read.usual == b"\r\nHost: a\r\nContent-Length: 3\r\nX-Forwarded-Host: a\r\n"
    assert answer_of(b"Content-Length: 3", b"Connection: Content-Length").framing == b"Content-Length: 3\r\n"


@pytest.mark.parametrize("name", sorted(IDENTITY))
def test_what_a_client_says_about_itself_is_kept_apart(name: bytes) -> None:
    read = request_of(name.upper() + b": one", b"A: 1", name + b": two")
    assert read.forward == b"A: 1\r\n"
    assert read.named == {name: b"one, two"}


@pytest.mark.parametrize("name", sorted(name for name in IDENTITY if b"-" in name))
def test_a_disguised_identity_field_neither_passes_nor_counts(name: bytes) -> None:
    for disguise in (name.replace(b"-", b"_"), name.title().replace(b"-", b"_", 1)):
        read = request_of(disguise + b": forged", b"A: 1")
        assert read.forward == b"A: 1\r\n"
        assert read.named == {}


def test_other_names_with_an_underscore_pass() -> None:
    assert request_of(b"X_Mine: 1", b"x_forwarded: 2").forward == b"X_Mine: 1\r\nx_forwarded: 2\r\n"


def test_an_answer_may_say_about_forwarding_what_it_likes() -> None:
    line = b"X-Forwarded-For: 1"
    assert answer_of(line).forward == line + b"\r\n"


def test_repeated_fields_stay_apart_in_order_and_in_their_case() -> None:
    lines = (b"Cookie: b", b"cookie: a", b"COOKIE: b")
    assert request_of(*lines).forward == block_of(*lines)


def test_usual_has_the_lines_in_the_order_in_which_nodes_get_them() -> None:
    read = request_of(b"A: 1", b"Content-Length: 2")
    assert read.usual == b"\r\nHost: a\r\nA: 1\r\nContent-Length: 2\r\nX-Forwarded-Host: a\r\n"


def test_without_host_there_is_nothing_usual() -> None:
    read = request_fields(b"A: 1\r\n")
    assert (read.host, read.usual) == (None, b"")


def test_every_line_is_counted() -> None:
    assert request_of(b"A: 1", b"Connection: close", b"X_Forwarded_For: 1", b"A: 1").count == 5


# --- how long the body is ---


@pytest.mark.parametrize(
    ("lines", "length", "framing"),
    [
        ((), 0, b""),
        ((b"Content-Length: 0",), 0, b"Content-Length: 0\r\n"),
        ((b"Content-Length: 007",), 7, b"Content-Length: 7\r\n"),
        ((b"content-length:12\t",), 12, b"Content-Length: 12\r\n"),
        ((b"Transfer-Encoding: chunked",), -1, b"Transfer-Encoding: chunked\r\n"),
        ((b"transfer-encoding: CHUNKED",), -1, b"Transfer-Encoding: chunked\r\n"),
    ],
)
def test_framing_is_written_anew(lines: tuple[bytes, ...], length: int, framing: bytes) -> None:
    read = request_of(*lines)
    assert (read.length, read.framing) == (length, framing)
    assert read.plain is (length == 0)


FRAMING_REFUSED = {
    "two lengths": ((b"Content-Length: 1", b"Content-Length: 2"), 400),
    "the same length twice": ((b"Content-Length: 1", b"Content-Length: 1"), 400),
    "list of lengths": ((b"Content-Length: 1, 1",), 400),
    "signed length": ((b"Content-Length: +1",), 400),
    "negative length": ((b"Content-Length: -1",), 400),
    "hexadecimal length": ((b"Content-Length: 0x1",), 400),
    "empty length": ((b"Content-Length:",), 400),
    "length with a space": ((b"Content-Length: 1 1",), 400),
    "length beyond 64 bits": ((b"Content-Length: 18446744073709551617",), 400),
    "length of 19 digits": ((b"Content-Length: 1000000000000000000",), 400),
    "length beside coding": ((b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400),
    "coding beside length": ((b"Transfer-Encoding: chunked", b"Content-Length: 1"), 400),
    "another coding": ((b"Transfer-Encoding: gzip",), 501),
    "identity": ((b"Transfer-Encoding: identity",), 501),
    "chunked twice": ((b"Transfer-Encoding: chunked, chunked",), 501),
    "chunked in two lines": ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 501),
    "gzip before chunked": ((b"Transfer-Encoding: gzip, chunked",), 501),
    "chunked before gzip": ((b"Transfer-Encoding: chunked, gzip",), 501),
    "chunked with a parameter": ((b"Transfer-Encoding: chunked;a=b",), 501),
    "quoted chunked": ((b'Transfer-Encoding: "chunked"',), 501),
    "empty coding": ((b"Transfer-Encoding:",), 400),
}


@pytest.mark.parametrize(("lines", "status"), FRAMING_REFUSED.values(), ids=FRAMING_REFUSED.keys())
def test_a_body_whose_end_could_be_doubted_is_refused(lines: tuple[bytes, ...], status: int) -> None:
    with pytest.raises(BadRequest) as refusal:
        request_of(*lines)
    assert refusal.value.status == status
    with pytest.raises(BadAnswer):
        answer_of(*lines)


@pytest.mark.parametrize(
    ("line", "length", "framing"),
    [
        (b"A: 1", -2, b""),
        (b"Content-Length: 5", 5, b"Content-Length: 5\r\n"),
        (b"Transfer-Encoding: Chunked", -1, b""),
    ],
)
def test_an_answer_ends_by_its_length_its_chunks_or_its_connection(
    line: bytes, length: int, framing: bytes
) -> None:
    read = answer_of(line)
    assert (read.length, read.framing) == (length, framing)


# --- Host ---

HOSTS = [
    b"",
    b"a",
    b"a.b:8080",
    b"a:",
    b"192.0.2.1",
    b"[2001:db8::1]",
    b"[::ffff:192.0.2.1]:80",
    b"a_b~%20!$&'()*+;=",
]
NO_HOSTS = [
    b"a b",
    b"a,b",
    b"a/b",
    b"u@a",
    b"a:b",
    b"a:123456",
    b"[::1",
    b"::1",
    b"[::1]x",
    b"a?b",
    b"a#b",
    b"\xe9",
    b"a\\b",
    b'"a"',
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_is_kept_as_it_was_written(host: bytes) -> None:
    assert request_fields(b"Host: %b\r\n" % host).host == host


@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_is_no_host_is_refused(host: bytes) -> None:
    with pytest.raises(BadRequest):
        request_fields(b"Host: %b\r\n" % host)


def test_two_hosts_are_refused_even_if_they_are_the_same() -> None:
    with pytest.raises(BadRequest):
        request_of(b"host: a")


# --- what is said about the connection ---


@pytest.mark.parametrize(
    ("value", "close", "keep_alive"),
    [
        (b"close", True, False),
        (b"Close", True, False),
        (b"keep-alive", False, True),
        (b"Keep-Alive", False, True),
        (b"KEEP-ALIVE, foo", False, True),
        (b"foo,\tclose", True, False),
        (b"close, keep-alive", True, True),
        (b"closed", False, False),
    ],
)
def test_connection_says_whether_it_goes_on(value: bytes, close: bool, keep_alive: bool) -> None:
    for read in (request_of(b"Connection: " + value), answer_of(b"Connection: " + value)):
        assert (read.close, read.keep_alive) == (close, keep_alive)


@pytest.mark.parametrize(
    ("lines", "idle_s"),
    [
        ((), None),
        ((b"Keep-Alive: timeout=5",), 5.0),
        ((b"Keep-Alive: max=100, Timeout = 12",), 12.0),
        ((b"Keep-Alive: max=100;timeout=7",), 7.0),
        ((b'Keep-Alive: timeout="9", max=1',), 9.0),
        ((b"Keep-Alive: max=3", b"Keep-Alive: timeout=4"), 4.0),
        ((b"Keep-Alive: max=100",), None),
        ((b"Keep-Alive: mytimeout=5",), None),
        ((b"Keep-Alive: timeout=x",), None),
        ((b"Keep-Alive:",), None),
    ],
)
def test_an_answer_may_say_how_long_its_connection_is_kept(
    lines: tuple[bytes, ...], idle_s: float | None
) -> None:
    assert answer_of(*lines).idle_s == idle_s


# --- Expect and Upgrade ---


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue", b"100-continue "])
def test_an_expectation_is_noticed_and_does_not_pass(value: bytes) -> None:
    read = request_of(b"Expect: " + value)
    assert (read.expects, read.forward, read.plain) == (True, b"", False)


@pytest.mark.parametrize("value", [b"", b"something", b"100-continue, something", b"200-ok"])
def test_another_expectation_is_refused_with_417(value: bytes) -> None:
    with pytest.raises(BadRequest) as refusal:
        request_of(b"Expect: " + value)
    assert refusal.value.status == 417


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        ((b"Upgrade: websocket", b"Connection: Upgrade"), b"websocket"),
        ((b"Upgrade: a/1, b", b"Connection: keep-alive, upgrade"), b"a/1, b"),
        ((b"Upgrade: a", b"Upgrade: b", b"Connection: upgrade"), b"a, b"),
        ((b"Upgrade: h2c", b"Connection: Upgrade"), b""),
        ((b"Upgrade: H2C, websocket ,h2", b"Connection: Upgrade"), b"websocket"),
        ((b"Upgrade: ,", b"Connection: Upgrade"), b""),
        ((b"Upgrade: websocket",), b""),
        ((b"Connection: Upgrade",), b""),
        ((b"Upgrade: websocket", b"Connection: Upgrade", b"Content-Length: 1"), b""),
        ((b"Upgrade: websocket", b"Connection: Upgrade", b"Transfer-Encoding: chunked"), b""),
    ],
)
def test_an_upgrade_is_offered_only_without_a_body_and_never_to_http2(
    lines: tuple[bytes, ...], upgrade: bytes
) -> None:
    read = request_of(*lines)
    assert read.upgrade == upgrade
    if upgrade:
        assert read.framing == switch_lines(upgrade)
        assert not read.plain


def test_http_1_0_knows_neither_expect_nor_upgrade() -> None:
    read = request_of(b"Upgrade: x", b"Connection: Upgrade", b"Expect: 100-continue", b"A: 1").in_one_zero()
    assert (read.upgrade, read.expects, read.framing, read.plain) == (b"", False, b"", True)
    assert read.usual == b"\r\nHost: a\r\nA: 1\r\nX-Forwarded-Host: a\r\n"


def test_a_body_in_http_1_0_keeps_its_length() -> None:
    read = request_of(b"Content-Length: 3", b"Expect: 100-continue").in_one_zero()
    assert (read.length, read.framing, read.plain) == (3, b"Content-Length: 3\r\n", False)
    assert b"Content-Length: 3\r\n" in read.usual


def test_reading_in_http_1_0_leaves_what_is_remembered_alone() -> None:
    block = block_of(b"Host: a", b"Upgrade: x", b"Connection: Upgrade")
    for _ in range(3):
        request_fields(block).in_one_zero()
    assert seen_requests[block].upgrade == b"x"


# --- trailers ---


@pytest.mark.parametrize(
    "name",
    [
        b"Content-Length",
        b"transfer-encoding",
        b"Host",
        b"TE",
        b"Trailer",
        b"X-Forwarded-For",
        b"Content-Type",
        b"Expect",
    ],
)
def test_a_field_that_changes_how_a_message_is_read_is_no_trailer(name: bytes) -> None:
    with pytest.raises(ValueError, match="trailer"):
        trailer_lines(block_of(b"Digest: 1", name + b": 1"))


def test_a_disguised_identity_field_is_no_trailer() -> None:
    with pytest.raises(ValueError, match="trailer"):
        trailer_lines(b"X_Forwarded_For: 192.0.2.1\r\n")


def test_trailers_pass_as_they_were_written() -> None:
    assert trailer_lines(b"Digest: a=b\r\nx-two:2\r\n") == b"Digest: a=b\r\nx-two:2\r\n"


# --- remembering ---


def meaning(read: RequestFields) -> tuple[object, ...]:
    return tuple(getattr(read, name) for name in RequestFields.__slots__)


def test_a_block_means_the_same_after_a_hundred_thousand_others() -> None:
    block = block_of(b"Host: a", b"Cookie: c", b"X-Mine: 1", b"Connection: x-mine", b"X-Forwarded-For: 1")
    before = meaning(request_fields(block))
    for number in range(50_000):
        for _ in range(2):  # only what comes again is remembered
            request_fields(b"Host: a\r\nCookie: c%d\r\n" % number)
    assert meaning(request_fields(block)) == before
    assert len(seen_requests) <= MEMO_ENTRIES
    assert len(fields.PLAIN._sorter._passed) <= fields._Sorter.LINES


def test_a_long_block_is_read_but_not_remembered() -> None:
    block = block_of(b"Host: a", *(b"X-%d: %b" % (n, b"v" * 100) for n in range(MEMO_BYTES // 100)))
    for _ in range(3):
        assert request_fields(block).host == b"a"
    assert block not in seen_requests


def test_a_block_is_remembered_when_it_comes_again() -> None:
    block = block_of(b"Host: a", b"X-Only-Here: again")
    request_fields(block)
    assert block not in seen_requests
    request_fields(block)
    assert meaning(seen_requests[block]) == meaning(request_fields(block))


def test_a_long_line_is_read_but_not_remembered() -> None:
    line = b"X-Long: " + b"v" * fields._Sorter.LINE_BYTES
    for _ in range(3):
        request_of(line)
    assert line not in fields.PLAIN._sorter._passed


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_refused_block_does_not_spoil_the_next_one_and_is_not_remembered(line: bytes) -> None:
    for number in range(2):
        bad = block_of(b"Host: a", line)
        with pytest.raises(BadRequest):
            request_fields(bad)
        assert bad not in seen_requests
        good = block_of(b"Host: spoiled%d" % number, b"X-After: " + line[:1].strip() + b"x")
        assert request_fields(good).host == b"spoiled%d" % number


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: close",
        b"Connection: Upgrade\r\nUpgrade: x",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
    ],
)
def test_no_block_changes_how_the_next_one_is_read(line: bytes) -> None:
    request_of(line)
    assert split_block(b"After: 1\r\n") == [b"After: 1"]
    with pytest.raises(ValueError, match=r"."):
        split_block(b"After : 1\r\n")
    assert split_block(b"After: 1\r\n") == [b"After: 1"]


def test_reading_takes_no_more_than_linear_time() -> None:
    """Thousands of short lines that mean something must not cost a second: a head is read in one go."""
    lines = [b"te:%x" % number for number in range(4000)]
    looked_at = 0

    class Line(bytes):
        def __eq__(self, other: object) -> bool:
            nonlocal looked_at
            looked_at += 1
            return bytes.__eq__(self, other)

        __hash__ = bytes.__hash__

    passed, _ = fields.PLAIN._sorter.sort([Line(line) for line in lines])
    assert passed == []
    assert looked_at < 10 * len(lines)


@given(st.lists(st.sampled_from(COOKIE_PAIRS), min_size=1, max_size=4), st.sampled_from([b"; ", b";"]))
def test_the_usual_cookie_line_is_split_as_any_other(pairs: list[bytes], between: bytes) -> None:
    names = frozenset({b"TP"})
    value = between.join(pairs)
    fields = RequestReader(names, names).read(b"Host: a\r\nCookie: %b\r\n" % value)
    found, left = split_cookies([value], names)
    assert fields.found == found
    kept = fields.forward.partition(b"Cookie: ")[2]
    assert _pairs(kept.strip(b"\r\n")) == _pairs(b";".join(left))


def _pairs(value: bytes) -> list[bytes]:
    return [pair.strip(b" ") for pair in value.split(b";") if pair.strip(b" ")]
