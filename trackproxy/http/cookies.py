"""Cookies and session ids as they pass: what is found in them, what is taken out, what is added (RFC 6265).

Clients and nodes send each other what they like, so reading is lenient as theirs is: nothing here raises for
what came in. What is not ours passes on octet by octet. Names count by case, as they do for browsers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

_BLANKS = b" \t"
_SET_COOKIE = b"set-cookie:"


def split_cookies(
    value_lines: Sequence[bytes], names: frozenset[bytes]
) -> tuple[dict[bytes, list[bytes]], list[bytes]]:
    """Return the values of the cookies of these NAMES, in order, and the Cookie values without them.

    value_lines: the values of the Cookie fields of a request. Values that are found lose blanks and one pair
    of quotes around them. A line without such a cookie is left as it is, one with nothing else is left out.
    """
    found: dict[bytes, list[bytes]] = {}
    left = []
    for line in value_lines:
        pairs = line.split(b";")
        others = []
        for pair in pairs:  # RFC 6265, 4.2.1; a pair without "=" has no name
            name, equals, value = pair.partition(b"=")
            if equals and (name := name.strip(_BLANKS)) in names:
                found.setdefault(name, []).append(_bare(value))
            else:
                others.append(pair)
        if len(others) < len(pairs):
            line = b"; ".join(filter(None, (pair.strip(_BLANKS) for pair in others)))
        if line:
            left.append(line)
    return found, left


def set_cookie(
    name: bytes, value: bytes, path: str, domain: str, secure: bool, same_site: str = "Lax"
) -> bytes:
    """Return the line, with its CRLF, that gives a client a cookie which scripts do not see.

    domain: nothing for the host that was asked alone. It is a session cookie: it ends with the browser, and
    what is in it with its own time. What is given must be valid (RFC 6265, 4.1.1); it is not looked at here.
    """
    attributes = f"Path={path}; HttpOnly; SameSite={same_site}"
    if domain:
        attributes += f"; Domain={domain}"
    if secure:
        attributes += "; Secure"
    return b"Set-Cookie: %b=%b; %b\r\n" % (name, value, attributes.encode())


def set_by_node(block: bytes) -> dict[bytes, bytes]:
    """Return what the Set-Cookie lines of an answer set, by name, the last one of a name.

    block: field lines, each with its CRLF. Values lose blanks and one pair of quotes around them. The value
    of a cookie that is taken back is what the node says, often nothing.
    """
    if _SET_COOKIE not in block.lower():
        return {}
    named = map(_set, block.split(b"\r\n"))
    return {cookie[0]: cookie[1] for cookie in named if cookie}


def without_cookies(block: bytes, names: Collection[bytes]) -> bytes:
    """Return the field lines BLOCK, each with its CRLF, without those that set cookies of these NAMES."""
    if _SET_COOKIE not in block.lower():
        return block
    lines = block.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not (cookie := _set(line)) or cookie[0] not in names)


def parameter(target: bytes, name: bytes) -> bytes | None:
    """Return the session id NAME in the target of a request or in a Location, None if there is none.

    That is the first one in the query (?NAME=…, &NAME=…) or, if that says nothing, in the path (;NAME=…, as
    Java servers write it), as it stands there: nothing is decoded. What follows a "#" is no part of either.
    """
    if name not in target:
        return None
    path, _, query = target.partition(b"#")[0].partition(b"?")
    return _first(query.split(b"&"), name) or _first(_path_parameters(path), name) or None


def _bare(value: bytes) -> bytes:
    """Return a cookie's value without the blanks and quotes around it."""
    value = value.strip(_BLANKS)
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value


def _set(line: bytes) -> tuple[bytes, bytes] | None:
    """Return the name and the value that a field line sets (RFC 6265, 5.2), None if it sets no cookie."""
    if line[: len(_SET_COOKIE)].lower() != _SET_COOKIE:
        return None
    name, equals, value = line[len(_SET_COOKIE) :].partition(b";")[0].partition(b"=")
    name = name.strip(_BLANKS)
    return (name, _bare(value)) if equals and name else None


def _path_parameters(path: bytes) -> Iterator[bytes]:
    """Return the parameters of all segments of a path (RFC 3986, 3.3)."""
    return (part.partition(b"/")[0] for part in path.split(b";")[1:])


def _first(pairs: Iterable[bytes], name: bytes) -> bytes:
    """Return the value of the first of these pairs with this NAME, nothing if there is none."""
    start = name + b"="
    return next((pair[len(start) :] for pair in pairs if pair.startswith(start)), b"")
