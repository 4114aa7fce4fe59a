"""Cookies and session ids: what is found, what is taken out, and that all the rest stays as it was."""

from __future__ import annotations

from http.cookies import SimpleCookie

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.http.cookies import parameter, set_by_node, set_cookie, split_cookies, without_cookies

OURS = frozenset({b"T"})


def block_of(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in lines)


# --- cookies of a request ---

SPLIT = {
    "alone": (b"T=1", [b"1"], []),
    "first": (b"T=1; a=2", [b"1"], [b"a=2"]),
    "last": (b"a=2; T=1", [b"1"], [b"a=2"]),
    "between": (b"a=2; T=1; b=3", [b"1"], [b"a=2; b=3"]),
    "twice": (b"T=1; a=2; T=3", [b"1", b"3"], [b"a=2"]),
    "nothing but ours": (b"T=1; T=2", [b"1", b"2"], []),
    "no blanks": (b"a=2;T=1;b=3", [b"1"], [b"a=2; b=3"]),
    "many blanks": (b" a=2 ;\t T \t=\t 1 ; b = 3 ", [b"1"], [b"a=2; b = 3"]),
    "quoted": (b'T="1"; a="2"', [b"1"], [b'a="2"']),
    "one quote": (b'T="', [b'"'], []),
    "quoted nothing": (b'T=""', [b""], []),
    "two pairs of quotes": (b'T=""1""', [b'"1"'], []),
    "no value": (b"T=; a=2", [b""], [b"a=2"]),
    "equals signs in the value": (b"T=a=b==; c=d=e", [b"a=b=="], [b"c=d=e"]),
    "no equals sign": (b"T; T=1; lone", [b"1"], [b"T; lone"]),
    "empty pairs": (b";; T=1 ;;a=2; ;", [b"1"], [b"a=2"]),
    "another case": (b"t=1", [], [b"t=1"]),
    "part of a name": (b"TT=1; T1=2; aT=3", [], [b"TT=1; T1=2; aT=3"]),
    "in a value": (b"a=T=1", [], [b"a=T=1"]),
    "no name": (b"=1; T=2", [b"2"], [b"=1"]),
    "above 127": (b"T=\xe9; a=\xff", [b"\xe9"], [b"a=\xff"]),
    "empty line": (b"", [], []),
}


@pytest.mark.parametrize(("line", "values", "left"), SPLIT.values(), ids=SPLIT.keys())
def test_a_cookie_is_found_and_does_not_reach_the_node(
    line: bytes, values: list[bytes], left: list[bytes]
) -> None:
    assert split_cookies([line], OURS) == ({b"T": values} if values else {}, left)


def test_cookies_of_several_lines_and_names_are_found_in_their_order() -> None:
    found, left = split_cookies([b"a=1; T=2", b"S=3", b"b=4; T=5; S=6"], frozenset({b"T", b"S"}))
    assert found == {b"T": [b"2", b"5"], b"S": [b"3", b"6"]}
    assert left == [b"a=1", b"b=4"]


@given(st.lists(st.binary(max_size=30)))
def test_lines_without_our_cookies_pass_octet_by_octet(lines: list[bytes]) -> None:
    lines = [line.replace(b"T", b"t") for line in lines]
    assert split_cookies(lines, OURS) == ({}, [line for line in lines if line])


pairs = st.tuples(st.sampled_from([b"T", b"a", b"TT", b"b"]), st.from_regex(rb"[!-:<-~]*", fullmatch=True))


@given(st.lists(st.lists(pairs, min_size=1)))
def test_what_is_not_ours_stays_in_its_line_and_order(lines: list[list[tuple[bytes, bytes]]]) -> None:
    written = [b"; ".join(b"%b=%b" % pair for pair in line) for line in lines]
    others = [[b"%b=%b" % pair for pair in line if pair[0] != b"T"] for line in lines]
    found, left = split_cookies(written, OURS)
    assert left == [b"; ".join(line) for line in others if line]
    assert len(found.get(b"T", [])) == sum(name == b"T" for line in lines for name, _ in line)
    assert split_cookies(left, OURS) == ({}, left)


# --- a cookie of ours ---


@pytest.mark.parametrize(
    ("domain", "secure", "end"),
    [
        ("", False, b""),
        ("", True, b"; Secure"),
        ("example.org", False, b"; Domain=example.org"),
        ("example.org", True, b"; Domain=example.org; Secure"),
    ],
)
def test_a_cookie_of_ours_is_one_whole_line(domain: str, secure: bool, end: bytes) -> None:
    line = set_cookie(b"T", b"abc", "/", domain, secure)
    assert line == b"Set-Cookie: T=abc; Path=/; HttpOnly; SameSite=Lax" + end + b"\r\n"


def test_a_cookie_of_ours_has_the_path_and_the_same_site_that_it_is_given() -> None:
    line = set_cookie(b"T", b"abc", "/lists", "", secure=True, same_site="None")
    assert line == b"Set-Cookie: T=abc; Path=/lists; HttpOnly; SameSite=None; Secure\r\n"


def test_a_cookie_of_ours_is_read_by_others_as_it_is_meant() -> None:
    line = set_cookie(b"T", b"a-b_c", "/", "example.org", secure=True)
    (read,) = SimpleCookie(line.partition(b": ")[2].strip().decode()).values()
    assert (read.key, read.value, read["path"], read["domain"]) == ("T", "a-b_c", "/", "example.org")
    assert (read["secure"], read["httponly"], read["samesite"]) == (True, True, "Lax")


def test_a_cookie_of_ours_is_found_again_and_may_be_taken_out() -> None:
    block = block_of(b"A: 1") + set_cookie(b"T", b"abc", "/", "", secure=False)
    assert set_by_node(block) == {b"T": b"abc"}
    assert without_cookies(block, OURS) == block_of(b"A: 1")


# --- cookies of an answer ---

SET = {
    "plain": (b"Set-Cookie: S=1", {b"S": b"1"}),
    "attributes": (b"Set-Cookie: S=1; Path=/; Domain=S=2", {b"S": b"1"}),
    "another case": (b"sEt-cOOKIE: S=1", {b"S": b"1"}),
    "no blank": (b"Set-Cookie:S=1;Path=/", {b"S": b"1"}),
    "blanks": (b"Set-Cookie: \t S \t= 1 \t; Path=/", {b"S": b"1"}),
    "quoted": (b'Set-Cookie: S="1"', {b"S": b"1"}),
    "equals signs in the value": (b"Set-Cookie: S=a==", {b"S": b"a=="}),
    "taken back": (b"Set-Cookie: S=; Max-Age=0", {b"S": b""}),
    "no equals sign": (b"Set-Cookie: S; Path=/", {}),
    "no name": (b"Set-Cookie: =1", {}),
    "nothing": (b"Set-Cookie:", {}),
    "the older kind": (b"Set-Cookie2: S=1", {}),
    "another field": (b"X-Set-Cookie: S=1", {}),
    "in a value": (b"A: Set-Cookie: S=1", {}),
}


@pytest.mark.parametrize(("line", "cookies"), SET.values(), ids=SET.keys())
def test_what_a_node_sets_is_seen(line: bytes, cookies: dict[bytes, bytes]) -> None:
    assert set_by_node(block_of(b"A: 1", line, b"B: 2")) == cookies


def test_all_that_a_node_sets_is_seen_and_the_last_of_one_name_counts() -> None:
    block = block_of(b"Set-Cookie: S=1", b"Set-Cookie: R=2", b"A: 1", b"set-cookie: S=3")
    assert set_by_node(block) == {b"S": b"3", b"R": b"2"}


@pytest.mark.parametrize("line", [line for line, cookies in SET.values() if cookies])
def test_what_sets_a_cookie_may_be_taken_out_and_nothing_else_moves(line: bytes) -> None:
    rest = (b"A:  1 ", b"Set-Cookie: SS=1; S=2", b"set-cookie:s=1", b"Set-Cookie: S")
    assert without_cookies(block_of(*rest[:2], line, line, *rest[2:]), {b"S"}) == block_of(*rest)


def test_an_answer_that_only_set_a_cookie_has_no_lines_left() -> None:
    assert without_cookies(b"Set-Cookie: T=1\r\n", OURS) == b""
    assert (set_by_node(b""), without_cookies(b"", OURS)) == ({}, b"")


answer_lines = st.lists(
    st.one_of(
        st.sampled_from([line for line, _ in SET.values()]),
        st.from_regex(rb"[!-9;-~]{1,9}:[\t -~\x80-\xff]*", fullmatch=True),
    )
)


@given(answer_lines, st.sets(st.sampled_from([b"S", b"T"])))
def test_a_block_without_some_cookies_sets_all_others_and_keeps_all_other_lines(
    lines: list[bytes], names: set[bytes]
) -> None:
    left = without_cookies(block_of(*lines), names)
    before = set_by_node(block_of(*lines))
    assert set_by_node(left) == {name: value for name, value in before.items() if name not in names}
    assert left == block_of(*(line for line in lines if not set_by_node(block_of(line)).keys() & names))
    if not before.keys() & names:
        assert left == block_of(*lines)


# --- session ids in addresses ---

PARAMETERS = {
    "only one in the query": (b"/a?sid=1", b"1"),
    "first in the query": (b"/a?sid=1&b=2", b"1"),
    "later in the query": (b"/a?b=2&sid=1&c", b"1"),
    "first of two": (b"/a?sid=1&sid=2", b"1"),
    "not decoded": (b"/a?sid=%41+b%26", b"%41+b%26"),
    "equals signs": (b"/a?sid=a==", b"a=="),
    "in the path": (b"/a;sid=1", b"1"),
    "in the path before a query": (b"/a;sid=1?b=2", b"1"),
    "in a segment": (b"/a;sid=1/b/c?d", b"1"),
    "among parameters of the path": (b"/a;x=1;sid=2;y=3/b", b"2"),
    "first in the path": (b"/a;sid=1/b;sid=2", b"1"),
    "in both": (b"/a;sid=1?sid=2", b"2"),
    "empty in the query": (b"/a;sid=1?sid=", b"1"),
    "before a fragment": (b"/a?sid=1#sid=2", b"1"),
    "path before a fragment": (b"/a;sid=1#b", b"1"),
    "whole address": (b"https://example.org:8080/a;sid=1?b=2", b"1"),
    "relative": (b"a?sid=1", b"1"),
    "missing": (b"/a?b=1", None),
    "empty": (b"/a?sid=&b=1", None),
    "empty in the path": (b"/a;sid=/b", None),
    "without equals sign": (b"/a;sid?sid&b", None),
    "a segment": (b"/sid=1/b;c/sid=2", None),
    "a relative segment": (b"sid=1;b", None),
    "only in the fragment": (b"/a#?sid=1", None),
    "end of a longer name": (b"/a;xsid=1?xsid=1&b=sid=2", None),
    "beginning of a longer name": (b"/a;sid2=1?sid2=1", None),
    "another case": (b"/a;SID=1?Sid=2", None),
    "semicolon in the query": (b"/a?b=1;sid=2", None),
    "asterisk": (b"*", None),
    "nothing": (b"", None),
}


@pytest.mark.parametrize(("target", "value"), PARAMETERS.values(), ids=PARAMETERS.keys())
def test_a_session_id_is_found_in_the_query_or_the_path(target: bytes, value: bytes | None) -> None:
    assert parameter(target, b"sid") == value


words = st.from_regex(rb"[a-z0-9%.-]{1,6}", fullmatch=True)


@given(st.lists(words), words, st.lists(st.tuples(words, words)), st.lists(st.tuples(words, words)))
def test_whatever_is_around_a_session_id_it_is_found(
    segments: list[bytes],
    value: bytes,
    before: list[tuple[bytes, bytes]],
    after: list[tuple[bytes, bytes]],
) -> None:
    path = b"/" + b"/".join(segments)
    around = [b"&".join(b"x%b=%b" % pair for pair in pairs) for pairs in (before, after)]
    query = b"&".join(filter(None, [around[0], b"sid=" + value, around[1]]))
    assert parameter(b"%b?%b" % (path, query), b"sid") == value
    assert parameter(b"%b;sid=%b?%b" % (path, value, around[0]), b"sid") == value


@given(st.binary(max_size=40), st.sampled_from([b"s", b"sid"]))
def test_no_address_is_an_error(target: bytes, name: bytes) -> None:
    value = parameter(target, name)
    assert value is None or (value and name + b"=" + value in target)
