"""The rows of `top`: what they say, their order, which are wanted, and who must not go."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.operator_samples import RECENT, endpoint, event, node, service, status
from trackproxy.commands.top.look import Look
from trackproxy.commands.top.plain import snapshot
from trackproxy.commands.top.rows import COLUMNS, Order, Row, left_without, matching, rows_of

TITLES = [column.title for column in COLUMNS]


def rows(*nodes: dict[str, Any]) -> list[Row]:
    return rows_of(nodes, [service(), service("mail", protocol="smtp")])


def cells(row: Row) -> dict[str, str]:
    return {column.title: column.text(row) for column in COLUMNS}


def test_requests_are_active_and_tunnels_are_sessions_but_sessions_of_mail_are_sessions() -> None:
    gauges = {"active": 5, "tunnels": 2, "idle": 0}
    web, mail = rows(node(web=endpoint(gauges=gauges), mail=endpoint(gauges=gauges)))
    assert (cells(web)["ACTIVE"], cells(web)["SESSIONS"]) == ("5", "2")
    assert (cells(mail)["ACTIVE"], cells(mail)["SESSIONS"]) == ("-", "5")


def test_endpoints_of_a_route_have_the_protocol_of_its_service() -> None:
    seen = endpoint(gauges={"active": 5, "tunnels": 0, "idle": 0})
    [row] = rows(node() | {"services": {"mail/x": seen}})
    assert cells(row)["SESSIONS"] == "5"


def test_a_row_says_rates_health_and_what_is_left_of_a_drain() -> None:
    one = node(state="drain", web=endpoint(recent=RECENT, ejected=True, weight=3))
    one["drain"] = {"seconds_left": 12.2, "sticky": "keep", "outcome": None}
    told = cells(rows(one)[0])
    assert told["STATE"] == "drain, 12 s left"
    assert told["HEALTH"] == "up, ejected"
    assert [told[title] for title in ("WEIGHT", "RATE/S", "ERR/S", "P50", "P99")] == [
        "3",
        "12.5",
        "0.1",
        "1.4 ms",
        "1.2 s",
    ]
    assert told["LAST PROBE"] == "passed: 200 in 1 ms"


def test_a_node_that_no_service_has_is_a_row_too() -> None:
    alone = node() | {"services": {}}
    told = cells(rows(alone)[0])
    assert told["NODE"] == "node1"
    assert {told[title] for title in TITLES[2:]} == {"-"}


@pytest.mark.parametrize(
    ("title", "reverse", "names"),
    [
        ("NODE", False, ["a", "b", "c"]),
        ("NODE", True, ["c", "b", "a"]),
        ("WEIGHT", False, ["a", "c", "b"]),
        ("WEIGHT", True, ["b", "c", "a"]),
        ("RATE/S", False, ["b", "c", "a"]),
        ("RATE/S", True, ["b", "c", "a"]),
    ],
    ids=["text", "text reversed", "number", "number reversed", "unknown last", "unknown last reversed"],
)
def test_numbers_begin_with_the_largest_text_with_a_and_the_unknown_comes_last(
    title: str, reverse: bool, names: list[str]
) -> None:
    seen = rows(
        node("c", web=endpoint(weight=2)),
        node("a", web=endpoint(weight=9)),
        node("b", web=endpoint(weight=1, recent=RECENT)),
    )
    order = Order(TITLES.index(title), reverse)
    assert [row.name for row in order.of(seen)] == names


def test_without_a_column_rows_are_as_the_settings_have_them() -> None:
    seen = rows(node("c"), node("a"))
    assert [row.name for row in Order().of(seen)] == ["c", "a"]
    assert [row.name for row in Order().turned.of(seen)] == ["a", "c"]


def test_the_next_column_of_the_last_one_is_none() -> None:
    order = Order()
    for place in range(len(COLUMNS)):
        order = order.next
        assert order.column == place
    assert order.next == Order()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["n1", "n2"]),
        ("N1", ["n1"]),
        ("up web", ["n1"]),
        ("drain", ["n2"]),
        ("10.0.0.9", ["n2"]),
        ("x", []),
    ],
)
def test_a_filter_is_words_that_a_row_has_all(text: str, names: list[str]) -> None:
    other = endpoint(address="10.0.0.9:80", health="down")
    seen = rows(node("n1"), node("n2", "drain", web=other))
    assert [row.name for row in matching(seen, text)] == names


@pytest.mark.parametrize(
    ("others", "without"),
    [
        ([node("b", web=endpoint())], ["mail"]),
        ([node("b", web=endpoint(), mail=endpoint())], []),
        ([node("b", "drain", web=endpoint(), mail=endpoint())], ["web", "mail"]),
        ([node("b", web=endpoint(health="down"), mail=endpoint())], ["web"]),
        ([node("b", web=endpoint(ejected=True), mail=endpoint(weight=0))], ["web", "mail"]),
        ([], ["web", "mail"]),
    ],
    ids=["one of two", "nobody needs it", "drained", "down", "ejected, no weight", "alone"],
)
def test_services_are_left_without_a_node_if_no_other_can_serve_now(
    others: list[dict[str, Any]], without: list[str]
) -> None:
    assert left_without([node("a", web=endpoint(), mail=endpoint()), *others], "a") == without


def test_a_node_that_does_not_serve_leaves_nobody_without() -> None:
    assert left_without([node("a", "disabled"), node("b", web=endpoint(health="down"))], "a") == []


def test_a_snapshot_has_all_of_it() -> None:
    seen = Look(status(), [service()], [node()], [event(1), event(2)])
    text = "\n".join(snapshot(seen))
    assert text.startswith(
        "trackproxy 1.2.3   up 1 h 2 min   generation 2   2 workers   7 clients\n\nSERVICE"
    )
    assert text.index("\nNODE ") < text.index("event 1") < text.index("event 2")
    assert "journal" not in text


def test_a_journal_and_a_failed_reload_are_told_if_there_are_any() -> None:
    told = status(journal={"waiting": 3}, reload={"at": 0.0, "ok": False, "outcome": "wrong"})
    lines = list(snapshot(Look(told, [service()], [node()], None)))
    assert lines[1].endswith("failed: wrong")
    assert lines[2] == "journal: waiting 3"
