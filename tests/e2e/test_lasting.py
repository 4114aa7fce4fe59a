"""What operators change at run time outlives a restart and a kill -9, and costs no client anything."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.health_stage import Answer, Stage, names, staged, statuses
from tests.e2e.scripted_node import until
from tests.e2e.test_cli import run
from tests.e2e.test_commands import status
from trackproxy.commands.client import Client, Refused, Unreachable

COOKIES = 'sticky = { mode = "cookie", secrets = ["0123456789abcdef0123456789abcdef"] }'

restarts = pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["restart", "kill -9"])


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


async def ready(stage: Stage) -> None:
    """Wait until it takes orders."""
    await until(lambda: status(stage.socket, "/readyz") == 200)


async def again(stage: Stage, how: signal.Signals) -> None:
    """End it, in good order or not, and start it anew."""
    assert stage.process is not None
    if how is signal.SIGTERM:
        await stage.end()
    else:
        stage.process.send_signal(how)
        await asyncio.to_thread(stage.process.wait)
        await until(lambda: not stage.serving())
    stage.launch()
    await stage.expect("serving on")
    await ready(stage)


async def say(stage: Stage, *words: str) -> subprocess.CompletedProcess[str]:
    """What comes of a command to it, which must be done."""
    done = await asyncio.to_thread(run, *words, "-c", stage.file)
    assert done.returncode == 0, done.stderr
    return done


async def shares(stage: Stage, count: int = 40) -> dict[str, int]:
    """How many of so many requests each node gets."""
    answers = await stage.ask(count)
    assert statuses(answers) == {200}
    return {node.name: sum(answer.node == node.name for answer in answers) for node in stage.nodes}


async def all_follow(stage: Stage, fact: Callable[[set[str]], bool]) -> None:
    """Wait until the nodes that answer are as they should be; workers follow within a beat."""
    async with asyncio.timeout(10):
        while not fact(names(await stage.ask(20))):
            pass


# --- states ---


@restarts
async def test_a_disabled_node_stays_disabled(stage: Stage, how: signal.Signals) -> None:
    off, _ = await stage.add("off", "on")
    await stage.start()
    await ready(stage)
    await say(stage, "disable", "off")
    await stage.left_alone(off)
    (stage.folder / "state" / "health.json").unlink()  # so that all that may be probed is, at first
    off.seen.clear()
    await again(stage, how)
    assert names(await stage.ask(20)) == {"on"}
    assert (await stage.look())["off"]["state"] == "disabled"
    assert off.seen == []  # not probed either
    assert "node off: disabled, as before this start" in stage.log


async def test_a_node_that_is_ready_again_is_ready_after_a_restart(stage: Stage) -> None:
    await stage.add("one", "two")
    await stage.start()
    await ready(stage)
    await say(stage, "disable", "one")
    await say(stage, "ready", "one")
    await again(stage, signal.SIGTERM)
    assert names(await stage.ask(20)) == {"one", "two"}


@restarts
async def test_a_drain_goes_on_with_its_deadline_and_its_sticky_clients(
    stage: Stage, how: signal.Signals
) -> None:
    await stage.add("out", "on")
    await stage.start(service=COOKIES)
    await ready(stage)
    assert names(await stage.ask(20)) == {"out", "on"}  # who may come back to it
    await say(stage, "drain", "out", "--timeout", "5m", "--no-wait")
    begun = await asyncio.to_thread(stage.client.node, "out")
    await again(stage, how)
    drain = (await asyncio.to_thread(stage.client.node, "out"))["drain"]
    assert (drain["sticky"], drain["outcome"]) == ("keep", None)
    assert 200 < drain["seconds_left"] < begun["drain"]["seconds_left"]
    assert names(await stage.ask(20)) == {"on"}


async def test_a_drain_that_has_come_to_its_end_has_disabled_the_node_for_good(stage: Stage) -> None:
    await stage.add("out", "on")
    await stage.start(service=COOKIES)  # one that went on would last up to its deadline
    await ready(stage)
    await say(stage, "drain", "out", "--timeout", "5m")
    await again(stage, signal.SIGKILL)
    assert (await stage.look())["out"]["state"] == "disabled"


async def test_an_upgrade_hands_states_over_and_keeps_what_the_store_did_not_have(stage: Stage) -> None:
    await stage.add("off", "on")
    await stage.start()
    await ready(stage)
    await say(stage, "disable", "off")
    with closing(sqlite3.connect(stage.folder / "state" / "state.sqlite3")) as database, database:
        database.execute("DELETE FROM overrides")
    await say(stage, "weight", "on", "3")  # so the running program has read that
    assert stage.process is not None
    stage.process.send_signal(signal.SIGUSR2)
    await stage.expect("upgraded: generation 2 serves")
    await ready(stage)
    seen = await stage.look()
    assert (seen["off"]["state"], seen["on"]["weight"]) == ("disabled", 3)
    await again(stage, signal.SIGKILL)
    assert (await stage.look())["off"]["state"] == "disabled"


async def test_trying_the_program_out_reads_and_writes_nothing(stage: Stage) -> None:
    await stage.add("one")
    stage.write()
    await say(stage, "serve", "--trial", "1")
    assert not (stage.folder / "state").exists()


# --- values ---


@restarts
async def test_a_weight_lasts_until_the_file_says_something_else(stage: Stage, how: signal.Signals) -> None:
    await stage.add("one", "two")
    await stage.start(workers=1)
    await ready(stage)
    shown = (await say(stage, "weight", "one", "3")).stdout
    assert " 3*" in shown
    assert "* changed at run time: one weight from 1 to 3, by local socket, 20" in shown
    assert await shares(stage) == {"one": 30, "two": 10}
    await again(stage, how)
    assert await shares(stage) == {"one": 30, "two": 10}
    stage.write(workers=1, node={"one": "weight = 4"})
    await stage.reload()
    assert await shares(stage) == {"one": 32, "two": 8}
    line = "node/one: weight 3, set at run time by local socket, is dropped: the configuration said 1, now 4"
    await stage.expect(line)
    stage.write(workers=1)
    await again(stage, how)
    assert await shares(stage) == {"one": 20, "two": 20}


async def test_a_value_of_one_service_and_a_limit_are_set_and_given_back(stage: Stage) -> None:
    await stage.add("one", "two")
    await stage.start(workers=1)
    await ready(stage)
    assert (
        " in web weight from 1 to 3, by "
        in (await say(stage, "weight", "one", "3", "--service", "web")).stdout
    )
    assert "one max_connections from 0 to 7, by " in (await say(stage, "limit", "one", "7")).stdout
    await all_follow(stage, lambda answering: answering == {"one", "two"})  # the limit is shared out
    assert await shares(stage) == {"one": 30, "two": 10}
    await say(stage, "weight", "one", "config", "--service", "web")
    assert "*" not in (await say(stage, "limit", "one", "config")).stdout
    assert await shares(stage) == {"one": 20, "two": 20}


async def test_what_cannot_be_served_is_answered_with_why_and_leaves_nothing_behind(stage: Stage) -> None:
    await stage.add("one")
    await stage.start()
    await ready(stage)
    done = await asyncio.to_thread(run, "weight", "one", "0", "-c", stage.file)
    assert done.returncode == 1
    assert "services.web: has no node with a weight above 0" in done.stderr
    assert names(await stage.ask(5)) == {"one"}
    await again(stage, signal.SIGTERM)
    assert "left out" not in stage.log
    assert names(await stage.ask(5)) == {"one"}


# --- nodes ---


async def added(stage: Stage) -> Any:
    """A node that serves, and that the file does not name."""
    [node] = await stage.add("more")
    stage.nodes.remove(node)
    return node


@restarts
async def test_a_node_that_is_added_serves_until_it_is_removed(stage: Stage, how: signal.Signals) -> None:
    await stage.add("one")
    await stage.start()
    await ready(stage)
    more = await added(stage)
    try:
        shown = (await say(stage, "add", "more", more.address)).stdout
        assert f"* changed at run time: more added, {more.address}, by local socket, 20" in shown
        assert names(await stage.ask(20)) == {"one", "more"}
        await again(stage, how)
        assert names(await stage.ask(20)) == {"one", "more"}
        await say(stage, "remove", "more")
        assert names(await stage.ask(20)) == {"one"}
        await again(stage, how)
        assert [*(await stage.look())] == ["one"]
    finally:
        await more.stop()


async def test_a_node_of_the_file_is_not_removed(stage: Stage) -> None:
    await stage.add("one", "two")
    await stage.start()
    await ready(stage)
    with pytest.raises(Refused, match="two: is in the configuration"):
        await asyncio.to_thread(stage.client.remove, "two")
    assert names(await stage.ask(20)) == {"one", "two"}


async def test_clients_notice_none_of_it(stage: Stage) -> None:
    await stage.add("one", "two")
    await stage.start()
    await ready(stage)
    more = await added(stage)

    async def enough(answers: list[Answer]) -> None:
        before = len(answers)
        await until(lambda: len(answers) > before + 100)

    try:
        async with stage.load(4) as answers:
            for words in (["weight", "one", "3"], ["add", "more", more.address], ["weight", "more", "2"]):
                await say(stage, *words)
                await enough(answers)
            await say(stage, "remove", "more")
            await enough(answers)
            await say(stage, "weight", "one", "config")
            await enough(answers)
        assert statuses(answers) == {200}
        assert names(answers) == {"one", "two", "more"}
    finally:
        await more.stop()


async def test_what_the_disk_does_not_take_is_in_force_and_said(stage: Stage) -> None:
    off, _ = await stage.add("off", "on")
    await stage.start()
    await ready(stage)
    with closing(sqlite3.connect(stage.folder / "state" / "state.sqlite3", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        await say(stage, "disable", "off")
        await stage.left_alone(off)
        await stage.expect("node off: disabled: in force, but not on disk: .*another process has it locked")
        holder.execute("ROLLBACK")
    await say(stage, "weight", "on", "2")
    await again(stage, signal.SIGKILL)
    assert (await stage.look())["off"]["state"] == "disabled"


# --- kills ---

KILLS = 16
MOMENTS_S = 0.03  # a kill comes within so long of the order
Known = tuple[str, int, bool]  # state and weight of one, and whether there is another


async def known(stage: Stage) -> Known:
    """What holds now."""
    nodes = {node["name"]: node for node in (await asyncio.to_thread(stage.client.nodes))["nodes"]}
    return nodes["one"]["state"], nodes["one"]["services"]["web"]["weight"], "more" in nodes


def orders(client: Client, kill: int) -> tuple[Callable[[], object], Callable[[Known], Known]]:
    """What an operator does before this kill, and what comes of it."""
    match kill % 5:
        case 0:
            return lambda: client.disable("one"), lambda was: ("disabled", *was[1:])
        case 1:
            return lambda: client.change("one", {"weight": kill + 2}), lambda was: (was[0], kill + 2, was[2])
        case 2:
            more = {"name": "more", "address": "127.0.0.1:9"}
            return lambda: client.add(more), lambda was: (*was[:2], True)
        case 3:
            return lambda: client.ready("one"), lambda was: ("ready", *was[1:])
        case _:
            return lambda: client.remove("more"), lambda was: (*was[:2], False)


async def test_a_kill_at_any_moment_of_a_change_leaves_what_was_or_what_is_to_be(stage: Stage) -> None:
    await stage.add("one", "two")
    await stage.start(workers=0)
    await ready(stage)
    moments = random.Random(7)
    was = await known(stage)
    for kill in range(KILLS):
        order, outcome = orders(stage.client, kill)
        given = asyncio.create_task(asyncio.to_thread(order))
        await asyncio.sleep(moments.uniform(0, MOMENTS_S))  # any moment
        await again(stage, signal.SIGKILL)
        error = (await asyncio.gather(given, return_exceptions=True))[0]
        now, after = await known(stage), outcome(was)
        assert now in (was, after)
        if not isinstance(error, Unreachable | Refused):
            assert now == after, error  # it was answered: it holds
        assert statuses(await stage.ask(5)) == {200}
        was = now
