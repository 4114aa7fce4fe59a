"""Bodies: the same payload however the bytes come, and no body whose end could be doubted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.errors import BadRequest
from trackproxy.http.framing import LAST_CHUNK, ChunkedReader, RequestBody, chunk, last_chunk

EXTENSION = 20
TRAILER = 60

# What came of a body: its payload, what follows it, its trailer, whether it is over; or None: refused.
Outcome = tuple[bytes, bytes, bytes, bool] | None


def read(pieces: list[bytes], extension: int = EXTENSION, trailer: int = TRAILER) -> Outcome:
    """Return what comes of a body in PIECES; what comes after its end is not fed in any more."""
    reader = ChunkedReader(extension, trailer)
    payload, fed = b"", 0
    try:
        for piece in pieces:
            fed += 1
            payload += reader.feed(piece)
            if reader.done:
                break
    except ValueError:
        return None
    return payload, reader.rest + b"".join(pieces[fed:]), reader.trailer, reader.done


def every_split(data: bytes) -> list[list[bytes]]:
    """Return DATA in two pieces and three, cut everywhere, and byte by byte."""
    cuts = range(1, len(data))
    two = [[data[:cut], data[cut:]] for cut in cuts]
    three = [[data[:a], data[a:b], data[b:]] for a in cuts for b in range(a + 1, len(data))]
    return [*two, *three, [data[at : at + 1] for at in range(len(data))]]


GOOD = {
    "empty": (b"0\r\n\r\n", b"", b"", b""),
    "one chunk": (b"3\r\nabc\r\n0\r\n\r\n", b"abc", b"", b""),
    "two chunks": (b"3\r\nabc\r\n02\r\n\r\n\r\n0\r\n\r\n", b"abc\r\n", b"", b""),
    "hex digits": (b"a\r\n0123456789\r\nB\r\n0123456789\n\r\n0\r\n\r\n", b"0123456789" * 2 + b"\n", b"", b""),
    "leading zeros": (b"0000000000000002\r\nab\r\n000\r\n\r\n", b"ab", b"", b""),
    "extension": (b'1;a="b\xe9";\tc\r\nx\r\n0;z\r\n\r\n', b"x", b"", b""),
    "empty extension": (b"1;\r\nx\r\n0\r\n\r\n", b"x", b"", b""),
    "followed by a request": (b"1\r\nx\r\n0\r\n\r\nGET /", b"x", b"GET /", b""),
    "trailer": (b"1\r\nx\r\n0\r\nDigest: a\r\nB:c\r\n\r\nGET", b"x", b"GET", b"Digest: a\r\nB:c\r\n"),
    "payload like an end": (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n", b"", b""),
}  # fmt: skip


@pytest.mark.parametrize(("data", "payload", "rest", "trailer"), GOOD.values(), ids=GOOD.keys())
def test_a_chunked_body_is_the_same_in_every_possible_split(
    data: bytes, payload: bytes, rest: bytes, trailer: bytes
) -> None:
    for pieces in [[data], *every_split(data)]:
        assert read(pieces) == (payload, rest, trailer, True)


BAD = {
    "no size": b"\r\nabc",
    "only an extension": b";a\r\n",
    "space before the size": b" 1\r\nx\r\n",
    "space after the size": b"1 \r\nx\r\n",
    "space before the extension": b"1 ;a\r\nx\r\n",
    "sign": b"+1\r\nx\r\n",
    "minus": b"-1\r\nx\r\n",
    "0x": b"0x1\r\nx\r\n",
    "underscore": b"1_0\r\nx",
    "not hexadecimal": b"g\r\nx\r\n",
    "bare LF after the size": b"1\nx\r\n0\r\n\r\n",
    "bare CR after the size": b"1\rx\r\n0\r\n\r\n",
    "LF in the extension": b"1;a\nb\r\nx\r\n",
    "CR in the extension": b"1;a\rb\r\nx\r\n",
    "control in the extension": b"1;a\x00\r\nx\r\n",
    "17 digits": b"00000000000000001\r\nx\r\n0\r\n\r\n",
    "size beyond any number": b"ffffffffffffffff\r\nx",
    "chunk longer than its size": b"1\r\nxy\r\n0\r\n\r\n",
    "chunk shorter than its size": b"4\r\nx\r\n0\r\n\r\n",
    "bare LF after the payload": b"1\r\nx\n0\r\n\r\n",
    "no end of line after the payload": b"1\r\nx0\r\n\r\n",
    "long extension": b"1;" + b"e" * (EXTENSION + 20) + b"\r\nx\r\n0\r\n\r\n",
    "bare LF in the trailer": b"0\r\nA: b\n\r\n\r\n",
    "bare LF for a trailer": b"0\r\n\n\r\n\r\n",
    "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "no colon in the trailer": b"0\r\nA\r\n\r\n",
    "space before the colon of a trailer": b"0\r\nA : b\r\n\r\n",
    "framing in the trailer": b"0\r\nContent-Length: 1\r\n\r\n",
    "identity in the trailer": b"0\r\nX-Forwarded-For: a\r\n\r\n",
    "long trailer": b"0\r\nA: " + b"t" * (TRAILER + 5) + b"\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_malformed_chunked_body_is_refused_in_every_possible_split(data: bytes) -> None:
    for pieces in [[data], *every_split(data)]:
        assert read(pieces) is None


PARTS = [
    b"0",
    b"1",
    b"a",
    b"\r\n",
    b"\r",
    b"\n",
    b";e",
    b"x",
    b"A: b",
    b"Host: c",
    b":",
    b" ",
    b"\r\n\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n",
]


@given(st.lists(st.sampled_from(PARTS), max_size=14), st.lists(st.integers(1, 40)))
def test_any_bytes_are_judged_the_same_however_they_are_split(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    ends = sorted({cut for cut in cuts if cut < len(data)})
    pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
    whole = read([data])
    if whole is not None and whole[3]:
        assert read(pieces) == whole
    # Not over, or refused: more bytes may be needed to tell, but nothing is refused that may yet be good.
    elif whole is None:
        in_pieces = read(pieces)
        assert in_pieces is None or not in_pieces[3]
    else:
        assert read(pieces) in (whole, None)


@given(st.lists(st.binary(min_size=1, max_size=40)), st.binary(max_size=10), st.lists(st.integers(1, 30)))
def test_what_was_put_into_chunks_comes_out_of_them(
    payloads: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    data = b"".join(map(chunk, payloads)) + LAST_CHUNK + rest
    ends = sorted({cut for cut in cuts if cut < len(data)})
    pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
    assert read(pieces) == (b"".join(payloads), rest, b"", True)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_of_the_trailer_is_the_same_however_it_comes(extra: int) -> None:
    trailer = b"A: ".ljust(TRAILER + extra, b"t")
    data = b"0\r\n" + trailer + b"\r\n\r\n"
    assert {read(pieces) is None for pieces in [[data], *every_split(data)]} == {bool(extra)}


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_of_an_extension_is_the_same_however_it_comes(extra: int) -> None:
    size = b"0" * 15 + b"1"
    data = size + b";".ljust(EXTENSION + extra, b"e") + b"\r\nx\r\n0\r\n\r\n"
    assert {read(pieces) is None for pieces in [[data], *every_split(data)]} == {bool(extra)}


def test_endless_lines_are_refused_before_they_end() -> None:
    assert read([b"1;"] + [b"e"] * (EXTENSION + 20)) is None
    assert read([b"0\r\nA: "] + [b"t"] * (TRAILER + 5)) is None


def test_payload_is_handed_on_as_it_comes() -> None:
    reader = ChunkedReader(EXTENSION, TRAILER)
    assert [reader.feed(piece) for piece in (b"5\r", b"\nab", b"c", b"de\r")] == [b"", b"ab", b"c", b"de"]
    assert reader.begun
    assert not reader.done


def test_a_body_has_begun_once_its_first_size_line_was_good() -> None:
    reader = ChunkedReader(EXTENSION, TRAILER)
    reader.feed(b"5")
    assert not reader.begun
    reader.feed(b"\r\n")
    assert reader.begun


# --- what a node gets ---


@pytest.mark.parametrize(
    ("payload", "framed"), [(b"", b""), (b"a", b"1\r\na\r\n"), (b"x" * 16, b"10\r\n" + b"x" * 16 + b"\r\n")]
)
def test_nothing_is_no_chunk(payload: bytes, framed: bytes) -> None:
    assert chunk(payload) == framed


@pytest.mark.parametrize(("trailer", "framed"), [(b"", b"0\r\n\r\n"), (b"A: b\r\n", b"0\r\nA: b\r\n\r\n")])
def test_the_last_chunk_brings_the_trailer(trailer: bytes, framed: bytes) -> None:
    assert last_chunk(trailer) == framed


def sized(length: int, limit: int = 0, keep: int = 100) -> RequestBody:
    return RequestBody(length, limit, keep, None)


def chunked(limit: int = 0, keep: int = 100) -> RequestBody:
    return RequestBody(-1, limit, keep, ChunkedReader(EXTENSION, TRAILER))


def test_a_body_with_a_length_ends_after_it() -> None:
    body = sized(5)
    body.feed(b"abc")
    assert (body.complete, body.rest) == (False, b"")
    body.feed(b"deGET /")
    assert (body.complete, body.rest, body.take()) == (True, b"GET /", b"abcde")


def test_a_body_with_a_length_is_ready_before_its_first_byte() -> None:
    assert sized(5).ready


def test_a_chunked_body_is_framed_anew_without_extensions_and_with_its_trailer() -> None:
    body = chunked()
    for piece in (b"3;x\r\nab", b"c\r\n1\r\nd", b"\r\n0;y\r\nA: b\r\n\r\nGET /"):
        body.feed(piece)
    assert (body.complete, body.rest) == (True, b"GET /")
    assert body.take() == b"2\r\nab\r\n2\r\ncd\r\n0\r\nA: b\r\n\r\n"


def test_a_chunked_body_is_ready_once_its_first_size_is_known() -> None:
    body = chunked()
    body.feed(b"3")
    assert not body.ready
    body.feed(b"\r\n")
    assert body.ready


def test_a_malformed_chunk_is_the_fault_of_the_client() -> None:
    body = chunked()
    with pytest.raises(BadRequest) as refusal:
        body.feed(b"x\r\n")
    assert refusal.value.status == 400


@pytest.mark.parametrize(("length", "limit"), [(10, 10), (1 << 50, 0)])
def test_a_length_up_to_the_limit_is_taken(length: int, limit: int) -> None:
    assert sized(length, limit).ready


def test_a_length_above_the_limit_is_refused_at_once() -> None:
    with pytest.raises(BadRequest) as refusal:
        sized(11, limit=10)
    assert refusal.value.status == 413


def test_chunks_above_the_limit_are_refused_when_they_come() -> None:
    body = chunked(limit=10)
    for size in (5, 5, 0):
        body.feed(chunk(b"x" * size))
    with pytest.raises(BadRequest) as refusal:
        body.feed(chunk(b"x"))
    assert refusal.value.status == 413


def test_what_a_node_has_got_can_be_sent_again_in_front_of_what_has_come_since() -> None:
    body = sized(6)
    body.feed(b"ab")
    assert body.take() == b"ab"
    body.feed(b"cd")
    assert body.take() == b"cd"
    body.feed(b"ef")
    assert body.repeatable
    body.rewind()
    assert body.take() == b"abcdef"


def test_a_body_can_be_sent_again_and_again() -> None:
    body = sized(4, keep=4)
    body.feed(b"abcd")
    for _ in range(5):
        assert body.take() == b"abcd"
        assert body.repeatable
        body.rewind()


@pytest.mark.parametrize(("keep", "repeatable"), [(3, False), (4, True)])
def test_a_body_that_is_too_long_to_keep_is_not_kept(keep: int, repeatable: bool) -> None:
    body = sized(4, keep=keep)
    for piece in (b"ab", b"cd"):
        body.feed(piece)
        body.take()
    assert body.repeatable is repeatable
    assert (body.kept is None) is not repeatable


def test_what_no_node_has_been_given_is_repeatable_whatever_its_length() -> None:
    body = sized(1000, keep=1)
    body.feed(b"x" * 1000)
    assert body.repeatable
    body.rewind()
    assert len(body.take()) == 1000
