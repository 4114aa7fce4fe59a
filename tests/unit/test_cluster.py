"""What the supervisor knows of nodes and endpoints, on real boards: over reloads, upgrades and restarts."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.told import told
from trackproxy.board import TRAFFIC_ROW, Counter, State, Traffic
from trackproxy.control.cluster import DOWN, UP, Cluster
from trackproxy.control.memory import FILE, recall, remember
from trackproxy.control.traffic import RouteKey, by_name, from_names
from trackproxy.control.views import Key, View
from trackproxy.health.probes import open_session
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import Settings, load


def settings_of(*addresses: str, probe: str = "off", routes: Any = (), **more: Any) -> Settings:
    """One service; its nodes are called a, b, … and have these addresses."""
    nodes = {"abc"[at]: {"address": address, **more} for at, address in enumerate(addresses)}
    service = {"protocol": "http", "listen": ["127.0.0.1:0"], "probe": {"type": probe, "interval": "1h"}}
    service["routes"] = [*routes]
    return load(None, {"nodes": nodes, "services": {"web": service}})


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with open_session() as session:
        cluster = Cluster(tmp_path, session)
        yield cluster
        cluster.stop()


@pytest.fixture
def alive() -> Iterator[str]:
    """The address of something that can be connected to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def dead(alive: str) -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


async def serve(cluster: Cluster, settings: Settings, workers: int = 2) -> View:
    view = await cluster.view(settings, workers)
    cluster.adopt(view)
    return view


def column(view: View, cell: State) -> list[int]:
    return [view.board.state(index)[cell] for index in range(len(view.rows))]


# --- health ---


async def test_an_endpoint_that_was_never_seen_is_probed_before_anybody_is_sent_there(
    cluster: Cluster, alive: str, dead: str
) -> None:
    view = await cluster.view(settings_of(alive, dead, probe="tcp"), 1)
    assert column(view, State.HEALTH) == [UP, DOWN]


async def test_nothing_is_probed_where_probes_are_off(cluster: Cluster, dead: str) -> None:
    assert column(await serve(cluster, settings_of(dead)), State.HEALTH) == [UP]


async def test_a_node_that_was_disabled_before_is_not_probed(cluster: Cluster, alive: str, dead: str) -> None:
    cluster.begin_with({"b": AdminState.DISABLED}, [])
    view = await serve(cluster, settings_of(alive, dead, probe="tcp"))
    assert [row.watched.last is None for row in view.rows] == [False, True]
    assert column(view, State.ADMIN) == [0, 2]
    await cluster.look_at("b")
    cluster.set_state("b", AdminState.READY)
    assert column(view, State.HEALTH)[1] == DOWN


async def test_health_is_as_it_was_at_the_last_end(tmp_path: Path, alive: str, dead: str) -> None:
    remember(tmp_path, {f"web a {alive}": False, f"web b {dead}": True})
    async with open_session() as session:
        cluster = Cluster(tmp_path, session)
        view = await cluster.view(settings_of(alive, dead, probe="tcp"), 1)
        assert column(view, State.HEALTH) == [DOWN, UP]
        cluster.stop()


async def test_what_is_known_is_on_disk_once_it_is_served_without_what_is_no_more(
    cluster: Cluster, tmp_path: Path, alive: str, dead: str
) -> None:
    old = await serve(cluster, settings_of(alive, dead, probe="tcp"))
    assert recall(tmp_path) == {f"web a {alive}": True, f"web b {dead}": False}
    await serve(cluster, settings_of(alive, probe="tcp"))
    cluster.leave(old)
    await serve(cluster, settings_of(alive, probe="tcp"))
    assert recall(tmp_path) == {f"web a {alive}": True}


async def test_a_folder_that_takes_nothing_is_said_once_and_serving_goes_on(
    cluster: Cluster, tmp_path: Path, alive: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).mkdir()
    for _ in range(3):
        view = await serve(cluster, settings_of(alive, probe="tcp"))
    assert column(view, State.HEALTH) == [UP]
    assert caplog.text.count("health cannot be kept") == 1


# --- reloads ---


async def test_a_view_that_is_not_adopted_changes_nothing(cluster: Cluster, alive: str, dead: str) -> None:
    before = await serve(cluster, settings_of(alive, probe="tcp"))
    failed = await cluster.view(settings_of(alive, dead, probe="tcp"), 2)
    cluster.leave(failed)
    assert cluster.views == [before]
    assert [*cluster.totals()] == [Key("web", "a", alive)]


async def test_a_drained_node_stays_so_over_a_reload_and_is_forgotten_when_it_is_removed(
    cluster: Cluster,
) -> None:
    await serve(cluster, settings_of("127.0.0.1:9", "127.0.0.2:9"))
    cluster.set_state("b", AdminState.DRAIN)
    view = await serve(cluster, settings_of("127.0.0.1:9", "127.0.0.2:9", weight=3))
    assert column(view, State.ADMIN) == [0, 1]
    await serve(cluster, settings_of("127.0.0.1:9"))
    view = await serve(cluster, settings_of("127.0.0.1:9", "127.0.0.2:9"))
    assert column(view, State.ADMIN) == [0, 0]


async def test_a_change_of_state_reaches_every_generation(cluster: Cluster) -> None:
    views = [await serve(cluster, settings_of("127.0.0.1:9")) for _ in range(2)]
    versions = [view.board.version for view in views]
    cluster.set_state("a", AdminState.DISABLED)
    assert [column(view, State.ADMIN) for view in views] == [[2], [2]]
    assert all(view.board.version > before for view, before in zip(views, versions, strict=True))


async def test_what_live_traffic_has_left_out_stays_so_over_a_reload(cluster: Cluster) -> None:
    settings = settings_of("127.0.0.1:9", "127.0.0.2:9")
    old = await serve(cluster, settings)
    old.board.counters(1, 1)[Counter.EJECTED_UNTIL] = 123_456
    new = await serve(cluster, settings, workers=3)
    assert new.board.ejected_until() == [0, 123_456]


async def test_counts_of_a_generation_that_is_gone_are_kept_and_gauges_are_not(cluster: Cluster) -> None:
    settings = settings_of("127.0.0.1:9")
    key = Key("web", "a", "127.0.0.1:9")
    old = await serve(cluster, settings)
    old.board.counters(0, 0)[Counter.TOTAL] = 5
    old.board.counters(1, 0)[Counter.TOTAL] = 6
    old.board.counters(1, 0)[Counter.ACTIVE] = 3
    new = await serve(cluster, settings)
    new.board.counters(0, 0)[Counter.TOTAL] = 7
    assert cluster.totals()[key][Counter.TOTAL] == 18
    cluster.leave(old)
    assert cluster.totals()[key][Counter.TOTAL] == 18
    assert cluster.totals()[key][Counter.ACTIVE] == 0


async def test_probes_of_an_endpoint_end_with_the_last_generation_that_names_it(
    cluster: Cluster, alive: str, dead: str
) -> None:
    def probed() -> int:
        return sum(task.get_name().startswith("probes of") for task in asyncio.all_tasks())

    old = await serve(cluster, settings_of(alive, dead, probe="tcp"))
    assert probed() == 2
    await serve(cluster, settings_of(alive, probe="tcp"))
    cluster.leave(old)
    await asyncio.sleep(0)
    assert probed() == 1


async def test_a_disabled_node_is_probed_no_more_until_it_is_ready(cluster: Cluster, alive: str) -> None:
    view = await serve(cluster, settings_of(alive, probe="tcp"))
    (row,) = view.rows
    cluster.set_state("a", AdminState.DISABLED)
    assert row.watched.task is None
    cluster.set_state("a", AdminState.READY)
    assert row.watched.task is not None


# --- upgrades ---


@pytest.mark.parametrize("counted", [True, False], ids=["the board goes on", "the board cannot be read"])
async def test_an_upgrade_takes_states_health_and_counts_along(
    cluster: Cluster, tmp_path: Path, dead: str, counted: bool
) -> None:
    settings = settings_of("127.0.0.1:9", dead, probe="tcp")
    view = await serve(cluster, settings)
    view.rows[0].watched.verdict.up = True
    view.rows[0].watched.carried[Counter.TOTAL] = 4
    view.board.counters(0, 0)[Counter.TOTAL] = 5
    cluster.set_state("b", AdminState.DRAIN)
    states, endpoints, traffic = cluster.hand_over()
    async with open_session() as session:
        after = Cluster(tmp_path, session)
        after.take_over(states, endpoints, traffic, counted=counted)
        if counted:
            after.adopt_view(View(view.board, after.rows_of(settings), settings))
        new = await serve(after, settings)
        assert (column(new, State.ADMIN), column(new, State.HEALTH)) == ([0, 1], [UP, DOWN])
        assert after.totals()[Key("web", "a", "127.0.0.1:9")][Counter.TOTAL] == 9
        after.stop()


async def test_weights_reach_the_workers_that_run_and_those_on_their_way_out(cluster: Cluster) -> None:
    def tree(weight: int) -> Settings:
        nodes = {"a": {"address": "127.0.0.1:9", "weight": weight}, "b": {"address": "127.0.0.2:9"}}
        web = {"protocol": "http", "listen": ["127.0.0.1:0"], "probe": {"type": "off"}}
        return load(None, {"nodes": nodes, "services": {"web": web}})

    for _ in range(2):
        cluster.adopt(await cluster.view(tree(1), 1))
    versions = [view.board.version for view in cluster.views]
    cluster.reweigh(tree(7))
    for view, version in zip(cluster.views, versions, strict=True):
        assert view.board.version > version
        assert [view.board.state(row)[State.WEIGHT] for row in (0, 1)] == [7, 1]
    assert cluster.views[-1].settings == tree(7)


# --- what is counted of routes, of probes, and of an endpoint that moves ---

GET = Traffic.ANSWERS + 1  # GET answered with 2xx


def test_cells_by_name_are_read_again_and_what_is_unknown_is_left_out() -> None:
    row = [*range(7, 7 + TRAFFIC_ROW)]
    named = by_name(Traffic, row)
    assert from_names(Traffic, TRAFFIC_ROW, named) == row
    others = {**named, "OF_ANOTHER_VERSION": [5], "ANSWERS": [1, 2, 3]}
    others.pop("ACCEPTED")
    expected = [0 if cell == Traffic.ACCEPTED or cell >= Traffic.ANSWERS else n for cell, n in enumerate(row)]
    assert from_names(Traffic, TRAFFIC_ROW, others) == expected
    assert from_names(Traffic, TRAFFIC_ROW, row) == [0] * TRAFFIC_ROW


async def test_what_routes_count_is_kept_over_generations_without_gauges(cluster: Cluster) -> None:
    settings = settings_of("127.0.0.1:9")
    old = await serve(cluster, settings)
    old.board.traffic(0, 0)[GET], old.board.traffic(1, 0)[GET] = 5, 6
    old.board.traffic(1, 0)[Traffic.CONNECTED] = 3
    new = await serve(cluster, settings)
    new.board.traffic(0, 0)[GET] = 7
    assert cluster.route_totals()[RouteKey("web", "")][GET] == 18
    cluster.leave(old)
    row = cluster.route_totals()[RouteKey("web", "")]
    assert (row[GET], row[Traffic.CONNECTED]) == (18, 0)


async def test_counts_of_a_route_are_kept_as_long_as_it_is_named(cluster: Cluster) -> None:
    plain, routed = (
        settings_of("127.0.0.1:9"),
        settings_of("127.0.0.1:9", routes=[{"name": "r", "path": "/"}]),
    )
    old = await serve(cluster, routed)
    old.board.traffic(0, 0)[GET], old.board.traffic(0, 1)[GET] = 5, 6
    new = await serve(cluster, routed)
    cluster.leave(old)
    assert [row[GET] for row in cluster.route_totals().values()] == [5, 6]
    await serve(cluster, plain)
    cluster.leave(new)
    assert {key: row[GET] for key, row in cluster.route_totals().items()} == {RouteKey("web", ""): 6}
    await serve(cluster, routed)
    assert cluster.route_totals()[RouteKey("web", "r")][GET] == 0


async def test_what_a_node_has_counted_goes_on_at_another_address(cluster: Cluster, alive: str) -> None:
    old = await serve(cluster, settings_of("127.0.0.1:9"))
    old.board.counters(0, 0)[Counter.TOTAL] = 5
    new = await serve(cluster, settings_of(alive, probe="tcp"))
    new.board.counters(0, 0)[Counter.TOTAL] = 6
    assert sum(row[Counter.TOTAL] for row in cluster.totals().values()) == 11
    cluster.leave(old)
    assert {key.address: row[Counter.TOTAL] for key, row in cluster.totals().items()} == {alive: 11}


async def test_nothing_is_counted_twice_of_a_node_that_returns_to_an_address_as_its_last_worker_there_ends(
    cluster: Cluster,
) -> None:
    first = await serve(cluster, settings_of("127.0.0.1:7"))
    first.board.counters(0, 0)[Counter.TOTAL] = 5
    second = await serve(cluster, settings_of("127.0.0.1:9"))
    second.board.counters(0, 0)[Counter.TOTAL] = 7
    third = await cluster.view(settings_of("127.0.0.1:7"), 2)
    cluster.leave(first)
    cluster.adopt(third)
    cluster.leave(second)
    assert [row[Counter.TOTAL] for row in cluster.totals().values()] == [12]


async def test_an_endpoint_is_forgotten_if_only_a_view_that_was_given_up_has_named_it(
    cluster: Cluster,
) -> None:
    first = await serve(cluster, settings_of("127.0.0.1:7"))
    await serve(cluster, settings_of("127.0.0.1:9"))
    given_up = await cluster.view(settings_of("127.0.0.1:7"), 2)
    cluster.leave(first)
    cluster.leave(given_up)
    assert [key.address for key in cluster.totals()] == ["127.0.0.1:9"]


async def test_probes_are_counted_by_what_they_have_found(cluster: Cluster, alive: str, dead: str) -> None:
    view = await serve(cluster, settings_of(alive, dead, probe="tcp"))
    passed, failed = (row.watched.probed for row in view.rows)
    assert (passed.passed, passed.failed, failed.passed, failed.failed) == (1, 0, 0, 1)
    assert min(passed.took_s, failed.took_s) > 0


@pytest.mark.parametrize("counted", [True, False], ids=["the board goes on", "the board cannot be read"])
async def test_an_upgrade_takes_counts_of_routes_probes_and_crashes_along(
    cluster: Cluster, tmp_path: Path, alive: str, counted: bool
) -> None:
    settings = settings_of(alive, probe="tcp")
    first = await serve(cluster, settings)
    first.board.traffic(0, 0)[GET] = 4
    view = await serve(cluster, settings)
    cluster.leave(first)
    view.board.traffic(1, 0)[GET] = 5
    view.board.traffic(1, 0)[Traffic.CONNECTED] = 6
    view.crashes = 2
    states, endpoints, traffic = json.loads(json.dumps(cluster.hand_over()))
    async with open_session() as session:
        after = Cluster(tmp_path, session)
        after.take_over(states, endpoints, traffic, counted=counted)
        if counted:
            after.adopt_view(View(view.board, after.rows_of(settings), settings))
        new = await serve(after, settings)
        new.board.traffic(0, 0)[GET] = 1
        row = after.route_totals()[RouteKey("web", "")]
        assert (row[GET], row[Traffic.CONNECTED]) == (10, 6 * counted)
        assert (new.rows[0].watched.probed.passed, after.crashes) == (1, 2)
        after.stop()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["count", "reload", "leave", "kill"]), st.integers(0, 1), st.integers(0, 1)
        ),
        max_size=30,
    )
)
async def test_totals_of_routes_are_all_that_was_counted_and_never_run_backwards(
    steps: list[tuple[str, int, int]],
) -> None:
    settings = settings_of("127.0.0.1:9", routes=[{"name": "r", "path": "/"}])
    counted, before = [0, 0], [0, 0]
    async with open_session() as session:
        cluster = Cluster(Path("/dev/null/nowhere"), session)
        await serve(cluster, settings)
        for step, worker, route in steps:
            if step == "count":
                cluster.views[-1].board.traffic(worker, route)[GET] += 1
                counted[route] += 1
            elif step == "reload":
                await serve(cluster, settings)
            elif step == "leave" and len(cluster.views) > 1:
                cluster.leave(cluster.views[0])
            elif step == "kill":
                cluster.views[-1].board.retire(worker)
            now = [row[GET] for row in cluster.route_totals().values()]
            assert all(new >= old for new, old in zip(now, before, strict=True))
            before = now
        assert before == counted
        cluster.stop()


# --- events ---


async def test_health_states_and_panic_are_events(
    cluster: Cluster, alive: str, dead: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    results: list[bool] = []
    cluster.on_probe = lambda key, result: results.append(result.passed)
    await serve(cluster, settings_of(alive, dead, dead, probe="tcp"))
    assert sorted(results) == [False, False, True]
    down = {"level": "warning", "service": "web", "address": dead, "state": "down", "was": "up"}
    down["reason"] = "connection refused"
    assert told(caplog, "health") == [down | {"node": node} for node in "bc"]
    panic = {"level": "warning", "service": "web"}
    begun = panic | {"state": "begun", "reason": "probes are not believed"}
    assert told(caplog, "panic") == [begun]
    for node in "bc":
        cluster.set_state(node, AdminState.DISABLED)
    ended = panic | {"state": "ended", "reason": "probes are believed again"}
    assert told(caplog, "panic") == [begun, ended]
    states = {"level": "info", "state": "disabled", "was": "ready"}
    assert told(caplog, "node_state") == [states | {"node": node} for node in "bc"]
