"""What leaves the proxy, read by another strict parser (h11): one message, the same on both sides."""

from __future__ import annotations

from dataclasses import dataclass, field

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.memory_stage import Stage

EXAMPLES = settings(max_examples=300, deadline=None)

Fields = list[tuple[bytes, bytes]]

# Fields that the proxy writes, or takes out.
OURS = {
    b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"via",
    b"x-request-id", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te",
    b"x-private",
}  # fmt: skip

METHODS = [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"POST", b"PATCH", b"QUERY"]
NAMES = [b"Accept", b"cookie", b"X-Private", b"TE", b"X-Forwarded-For", b"Keep-Alive", b"X_Y", b"ETag", b"~"]


@dataclass
class Seen:
    """What h11 has read of one message. left: bytes after its end."""

    start: tuple[bytes, ...] = ()
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailer: Fields = field(default_factory=list)
    complete: bool = False
    left: bytes = b""


def end_to_end(fields: Fields) -> Fields:
    return [(name, value) for name, value in fields if name.lower() not in OURS]


def read_all(reader: h11.Connection, raw: bytes, ended: bool = False) -> Seen:
    """Return the one message in RAW; raises h11.RemoteProtocolError if it is none."""
    seen = Seen()
    reader.receive_data(raw)
    if ended:
        reader.receive_data(b"")
    while not seen.complete:
        event = reader.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            break
        if isinstance(event, h11.Request):
            seen.start = (bytes(event.method), bytes(event.target))
            seen.fields = list(event.headers.raw_items())
        elif isinstance(event, h11.Response):
            seen.start = (b"%d" % event.status_code, bytes(event.reason))
            seen.fields = list(event.headers.raw_items())
        elif isinstance(event, h11.Data):
            seen.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            seen.complete, seen.trailer = True, list(event.headers.raw_items())
            seen.left = reader.trailing_data[0]
    return seen


def as_node(raw: bytes) -> Seen:
    return read_all(h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20), raw)


def as_client(method: bytes, raw: bytes, ended: bool) -> Seen:
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    reader.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    reader.send(h11.EndOfMessage())
    return read_all(reader, raw, ended)


# --- messages ---

values = st.text('az09 ,;="\t\xe9', max_size=12).map(lambda text: text.encode("latin-1").strip(b" \t"))
field_lists = st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=6)
targets = st.text("/az09?&=%.~!*'();:@$,+[]{}|\\^`\"<>-_", max_size=20).map(lambda text: b"/" + text.encode())
bodies = st.lists(st.binary(min_size=1, max_size=30), max_size=4)
cuts = st.lists(st.integers(1, 300), max_size=5)
SCRAPS = [
    b"", b"\n", b"\r", b"\r\n", b" ", b"\t", b":", b",", b"\x00", b"0", b"1", b"\xe9", b"\x7f", b"chunked",
    b";", b"\r\nContent-Length: 1\r\n", b"\r\nTransfer-Encoding: chunked\r\n", b"\r\n\r\n", b"Host: b\r\n",
]  # fmt: skip
mutations = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 2), st.sampled_from(SCRAPS)), min_size=1, max_size=3
)


@dataclass
class Message:
    """One message as its sender means it; chunked and trailer as it is framed."""

    start: bytes
    fields: Fields
    body: list[bytes]
    chunked: bool
    trailer: Fields

    def block(self, fields: Fields) -> bytes:
        return b"".join(b"%b: %b\r\n" % pair for pair in fields)

    def framing(self) -> bytes:
        if self.chunked:
            return b"Transfer-Encoding: chunked\r\n"
        return b"Content-Length: %d\r\n" % len(b"".join(self.body)) if self.body else b""

    def raw(self) -> bytes:
        body = b"".join(self.body)
        if self.chunked:
            chunks = b"".join(b"%X;x=y\r\n%b\r\n" % (len(part), part) for part in self.body)
            body = b"%b0\r\n%b\r\n" % (chunks, self.block(self.trailer))
        return b"%b\r\n%b%b\r\n%b" % (self.start, self.block(self.fields), self.framing(), body)


@st.composite
def messages(draw: st.DrawFn, start: bytes, first: Fields) -> Message:
    chunked = draw(st.booleans())
    trailer = [(b"Digest", b"a=b")] if chunked and draw(st.booleans()) else []
    return Message(start, first + draw(field_lists), draw(bodies), chunked, trailer)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes, Message]:
    method, target = draw(st.sampled_from(METHODS)), draw(targets)
    connection = draw(st.sampled_from([b"x-private", b"X-Private, close", b"keep-alive,x-PRIVATE"]))
    first = [(b"Host", b"site:80"), (b"Connection", connection)]
    return method, target, draw(messages(b"%b %b HTTP/1.1" % (method, target), first))


def mutated(raw: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Return RAW with some bytes of it replaced: (where, how many, by what)."""
    for at, size, scrap in changes:
        raw = raw[: at % len(raw)] + scrap + raw[at % len(raw) + size :]
    return raw


def pieces_of(raw: bytes, at: list[int]) -> list[bytes]:
    ends = sorted({cut for cut in at if cut < len(raw)})
    return [raw[start:end] for start, end in zip([0, *ends], [*ends, len(raw)], strict=True)]


def forwarded(raw: bytes, at: list[int]) -> tuple[bytes, bytes]:
    """Send RAW in pieces; return what nodes get, and what the client gets while none of them answers."""
    stage = Stage()
    node, client = stage.node(), stage.client()
    for piece in pieces_of(raw, at):
        client.receive(piece)
        stage.run()
    sent = node.taken() + b"".join(connection.taken() for connection in stage.loop.connected)
    answer = client.taken()
    client.lose()
    stage.run()
    stage.assert_at_rest()
    return sent, answer


# --- requests ---


@EXAMPLES
@given(requests(), cuts)
def test_a_node_reads_the_request_that_the_client_sent(
    request: tuple[bytes, bytes, Message], at: list[int]
) -> None:
    method, target, message = request
    sent, answer = forwarded(message.raw(), at)
    seen = as_node(sent)
    assert answer == b""
    assert (seen.complete, seen.left) == (True, b"")
    assert seen.start == (method, target)
    assert [value for name, value in seen.fields if name.lower() == b"host"] == [b"site:80"]
    assert end_to_end(seen.fields) == end_to_end(message.fields)
    assert not {b"connection", b"keep-alive", b"te", b"x-private"} & {name.lower() for name, _ in seen.fields}
    assert seen.body == b"".join(message.body)
    assert seen.trailer == message.trailer


@EXAMPLES
@given(requests(), mutations, cuts)
def test_whatever_reaches_a_node_is_one_request_and_never_one_that_was_refused(
    request: tuple[bytes, bytes, Message], changes: list[tuple[int, int, bytes]], at: list[int]
) -> None:
    sent, answer = forwarded(mutated(request[2].raw(), changes), at)
    seen = as_node(sent)
    refused = answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert seen.left == b""
    assert not (refused and seen.complete)
    if sent:
        assert seen.start


@EXAMPLES
@given(requests(), mutations)
def test_what_is_forwarded_means_the_same_to_a_node_that_had_it_from_the_client(
    request: tuple[bytes, bytes, Message], changes: list[tuple[int, int, bytes]]
) -> None:
    raw = mutated(request[2].raw(), changes)
    ours = as_node(forwarded(raw, [])[0])
    try:
        theirs = as_node(raw)
    except h11.RemoteProtocolError:
        return
    if ours.complete and theirs.complete and theirs.start[1].startswith(b"/"):
        assert ours.start == theirs.start
        assert ours.body == theirs.body


@EXAMPLES
@given(requests(), st.integers(1, 40), cuts)
def test_a_request_that_breaks_off_is_never_complete_for_a_node(
    request: tuple[bytes, bytes, Message], missing: int, at: list[int]
) -> None:
    raw = request[2].raw()[:-missing]
    sent, _ = forwarded(raw, at)
    assert not as_node(sent).complete


# --- answers ---

STATUS_LINES = [
    b"HTTP/1.1 200 Data follows",
    b"HTTP/1.1 404",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 302 \xe9",
    b"HTTP/1.1 500 x",
]
BODILESS = [b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified"]
INTERIM = [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"]


@st.composite
def answers(draw: st.DrawFn) -> Message:
    start = draw(st.sampled_from(STATUS_LINES))
    return draw(messages(start, [(b"Connection", b"x-private")]))


def passed_on(method: bytes, raw: bytes, at: list[int], ended: bool) -> tuple[bytes, str]:
    """Answer with RAW in pieces; return what the client gets, and how its connection ended."""
    stage = Stage(retry={"tries": 1})
    node, client = stage.node(), stage.client()
    client.receive(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method)
    for piece in pieces_of(raw, at):
        if not node.end:
            node.receive(piece)
    if ended:
        node.receive_eof()
    stage.run()
    answer, end = client.taken(), client.end
    client.lose()
    stage.run()
    stage.assert_at_rest()
    return answer, end


@EXAMPLES
@given(answers(), st.sampled_from(INTERIM), cuts)
def test_a_client_reads_the_answer_that_the_node_sent(
    message: Message, interim: bytes, at: list[int]
) -> None:
    ended = not message.framing()
    answer, end = passed_on(b"GET", interim + message.raw(), at, ended)
    seen = as_client(b"GET", answer, ended=False)
    assert (seen.complete, seen.left, end) == (True, b"", "")
    _, status, *reason = message.start.split(b" ", 2)
    assert seen.start == (status, reason[0] if reason else b"")
    expected = [(name, value) for name, value in message.fields if name.lower() == b"x-forwarded-for"]
    assert [pair for pair in seen.fields if pair[0].lower() == b"x-forwarded-for"] == expected
    assert end_to_end(seen.fields) == end_to_end(message.fields)
    assert seen.body == b"".join(message.body)
    assert seen.trailer == message.trailer


@EXAMPLES
@given(
    st.sampled_from([b"GET", b"HEAD"]),
    st.sampled_from(BODILESS + STATUS_LINES),
    field_lists,
    st.booleans(),
    cuts,
)
def test_an_answer_without_a_body_ends_with_its_head(
    method: bytes, start: bytes, fields: Fields, sized: bool, at: list[int]
) -> None:
    start = start if method == b"HEAD" else BODILESS[len(fields) % 2]
    message = Message(start, [*fields, (b"Content-Length", b"7")] if sized else fields, [], False, [])
    answer, end = passed_on(method, message.raw(), at, ended=False)
    seen = as_client(method, answer, ended=False)
    assert (seen.complete, seen.left, seen.body, end) == (True, b"", b"", "")


@EXAMPLES
@given(answers(), mutations, cuts)
def test_a_client_never_reads_a_broken_answer_as_a_whole_one(
    message: Message, changes: list[tuple[int, int, bytes]], at: list[int]
) -> None:
    answer, end = passed_on(b"GET", mutated(message.raw(), changes), at, ended=True)
    seen = as_client(b"GET", answer, ended=False)
    assert seen.left == b""
    assert seen.complete is not (end == "abort")
