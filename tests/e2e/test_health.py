"""Health as an operator and a client see it: starts, deaths, probes, slow starts and panic.

What live traffic says of nodes, and what a reload keeps, is in `test_ejections` and `test_kept`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.nodes import Node as Program
from tests.chaos.processes import fixed_ports
from tests.e2e.health_stage import NEVER, Stage, names, pairs, staged, statuses
from tests.e2e.scripted_node import SLOW, Node, until
from tests.e2e.test_cli import run


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


# --- start ---


@pairs
async def test_a_node_is_probed_before_the_first_client_and_gets_nothing_if_that_fails(
    stage: Stage, workers: int
) -> None:
    good, sick = await stage.add("good", "sick")
    good.probe_delay_s, sick.probe_status = 0.2, 503
    stage.write(probe=NEVER, workers=workers)
    stage.launch()
    answer = await stage.first()
    assert (answer.status, answer.node) == (200, "good")
    assert statuses(await stage.ask(20)) == {200}
    assert good.seen == ["probe"] + 21 * ["request"]
    assert sick.seen == ["probe"]


async def test_with_all_nodes_down_at_the_start_clients_are_still_tried_for(stage: Stage) -> None:
    one, two = await stage.add("one", "two")
    await one.stop()
    await two.stop()
    await stage.start(probe=NEVER)
    assert statuses(await stage.ask(6)) == {502}
    assert min(one["totals"]["connect_failures"] for one in (await stage.look()).values()) > 0
    await one.start()
    assert (await stage.get()).status == 200
    assert "probe" not in one.seen[:1]


async def test_a_restart_knows_who_was_down_before_any_probe(stage: Stage) -> None:
    good, sick = await stage.add("good", "sick")
    sick.probe_status = 503
    await stage.start()
    await stage.end()
    for node in (good, sick):
        node.probe_delay_s = 0.3
        node.seen.clear()
    sick.probe_status = 200
    await stage.start(probe=NEVER)
    assert names(await stage.ask(10)) == {"good"}
    assert (good.seen, sick.seen) == (["request"] * 10, [])
    stage.write(probe={"rise": 2})
    await stage.reload()
    async with stage.load(2) as answers:
        await until(lambda: sick.requests)
    assert sick.seen.index("request") >= 2  # probes before it
    assert statuses(answers) == {200}


# --- death ---


@pytest.fixture
def mortal(stage: Stage, tmp_path: Path) -> Any:
    """A node that can be killed, beside those of the stage."""
    program = Program("mortal", fixed_ports(1)[0], tmp_path)
    program.ready()
    stage.nodes.append(Node("mortal", program.port))
    yield program
    program.close()


async def test_a_killed_node_gets_nothing_once_probes_have_noticed(stage: Stage, mortal: Program) -> None:
    await stage.add("other")
    await stage.start(probe={"rise": 3})
    mortal.obey("kill")
    killed_at = time.monotonic()
    await stage.expect(r"node mortal \(\S+\) is down: connection refused")
    assert time.monotonic() - killed_at < 0.2 * 1.2 + 2 * 0.05 * 1.1 + 0.5  # the machine may be busy
    await stage.left_alone(stage.nodes[0])
    before = await stage.total("mortal", "connect_failures")
    assert names(await stage.ask(30)) == {"other"}
    assert await stage.total("mortal", "connect_failures") == before
    mortal.obey("up")
    async with stage.load(2) as answers:
        await until(lambda: "mortal" in names(answers))
    assert statuses(answers) == {200}


async def test_a_killed_node_with_traffic_is_left_at_once_long_before_its_next_probe(
    stage: Stage, mortal: Program
) -> None:
    await stage.add("other")
    await stage.start(probe=NEVER)
    async with stage.load(4) as answers:
        await until(lambda: names(answers) == {"mortal", "other"})
        mortal.obey("kill")
        await stage.health("mortal", "down")
        before = len(answers)
        await until(lambda: len(answers) > before + 2000)  # the workers follow within two beats
        failed = await stage.total("mortal", "connect_failures")
        await until(lambda: len(answers) > before + 4000)
    assert statuses(answers) == {200}
    assert failed <= 8  # what was just connecting, at both workers
    assert await stage.total("mortal", "connect_failures") == failed


async def test_a_node_is_back_after_enough_good_probes_in_a_row_and_not_before(stage: Stage) -> None:
    node, _ = await stage.add("node", "other")
    await stage.start(probe={"rise": 3})
    await node.stop()
    await stage.health("node", "down")
    await stage.left_alone(node)
    node.seen.clear()
    async with stage.load(2) as answers:
        await node.start()
        await until(lambda: node.requests)
    assert node.seen[:3] == ["probe"] * 3
    assert statuses(answers) == {200}


# --- probes ---


@pytest.mark.parametrize(
    ("probe", "sickness", "reason"),
    [
        ({"expect": ["200", "302"]}, {"probe_status": 404}, "status 404, expected 200, 302"),
        ({"text": "alive"}, {"probe_body": "dead"}, 'the text "alive" is missing'),
        ({"host": "a.example", "expect": ["200"]}, {"host": "b.example"}, "status 421, expected 200"),
        ({"timeout": "200ms"}, {"probe_delay_s": 2.0}, "no answer within 0.2 s"),
    ],
    ids=["status", "text", "host", "timeout"],
)
async def test_a_probe_that_fails_takes_the_node_down_and_says_why(
    stage: Stage, probe: dict[str, Any], sickness: dict[str, Any], reason: str
) -> None:
    node, _ = await stage.add("node", "other")
    await stage.start(probe=probe)
    assert names(await stage.ask(20)) == {"node", "other"}
    for key, value in sickness.items():
        setattr(node, key, value)
    await stage.health("node", "down")
    assert f"WARNING web: node node ({node.address}) is down: {reason}\n" in stage.log
    await stage.left_alone(node)
    before = node.requests
    assert names(await stage.ask(20)) == {"other"}
    assert node.requests == before
    done = await asyncio.to_thread(run, "nodes", "-c", stage.file)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("node ")]
    assert line.split()[4] == "down"
    assert line.endswith(f"failed: {reason}")


async def test_a_probe_asks_for_the_host_and_takes_the_status_and_text_that_are_configured(
    stage: Stage,
) -> None:
    node, _ = await stage.add("node", "other")
    node.host, node.probe_status, node.probe_body = "lists.example", 503, "I am alive"
    probe = {"host": "lists.example", "expect": ["503"], "text": "alive"}
    await stage.start(probe=probe)
    seen = await stage.health("node", "up")
    assert seen["probe"]["passed"]
    assert names(await stage.ask(10)) == {"node"}  # the other one answers 200, without that text


async def test_a_tcp_probe_only_connects(stage: Stage) -> None:
    node, _ = await stage.add("node", "other")
    await stage.start(probe={"type": "tcp"})
    await until(lambda: node.connections >= 3)
    assert node.seen == []
    assert (await stage.health("node", "up"))["probe"]["reason"].startswith("connected in ")
    await node.stop()
    assert (await stage.health("node", "down"))["probe"]["reason"] == "connection refused"


async def test_a_service_without_probes_sends_none(stage: Stage) -> None:
    quiet, probed = await stage.add("quiet", "probed")
    (port,) = fixed_ports(1)
    other = (
        f'[services.web.nodes.quiet]\n[services.other]\nprotocol = "http"\nlisten = ["127.0.0.1:{port}"]\n'
    )
    other += 'probe = { path = "/probe", interval = "50ms" }\nnodes = { probed = {} }'
    await stage.start(probe={"type": "off"}, outliers=other)
    await until(lambda: probed.probes > 10)
    assert quiet.connections == 0
    assert statuses(await stage.ask(10)) == {200}
    assert quiet.seen == ["request"] * 10


async def test_an_endpoint_is_probed_once_for_all_workers(stage: Stage) -> None:
    node, _ = await stage.add("node", "other")
    await stage.start(probe={"interval": "100ms", "fast_interval": "100ms"}, workers=3)
    await stage.ask(6)
    first, begun = node.probes, time.monotonic()
    await until(lambda: node.probes >= first + 11)
    assert time.monotonic() - begun > 10 * 0.1 * 0.8  # three at a time would have taken a third


async def test_a_draining_node_is_probed_and_a_disabled_one_is_not(stage: Stage) -> None:
    draining, disabled = await stage.add("draining", "disabled")
    await stage.start(probe={"interval": "50ms"})
    await asyncio.to_thread(stage.client.disable, "disabled")
    async with asyncio.TaskGroup() as group:
        group.create_task(stage.get(SLOW))
        await until(lambda: draining.open)
        await asyncio.to_thread(stage.client.drain, "draining", "30s", "keep")
        disabled.seen.clear()
        before = draining.probes
        await until(lambda: draining.probes >= before + 8)
        assert (await stage.look())["draining"]["state"] == "drain"
        draining.go_on.set()
    assert disabled.seen == []


async def test_a_slow_node_may_take_its_own_time_for_a_probe(stage: Stage) -> None:
    patient, hasty, _ = await stage.add("patient", "hasty", "quick")
    patient.probe_delay_s = hasty.probe_delay_s = 0.5
    await stage.start(probe={"timeout": "200ms"}, node={"patient": 'probe_timeout = "5s"'})
    assert (await stage.health("hasty", "down"))["probe"]["reason"] == "no answer within 0.2 s"
    assert (await stage.health("patient", "up"))["probe"]["took_ms"] > 400
    assert names(await stage.ask(12)) == {"patient", "quick"}


# --- slow start ---


async def recovers(stage: Stage, node: Node) -> None:
    """Come back by probes."""
    node.probe_status = 503
    await stage.health(node.name, "down")
    await stage.left_alone(node)
    node.times.clear()
    node.probe_status = 200
    await until(lambda: node.times)


async def is_readied(stage: Stage, node: Node) -> None:
    """Come back by an operator's word after a drain."""
    await asyncio.to_thread(stage.client.drain, node.name, "10s", "keep")
    await stage.see(lambda seen: seen[node.name]["state"] == "disabled")
    await stage.left_alone(node)
    node.times.clear()
    await asyncio.to_thread(stage.client.ready, node.name)
    await until(lambda: node.times)


def share(node: Node, among: list[Node], begin: float, end: float) -> float:
    """The percentage of requests between two times that it got."""
    counts = {one.name: sum(begin <= at < end for at in one.times) for one in among}
    return counts[node.name] * 100 / sum(counts.values())


@pytest.mark.parametrize("comes_back", [recovers, is_readied], ids=["after probes", "after a drain"])
async def test_what_comes_back_gets_its_share_in_steps(stage: Stage, comes_back: Any) -> None:
    node, single, double = nodes = await stage.add("node", "single", "double")
    await stage.start(service='slow_start = "2s"', node={"double": "weight = 2"})
    async with stage.load(4) as answers:
        await comes_back(stage, node)
        began = node.times[0]
        assert (await stage.look())["node"]["health"] == "starting"
        await stage.health("node", "up")
        full = time.monotonic() + 0.15  # both workers have heard of it by then
        await until(lambda: time.monotonic() > full + 0.7)
    assert statuses(answers) == {200}
    first, later = share(node, nodes, began, began + 0.35), share(node, nodes, full - 0.5, full - 0.2)
    assert 1 < first < 8  # a tenth of its weight: 3.2 % of all
    assert first < later < 25
    assert 22 < share(node, nodes, full, full + 0.7) < 28
    assert 30 < share(single, [single, double], began, full) < 37


# --- panic ---


async def test_in_panic_all_nodes_get_requests_and_the_log_says_so_once(stage: Stage) -> None:
    doubted, dead, _ = await stage.add("doubted", "dead", "good")
    doubted.probe_status = 503
    await dead.stop()
    await stage.start(outliers="connects = 0")
    answers = await stage.ask(60)
    assert statuses(answers) == {200}
    assert names(answers) == {"doubted", "good"}
    assert await stage.total("dead", "connect_failures") >= 15
    said = "web: 1 of 3 endpoints are up: probes are not believed"
    assert stage.log.count(said) == 1
    doubted.probe_status = 200
    await stage.expect("web: 2 of 3 endpoints are up: probes are believed again")
    await stage.left_alone(dead)
    assert statuses(await stage.ask(20)) == {200}
    assert stage.log.count("probes are not believed") == 1


async def test_without_panic_only_those_that_are_up_get_requests(stage: Stage) -> None:
    doubted, dead, _ = await stage.add("doubted", "dead", "good")
    doubted.probe_status = 503
    await dead.stop()
    await stage.start(service="panic_threshold = 0")
    assert names(await stage.ask(30)) == {"good"}
    assert doubted.requests == 0
    assert await stage.total("dead", "connect_failures") == 0
    assert "not believed" not in stage.log
