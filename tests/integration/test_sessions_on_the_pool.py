"""Sessions and the pool: priorities as mail exchangers have them, limits, states, and how sessions end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration.conftest import Stage
from tests.integration.nodes import Node
from tests.integration.sessions import CROWDED, UNAVAILABLE, greeting, hands_off, session, start_mail
from tests.integration.wire import Wire, settle
from trackproxy.board import Board, Counter, State
from trackproxy.pool.endpoints import Health
from trackproxy.pool.nodes import AdminState

LEAVING = UNAVAILABLE


async def named(stage: Stage, *names: str) -> list[Node]:
    """Nodes that greet with their names."""
    return [await stage.start_node(greeting(f"220 {name}\r\n".encode())) for name in names]


async def greeted_by(stage: Stage, address: str) -> tuple[str, Wire]:
    """Who greets a new client, and that client."""
    client = await stage.connect(address)
    return (await client.until(b"\r\n")).decode().split()[1], client


async def gone(wire: Wire, server: Wire) -> None:
    """End a session from both sides, and let the proxy see it."""
    wire.close()
    server.close()
    await settle()


async def test_sessions_go_to_whoever_has_fewest(stage: Stage) -> None:
    nodes = await named(stage, "n1", "n2", "n3")
    address = await start_mail(stage, [*nodes])
    names = [(await greeted_by(stage, address))[0] for _ in range(9)]
    assert sorted(names) == ["n1"] * 3 + ["n2"] * 3 + ["n3"] * 3


async def test_round_robin_takes_turns(stage: Stage) -> None:
    nodes = await named(stage, "n1", "n2")
    address = await start_mail(stage, [*nodes], balance="round_robin")
    names = [(await greeted_by(stage, address))[0] for _ in range(4)]
    assert names in (["n1", "n2"] * 2, ["n2", "n1"] * 2)


async def test_a_reserve_is_used_only_while_the_first_ones_are_full(stage: Stage) -> None:
    nodes = await named(stage, "n1", "n2")
    address = await start_mail(
        stage, [*nodes], endpoints=[{"priority": 10, "max_connections": 2}, {"priority": 50}]
    )
    sessions = [await greeted_by(stage, address) for _ in range(3)]
    assert [name for name, _ in sessions] == ["n1", "n1", "n2"]
    await gone(sessions[0][1], nodes[0].connections[0])
    assert (await greeted_by(stage, address))[0] == "n1"
    assert (await greeted_by(stage, address))[0] == "n2"


@pytest.mark.parametrize("state", [AdminState.DRAIN, AdminState.DISABLED])
async def test_a_reserve_takes_over_from_a_node_that_operators_took_out(
    stage: Stage, state: AdminState
) -> None:
    nodes = await named(stage, "n1", "n2")
    address = await start_mail(stage, [*nodes], endpoints=[{"priority": 10}, {"priority": 50}])
    first = await greeted_by(stage, address)
    balancer = stage.workers[0].services["mail"].groups[0].balancer
    balancer.set_state("n1", state)
    assert (await greeted_by(stage, address))[0] == "n2"
    assert first[0] == "n1"
    await first[1].send(b"NOOP\r\n")
    assert await nodes[0].connections[0].until(b"\r\n") == b"NOOP\r\n"  # open sessions go on
    balancer.set_state("n1", AdminState.READY)
    assert (await greeted_by(stage, address))[0] == "n1"


async def test_when_all_are_full_the_sender_is_told_at_once(stage: Stage) -> None:
    (node,) = await named(stage, "n1")
    address = await start_mail(stage, [node], endpoints=[{"max_connections": 1}])
    await greeted_by(stage, address)
    client = await stage.connect(address)
    assert await client.rest() == UNAVAILABLE


async def test_a_node_that_dies_while_it_is_waited_for_is_left_at_once(stage: Stage) -> None:
    silent = await stage.start_node(hands_off)
    (good,) = await named(stage, "n2")
    address = await start_mail(stage, [silent, good], endpoints=[{}, {"priority": 1}], greeting_timeout="5m")
    client = await stage.connect(address)
    await silent.connected()
    service = stage.workers[0].services["mail"]
    service.groups[0].balancer.set_health(service.groups[0].endpoints[0], Health.DOWN)
    service.groups[0].follow()
    assert await client.until(b"\r\n") == b"220 n2\r\n"


# --- limits ---


@pytest.mark.parametrize(
    "limits", [{"max_connections": 2}, {"per_client": {"max_connections": 2}}], ids=["service", "client"]
)
async def test_more_sessions_than_allowed_are_refused_until_one_ends(
    stage: Stage, limits: dict[str, Any]
) -> None:
    (node,) = await named(stage, "n1")
    address = await start_mail(stage, [node], **limits)
    _, first = await greeted_by(stage, address)
    await greeted_by(stage, address)
    refused = await stage.connect(address)
    assert await refused.rest() == CROWDED
    await gone(first, node.connections[0])
    assert (await greeted_by(stage, address))[0] == "n1"


@pytest.mark.parametrize(
    "limits",
    [{"max_connection_rate": 5}, {"per_client": {"max_connection_rate": 5}}],
    ids=["service", "client"],
)
async def test_a_flood_is_slowed_down(stage: Stage, limits: dict[str, Any]) -> None:
    (node,) = await named(stage, "n1")
    address = await start_mail(stage, [node], **limits)
    told = []
    for _ in range(20):
        client = await stage.connect(address)
        told.append(await client.until(b"\r\n"))
        client.close()
    assert told.count(CROWDED) >= 10  # they come within two seconds at the most
    assert told.count(b"220 n1\r\n") >= 5


async def test_one_client_cannot_take_the_sessions_of_another(stage: Stage) -> None:
    (node,) = await named(stage, "n1")
    address = await start_mail(
        stage,
        [node],
        per_client={"max_connections": 1},
        accept_proxy_protocol=True,
        trusted_proxies=["127.0.0.0/8"],
    )
    told = []
    for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"):
        client = await stage.connect(address)
        family = "TCP6" if ":" in host else "TCP4"
        own = "::1" if ":" in host else "127.0.0.1"
        await client.send(f"PROXY {family} {host} {own} 4000 25\r\n".encode())
        told.append(await client.until(b"\r\n") == b"220 n1\r\n")
    assert told == [True, False, True, True, False, True]


async def test_whom_its_own_limit_refuses_takes_nothing_from_the_others(stage: Stage) -> None:
    (node,) = await named(stage, "n1")
    address = await start_mail(
        stage,
        [node],
        max_connection_rate=15,
        per_client={"max_connections": 1},
        accept_proxy_protocol=True,
        trusted_proxies=["127.0.0.0/8"],
    )
    told = []
    for number in [1] * 40 + [2]:
        client = await stage.connect(address)
        await client.send(f"PROXY TCP4 192.0.2.{number} 127.0.0.1 4000 25\r\n".encode())
        told.append(await client.until(b"\r\n"))
    assert told.count(b"220 n1\r\n") == 2
    assert told[-1] == b"220 n1\r\n"


# --- ends ---


async def test_a_drains_deadline_ends_sessions_between_commands_with_a_farewell(stage: Stage) -> None:
    client, server, _ = await session(stage)
    service = stage.workers[0].services["mail"]
    service.groups[0].end(service.groups[0].endpoints[0])
    assert await client.rest() == LEAVING
    assert client.ended == "eof"
    assert await server.rest() == b""


async def test_a_session_in_the_middle_of_something_is_just_ended(stage: Stage) -> None:
    client, server, _ = await session(stage)
    await client.send(b"EHLO me\r\n")
    await server.until(b"\r\n")
    service = stage.workers[0].services["mail"]
    service.groups[0].end(service.groups[0].endpoints[0])
    assert await client.rest() == b""
    await server.rest()


async def test_a_worker_that_retires_leaves_sessions_alone_until_their_own_grace(stage: Stage) -> None:
    client, server, _ = await session(stage)
    worker = stage.workers[0]
    worker.retire(0.05)
    await asyncio.sleep(0.3)  # the passing of its time is the subject
    assert not worker.over.is_set()
    await client.send(b"QUIT\r\n")
    assert await server.until(b"\r\n") == b"QUIT\r\n"
    await server.send(b"221 bye\r\n")
    server.close()
    assert await client.rest() == b"221 bye\r\n"
    client.close()
    async with asyncio.timeout(5):
        await worker.over.wait()
    assert worker.left == 0


async def test_a_worker_that_stops_takes_leave_of_sessions_at_its_deadline(stage: Stage) -> None:
    client, server, _ = await session(stage)
    worker = stage.workers[0]
    worker.quit(0.1)
    assert await client.rest() == LEAVING
    assert await server.rest() == b""
    async with asyncio.timeout(5):
        await worker.over.wait()
    assert worker.left == 1


async def test_clients_that_wait_in_the_accept_queue_of_a_worker_that_retires_are_served(
    stage: Stage,
) -> None:
    (node,) = await named(stage, "n1")
    address = await start_mail(stage, [node])
    worker = stage.workers[0]
    worker._pause()
    client = await stage.connect(address)
    worker.retire(5.0)
    assert await client.until(b"\r\n") == b"220 n1\r\n"


# --- the board ---


def shared_board() -> Board:
    """A board for two endpoints and two workers; the test is the supervisor, and the second worker."""
    made = Board.create(2, 2)
    board = Board.open(made.fd)
    made.close()
    for cell in range(2):
        board.state(cell)[State.WEIGHT] = 1
    return board


async def test_a_better_node_whose_room_another_worker_has_is_waited_for(stage: Stage) -> None:
    nodes = await named(stage, "n1", "n2")
    board = shared_board()
    board.leases(0)[0] = -1  # the other worker has it
    board.publish()
    address = await start_mail(
        stage,
        [*nodes],
        endpoints=[{"priority": 10, "max_connections": 1}, {"priority": 50}],
        board=board,
    )
    client = await stage.connect(address)
    want = board.wants(0)
    async with asyncio.timeout(5):
        while want[0] < 1:  # so that whoever keeps the board gives it room
            await settle()
    assert not client.received
    board.leases(0)[0] = 1
    assert await client.until(b"\r\n") == b"220 n1\r\n"
    endpoints = stage.workers[0].services["mail"].groups[0].endpoints
    assert [(endpoint.total, endpoint.reused) for endpoint in endpoints] == [(1, 0), (0, 0)]


async def test_a_node_that_is_full_at_another_worker_is_not_waited_for(stage: Stage) -> None:
    nodes = await named(stage, "n1", "n2")
    board = shared_board()
    board.leases(0)[0] = -1
    board.counters(1, 0)[Counter.ACTIVE] = 1
    board.publish()
    address = await start_mail(
        stage,
        [*nodes],
        endpoints=[{"priority": 10, "max_connections": 1}, {"priority": 50}],
        board=board,
    )
    assert (await greeted_by(stage, address))[0] == "n2"


async def test_sessions_see_what_other_workers_have_open_now(stage: Stage) -> None:
    nodes = await named(stage, "n1", "n2")
    board = shared_board()
    board.publish()
    address = await start_mail(stage, [*nodes], board=board)
    board.counters(1, 0)[Counter.ACTIVE] = 3
    names = [(await greeted_by(stage, address))[0] for _ in range(3)]
    assert names == ["n2"] * 3
    assert board.counters(0, 1)[Counter.ACTIVE] == 3
