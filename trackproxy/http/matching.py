"""Which route a request falls under: the first pattern, in order, that its host, path and method match.

Routes may close paths to networks, so a spelling must not carry a client past a prefix. Prefixes and
regular expressions see the path as nodes may come to read it (`normalised`), the node gets it byte for byte.
Nodes differ about "..", whose reading may be another route on each: see `climbs`.

The trick: all prefixes of a path that are listed anywhere are prefixes of the longest of them, and that one
is, or is above, the neighbour of the path among the sorted prefixes. Bisection finds it in a few comparisons
in C, and what may match below it is known beforehand. Host and method pick from that once, and what they
leave is remembered: mostly a single pattern, else those before it whose regular expression has to be tried.
Memory is bounded: what clients choose freely is a key only as far as the patterns name it, or in a memo
that begins anew when it is full.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

MEMO_SITES = 1024
MEMO_CHAINS = 8192
NAME_BYTES = 255  # RFC 1035, 2.3.4; longer ones match, but are not remembered

_VERSION = len(b" HTTP/1.1")
_ASTERISK = b"*"  # OPTIONS * (RFC 9112, 3.2.4)

# Where a path ends, or needs a closer look. A backslash needs none, since normalising leaves it alone.
_unusual = re.compile(rb"[%;?]|/[/.]").search
_PARAMETERS = re.compile(rb";[^/]*")
_climb = re.compile(rb"(?:[/\\]|%2f|%5c)(?:\.|%2e){2}(?:[/\\;]|%2f|%5c|%3b|\Z)", re.IGNORECASE).search

Search = Callable[[bytes], object]
# What to try, in order: an index, and the search in the path on which it depends; None: it is certain.
# The last one is certain.
Chain = tuple[tuple[int, Search | None], ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """What requests a route is for; empty means any.

    hosts: names without a port, in any case; "*.example.com" is every name below it, "*" every host or none.
        IPv6 addresses are in brackets.
    prefixes: how the path begins, percent-encoded or not. One with ";", "//" or "/../" never matches, since
        no normalised path has these.
    regex: found anywhere in the normalised path, bytes, ASCII. With prefixes too, either suffices.
    methods: case-sensitive (RFC 9110, 9.1).
    """

    hosts: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    regex: str = ""
    methods: tuple[str, ...] = ()


class Matcher:
    """Finds the first of PATTERNS that matches; raises ValueError if a regular expression is none.

    How long a regular expression takes is up to who wrote it. Patterns without one cost the same however many
    there are, and a step more for each prefix that begins others.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        rules = [_rule(index, pattern) for index, pattern in enumerate(patterns)]
        named = {prefix for rule in rules for prefix in rule.prefixes}
        self._prefixes = sorted({b"", _ASTERISK} | named)
        self._above = _above(self._prefixes)
        self._sites = _Sites(rules)
        self._chains = _Chains([_below(prefix, rules) for prefix in self._prefixes])
        self._methods = frozenset[bytes]().union(*(rule.methods for rule in rules))

    def find(self, method: bytes, line: bytes, host: bytes | None) -> int:
        """Return the index of the first pattern that matches, or -1.

        line: the request line as `Request` has it, in origin-form or "OPTIONS *". host: with its port.
        """
        start = len(method) + 1
        unusual = _unusual(line, start)
        path = _path(line, start, unusual) if unusual else line[start:-_VERSION]
        prefixes = self._prefixes
        at = bisect_right(prefixes, path) - 1
        while not path.startswith(prefixes[at]):
            at = self._above[at]
        named = method if method in self._methods else b""
        for index, search in self._chains[at, self._sites[host], named]:
            if search is None or search(path):
                return index
        raise AssertionError("a chain ends with what is certain")


def normalised(path: bytes) -> bytes:
    """Return PATH, which begins with "/" and has no query, as a node may come to read it.

    Parameters (";" up to the next "/") go, before decoding as in Java servers, and once more after it, so
    that an encoded ";" hides nothing. Escapes are decoded once, "//" becomes "/", dot segments are removed
    and never lead above the root (RFC 3986, 5.2.4). Escapes that are none stay, and so does a backslash.
    """
    decoded = unquote_to_bytes(_PARAMETERS.sub(b"", path))
    segments = _PARAMETERS.sub(b"", decoded).split(b"/")
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment not in {b"", b"."}:
            kept.append(segment)
    if segments[-1] in {b"", b".", b".."}:
        kept.append(b"")
    return b"/" + b"/".join(kept)


def climbs(line: bytes) -> bool:
    """Whether the path in a request line has a ".." that some node resolves and another one may not.

    To `Matcher`, "/closed/..%2Fopen/" is "/open/"; a node that keeps "%2F" apart serves it from "/closed/".
    Where a route closes paths, such a request should be refused: no browser sends one.
    """
    return _climb(line.split(b" ")[1].partition(b"?")[0]) is not None


class _Site(NamedTuple):
    """What the patterns know of a host: its name, if named, and the longest ".suffix" above it, if any."""

    name: bytes | None
    suffix: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class _Rule:
    """A pattern, compiled. names: hosts, exactly; suffixes: with their first dot."""

    index: int
    anywhere: bool
    names: frozenset[bytes]
    suffixes: tuple[bytes, ...]
    prefixes: tuple[bytes, ...]
    search: Search | None
    methods: frozenset[bytes]

    def is_for(self, site: _Site, method: bytes) -> bool:
        """Whether host and method fit. Each suffix above a host is one of its longest suffix, too."""
        if self.methods and method not in self.methods:
            return False
        return (
            self.anywhere
            or (site.name is not None and site.name in self.names)
            or (site.suffix is not None and site.suffix.endswith(self.suffixes))
        )

    def holds_below(self, prefix: bytes) -> bool:
        """Whether every path that begins with PREFIX fits, without a look at the rest of it."""
        if prefix == _ASTERISK or not self.prefixes:
            return not self.prefixes and self.search is None
        return prefix.startswith(self.prefixes)


class _Sites(dict[bytes | None, _Site]):
    """What the patterns know of each host, by the value of Host."""

    def __init__(self, rules: Sequence[_Rule]) -> None:
        self._names = frozenset[bytes]().union(*(rule.names for rule in rules))
        self._suffixes = frozenset(suffix for rule in rules for suffix in rule.suffixes)
        self._longest = max(map(len, self._suffixes), default=0)

    def __missing__(self, host: bytes | None) -> _Site:
        name = None if host is None else _name(host)
        site = _Site(name if name in self._names else None, self._suffix(name) if name else None)
        if host is None or len(host) <= NAME_BYTES:
            if len(self) >= MEMO_SITES:
                self.clear()
            self[host] = site
        return site

    def _suffix(self, name: bytes) -> bytes | None:
        dot = name.find(b".", max(1, len(name) - self._longest))
        while dot > 0:
            if name[dot:] in self._suffixes:
                return name[dot:]
            dot = name.find(b".", dot + 1)
        return None


class _Chains(dict[tuple[int, _Site, bytes], Chain]):
    """What to try, by the number of the longest prefix, site, and method if it is named anywhere."""

    def __init__(self, candidates: Sequence[Sequence[tuple[_Rule, Search | None]]]) -> None:
        self._candidates = candidates

    def __missing__(self, key: tuple[int, _Site, bytes]) -> Chain:
        at, site, method = key
        chain: list[tuple[int, Search | None]] = []
        for rule, search in self._candidates[at]:
            if rule.is_for(site, method):
                chain.append((rule.index, search))
                if search is None:
                    break
        else:
            chain.append((-1, None))
        if len(self) >= MEMO_CHAINS:
            self.clear()
        self[key] = tuple(chain)
        return self[key]


def _rule(index: int, pattern: Pattern) -> _Rule:
    names = frozenset(_name(host.encode()) for host in pattern.hosts)
    return _Rule(
        index=index,
        anywhere=not names or b"*" in names,
        names=frozenset(name for name in names if name != b"*" and not name.startswith(b"*.")),
        suffixes=tuple(name[1:] for name in names if name.startswith(b"*.")),
        prefixes=tuple(unquote_to_bytes(prefix.encode()) for prefix in pattern.prefixes),
        search=_compiled(pattern.regex).search if pattern.regex else None,
        methods=frozenset(method.encode() for method in pattern.methods),
    )


def _compiled(text: str) -> re.Pattern[bytes]:
    try:
        encoded = text.encode()
        return re.compile(encoded, re.ASCII)
    except re.error as error:
        where = (
            "" if error.pos is None else f" at position {len(encoded[: error.pos].decode(errors='replace'))}"
        )
        raise ValueError(f"is not a regular expression: {error.msg}{where}") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None


def _above(prefixes: Sequence[bytes]) -> list[int]:
    """For each of PREFIXES, sorted and beginning with b"", where the longest other one is that begins it."""
    above = [0]
    for at in range(1, len(prefixes)):
        candidate = at - 1
        while not prefixes[at].startswith(prefixes[candidate]):
            candidate = above[candidate]
        above.append(candidate)
    return above


def _below(prefix: bytes, rules: Sequence[_Rule]) -> list[tuple[_Rule, Search | None]]:
    """Return what may match paths of which PREFIX is the longest one listed, each with what to search."""
    candidates: list[tuple[_Rule, Search | None]] = []
    for rule in rules:
        if rule.holds_below(prefix):
            candidates.append((rule, None))
        elif rule.search is not None and prefix != _ASTERISK:
            candidates.append((rule, rule.search))
    return candidates


def _path(line: bytes, start: int, unusual: re.Match[bytes]) -> bytes:
    """Return the normalised path of a line whose target begins at START and is UNUSUAL from there on."""
    if unusual[0] == b"?":
        return line[start : unusual.start()]
    query = line.find(b"?", start)
    return normalised(line[start : query if query >= 0 else -_VERSION])


def _name(host: bytes) -> bytes:
    """Return the name in a Host field (RFC 9110, 7.2): lower case, no port, no dot at its end."""
    host = host.lower()
    if host.startswith(b"["):
        return host[: host.find(b"]") + 1]
    return host.partition(b":")[0].removesuffix(b".")
