"""What is counted of sessions: who was taken, who was sent away and why, and second tries."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Stage
from tests.integration.nodes import Exchange, Script
from tests.integration.sessions import CROWDED, UNAVAILABLE, greeting, start_mail
from trackproxy.board import Traffic
from trackproxy.health.outliers import Cause
from trackproxy.pool.nodes import AdminState
from trackproxy.tcp.dial import RETRIED


def counted(stage: Stage) -> dict[str, int]:
    """What the worker has counted of its service, gauges left out."""
    (mail,) = stage.workers[0].services["mail"].routes
    return {cell.name: mail.cells[cell] for cell in Traffic if cell > Traffic.WAITING and mail.cells[cell]}


def saying(line: bytes) -> Script:
    """Say that, and hang up."""

    async def script(exchange: Exchange) -> None:
        if line:
            await exchange.send(line)
        exchange.wire.close()

    return script


def test_every_cause_of_a_failed_try_has_its_cell() -> None:
    assert {cause: cell.name for cause, cell in RETRIED.items()} == {
        cause: f"RETRIED_{cause.name}" for cause in Cause
    }


async def test_a_session_that_is_taken_counts_once(stage: Stage) -> None:
    node = await stage.start_node(greeting())
    client = await stage.connect(await start_mail(stage, [node]))
    await client.until(b"\r\n")
    assert counted(stage) == {"ACCEPTED": 1}


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (b"554 no\r\n", "STATUS"),
        (b"nonsense\r\n", "MALFORMED"),
        (b"", "LOST"),
        (None, "CONNECT"),
    ],
    ids=["refuses", "nonsense", "closes", "does not listen"],
)
async def test_a_session_that_goes_elsewhere_counts_by_what_went_wrong(
    stage: Stage, said: bytes | None, cause: str
) -> None:
    bad = stage.refusing() if said is None else await stage.start_node(saying(said))
    good = await stage.start_node(greeting())
    address = await start_mail(stage, [bad, good], endpoints=[{"priority": 1}, {"priority": 2}])
    client = await stage.connect(address)
    await client.until(b"\r\n")
    assert counted(stage) == {"ACCEPTED": 1, f"RETRIED_{cause}": 1, "REDISPATCHED": 1}


async def test_a_session_that_nobody_takes_counts_as_failed(stage: Stage) -> None:
    client = await stage.connect(await start_mail(stage, [stage.refusing()]))
    assert await client.rest() == UNAVAILABLE
    assert counted(stage) == {"ACCEPTED": 1, "REFUSED_FAILED": 1}


async def test_a_session_without_a_node_counts_so(stage: Stage) -> None:
    node = await stage.start_node(greeting())
    address = await start_mail(stage, [node])
    group = stage.workers[0].services["mail"].groups[0]
    group.balancer.set_state(group.endpoints[0].node.name, AdminState.DISABLED)
    client = await stage.connect(address)
    assert await client.rest() == UNAVAILABLE
    assert counted(stage) == {"ACCEPTED": 1, "REFUSED_NO_NODE": 1}


async def test_a_session_for_which_every_node_is_full_counts_so(stage: Stage) -> None:
    node = await stage.start_node(greeting())
    address = await start_mail(stage, [node], endpoints=[{"max_connections": 1}])
    first = await stage.connect(address)
    await first.until(b"\r\n")
    second = await stage.connect(address)
    assert await second.rest() == UNAVAILABLE
    assert counted(stage) == {"ACCEPTED": 2, "REFUSED_QUEUE_FULL": 1}


async def test_a_session_too_many_counts_so(stage: Stage) -> None:
    node = await stage.start_node(greeting())
    address = await start_mail(stage, [node], max_connections=1)
    first = await stage.connect(address)
    await first.until(b"\r\n")
    second = await stage.connect(address)
    assert await second.rest() == CROWDED
    assert counted(stage) == {"ACCEPTED": 2, "REFUSED_CONNECTIONS": 1}
