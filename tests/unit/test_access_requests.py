"""What an access log tells of requests: the quick way and the careful one say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.memory_stage import Stage
from tests.unit.memory_transport import MemoryTransport
from trackproxy.access.lines import Style
from trackproxy.access.names import REQUEST_FIELDS
from trackproxy.http.access import Access
from trackproxy.http.quick_access import make_access
from trackproxy.sections import AccessLog

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Lines:
    """Stands for a writer."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.crowd_at = 1 << 30
        self.put = self.lines.append

    def crowd(self) -> None:
        """There is always room."""


class Watched:
    """A style that notes how often it was asked: quick ways do not need it."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self.asked = 0

    def line(self, record: Any) -> bytes:
        self.asked += 1
        return self._style.line(record)


def logging_stage(**settings: Any) -> tuple[Stage, Access, Lines]:
    stage = Stage(**settings)
    lines = Lines()
    access = make_access("web", stage.settings.access_log, lines)  # type: ignore[arg-type]
    stage.service.access = access
    return stage, access, lines


def served(stage: Stage, client: MemoryTransport, head: bytes, answer: bytes = OK) -> None:
    """CLIENT asks, and a node answers over a connection that is open already."""
    node = stage.node()
    client.receive(head)
    node.receive(answer)
    client.taken()


def log(name: str, **more: Any) -> dict[str, Any]:
    return {"access_log": AccessLog(path="/x", format=name, **more)}  # type: ignore[arg-type]


def careful(access: Access, stage: Stage, name: str) -> None:
    """Make ACCESS forget its quick ways."""
    access.whole = Access.whole.__get__(access)  # type: ignore[method-assign]


TOKENS = st.text("abcXYZ019-._~", min_size=1, max_size=8).map(str.encode)
VALUES = st.binary(max_size=40).map(lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F))
TARGETS = st.text([chr(code) for code in range(0x21, 0x7F) if code != ord("#")], max_size=30).map(str.encode)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    fields = [b"Host: %b" % draw(TOKENS)]
    for name in draw(
        st.lists(
            st.sampled_from([b"User-Agent", b"user-agent", b"Referer", b"REFERER", b"Cookie"]), max_size=4
        )
    ):
        fields.append(b"%b: %b" % (name, draw(VALUES)))
    return b"GET /%b HTTP/1.1\r\n%b\r\n\r\n" % (draw(TARGETS), b"\r\n".join(fields))


@pytest.mark.parametrize("name", ["json", "combined"])
@given(head=heads())
def test_the_quick_way_tells_what_the_careful_one_does(name: str, head: bytes) -> None:
    told = []
    for quick in (True, False):
        stage, access, lines = logging_stage(**log(name))
        access._wall_s = lambda at: 1764327600.5  # type: ignore[method-assign]
        if not quick:
            careful(access, stage, name)
        served(stage, stage.client(), head)
        (line,) = lines.lines
        if name == "json":
            one = json.loads(line)
            assert list(one) == [field for field in REQUEST_FIELDS if field in one]
            told.append({key: one[key] for key in one if not key.endswith("_ms") and key != "request_id"})
            assert "first_byte_ms" in one
            assert len(one["request_id"]) == 32
        else:
            told.append({"line": line})
    assert told[0] == told[1]


def test_usual_requests_go_the_quick_way() -> None:
    for name in ("json", "combined"):
        stage, access, lines = logging_stage(**log(name))
        access._style = watched = Watched(access._style)
        client = stage.client()
        for number in range(3):
            served(stage, client, b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        assert len(lines.lines) == 3
        assert watched.asked == 0


@given(st.binary(max_size=60))
def test_whatever_a_client_sends_makes_one_line_at_most(sent: bytes) -> None:
    stage, _, lines = logging_stage(**log("json"))
    client = stage.client()
    client.receive(sent.replace(b"\r\n\r\n", b"") + b"\r\n\r\n")
    client.lose()
    stage.run()
    assert len(lines.lines) <= 1
    for line in lines.lines:
        assert line[:-1].decode().isprintable()
        json.loads(line)


def test_a_minute_that_begins_has_its_own_time() -> None:
    stage, access, lines = logging_stage(**log("json"))
    for second in (59.25, 60.5):
        access._wall_s = lambda at, second=second: 1764327600 + second  # type: ignore[method-assign,misc]
        access._to = 0.0  # type: ignore[attr-defined] # that second is over
        served(stage, stage.client(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    times = [json.loads(line)["time"] for line in lines.lines]
    assert [time[:19] for time in times] == ["2025-11-28T11:00:59", "2025-11-28T11:01:00"]


def test_chosen_fields_come_in_their_order() -> None:
    stage, _, lines = logging_stage(**log("fields", fields=["status", "client", "sni", "target", "end"]))
    served(stage, stage.client(), b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    assert lines.lines == [b"200 192.0.2.7 - /a ok\n"]


@pytest.mark.parametrize(("sample", "share"), [(0.0, (0, 0)), (0.5, (100, 300)), (1.0, (400, 400))])
@pytest.mark.parametrize("name", ["json", "combined", "fields"])
def test_a_share_of_requests_is_told(name: str, sample: float, share: tuple[int, int]) -> None:
    more = {"fields": ["status"]} if name == "fields" else {}
    stage, _, lines = logging_stage(**log(name, sample=sample, **more))
    client = stage.client()
    for _ in range(400):
        served(stage, client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    least, most = share
    assert least <= len(lines.lines) <= most


def test_an_upgrade_cannot_pass_for_a_request_id() -> None:
    stage, _, lines = logging_stage(**log("json"))
    forged = b"Connection: upgrade\r\nUpgrade: a X-Request-ID: %b\r\n" % (b"f" * 32)
    served(stage, stage.client(), b"GET / HTTP/1.1\r\nHost: a\r\n" + forged + b"\r\n")
    assert json.loads(lines.lines[0])["request_id"] != "f" * 32


def test_without_a_log_nothing_is_kept_of_a_client() -> None:
    stage = Stage()
    served(stage, stage.client(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert all(not hasattr(edge, "met") for edge in stage.service.open)
