"""Lines of access logs: one line for a record whatever a client sends, and it can be read back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.access.lines import Combined, Fields, Json, Record, Style, escaped, json_text, quoted

CLIENTS = {"target": b"/t", "agent": b"a", "referer": b"r", "host": b"h", "request": b"GET"}
said = (
    st.binary(max_size=200) | st.text(max_size=60).map(str.encode) | st.sampled_from([b"-", b"", b'"', b"\\"])
)


def record(**more: Any) -> dict[str, Any]:
    return {
        "time": 1764327600.1239,
        "method": b"GET",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 43,
        **more,
    }


def raw(text: str) -> bytes:
    r"""Undo `escaped`: \\ is a backslash, \xHH a byte."""
    found = re.sub(rb"\\(?:\\|x(..))", lambda one: bytes.fromhex((one[1] or b"5c").decode()), text.encode())
    return found


def assert_printable(line: bytes) -> None:
    assert line.endswith(b"\n")
    assert line[:-1].decode("utf-8", "strict").isprintable()


@given(st.fixed_dictionaries({}, optional={name: said for name in CLIENTS}))
def test_a_json_line_gives_back_what_the_client_has_sent(values: dict[str, bytes]) -> None:
    line = Json().line(record(**values))
    assert_printable(line)
    read = json.loads(line)
    assert {name: raw(read[name]) for name in CLIENTS if name in read} == values


@given(said, said)
def test_a_line_of_fields_gives_back_what_the_client_has_sent(agent: bytes, target: bytes) -> None:
    line = Fields(["agent", "status", "target", "host"]).line(record(agent=agent, target=target))
    assert_printable(line)
    inside = re.compile(r'((?:"(?:[^"\\]|\\.)*"|[^ ]+)) 200 ((?:"(?:[^"\\]|\\.)*"|[^ ]+)) -')
    found = inside.fullmatch(line.decode()[:-1])
    assert found, line
    assert [raw(_plain(text)) for text in found.groups()] == [agent, target]


def _plain(text: str) -> str:
    assert text != "-", "what was sent is not taken for nothing"
    return re.sub(
        r'\\(["\\])', lambda one: '"' if one[1] == '"' else "\\\\", text[1:-1] if text[0] == '"' else text
    )


@given(said, said, said)
def test_a_combined_line_has_its_parts_where_apache_has_them(
    target: bytes, referer: bytes, agent: bytes
) -> None:
    line = Combined().line(record(client="10.0.0.1", target=target, referer=referer, agent=agent))
    assert_printable(line)
    form = r'10\.0\.0\.1 - - \[28/Nov/2025:11:00:00 \+0000\] "(Q)" 200 43 "(Q)" "(Q)"'.replace(
        "Q", r'(?:[^"\\]|\\.)*'
    )
    found = re.fullmatch(form, line.decode()[:-1])
    assert found, line
    request, *rest = (raw(_plain(f'"{text}"')) for text in found.groups())
    assert request == b"GET %b HTTP/1.1" % target
    assert rest == [referer or b"-", agent or b"-"]


@given(said)
def test_text_that_needs_no_escapes_is_as_it_was(text: bytes) -> None:
    plain = not re.search(rb"[^ !#-\[\]-~]", text)
    assert (
        escaped(text) == text and json_text(text) == text and quoted(text)[1:-1] in (text, b"-")
    ) or not plain


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"a\r\nb", r"a\x0d\x0ab"),
        (b"\x1b[31m", r"\x1b[31m"),
        (b"\xff", r"\xff"),
        ("ü".encode(), "ü"),
        ("\u202e\u2028\u0085".encode(), r"\xe2\x80\xae\xe2\x80\xa8\xc2\x85"),
        (rb"a\nb", r"a\\nb"),
    ],
    ids=["line break", "terminal", "no UTF-8", "letters", "direction and line ends of Unicode", "backslash"],
)
def test_what_cannot_be_seen_is_shown_as_bytes(sent: bytes, shown: str) -> None:
    assert escaped(sent).decode() == shown


@pytest.mark.parametrize(
    ("style", "line"),
    [
        (
            Json(),
            '{"time":"2025-11-28T11:00:00.123Z","client":"::1","tried":["n1:lost","n2:200"],"total_ms":1.500}',
        ),
        (Json(["total_ms", "sni", "client"]), '{"total_ms":1.500,"client":"::1"}'),
        (Fields(["client", "tried", "total_ms", "sni"]), "::1 n1:lost,n2:200 1.500 -"),
        (Fields(["time"]), "2025-11-28T11:00:00.123Z"),
        (Combined(), '::1 - - [28/Nov/2025:11:00:00 +0000] "-" - 0 "-" "-"'),
    ],
    ids=["json", "json, chosen", "fields", "time", "combined without a request"],
)
def test_what_is_not_there_is_left_out(style: Style, line: str) -> None:
    told: Record = {"time": 1764327600.1239, "client": "::1", "tried": ["n1:lost", "n2:200"], "total_ms": 1.5}
    assert style.line(told).decode() == line + "\n"


def test_a_record_without_anything_is_an_empty_object() -> None:
    assert Json().line({}) == b"{}\n"
