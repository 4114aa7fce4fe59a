"""Matching: each condition by itself, first match wins, and no spelling carries a client past a prefix."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackproxy.http.matching import (
    MEMO_CHAINS,
    MEMO_SITES,
    NAME_BYTES,
    Matcher,
    Pattern,
    climbs,
    normalised,
)


def find(
    patterns: list[Pattern], target: str, host: str | None = "site", method: str = "GET", version: str = "1.1"
) -> int:
    line = f"{method} {target} HTTP/{version}".encode()
    return Matcher(patterns).find(method.encode(), line, None if host is None else host.encode())


def matches(pattern: Pattern, target: str, host: str | None = "site", method: str = "GET") -> bool:
    return find([pattern], target, host, method) == 0


# --- each condition ---


@pytest.mark.parametrize("target", ["/", "/a?b=//", "/%00", "*"])
@pytest.mark.parametrize("host", [None, "", "a", "[::1]:80"])
@pytest.mark.parametrize("method", ["GET", "M-SEARCH", "%", "*"])
def test_a_pattern_without_conditions_matches_everything(target: str, host: str | None, method: str) -> None:
    assert matches(Pattern(), target, host, method)


def test_without_patterns_nothing_matches() -> None:
    assert find([], "/") == -1


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com:8080", True),
        ("Example.COM", "example.com.", True),
        ("example.com.", "example.com", True),
        ("example.com", "example.com.:80", True),
        ("example.com", "example.com..", False),
        ("example.com", "a.example.com", False),
        ("example.com", "example.co", False),
        ("example.com", "example.com:", True),
        ("example.com", "", False),
        ("example.com", ":80", False),
        ("example.com", None, False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "A.b.Example.com.:80", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", ".a.example.com", True),
        ("*.example.com", ".a.b", False),
        ("*.b", ".other.b", True),
        ("*.example.com", "badexample.com", False),
        ("*.example.com", "a.example.com.evil", False),
        ("*.example.com", "a." * 2000 + "example.com", True),
        ("*.example.com", None, False),
        ("*", "anything", True),
        ("*", "", True),
        ("*", None, True),
        ("[2001:db8::1]", "[2001:DB8::1]:80", True),
        ("[2001:db8::1]", "[2001:db8::1]", True),
        ("[2001:db8::1]", "[2001:db8::2]", False),
        ("[::1]", "[", False),
        ("10.0.0.1", "10.0.0.1:80", True),
    ],
)
def test_a_host_is_compared_without_port_case_and_last_dot(
    pattern: str, host: str | None, expected: bool
) -> None:
    assert matches(Pattern(hosts=(pattern,)), "/", host) is expected
    assert matches(Pattern(hosts=("other", "*.other", "*.other.b", pattern)), "/", host) is expected


@pytest.mark.parametrize(
    ("prefix", "target", "expected"),
    [
        ("/t/", "/t/1", True),
        ("/t/", "/t/", True),
        ("/t/", "/t", False),
        ("/t/", "/T/1", False),
        ("/t", "/tea", True),
        ("/t/", "/a/t/", False),
        ("/", "/", True),
        ("", "/a", True),
        ("/t/", "/x?/t/", False),
        ("/a?b", "/a?b", False),
        ("/a H", "/a", False),
        ("/a b/", "/a%20b/c", True),
        ("/a%20b/", "/a%20b/c", True),
        ("/caf\xe9/", "/caf%C3%A9/", True),
        ("/100%/", "/100%25/", True),
        ("/.well-known/", "/.well-known/x", True),
    ],
)
def test_a_prefix_is_the_beginning_of_the_path(prefix: str, target: str, expected: bool) -> None:
    assert matches(Pattern(prefixes=(prefix,)), target) is expected
    assert matches(Pattern(prefixes=("/zzz", prefix, "/+")), target) is expected


@pytest.mark.parametrize(
    ("regex", "target", "expected"),
    [
        ("px", "/a/px.png", True),
        ("^/a/[0-9]+$", "/a/12?b", True),
        ("^/a/[0-9]+$", "/a/12/b", False),
        ("b", "/a?b", False),
        ("HTTP", "/a", False),
        ("^GET", "/a", False),
        ("(?i)ADMIN", "/admin/", True),
        ("^/admin/", "//x/..//admin;y/", True),
        (r"^/\w$", "/%e9", False),
        ("\xe9", "/%c3%a9", True),
    ],
)
def test_a_regex_is_found_anywhere_in_the_path(regex: str, target: str, expected: bool) -> None:
    assert matches(Pattern(regex=regex), target) is expected


def test_either_a_prefix_or_the_regex_suffices() -> None:
    pattern = Pattern(prefixes=("/a/", "/b/"), regex="c$")
    assert [matches(pattern, target) for target in ("/a/x", "/b/x", "/x/c", "/x/cd")] == [
        True,
        True,
        True,
        False,
    ]


def test_a_method_is_compared_exactly() -> None:
    pattern = Pattern(methods=("GET", "POST"))
    methods = ("GET", "POST", "HEAD", "get", "GETX")
    assert [matches(pattern, "/", method=method) for method in methods] == [True, True, False, False, False]


def test_all_conditions_have_to_hold() -> None:
    pattern = Pattern(hosts=("a",), prefixes=("/t/",), methods=("GET",))
    assert matches(pattern, "/t/1", "a", "GET")
    assert not matches(pattern, "/t/1", "b", "GET")
    assert not matches(pattern, "/u/1", "a", "GET")
    assert not matches(pattern, "/t/1", "a", "PUT")


@pytest.mark.parametrize(
    "pattern",
    [Pattern(prefixes=("/",)), Pattern(prefixes=("",)), Pattern(prefixes=("*",)), Pattern(regex="")],
)
def test_an_asterisk_matches_only_patterns_without_a_path(pattern: Pattern) -> None:
    assert matches(pattern, "*", method="OPTIONS") is (pattern == Pattern())


def test_an_asterisk_is_not_searched() -> None:
    assert find([Pattern(regex=".*"), Pattern(methods=("OPTIONS",))], "*", method="OPTIONS") == 1


def test_the_first_match_wins_not_the_longest_prefix() -> None:
    patterns = [Pattern(prefixes=("/a/b/c/",)), Pattern(prefixes=("/a/",)), Pattern(prefixes=("/a/b/",))]
    assert [find(patterns, target) for target in ("/a/b/c/d", "/a/b/x", "/b")] == [0, 1, -1]


# --- spellings ---

CLOSED = [
    "/admin/", "//admin/", "/%61dmin/", "/%61%64%6D%69%6e/", "/admin%2Fx", "/admin%2fx", "/./admin/",
    "/x/../admin/", "/../admin/", "/%2e%2E/admin/", "/x/%2e./admin/", "/admin;x/y", "/admin;/",
    "/admin;x=1;y/",
    "/;x/admin/", "/x/..;/admin/", "/x/..;y=1/admin/", "/admin%3Bx/y", "/;%2Fx/admin/", "/%3B/admin/",
    "///.//admin//", "/admin/.", "/admin/x/..", "/x%2F..%2Fadmin%2F", "/admin/%", "/admin/%zz", "/admin/\\..",
    "/admin/?/../../x", "/admin/%00",
]  # fmt: skip
OPEN = [
    "/admin", "/admin/..", "/admin/../", "/x?/admin/", "/x?a;b/../admin/", "/x/admin/", "/%2561dmin/",
    "/%admin/",
    "/\\admin/", "/admin\\x", "/admin;x", "/admi%6/", "/admin%5cx", "/admin./", "/...admin/",
]  # fmt: skip


@pytest.mark.parametrize("target", CLOSED)
def test_no_spelling_leads_past_a_prefix(target: str) -> None:
    assert find([Pattern(prefixes=("/admin/",)), Pattern()], target) == 0


@pytest.mark.parametrize("target", OPEN)
def test_another_path_is_another_path(target: str) -> None:
    assert find([Pattern(prefixes=("/admin/",)), Pattern()], target) == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", b"/"),
        (b"//", b"/"),
        (b"/.", b"/"),
        (b"/..", b"/"),
        (b"/../../a", b"/a"),
        (b"/a/b/../c/./d", b"/a/c/d"),
        (b"/a/..", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/a//", b"/a/"),
        (b"/a/;x", b"/a/"),
        (b"/a;x", b"/a"),
        (b"/.../..a/a..", b"/.../..a/a.."),
        (b"/%2541", b"/%41"),
        (b"/%4", b"/%4"),
        (b"/%", b"/%"),
        (b"/%g1%41", b"/%g1A"),
        (b"/a\\..\\b%5c", b"/a\\..\\b\\"),
        (b"/%3fa%23", b"/?a#"),
    ],
)
def test_a_path_is_normalised(path: bytes, expected: bytes) -> None:
    assert normalised(path) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/a/../b", True),
        (b"/..", True),
        (b"/a/..;x/b", True),
        (b"/a/..%3bx/b", True),
        (b"/a%2f..%2Fb", True),
        (b"/a/%2e%2E/b", True),
        (b"/a/.%2e", True),
        (b"/a\\..\\b", True),
        (b"/a%5C..%5cb", True),
        (b"/a;%2F../b", True),
        (b"/a/..?x", True),
        (b"/a/./b", False),
        (b"/a..b/..c/d../...", False),
        (b"/a?/../b", False),
        (b"/a/%252e./", False),
        (b"*", False),
    ],
)
def test_a_path_that_nodes_may_resolve_differently_is_told(target: bytes, expected: bool) -> None:
    assert climbs(b"GET %b HTTP/1.1" % target) is expected


# --- against the plainest implementation ---


def plainly_decoded(path: bytes) -> bytes:
    done = b""
    while path:
        if re.match(rb"%[0-9a-fA-F]{2}", path):
            done, path = done + bytes([int(path[1:3], 16)]), path[3:]
        else:
            done, path = done + path[:1], path[1:]
    return done


def without_parameters(path: bytes) -> bytes:
    return b"/".join(segment.partition(b";")[0] for segment in path.split(b"/"))


def without_dots(path: bytes) -> bytes:
    """RFC 3986, 5.2.4, to the letter, for a path that begins with a slash."""
    output = b""
    while path:
        if path.startswith(b"/./") or path == b"/.":
            path = b"/" + path[3:]
        elif path.startswith(b"/../") or path == b"/..":
            path = b"/" + path[4:]
            output = output[: max(output.rfind(b"/"), 0)]
        else:
            end = path.find(b"/", 1)
            end = len(path) if end < 0 else end
            output, path = output + path[:end], path[end:]
    return output


def plainly_normalised(path: bytes) -> bytes:
    path = without_parameters(plainly_decoded(without_parameters(path)))
    while b"//" in path:
        path = path.replace(b"//", b"/")
    return without_dots(path)


def plain_host_matches(pattern: str, host: bytes | None) -> bool:
    if pattern == "*" or host is None:
        return pattern == "*"
    name = host.decode().lower()
    name = name[: name.index("]") + 1] if name.startswith("[") else name.split(":")[0]
    name = name[:-1] if name.endswith(".") else name
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and name != pattern[1:]
    return name == pattern.lower()


def plain_path_matches(pattern: Pattern, target: bytes) -> bool:
    if not pattern.prefixes and not pattern.regex:
        return True
    if target == b"*":
        return False
    path = plainly_normalised(target.partition(b"?")[0])
    begins = any(path.startswith(plainly_decoded(prefix.encode())) for prefix in pattern.prefixes)
    return begins or bool(pattern.regex and re.search(pattern.regex.encode(), path))


def plainly_found(patterns: list[Pattern], method: bytes, target: bytes, host: bytes | None) -> int:
    for index, pattern in enumerate(patterns):
        named = not pattern.hosts or any(plain_host_matches(name, host) for name in pattern.hosts)
        if pattern.methods and method.decode() not in pattern.methods:
            continue
        if named and plain_path_matches(pattern, target):
            return index
    return -1


def some(values: list[str], most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=most).map(tuple)


PATH_PIECES = [
    "/",
    "a",
    "b",
    ".",
    "..",
    "//",
    "/a/",
    "/b/",
    ";",
    "%61",
    "%2f",
    "%2E",
    "%3b",
    "%",
    "%4",
    "*",
    "\\",
]
PREFIXES = st.text("ab/", max_size=4).map(lambda rest: "/" + rest) | st.sampled_from(
    ["", "/%61", "*", "b", "/a b"]
)
REGEXES = st.sampled_from(["", "", "a$", "^/a/b", "b+", "//", r"^/[^/]+\Z", "[.]", "(?i)A/B"])
HOSTS = ["*", "a.b", "A.b", "*.b", "*.a.b", "*.b.a.b", "[::1]", "b"]
PATTERNS = st.builds(
    Pattern,
    hosts=st.just(()) | some(HOSTS),
    prefixes=st.just(()) | st.lists(PREFIXES, max_size=3).map(tuple),
    regex=REGEXES,
    methods=st.just(()) | some(["GET", "POST"]),
)
TARGETS = st.lists(st.sampled_from(PATH_PIECES), max_size=6).map("".join).map(lambda rest: "/" + rest)
QUERIES = st.sampled_from(["", "", "?", "?a", "?/a/../b;%61", "?a?b"])
REQUESTS = st.tuples(
    st.sampled_from([b"GET", b"POST", b"PUT"]),
    st.builds(str.__add__, TARGETS, QUERIES).map(str.encode) | st.just(b"*"),
    st.sampled_from(
        [None, b"", b"a.b", b"A.B:80", b"a.b.", b"x.b", b"c.b.a.b", b".b", b"[::1]:8", b"x", b"xa.b"]
    ),
)


@settings(max_examples=1500)
@given(st.lists(PATTERNS, max_size=8), st.lists(REQUESTS, min_size=1, max_size=12))
def test_it_finds_what_the_plainest_implementation_finds(
    patterns: list[Pattern], requests: list[tuple[bytes, bytes, bytes | None]]
) -> None:
    matcher = Matcher(patterns)
    for method, target, host in requests * 2:  # the second time from memory
        found = matcher.find(method, b"%b %b HTTP/1.1" % (method, target), host)
        assert found == plainly_found(patterns, method, target, host)


@settings(max_examples=500)
@given(
    st.lists(st.text("ab", max_size=5), max_size=30),
    st.lists(st.text("ab", max_size=7), min_size=1, max_size=10),
)
def test_prefixes_that_begin_one_another_are_told_apart(prefixes: list[str], paths: list[str]) -> None:
    patterns = [Pattern(prefixes=(f"/{prefix}",)) for prefix in prefixes]
    matcher = Matcher(patterns)
    for path in paths:
        target = f"/{path}".encode()
        found = matcher.find(b"GET", b"GET %b HTTP/1.1" % target, None)
        assert found == plainly_found(patterns, b"GET", target, None)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PATH_PIECES), max_size=10).map("".join))
def test_normalising_is_decoding_merging_and_removing_dots(rest: str) -> None:
    path = b"/" + rest.encode()
    assert normalised(path) == plainly_normalised(path)


# --- many patterns, many clients ---


def test_a_deep_nest_of_prefixes_is_searched_to_its_root() -> None:
    patterns = [Pattern(prefixes=("/" + "a" * depth,)) for depth in range(2000, 0, -1)]
    assert find(patterns, "/" + "a" * 1500 + "b") == 500
    assert find(patterns, "/b") == -1


def test_memory_is_bounded_whatever_hosts_and_methods_clients_name() -> None:
    pattern = Pattern(hosts=("a", "*.bb", "*.a.very.long.name"), methods=("GET",))
    matcher = Matcher([pattern])
    for number in range(3 * MEMO_SITES):
        method = b"M%d" % number
        assert matcher.find(method, method + b" / HTTP/1.1", b"%d.example" % number) == -1
        assert matcher.find(b"GET", b"GET / HTTP/1.1", b"x.%d.bb" % number) == 0
    assert matcher.find(b"GET", b"GET / HTTP/1.1", b"a" * (NAME_BYTES + 1)) == -1
    assert len(matcher._sites) <= MEMO_SITES
    assert max(len(host or b"") for host in matcher._sites) <= NAME_BYTES
    assert len(matcher._chains) <= 3
    assert matcher.find(b"GET", b"GET / HTTP/1.1", b"A:80") == 0


def test_memory_is_bounded_whatever_the_patterns_name() -> None:
    names = [f"h{number}" for number in range(100)]
    matcher = Matcher([Pattern((name,), (f"/{name}/",)) for name in names])
    for host in names:
        for path in names:
            line = f"GET /{path}/ HTTP/1.1".encode()
            assert matcher.find(b"GET", line, host.encode()) == (names.index(host) if host == path else -1)
    assert 100 * 100 > MEMO_CHAINS >= len(matcher._chains)


# --- regular expressions that are none ---


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a(", "is not a regular expression: missing ), unterminated subpattern at position 1"),
        ("\xe9\xe9(", "is not a regular expression: missing ), unterminated subpattern at position 2"),
        ("x\n[", "is not a regular expression: unterminated character set at position 2"),
        ("*", "is not a regular expression: nothing to repeat at position 0"),
        ("\ud800", "is not a regular expression: "),
        ("(?L)a", "is not a regular expression: "),
        ("(?u)a", "is not a regular expression: "),
        ("(" * 5000 + ")" * 5000, "is not a regular expression: "),
        ("a{99999999999999999999}", "is not a regular expression: "),
    ],
)
def test_a_bad_regex_is_told_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Matcher([Pattern(regex=text)])
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Matcher([Pattern(), Pattern(regex=text)])


def test_a_good_regex_passes() -> None:
    Matcher([Pattern(regex="")])
    Matcher([Pattern(regex=r"^/u(?:[/0-9]|nsub|\Z)")])
