"""Versions of nodes, and how If-Match names them (RFC 9110, 13.1.1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_api import TREE
from trackproxy.admin.versions import etag, expected, version_of
from trackproxy.board import Counter
from trackproxy.control.changes import Changes
from trackproxy.control.cluster import Cluster
from trackproxy.control.drain import Drains
from trackproxy.health.probes import open_session
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import load


@pytest.mark.parametrize(
    ("lines", "versions"),
    [
        (["*"], None),
        ([" * "], None),
        (['"a"'], {"a"}),
        (['"a", "b"'], {"a", "b"}),
        (['"a"', '"b"'], {"a", "b"}),
        ([' ,"a" ,, "b",'], {"a", "b"}),
        (['"a,b"'], {"a,b"}),
        (['""'], {""}),
        (['W/"a"'], set()),
        (['W/"a", "b"'], {"b"}),
        (['"a\udc80"'], {"a\udc80"}),
    ],
)
def test_if_match_is_read_as_the_rfc_has_it(lines: list[str], versions: set[str] | None) -> None:
    assert expected(lines) == versions


@pytest.mark.parametrize(
    "text", ["", "a", '"a', 'a"', '"a" "b"', '*, "a"', 'w/"a"', '"a b"', ",", '"a";', "**"]
)
def test_what_is_no_if_match_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="in quotes"):
        expected([text])


@given(st.lists(st.from_regex(r"\A[!#-~]{0,10}\Z"), min_size=1, max_size=5))
def test_all_versions_that_are_named_are_found(tags: list[str]) -> None:
    assert expected([",".join(map(etag, tags))]) == frozenset(tags)
    assert expected([*map(etag, tags)]) == frozenset(tags)


@given(st.text(max_size=50))
def test_whatever_if_match_says_it_is_read_or_refused(text: str) -> None:
    try:
        found = expected([text])
    except ValueError:
        return
    assert found is None or all(etag(tag) in text for tag in found)


# --- of nodes ---


class Stage:
    """A cluster without workers, and the version of its first node."""

    def __init__(self, cluster: Cluster, changes: Changes) -> None:
        self.cluster, self.changes, self.drains = cluster, changes, Drains(cluster)

    @property
    def version(self) -> str:
        return version_of(self.cluster, self.drains, self.changes, "node1")

    async def set(self, node: str, service: str, **values: int | None) -> None:
        plan = self.changes.values(node, service, values, "eve")
        self.cluster.adopt(await self.cluster.view(plan.applied.settings, 1))
        await self.changes.keep(plan)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with open_session() as session:
        cluster = Cluster(tmp_path, session)
        cluster.adopt(await cluster.view(load(None, TREE), 1))
        changes = await Changes.open(tmp_path, load(None, TREE))
        yield Stage(cluster, changes)
        cluster.stop()
        await changes.close()


async def test_what_nobody_has_decided_changes_no_version(stage: Stage) -> None:
    before = stage.version
    stage.cluster.views[-1].board.counters(0, 0)[Counter.TOTAL] = 7
    for row in stage.cluster.rows():
        row.watched.verdict.up = not row.watched.verdict.up
    stage.cluster.publish()
    assert stage.version == before
    await stage.set("node2", "", weight=5)  # another one
    assert stage.version == before


async def test_whatever_is_decided_of_a_node_changes_its_version(stage: Stage) -> None:
    seen = [stage.version]
    await stage.set("node1", "", weight=5)
    seen.append(stage.version)
    await stage.set("node1", "web", weight=6)
    seen.append(stage.version)
    await stage.set("node1", "", max_connections=6)
    seen.append(stage.version)
    stage.cluster.views[-1].board.counters(0, 0)[Counter.ACTIVE] = 1
    stage.drains.begin("node1", 60)
    seen.append(stage.version)
    stage.drains.begin("node1", 90)
    seen.append(stage.version)
    stage.drains.begin("node1", 90, "move")
    seen.append(stage.version)
    stage.drains.forget("node1")
    stage.cluster.set_state("node1", AdminState.DISABLED)
    seen.append(stage.version)
    assert len(set(seen)) == len(seen)


async def test_what_is_decided_back_has_the_version_that_it_had(stage: Stage) -> None:
    before = stage.version
    await stage.set("node1", "", weight=5)
    await stage.set("node1", "", weight=None)
    assert stage.version == before
