"""The client of commands: whom it asks, how it says who asks, and what it makes of refusals."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.scripted_admin import ScriptedAdmin, scripted_admin
from tests.unit.operator_samples import event
from trackproxy.commands.client import Client, Older, Refused, Unreachable
from trackproxy.commands.place import Url, read_token, read_url
from trackproxy.errors import ConfigError


@pytest.fixture
def admin() -> Iterator[ScriptedAdmin]:
    with scripted_admin() as script:
        yield script


def client(admin: ScriptedAdmin, token: str = "", path: str = "") -> Client:
    return Client(read_url(admin.url + path), token)


def test_a_token_is_sent_as_a_bearer(admin: ScriptedAdmin) -> None:
    admin.answer("/api/v1/nodes", {"nodes": []})
    client(admin, "secret").nodes()
    client(admin).nodes()
    with_token, without = admin.headers_of("/api/v1/nodes")
    assert with_token["authorization"] == "Bearer secret"
    assert "authorization" not in without


def test_a_path_of_the_url_stands_before_all_others(admin: ScriptedAdmin) -> None:
    admin.answer("/lb/api/v1/nodes", {"nodes": ["a"]})
    assert client(admin, path="/lb/").nodes() == {"nodes": ["a"]}


def test_a_change_can_depend_on_the_version_that_was_seen(admin: ScriptedAdmin) -> None:
    admin.answer("/api/v1/nodes/a%20b", {"name": "a b"})
    client(admin).change("a b", {"weight": 1}, if_version="17")
    client(admin).change("a b", {"weight": 1})
    first, second = admin.headers_of("/api/v1/nodes/a%20b")
    assert first["if-match"] == '"17"'
    assert "if-match" not in second


@pytest.mark.parametrize(
    ("status", "token", "advice"),
    [
        (401, "", "; give --token-file FILE"),
        (401, "x", "; it does not know the token in --token-file"),
        (403, "x", '; the token in --token-file needs the role "write"'),
        (403, "", ""),
        (412, "", "; look again with `trackproxy nodes --json`"),
        (421, "", "; ask by its address, or add this name to admin.hosts"),
        (404, "", ""),
    ],
)
def test_a_refusal_says_why_and_what_to_do(
    admin: ScriptedAdmin, status: int, token: str, advice: str
) -> None:
    admin.refuse("/api/v1/nodes/a", status, "so it is", problems=["one", "two"])
    with pytest.raises(Refused) as refused:
        client(admin, token).node("a")
    assert str(refused.value) == f"so it is{advice}"
    assert refused.value.problems == ["one", "two"]
    assert refused.value.status == status


def test_what_a_trackproxy_does_not_offer_makes_it_an_older_one(admin: ScriptedAdmin) -> None:
    for ask in (client(admin).status, client(admin).services, lambda: client(admin).events(1)):
        with pytest.raises(
            Older, match="the running trackproxy is older than this command: it has no /api/v1/"
        ):
            ask()


def test_a_node_that_is_not_there_makes_it_no_older_one(admin: ScriptedAdmin) -> None:
    admin.refuse("/api/v1/nodes/a", 404, "a: unknown node")
    with pytest.raises(Refused) as refused:
        client(admin).node("a")
    assert not isinstance(refused.value, Older)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff"])
def test_what_does_not_speak_json_is_no_trackproxy(admin: ScriptedAdmin, body: bytes) -> None:
    admin.answer("/api/v1/nodes", body)
    with pytest.raises(Unreachable, match=f"what answers at {admin.url} is no trackproxy"):
        client(admin).nodes()


def test_a_port_where_nobody_listens_is_said_with_its_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(
        Unreachable, match=f"nobody answers at http://127.0.0.1:{port}: Connection refused; is"
    ):
        Client(read_url(f"http://127.0.0.1:{port}")).nodes()


def test_a_socket_that_is_closed_to_us_says_whom_it_answers(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0)
    user = os.geteuid()
    try:
        if user == 0:  # whom no mode keeps out
            os.seteuid(65534)
        with pytest.raises(
            Unreachable, match="permission denied; it answers its own user and root; try sudo"
        ):
            Client(folder / "control.sock").nodes()
    finally:
        os.seteuid(user)


def test_who_does_not_answer_in_time_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = Client(read_url(f"http://127.0.0.1:{silent.getsockname()[1]}")).within(0.05)
        with pytest.raises(Unreachable, match=r"has not answered within 0\.05 s"):
            asked.nodes()


def test_a_stream_begins_with_none_and_ends_with_its_connection(admin: ScriptedAdmin) -> None:
    admin.answer("/api/v1/events", {})
    admin.send(event(8), event(9))
    admin.end_stream()
    assert [*client(admin).follow(7)] == [None, event(8), event(9)]
    [headers] = admin.headers_of("/api/v1/events")
    assert headers["last-event-id"] == "7"


def test_a_stream_that_is_refused_says_why(admin: ScriptedAdmin) -> None:
    admin.refuse("/api/v1/events", 503, "64 follow the events already")
    with pytest.raises(Refused, match="64 follow"):
        next(client(admin).follow(0))


# --- what is given on the command line ---


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8400", Url("http", "127.0.0.1", 8400, "")),
        ("https://lb.example/admin/", Url("https", "lb.example", 443, "/admin")),
        ("http://[::1]:8400", Url("http", "::1", 8400, "")),
    ],
)
def test_a_url_names_host_port_and_path(text: str, url: Url) -> None:
    assert read_url(text) == url


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.0.0.1:8400", "give a URL such as"),
        ("ftp://a", "give a URL such as"),
        ("http://", "give a URL such as"),
        ("http://a:x", "is no URL"),
        ("http://[::1", "is no URL"),
        ("http://me:secret@a", "a token is read from --token-file"),
        ("http://a/?token=x", "a token is read from --token-file"),
    ],
)
def test_what_is_no_plain_url_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_url(text)


def test_a_token_is_all_that_its_file_holds(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("  abc-123\n")
    assert read_token(file) == "abc-123"


@pytest.mark.parametrize("text", [b"", b" \n", b"two words", b"a\nb", b"\xff", b"x" * 600])
def test_a_file_that_is_no_token_is_refused_and_not_shown(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(text)
    with pytest.raises(ConfigError) as refused:
        read_token(file)
    assert refused.value.problems[0].startswith(f"{file}: ")
    assert "two words" not in str(refused.value)


def test_a_token_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_token(tmp_path / "none")
