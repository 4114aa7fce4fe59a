"""Changes at run time: what is planned, what lasts, and whose a value is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from trackproxy.control.changes import Changes, Plan
from trackproxy.control.database import NotKept
from trackproxy.control.overrides import Wanted, differ_in_weights_alone
from trackproxy.errors import Conflict, NotChanged
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import Settings, endpoints_of, load


def settings_of(**weights: int) -> Settings:
    nodes = {
        name: {"address": f"10.0.0.{at}", "weight": n} for at, (name, n) in enumerate(weights.items(), 1)
    }
    service: dict[str, Any] = {"protocol": "http", "listen": [":8080"]}
    return load(None, {"nodes": nodes, "services": {"web": service}})


def weights(settings: Settings) -> dict[str, int]:
    return {one.node: one.weight for one in endpoints_of(settings, settings.services["web"])}


@pytest.fixture
async def changes(tmp_path: Path) -> AsyncIterator[Changes]:
    one = await Changes.open(tmp_path, settings_of(a=1, b=1))
    yield one
    await one.close()


async def after_a_restart(changes: Changes, folder: Path, loaded: Settings) -> Settings:
    """What is served of these settings by the next program."""
    await changes.close()
    again = await Changes.open(folder, loaded)
    applied = again.over(loaded)
    await again.served(loaded, applied)
    await again.close()
    return applied.settings


async def test_a_plan_changes_nothing_until_it_is_kept(changes: Changes, tmp_path: Path) -> None:
    plan = changes.values("a", "", {"weight": 5}, "eve")
    assert weights(plan.applied.settings) == {"a": 5, "b": 1}
    assert changes.of_value("a", "weight").resolved.source == "configuration"
    assert weights(await after_a_restart(changes, tmp_path, settings_of(a=1, b=1))) == {"a": 1, "b": 1}


async def test_what_was_kept_is_served_after_a_restart_unless_the_file_has_changed(
    changes: Changes, tmp_path: Path
) -> None:
    for node in ("a", "b"):
        await changes.keep(changes.values(node, "", {"weight": 5}, "eve"))
    await changes.keep(changes.addition("c", "10.0.0.9", {"weight": 3}, "eve"))
    assert weights(await after_a_restart(changes, tmp_path, settings_of(a=1, b=2))) == {
        "a": 5,
        "b": 2,
        "c": 3,
    }


async def test_a_second_process_leaves_what_the_first_one_keeps_alone(
    changes: Changes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await changes.keep(changes.values("a", "", {"weight": 5}, "eve"))
    other = settings_of(z=1)
    second = await Changes.open(tmp_path, other)
    assert "state.sqlite3: what operators change is not kept" in caplog.text
    assert "it is another trackproxy's; set state_dir" in caplog.text
    await second.served(other, second.over(other))
    await second.keep(second.values("z", "", {"weight": 7}, "bob"))
    assert "node/z: weight 7, set by bob: in force, but not on disk" in caplog.text
    assert second.of_value("z", "weight").resolved.value == 7
    await second.close()
    assert weights(await after_a_restart(changes, tmp_path, settings_of(a=1, b=1))) == {"a": 5, "b": 1}


async def test_a_removal_takes_what_was_set_for_the_node_along(changes: Changes) -> None:
    await changes.keep(changes.addition("c", "10.0.0.9", {}, "eve"))
    await changes.keep(changes.values("c", "", {"weight": 5}, "eve"))
    await changes.keep_state("c", Wanted(AdminState.DISABLED), "eve")
    await changes.keep(changes.removal("c", "eve"))
    await changes.keep(changes.addition("c", "10.0.0.9", {}, "eve"))
    assert changes.states() == {}
    assert changes.of_value("c", "weight").resolved.value == 1


async def test_a_node_that_others_rely_on_is_not_removed(changes: Changes) -> None:
    await changes.keep(changes.addition("c", "10.0.0.9", {}, "eve"))
    await changes.keep(changes.values("a", "", {"weight": 0}, "eve"))
    await changes.keep(changes.values("b", "", {"weight": 0}, "eve"))
    with pytest.raises(
        NotChanged, match=r"node/b: weight 0, .* is left out: .* no node with a weight above 0"
    ):
        changes.removal("c", "eve")


@pytest.mark.parametrize(
    "plan",
    [
        lambda changes: changes.addition("a", "10.0.0.9", {}, "eve"),
        lambda changes: changes.removal("a", "eve"),
    ],
    ids=["added again", "of the configuration"],
)
def test_nodes_of_the_configuration_are_neither_added_nor_removed(changes: Changes, plan: Any) -> None:
    with pytest.raises(Conflict):
        plan(changes)


async def test_a_value_that_a_service_has_from_the_node_is_the_nodes(changes: Changes) -> None:
    await changes.keep(changes.values("a", "", {"weight": 5}, "eve"))
    whole, there = changes.of_value("a", "weight"), changes.of_endpoint("a", "web", "weight", 5)
    assert whole.tree() == there.tree()
    assert (there.configured, there.resolved.value, there.resolved.changed_by) == (1, 5, "eve")


async def test_a_change_that_the_disk_does_not_take_is_in_force_and_said(
    changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    async def full() -> None:
        raise NotKept("the disk is full")

    plan = changes.values("a", "", {"weight": 5}, "eve")
    await changes.keep(Plan(plan.applied, full, plan.line))
    assert "node/a: weight 5, set by eve: in force, but not on disk: the disk is full" in caplog.text


# --- what running workers can serve ---


async def test_a_weight_of_a_node_or_of_one_service_is_served_by_the_workers_that_run(
    changes: Changes,
) -> None:
    before = changes.over(settings_of(a=1, b=1)).settings
    for service in ("", "web"):
        after = changes.values("a", service, {"weight": 5}, "eve").applied.settings
        assert after != before
        assert differ_in_weights_alone(before, after)


async def test_a_limit_or_another_node_needs_new_workers(changes: Changes) -> None:
    before = changes.over(settings_of(a=1, b=1)).settings
    limited = changes.values("a", "", {"weight": 5, "max_connections": 3}, "eve")
    added = changes.addition("c", "10.0.0.3", {}, "eve")
    for plan in (limited, added):
        assert not differ_in_weights_alone(before, plan.applied.settings)
