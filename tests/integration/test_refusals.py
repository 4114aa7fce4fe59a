"""What cannot be read in exactly one way is refused: no byte of it reaches a node.

Behind every refused request waits a good one; it must not be served either, because nobody can say where
the bad one ended.
"""

from __future__ import annotations

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import answers_in, request
from tests.integration.nodes import Node
from tests.integration.wire import Wire

LINE = b"GET / HTTP/1.1\r\n"
POST_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
BEHIND = request("/behind")
KIB = 1024
BAD, CODING, VERSION = (400,), (400, 501), (400, 505)

REFUSED_FRAMING = {
    "length and coding": (
        POST_HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "coding and length": (
        POST_HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "two lengths": (POST_HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", BAD),
    "the same length twice": (POST_HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", BAD),
    "a list of lengths": (POST_HEAD + b"Content-Length: 5, 5\r\n\r\nhello", BAD),
    "signed length": (POST_HEAD + b"Content-Length: +5\r\n\r\nhello", BAD),
    "negative length": (POST_HEAD + b"Content-Length: -5\r\n\r\nhello", BAD),
    "hexadecimal length": (POST_HEAD + b"Content-Length: 0x5\r\n\r\nhello", BAD),
    "grouped length": (POST_HEAD + b"Content-Length: 0_5\r\n\r\nhello", BAD),
    "empty length": (POST_HEAD + b"Content-Length:\r\n\r\n", BAD),
    "two words of length": (POST_HEAD + b"Content-Length: 5 5\r\n\r\nhello", BAD),
    "overflowing length": (POST_HEAD + b"Content-Length: 18446744073709551621\r\n\r\nhello", BAD),
    "two codings": (POST_HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", CODING),
    "chunked twice": (POST_HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", CODING),
    "chunked not last": (POST_HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", CODING),
    "almost chunked": (POST_HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", CODING),
    "chunked with parameter": (POST_HEAD + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", CODING),
    "quoted chunked": (POST_HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', CODING),
    "chunked after a control": (POST_HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", BAD),
    "identity": (POST_HEAD + b"Transfer-Encoding: identity\r\n\r\n", CODING),
    "empty coding": (POST_HEAD + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n", CODING),
    "two coding fields": (
        POST_HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CODING,
    ),
    "coding in HTTP/1.0": (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
}
REFUSED_FIELDS = {
    "CR in a value": (LINE + b"Host: a\r\nX: a\rb\r\n\r\n", BAD),
    "CR before a name": (LINE + b"Host: a\r\n\rX: a\r\n\r\n", BAD),
    "CR at the end of a value": (LINE + b"Host: a\r\nX: a\r\r\n\r\n", BAD),
    "LF in a value": (LINE + b"Host: a\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n", BAD),
    "LF after the fields": (LINE + b"Host: a\r\n\n", BAD),
    "LF everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", BAD),
    "folded line": (LINE + b"Host: a\r\nX: a\r\n b\r\n\r\n", BAD),
    "line folded by a tab": (LINE + b"Host: a\r\nX: a\r\n\tb\r\n\r\n", BAD),
    "white space before the first field": (LINE + b" Host: a\r\n\r\n", BAD),
    "space before the colon": (LINE + b"Host : a\r\n\r\n", BAD),
    "tab before the colon": (LINE + b"Host: a\r\nX\t: a\r\n\r\n", BAD),
    "length with space before the colon": (POST_HEAD + b"Content-Length : 5\r\n\r\nhello", BAD),
    "no colon": (LINE + b"Host: a\r\nXY\r\n\r\n", BAD),
    "no name": (LINE + b"Host: a\r\n: b\r\n\r\n", BAD),
    "name that is no token": (LINE + b"Host: a\r\nX[1]: a\r\n\r\n", BAD),
    "name beyond ASCII": (LINE + b"Host: a\r\nX\xe9: a\r\n\r\n", BAD),
    "NUL in a name": (LINE + b"Host: a\r\nX\x00Y: a\r\n\r\n", BAD),
    "NUL in a value": (LINE + b"Host: a\r\nX: a\x00b\r\n\r\n", BAD),
    "control in a value": (LINE + b"Host: a\r\nX: a\x01b\r\n\r\n", BAD),
    "DEL in a value": (LINE + b"Host: a\r\nX: a\x7fb\r\n\r\n", BAD),
    "missing Host": (LINE + b"X: a\r\n\r\n", BAD),
    "no field at all": (LINE + b"\r\n", BAD),
    "two Hosts": (LINE + b"Host: a\r\nHost: b\r\n\r\n", BAD),
    "the same Host twice": (LINE + b"Host: a\r\nhost: a\r\n\r\n", BAD),
    "two Hosts beside an absolute target": (b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", BAD),
    "Host with a space": (LINE + b"Host: a b\r\n\r\n", BAD),
    "Host with a path": (LINE + b"Host: a/b\r\n\r\n", BAD),
    "Host with user info": (LINE + b"Host: a@b\r\n\r\n", BAD),
    "Host that is a list": (LINE + b"Host: a,b\r\n\r\n", BAD),
    "Host with a query": (LINE + b"Host: a?b\r\n\r\n", BAD),
    "Host with a word for a port": (LINE + b"Host: a:http\r\n\r\n", BAD),
    "Host with two ports": (LINE + b"Host: a:1:2\r\n\r\n", BAD),
    "Host with an open bracket": (LINE + b"Host: [::1\r\n\r\n", BAD),
    "unknown expectation": (LINE + b"Host: a\r\nExpect: 200-ok\r\n\r\n", (417,)),
    "two expectations": (POST_HEAD + b"Expect: 100-continue, x\r\nContent-Length: 5\r\n\r\nhello", (417,)),
    "a head that is too large": (LINE + b"Host: a\r\nX: " + b"x" * 32 * KIB + b"\r\n\r\n", (431,)),
    "a head without end": (LINE + b"Host: a\r\n" + b"X: y\r\n" * 6 * KIB, (431,)),
    "a name without end": (LINE + b"Host: a\r\n" + b"x" * 40 * KIB, (431,)),
    "too many fields": (LINE + b"Host: a\r\n" + b"X: y\r\n" * 100 + b"\r\n", (431,)),
}
REFUSED_LINES = {
    "HTTP/0.9": (b"GET /\r\n", VERSION),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505,)),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", (505,)),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", (505,)),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", (505,)),
    "HTTP/0.9 in words": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", VERSION),
    "two digits of version": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", VERSION),
    "version in small letters": (b"GET / http/1.1\r\nHost: a\r\n\r\n", VERSION),
    "version of another protocol": (b"GET / HTTPS/1.1\r\nHost: a\r\n\r\n", VERSION),
    "version with rubbish": (b"GET / HTTP/1.1x\r\nHost: a\r\n\r\n", VERSION),
    "CR in the line": (b"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "LF in the line": (b"GET /a\nb HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "LF after the line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", BAD),
    "NUL in the target": (b"GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "control in the target": (b"GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "DEL in the target": (b"GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "space at the end": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", BAD),
    "space at the start": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "tabs for spaces": (b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "method that is no token": (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "no target": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "target without a slash": (b"GET index.html HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "asterisk for a GET": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "absolute target without host": (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "absolute target with user info": (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "absolute target with two hosts": (b"GET http://a,b/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a TLS greeting": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", BAD),
    "rubbish": (b"\x80\x81\x82\r\n\r\n", BAD),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", (405,)),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", (405,)),
    "a target that is too long": (b"GET /" + b"x" * 8 * KIB + b" HTTP/1.1\r\nHost: a\r\n\r\n", (414,)),
    "a target without end": (b"GET /" + b"x" * 40 * KIB, (414,)),
    "a method without end": (b"G" * 40 * KIB, (400, 414, 431, 501)),
}
REFUSED = {**REFUSED_FRAMING, **REFUSED_FIELDS, **REFUSED_LINES}
SHORT = {name: row for name, row in REFUSED.items() if len(row[0]) < KIB}


async def assert_refused(
    client: Wire, node: Node, stage: Stage, proxy: str, allowed: tuple[int, ...]
) -> None:
    """One refusal came, then an orderly close; the node knows only a later, good request."""
    reply = await client.rest()
    (status_line,) = answers_in(reply)
    assert int(status_line.split(b" ")[1]) in allowed
    assert b"\r\nconnection: close\r\n" in reply.lower()
    assert (client.ended, client.broken) == ("eof", False)
    later = await stage.connect(proxy)
    await later.send(request("/later"))
    assert (await later.answer()).status == 200
    assert node.targets == [b"/later"]
    assert node.received.startswith(b"GET /later HTTP/1.1\r\n")
    assert node.received.count(b"\r\n\r\n") == 1


def rows(table: dict[str, tuple[bytes, tuple[int, ...]]]) -> pytest.MarkDecorator:
    """The table as parameters of a test."""
    return pytest.mark.parametrize(("raw", "allowed"), table.values(), ids=table.keys())


@rows(REFUSED)
async def test_a_request_that_is_not_exactly_right_is_refused_and_reaches_no_node(
    stage: Stage, raw: bytes, allowed: tuple[int, ...]
) -> None:
    node = await stage.start_node()
    proxy = await stage.start_proxy([node])
    client = await stage.connect(proxy)
    await client.send(raw + BEHIND)
    await assert_refused(client, node, stage, proxy, allowed)


@rows(SHORT)
async def test_a_bad_request_that_comes_byte_by_byte_is_refused_all_the_same(
    stage: Stage, raw: bytes, allowed: tuple[int, ...]
) -> None:
    node = await stage.start_node()
    proxy = await stage.start_proxy([node])
    client = await stage.connect(proxy)
    await client.drip(raw + BEHIND)
    await assert_refused(client, node, stage, proxy, allowed)


@rows(SHORT)
async def test_a_bad_request_behind_a_good_one_is_refused_after_the_good_answer(
    stage: Stage, raw: bytes, allowed: tuple[int, ...]
) -> None:
    client, node = await stage.through()
    await client.send(request("/good") + raw + BEHIND)
    assert (await client.answer()).body == b"ok"
    refusal = await client.answer()
    assert refusal.status in allowed
    assert refusal.value("Connection") == b"close"
    assert await client.rest() == b""
    assert node.targets == [b"/good"]


@pytest.mark.parametrize("target", ["CONNECT a:1", "TRACE /"])
async def test_a_refused_method_is_told_which_methods_are_allowed(stage: Stage, target: str) -> None:
    client, _ = await stage.through()
    await client.send(f"{target} HTTP/1.1\r\nHost: a:1\r\n\r\n".encode())
    assert b"get" in (await client.answer()).tokens("Allow")
