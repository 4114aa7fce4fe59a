"""Sharing between boards: limits are shared out over generations, loads are told, the dead hold nothing."""

from __future__ import annotations

from typing import Any

from trackproxy.board import Board, Counter, State
from trackproxy.control.sharing import TURN_S, Sharing, lease_first
from trackproxy.control.views import Key, Row, View, Watched
from trackproxy.health.verdict import Verdict
from trackproxy.settings import groups_of, load

KEY = Key("web", "a", "127.0.0.1:9")


def view(workers: int, limit: int, watched: Watched | None = None) -> View:
    """A generation with one endpoint that may have so many requests open; 0 is no limit."""
    tree: dict[str, Any] = {
        "nodes": {"a": {"address": "127.0.0.1:9", "max_connections": limit}},
        "services": {"web": {"protocol": "http", "listen": ["127.0.0.1:0"]}},
    }
    settings = load(None, tree)
    (config,) = groups_of(settings, "web")[0].endpoints
    row = Row(watched or Watched(KEY, Verdict(1, 1, up=True)), config, settings.services["web"])
    return View(Board.create(1, workers), [row], settings)


def leases(view: View) -> list[int]:
    return [view.board.leases(worker)[0] for worker in range(view.board.workers)]


def follow(view: View, *wants: int) -> None:
    """The workers obey their leases, and open as many of the wanted requests as they may."""
    for worker, want in enumerate(wants):
        lease = view.board.leases(worker)[0]
        own = min(want, max(lease, 0)) if lease else want
        view.board.claims(worker)[0] = max(lease, own)
        view.board.wants(worker)[0] = want
        view.board.counters(worker, 0)[Counter.ACTIVE] = own


def settle(views: list[View], *wants: list[int]) -> None:
    sharing = Sharing()
    for beat in range(20):
        sharing.take(views, float(beat))
        for view, want in zip(views, wants, strict=True):
            follow(view, *want)


def test_the_first_generation_has_even_parts_and_who_gets_none_is_told_so() -> None:
    first = view(3, 2)
    lease_first(first, set())
    assert sorted(leases(first)) == [-1, 1, 1]


def test_no_limit_is_no_lease() -> None:
    first = view(2, 0)
    lease_first(first, set())
    assert leases(first) == [0, 0]
    assert not Sharing().is_needed([first])


def test_a_new_generation_gets_nothing_of_what_the_one_before_may_hold() -> None:
    new = view(2, 4)
    lease_first(new, {KEY})
    assert leases(new) == [-1, -1]


def test_what_a_retired_generation_gives_back_goes_to_the_new_one() -> None:
    old = view(2, 4)
    new = view(2, 4, old.rows[0].watched)
    lease_first(old, set())
    lease_first(new, {KEY})
    follow(old, 0, 0)
    settle([old, new], [1, 0], [5, 5])
    assert sum(max(lease, 0) for lease in leases(old) + leases(new)) == 4
    assert sum(leases(new)) >= 2


def test_workers_that_know_of_no_limit_take_no_part_and_what_they_have_open_counts() -> None:
    old = view(2, 0)
    new = view(2, 6, old.rows[0].watched)
    lease_first(new, {KEY})
    follow(old, 2, 0)
    settle([old, new], [2, 0], [5, 5])
    assert leases(old) == [0, 0]
    assert sum(leases(new)) == 4


def test_workers_that_ended_for_good_leave_the_whole_limit_to_the_others() -> None:
    old = view(2, 4)
    new = view(2, 4, old.rows[0].watched)
    lease_first(old, set())
    lease_first(new, {KEY})
    follow(old, 2, 2)
    old.bury(0)
    old.bury(1)
    settle([old, new], [], [5, 5])
    assert leases(new) == [2, 2]


def test_a_buried_worker_has_nothing_open_any_more() -> None:
    old, new = view(2, 0), view(1, 0)
    new.rows[0] = new.rows[0]._replace(watched=old.rows[0].watched)
    follow(old, 3, 4)
    old.bury(0)
    Sharing().take([old, new], 0.0)
    assert new.board.state(0)[State.ELSEWHERE] == 4


def test_each_generation_hears_what_the_others_have_open() -> None:
    old, new = view(2, 0), view(1, 0)
    new.rows[0] = new.rows[0]._replace(watched=old.rows[0].watched)
    follow(old, 3, 4)
    follow(new, 5)
    sharing = Sharing()
    assert sharing.is_needed([old, new])
    sharing.take([old, new], 0.0)
    assert old.board.state(0)[State.ELSEWHERE] == 5
    assert new.board.state(0)[State.ELSEWHERE] == 7


def test_who_wants_room_in_vain_gets_its_turn() -> None:
    one = view(2, 1)
    lease_first(one, set())
    sharing = Sharing()
    had = leases(one)
    follow(one, 1, 1)
    sharing.take([one], 0.0)
    follow(one, *(max(lease, 0) for lease in leases(one)))
    for worker in (0, 1):
        one.board.wants(worker)[0] = 1
    for beat in range(1, 12):
        sharing.take([one], beat * TURN_S)
        for worker in (0, 1):
            one.board.claims(worker)[0] = max(leases(one)[worker], 0)
        if leases(one) == had[::-1]:
            return
    raise AssertionError(f"{leases(one)} after {had}")


# --- routes ---


def view_of_routes(workers: int, limit: int) -> View:
    """A generation whose one node is in the shared group, row 0, and in that of a route, row 1."""
    tree: dict[str, Any] = {
        "nodes": {"a": {"address": "127.0.0.1:9", "max_connections": limit}},
        "services": {
            "web": {
                "protocol": "http",
                "listen": ["127.0.0.1:0"],
                "routes": [{"name": "own", "path": "/own", "probe": {"path": "/own"}}],
            }
        },
    }
    settings = load(None, tree)
    rows = []
    for group in groups_of(settings, "web"):
        key = KEY._replace(route=group.name)
        (config,) = group.endpoints
        rows.append(Row(Watched(key, Verdict(1, 1, up=True)), config, group.service))
    return View(Board.create(len(rows), workers), rows, settings)


def all_leases(view: View) -> list[list[int]]:
    """By worker, then by row."""
    return [[*view.board.leases(worker)] for worker in range(view.board.workers)]


def follow_rows(view: View, worker: int, *wants: int) -> int:
    """A worker obeys its leases; how many requests it has open in all its groups."""
    open_ = 0
    for row, want in enumerate(wants):
        lease = view.board.leases(worker)[row]
        own = min(want, max(lease, 0))
        view.board.claims(worker)[row] = max(lease, own)
        view.board.wants(worker)[row] = want
        view.board.counters(worker, row)[Counter.ACTIVE] = own
        open_ += own
    return open_


def test_the_routes_of_a_service_share_the_limit_of_a_node() -> None:
    one = view_of_routes(2, 8)
    lease_first(one, set())
    assert all_leases(one) == [[2, 2], [2, 2]]
    sharing = Sharing()
    for beat in range(20):
        sharing.take([one], float(beat))
        assert sum(max(lease, 0) for leases in all_leases(one) for lease in leases) <= 8
        follow_rows(one, 0, 20, 0)
        follow_rows(one, 1, 0, 0)
    assert follow_rows(one, 0, 20, 0) == 8


def test_a_route_gets_its_turn_at_the_only_place_of_a_node() -> None:
    one = view_of_routes(1, 1)
    lease_first(one, set())
    sharing = Sharing()
    had = set()
    for beat in range(200):
        sharing.take([one], beat * TURN_S / 2)
        assert sum(max(lease, 0) for lease in all_leases(one)[0]) <= 1
        had.add(all_leases(one)[0].index(1) if 1 in all_leases(one)[0] else None)
        assert follow_rows(one, 0, 1, 1) <= 1
        follow_rows(one, 0, 1, 1)
    assert {0, 1} <= had
