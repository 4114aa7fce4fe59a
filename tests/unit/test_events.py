"""Events as they are kept, and what followers get of them."""

from __future__ import annotations

import json
import logging

import pytest

from trackproxy.control.audit import audit, audited, telling_failure
from trackproxy.control.events import KEPT, MOST_FOLLOWERS, MOST_WAITING, Events, Follower, TooMany
from trackproxy.control.views import Key
from trackproxy.errors import ConfigError, StartFailed, TrackproxyError
from trackproxy.health.looking import Result
from trackproxy.telling import event


class Reader(Follower):
    """A follower that counts how often it is woken. there: somebody is."""

    def __init__(self, *, probes: bool = False) -> None:
        self.woken = 0
        self.there = True
        super().__init__(self._count, lambda: not self.there, probes=probes)

    def _count(self) -> None:
        self.woken += 1

    def numbers(self) -> list[int | None]:
        return [one.number for one in self.take()]


def happen(events: Events, count: int = 1) -> None:
    for _ in range(count):
        events.take(event(1.0, "info", "health", "a", {}))


def follow(events: Events, *, probes: bool = False) -> Reader:
    reader = Reader(probes=probes)
    events.follow(reader)
    return reader


# --- what is kept ---


def test_the_last_events_are_kept_by_number_and_older_ones_forgotten() -> None:
    events = Events()
    happen(events, KEPT + 5)
    kept = events.last(2 * KEPT)
    assert [one.number for one in kept] == [*range(6, KEPT + 6)]
    assert [one.number for one in events.last(2)] == [KEPT + 4, KEPT + 5]
    assert events.last(0) == []


@pytest.mark.parametrize(
    ("seen", "comes"),
    [(8, [9, 10]), (10, []), (0, [*range(1, 11)]), (500, [*range(1, 11)])],
    ids=["some", "all", "none", "of a process before"],
)
def test_what_came_after_an_event_is_known_from_its_number(seen: int, comes: list[int]) -> None:
    events = Events()
    happen(events, 10)
    assert [one.number for one in events.after(seen)] == comes


def test_numbers_go_on_where_another_program_has_ended() -> None:
    events = Events()
    events.number = 41
    happen(events, 2)
    assert [one.number for one in events.after(41)] == [42, 43]
    assert [one.number for one in events.after(12)] == [42, 43]


def test_an_event_is_one_line_of_json_with_its_number() -> None:
    events = Events()
    events.take(event(1.25, "warning", "health", "a\nb", {"node": "n"}))
    [one] = events.last(1)
    assert b"\n" not in one.line
    tree = {"id": 1, "at": 1.25, "level": "warning", "kind": "health", "text": r"a\nb", "node": "n"}
    assert json.loads(one.line) == one.tree == tree


def test_reports_of_workers_say_whose_they_are_and_what_is_none_is_left_out() -> None:
    events = Events()
    line = json.dumps(event(1.0, "info", "ejection", "a", {"node": "n", "worker": 99})).encode()
    events.take_report(line, {"worker": 2, "generation": 7})
    events.take_report(b"garbage", {"worker": 2, "generation": 7})
    [one] = events.last(9)
    assert (one.tree["worker"], one.tree["generation"], one.tree["node"]) == (2, 7, "n")


# --- followers ---


def test_a_follower_gets_what_comes_until_it_leaves() -> None:
    events = Events()
    happen(events)
    reader = follow(events)
    happen(events, 2)
    assert reader.numbers() == [2, 3]
    assert reader.woken == 2
    events.leave(reader)
    happen(events)
    assert reader.numbers() == []


def test_a_follower_that_takes_nothing_is_ended_and_holds_nothing_while_others_go_on() -> None:
    events = Events()
    slow, quick = follow(events), follow(events)
    for _ in range(MOST_WAITING + 10):
        happen(events)
        assert len(quick.take()) == 1
        assert len(slow._waiting) <= MOST_WAITING
    assert (slow.over, slow.too_slow, slow.take()) == (True, True, [])
    assert not quick.over


def test_all_that_is_kept_and_as_much_again_may_wait() -> None:
    events = Events()
    happen(events, KEPT)
    reader = follow(events)
    reader.offer(*events.last(KEPT))
    happen(events, KEPT)
    assert not reader.over
    assert len(reader.take()) == 2 * KEPT


def test_one_too_many_is_refused_unless_another_has_gone() -> None:
    events = Events()
    readers = [follow(events) for _ in range(MOST_FOLLOWERS)]
    with pytest.raises(TooMany, match=f"{MOST_FOLLOWERS} follow"):
        follow(events)
    readers[3].there = False
    follow(events)
    assert [one.over for one in readers].count(True) == 1
    with pytest.raises(TooMany):
        follow(events)


def test_at_the_end_followers_take_what_there_is_and_who_comes_then_gets_nothing_more() -> None:
    events = Events()
    reader = follow(events)
    happen(events)
    events.close()
    assert (reader.over, reader.too_slow, reader.numbers()) == (True, False, [1])
    assert follow(events).over


def test_single_probes_are_for_those_who_want_them_and_are_not_kept() -> None:
    events = Events()
    curious, other = follow(events, probes=True), follow(events)
    events.take_probe(Key("web", "n", "a:1", "click"), Result(False, "\x1b[31m\nfake", 0.00149))
    [one] = curious.take()
    assert one.number is None
    assert one.tree.pop("at") > 0
    assert one.tree == {
        "id": None,
        "level": "info",
        "kind": "probe",
        "text": r"web/click: node n (a:1): a probe has failed: \x1b[31m\nfake",
        "node": "n",
        "service": "web/click",
        "address": "a:1",
        "passed": False,
        "reason": r"\x1b[31m\nfake",
        "took_ms": 1.5,
    }
    assert other.take() == events.last(9) == []


# --- audits ---


def fields(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [getattr(one, "fields", {}) for one in caplog.records]


def test_a_change_is_audited_with_what_is_known_only_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with audited("eve", "values", node="n", service="web", to="weight 3") as entry:
        entry["from"] = "weight 1"
    assert caplog.messages == ["audit: eve: values web/n, from weight 1 to weight 3: done"]
    [found] = fields(caplog)
    assert found == {
        "who": "eve",
        "what": "values",
        "node": "n",
        "service": "web",
        "from": "weight 1",
        "to": "weight 3",
        "outcome": "done",
    }


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StartFailed("no room"), "not done: no room"),
        (ConfigError(["a: bad", "b: bad"]), "not done: a: bad; b: bad"),
        (KeyError("n"), "not done: there is no such node"),
        (GeneratorExit(), "broken off"),
    ],
    ids=["failed", "wrong", "unknown", "broken off"],
)
def test_a_change_that_is_not_made_is_audited_too(
    caplog: pytest.LogCaptureFixture, error: BaseException, outcome: str
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(type(error)), audited("eve", "drain", node="n"):
        raise error
    assert fields(caplog)[0]["outcome"] == outcome


def test_a_failure_is_an_event_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    for error in (ConfigError(["a: bad", "b: bad"]), StartFailed("no room"), OSError("no memory")):
        with (
            pytest.raises((TrackproxyError, OSError)),
            telling_failure("reload_failed", "not reloaded", "eve"),
        ):
            raise error
    assert caplog.messages == [
        "not reloaded, the settings are wrong: a: bad; b: bad",
        "not reloaded: no room",
        "not reloaded: no memory",
    ]
    assert fields(caplog)[0] == {"reason": "a: bad; b: bad", "who": "eve"}


def test_an_order_without_an_outcome_is_told_as_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    audit("signal", "stop")
    assert caplog.messages == ["audit: signal: stop"]
