"""Greetings: what the first words of a node mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.dialects import DIALECTS, NNTP, SMTP, Dialect
from trackproxy.tcp.greeting import MAX_BYTES, Greeting, judge


@pytest.mark.parametrize(
    ("dialect", "said"),
    [
        (NNTP, b"200 news.example.com ready, posting allowed\r\n"),
        (NNTP, b"201 no posting\r\n"),
        (NNTP, b"200\r\n"),
        (NNTP, b"200\n"),
        (SMTP, b"220 mail.example.com ESMTP\r\n"),
        (SMTP, b"220\r\n"),
        (SMTP, b"220-mail.example.com\r\n220 ESMTP\r\n"),
        (SMTP, b"220-\r\n220-\r\n220\r\n"),
    ],
)
def test_a_greeting_that_welcomes_is_good(dialect: Dialect, said: bytes) -> None:
    assert judge(dialect, said) is Greeting.GOOD


@pytest.mark.parametrize(
    ("dialect", "said"),
    [
        (NNTP, b"400 not now\r\n"),
        (NNTP, b"502 never\r\n"),
        (NNTP, b"220 mail.example.com ESMTP\r\n"),
        (SMTP, b"421 not now\r\n"),
        (SMTP, b"554 no SMTP here\r\n"),
        (SMTP, b"200 news.example.com\r\n"),
        (SMTP, b"554\r\n"),
    ],
)
def test_a_greeting_of_another_code_refuses(dialect: Dialect, said: bytes) -> None:
    assert judge(dialect, said) is Greeting.REFUSED


@pytest.mark.parametrize(
    "said", [b"421-not now\r\n", b"421-not now\r\n421 later\r\n", b"554-\r\n220 welcome\r\n"]
)
def test_a_refusal_of_several_lines_is_known_by_its_first(said: bytes) -> None:
    assert judge(SMTP, said) is Greeting.REFUSED


@pytest.mark.parametrize(
    "said", [b"220-mail\r\n421 not now\r\n", b"220-mail\r\n554-no\r\n", b"220-a\r\n220-b\r\n554 no\r\n"]
)
def test_a_greeting_whose_later_line_refuses_is_refused(said: bytes) -> None:
    assert judge(SMTP, said) is Greeting.REFUSED


@pytest.mark.parametrize("dialect", [NNTP, SMTP], ids=["nntp", "smtp"])
@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\r\n",
        b"22\r\n",
        b"22\n",
        b"2200 x\r\n",
        b"200x\r\n",
        b" 220 x\r\n",
        b"\x15\x03\x03\x00\x02",
    ],
)
def test_what_does_not_begin_with_a_code_is_no_greeting(dialect: Dialect, said: bytes) -> None:
    assert judge(dialect, said) is Greeting.MALFORMED


@pytest.mark.parametrize("said", [b"H", b"2x", b"22x", b"\x15", b"0", b"020", b"6", b"999 x"])
def test_what_cannot_become_a_code_is_no_greeting_before_its_line_ends(said: bytes) -> None:
    assert judge(SMTP, said) is Greeting.MALFORMED


def test_nntp_has_no_greeting_of_several_lines() -> None:
    assert judge(NNTP, b"200-news\r\n200 ready\r\n") is Greeting.MALFORMED


def test_a_later_line_without_a_code_is_malformed() -> None:
    assert judge(SMTP, b"220-mail\r\nwelcome\r\n") is Greeting.MALFORMED
    assert judge(SMTP, b"220-mail\r\nwelc") is Greeting.MALFORMED


@pytest.mark.parametrize("said", [b"", b"2", b"22", b"220", b"220 mail", b"220 mail\r", b"220-mail\r\n"])
def test_a_greeting_that_may_become_a_good_one_is_partial(said: bytes) -> None:
    assert judge(SMTP, said) is Greeting.PARTIAL


@pytest.mark.parametrize("said", [b"4", b"42", b"421", b"421 not now"])
def test_a_refusal_is_partial_before_its_line_ends(said: bytes) -> None:
    assert judge(SMTP, said) is Greeting.PARTIAL


def test_a_greeting_has_a_longest_length() -> None:
    longest = b"220 ".ljust(MAX_BYTES - 2, b"x") + b"\r\n"
    assert judge(SMTP, longest) is Greeting.GOOD
    assert judge(SMTP, longest[:-2]) is Greeting.PARTIAL
    assert judge(SMTP, b"x".join((longest[:-2], longest[-2:]))) is Greeting.MALFORMED


def test_lines_without_end_are_malformed_at_last() -> None:
    line = b"220-again\r\n"
    assert judge(SMTP, line * (MAX_BYTES // len(line))) is Greeting.PARTIAL
    assert judge(SMTP, line * (MAX_BYTES // len(line) + 1)) is Greeting.MALFORMED


@pytest.mark.parametrize(("protocol", "first"), [("nntp", True), ("smtp", True), ("tcp", False)])
def test_only_tcp_services_wait_for_no_greeting(protocol: str, first: bool) -> None:
    assert DIALECTS[protocol].speaks_first is first


TEXTS = st.binary(max_size=40).map(lambda text: text.replace(b"\n", b""))
ENDS = st.sampled_from([b"\r\n", b"\n"])


def lines_of(code: bytes, texts: list[bytes], last: bytes, end: bytes) -> bytes:
    """A greeting with a "-" in all lines but the last."""
    return b"".join(code + b"-" + text + end for text in texts) + code + b" " + last + end


GOOD = st.one_of(
    st.builds(
        lambda code, text, end: (NNTP, lines_of(code, [], text, end)),
        st.sampled_from(sorted(NNTP.greetings)),
        TEXTS,
        ENDS,
    ),
    st.builds(
        lambda texts, last, end: (SMTP, lines_of(b"220", texts, last, end)),
        st.lists(TEXTS, max_size=5),
        TEXTS,
        ENDS,
    ),
)


@given(GOOD)
def test_any_beginning_of_a_good_greeting_is_partial(sample: tuple[Dialect, bytes]) -> None:
    dialect, said = sample
    assert judge(dialect, said) is Greeting.GOOD
    for size in range(len(said)):
        assert judge(dialect, said[:size]) is Greeting.PARTIAL


def settled(dialect: Dialect, said: bytes, cuts: set[int]) -> Greeting:
    """What is decided when SAID comes in pieces: the first thing that is certain."""
    for size in sorted(cuts | {len(said)}):
        found = judge(dialect, said[:size])
        if found is not Greeting.PARTIAL:
            return found
    return Greeting.PARTIAL


WORDS = st.sampled_from(
    [b"220", b"200", b"201", b"421", b"5", b"-", b" ", b"\r\n", b"\n", b"\r", b"x", b"\xff", b"999"]
)


@given(st.sampled_from([NNTP, SMTP]), st.lists(WORDS, max_size=12).map(b"".join), st.sets(st.integers(1, 40)))
def test_it_never_matters_how_a_greeting_is_cut(dialect: Dialect, said: bytes, cuts: set[int]) -> None:
    assert settled(dialect, said, {size for size in cuts if size < len(said)}) is judge(dialect, said)
