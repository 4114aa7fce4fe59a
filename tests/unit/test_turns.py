"""Turns: what is found out once for all who wait, never too early and never all the time."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from trackproxy.admin.turns import RESTS, OneByOne, Turns

DEADLINE_S = 20.0
TOOK_S = 0.02


class Found:
    """What is to be found out, in TOOK_S. now: the present answer.

    begun: what was wanted, and when on the loop's clock. has_begun, may_end: what a turn sets and waits for.
    """

    def __init__(self, took_s: float = 0.0) -> None:
        self.now = 0
        self.took_s = took_s
        self.begun: list[tuple[str, float]] = []
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.turns = Turns(self.find)

    async def find(self, wanted: str) -> int:
        found = self.now
        self.begun.append((wanted, asyncio.get_running_loop().time()))
        self.has_begun.set()
        await asyncio.sleep(self.took_s)
        await self.may_end.wait()
        if found < 0:
            raise ValueError(found)
        return found


async def test_all_who_wait_for_the_same_share_one_turn_and_others_get_their_own() -> None:
    found = Found()
    async with asyncio.timeout(DEADLINE_S):
        asked = [found.turns.next("a"), found.turns.next("b"), found.turns.next("a")]
        assert await asyncio.gather(*asked) == [0, 0, 0]
    assert [wanted for wanted, _ in found.begun] == ["a", "b"]


async def test_whoever_asks_is_told_what_was_found_out_after_that() -> None:
    found = Found()
    found.may_end.clear()
    async with asyncio.timeout(DEADLINE_S):
        early = asyncio.create_task(found.turns.next())
        await found.has_begun.wait()
        found.now = 1  # a change, while the answer to an earlier question is on its way
        late = asyncio.create_task(found.turns.next())
        found.may_end.set()
        assert (await early, await late) == (0, 1)


async def test_a_turn_is_followed_by_a_rest_that_is_longer_by_a_factor() -> None:
    found = Found(TOOK_S)
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(3):
            await found.turns.next()
    times = [at for _, at in found.begun]
    assert min(times[1] - times[0], times[2] - times[1]) >= TOOK_S * (1 + RESTS) * 0.99  # a timer's grain


async def test_an_error_is_told_to_all_who_wait_and_to_nobody_after_them() -> None:
    found = Found()
    found.now = -1
    async with asyncio.timeout(DEADLINE_S):
        told = await asyncio.gather(found.turns.next(), found.turns.next(), return_exceptions=True)
        assert [type(one) for one in told] == [ValueError, ValueError]
        found.now = 2
        assert await found.turns.next() == 2


async def test_whoever_goes_away_takes_the_answer_from_nobody() -> None:
    found = Found()
    found.may_end.clear()
    async with asyncio.timeout(DEADLINE_S):
        going, staying = (asyncio.create_task(found.turns.next()) for _ in range(2))
        await found.has_begun.wait()
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        found.may_end.set()
        assert await staying == 0


async def test_between_the_beginnings_of_two_requests_the_loop_sees_to_everything_else(
    aiohttp_client: AiohttpClient,
) -> None:
    begun = [0]  # in each round of the loop
    done = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        begun[-1] += 1
        return web.Response()

    async def turn() -> None:
        while not done.is_set():
            begun.append(0)
            await asyncio.sleep(0)

    application = web.Application(middlewares=[OneByOne().begin])
    application.router.add_get("/", answer)
    client: TestClient[web.Request, web.Application] = await aiohttp_client(application)
    turning = asyncio.create_task(turn())
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(client.get("/") for _ in range(50)))
    done.set()
    await turning
    assert (max(begun), sum(begun)) == (1, 50)
