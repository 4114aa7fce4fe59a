"""Following events: what was missed comes later, nothing comes twice, and a lost connection is said once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import pytest

from tests.integration.scripted_admin import DEADLINE_S, ScriptedAdmin, scripted_admin
from tests.unit.operator_samples import event
from trackproxy.commands.client import Client, Older, Refused, Unreachable
from trackproxy.commands.event_stream import events_in
from trackproxy.commands.events import Following, Wanted
from trackproxy.commands.place import read_url


@pytest.fixture
def admin() -> Iterator[ScriptedAdmin]:
    with scripted_admin() as script:
        yield script


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackproxy.commands.events.RETRY_S", 0.001)


class Follower:
    """Somebody who follows, and what has been shown and told so far."""

    def __init__(self, url: str, wanted: Wanted) -> None:
        self.shown: Queue[int] = Queue()
        self.told: Queue[str] = Queue()
        self.raised: Queue[Exception] = Queue()
        self._following = Following(
            Client(read_url(url)), wanted, lambda one: self.shown.put(one["id"]), self.told.put
        )

    def run(self) -> None:
        """Follow until that raises."""
        try:
            self._following.run()
        except (Refused, Unreachable) as error:
            self.raised.put(error)

    def numbers(self, count: int) -> list[int]:
        """The numbers of the next COUNT events."""
        return [self.shown.get(timeout=DEADLINE_S) for _ in range(count)]


@contextmanager
def following(admin: ScriptedAdmin, wanted: Wanted) -> Iterator[Follower]:
    """Somebody who follows inside this block."""
    follower = Follower(admin.url, wanted)
    thread = threading.Thread(target=follower.run)
    thread.start()
    try:
        yield follower
    finally:
        admin.refuse("/api/v1/events", 401, "the test is over")
        admin.end_stream()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def keep(admin: ScriptedAdmin, *events: dict[str, Any]) -> None:
    admin.answer("/api/v1/events", {"events": list(events)})


def test_it_begins_with_the_last_ones_and_goes_on_with_what_comes(admin: ScriptedAdmin) -> None:
    keep(admin, event(1), event(2), event(3))
    with following(admin, Wanted(2)) as follower:
        assert follower.numbers(2) == [2, 3]
        admin.send(event(4))
        assert follower.numbers(1) == [4]
        assert admin.headers_of("/api/v1/events")[-1]["last-event-id"] == "3"


def test_only_kinds_that_are_wanted_are_shown(admin: ScriptedAdmin) -> None:
    keep(admin, event(1, "drain"), event(2), event(3))
    with following(admin, Wanted(1, frozenset({"drain"}))) as follower:
        admin.send(event(4), event(5, "drain"))
        assert follower.numbers(2) == [1, 5]


def test_what_was_missed_comes_after_the_connection_is_there_again(admin: ScriptedAdmin) -> None:
    keep(admin, event(1))
    with following(admin, Wanted(10)) as follower:
        admin.send(event(2))
        assert follower.numbers(2) == [1, 2]
        keep(admin, event(1), event(2), event(3))
        admin.end_stream()
        assert follower.numbers(1) == [3]
        assert follower.told.get(timeout=DEADLINE_S).startswith(
            "connection lost: the stream has ended; waiting"
        )
        assert follower.told.get(timeout=DEADLINE_S) == "connected again"
        admin.send(event(4))
        assert follower.numbers(1) == [4]


def test_all_events_of_a_program_that_was_started_anew_are_new(admin: ScriptedAdmin) -> None:
    keep(admin, event(1))
    with following(admin, Wanted(10)) as follower:
        assert follower.numbers(1) == [1]
        keep(admin, event(1, "start"), event(2))
        admin.end_stream()
        assert follower.numbers(2) == [1, 2]
        assert admin.headers_of("/api/v1/events")[-1]["last-event-id"] == "2"


def test_a_program_that_is_about_to_stop_is_waited_for_and_that_is_said_once(admin: ScriptedAdmin) -> None:
    keep(admin, event(1))
    with following(admin, Wanted(10)) as follower:
        assert follower.numbers(1) == [1]
        admin.refuse("/api/v1/events", 503, "about to stop")
        admin.end_stream()
        admin.await_requests(5)
        assert follower.raised.empty()
        keep(admin, event(1), event(2))
        assert follower.numbers(1) == [2]
        assert follower.told.qsize() == 2


@pytest.mark.parametrize(("status", "error"), [(401, Refused), (404, Older), (503, Refused)])
def test_what_does_not_even_begin_is_an_error(
    admin: ScriptedAdmin, status: int, error: type[Exception]
) -> None:
    admin.refuse("/api/v1/events", status, "no")
    with following(admin, Wanted(1)) as follower:
        assert isinstance(follower.raised.get(timeout=DEADLINE_S), error)


def test_a_token_that_is_not_known_any_more_ends_it(admin: ScriptedAdmin) -> None:
    keep(admin, event(1))
    with following(admin, Wanted(1)) as follower:
        assert follower.numbers(1) == [1]
        admin.refuse("/api/v1/events", 401, "unknown token")
        admin.end_stream()
        assert "unknown token" in str(follower.raised.get(timeout=DEADLINE_S))


def test_nobody_there_is_an_error_at_once() -> None:
    with scripted_admin() as gone:
        url = gone.url
    follower = Follower(url, Wanted(1))
    follower.run()
    assert isinstance(follower.raised.get_nowait(), Unreachable)


# --- the form of a stream ---


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b'id: 1\nevent: a\ndata: {"id": 1}\n\n', [{"id": 1}]),
        (b'data: {"id":\ndata: 1}\n\n', [{"id": 1}]),
        (b':\n\ndata:{"a": 1}\r\n\r\n', [{"a": 1}]),
        (b"data: no json\n\ndata: 1\n\n", []),
        (b'data: {"half": 1}\n', []),
        (b'data: {"a": 1}\n: comment\n\n', [{"a": 1}]),
    ],
    ids=["plain", "several lines", "comment, CRLF", "no objects", "cut", "comment inside"],
)
def test_events_are_what_stands_between_empty_lines(stream: bytes, events: list[dict[str, Any]]) -> None:
    assert [*events_in(stream.splitlines(keepends=True))] == events
