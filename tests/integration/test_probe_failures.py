"""Probes of nodes that misbehave: each ends in time, with a result that says what is wrong."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.integration.conftest import Stage
from tests.integration.nodes import Exchange, Script, answering, breaking_off, silent
from tests.integration.probing import (
    DEADLINE_S,
    LATE_S,
    OK_HEAD,
    TIMEOUT_S,
    both_types,
    closed,
    look,
    no_file_left,
    on_time,
    prober,
)
from trackproxy.health import connecting
from trackproxy.health.probes import open_session


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The client of all probes."""
    async with open_session() as session:
        yield session


def flooding(*pieces: bytes) -> Script:
    """Answer with these pieces, the last one for ever."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_and_send(*pieces)
        while not exchange.wire.broken and not exchange.wire.ended:
            await exchange.send(pieces[-1])

    return script


async def speaking_first(exchange: Exchange) -> None:
    await exchange.send(b"SSH-2.0-OpenSSH_9.2\r\n")


async def half_closing(exchange: Exchange) -> None:
    await exchange.request()
    exchange.wire.half_close()


@pytest.mark.parametrize(
    "text",
    [
        b"<html>hello</html>",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        os.urandom(256) + b"\r\n\r\n",
        OK_HEAD + b"A: " + b"x" * 1_000_000,
    ],
    ids=["no http", "status", "length", "nul", "noise", "huge field"],
)
async def test_what_is_not_http_fails(stage: Stage, session: aiohttp.ClientSession, text: bytes) -> None:
    result = await look(stage, answering(text), session)
    assert (result.passed, result.local, result.reason) == (False, False, "the answer is malformed")


async def test_a_node_that_speaks_first_fails(stage: Stage, session: aiohttp.ClientSession) -> None:
    result = await look(stage, speaking_first, session)
    assert not result.passed


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (breaking_off(), "closed without an answer"),
        (half_closing, "closed without an answer"),
        (breaking_off(OK_HEAD), "closed without an answer"),
        (breaking_off(reset=True), "connection reset"),
        (breaking_off(OK_HEAD, reset=True), "connection reset"),
    ],
    ids=["closes", "half-closes", "closes in the head", "resets", "resets in the head"],
)
async def test_a_node_that_ends_the_connection_fails_and_is_not_asked_again(
    stage: Stage, session: aiohttp.ClientSession, script: Script, reason: str
) -> None:
    result = await look(stage, script, session)
    assert (result.passed, result.local, result.reason) == (False, False, reason)


@pytest.mark.parametrize(
    ("script", "settings", "missing"),
    [
        (silent, {}, "answer"),
        (answering(OK_HEAD), {}, "answer"),
        (flooding(b"HTTP/1.1 102 Processing\r\n\r\n" * 100), {}, "answer"),
        (answering(OK_HEAD + b"Content-Length: 100\r\n\r\nnot yet"), {"text": "OK"}, "end of the answer"),
    ],
    ids=["silence", "half a head", "interim answers", "half a body"],
)
async def test_a_node_that_keeps_the_probe_waiting_fails_in_time(
    stage: Stage, session: aiohttp.ClientSession, script: Script, settings: dict[str, Any], missing: str
) -> None:
    result = await look(stage, script, session, TIMEOUT_S, **settings)
    assert (result.passed, result.local) == (False, False)
    assert result.reason == f"no {missing} within 0.3 s"
    assert on_time(result)


@both_types
async def test_a_node_that_takes_no_connection_fails_in_time(
    stage: Stage, session: aiohttp.ClientSession, kind: str
) -> None:
    result = await prober(stage.deaf(), session, TIMEOUT_S, type=kind).probe()
    assert not result.passed
    assert result.reason.endswith(" within 0.3 s")
    assert on_time(result)


@pytest.mark.parametrize("settings", [{}, {"text": "OK"}], ids=["status", "text"])
async def test_of_an_endless_body_no_more_is_read_than_needed(
    stage: Stage, session: aiohttp.ClientSession, settings: dict[str, Any]
) -> None:
    result = await look(stage, flooding(OK_HEAD + b"\r\n", b"x" * 65536), session, **settings)
    assert result.passed is (not settings)
    assert result.took_s < DEADLINE_S


async def test_an_endless_head_fails(stage: Stage, session: aiohttp.ClientSession) -> None:
    result = await look(stage, flooding(OK_HEAD, b"A: b\r\n" * 1000), session, TIMEOUT_S)
    assert not result.passed
    assert result.took_s < TIMEOUT_S + LATE_S


@both_types
async def test_a_refused_connection_fails(stage: Stage, session: aiohttp.ClientSession, kind: str) -> None:
    result = await prober(stage.refusing(), session, type=kind).probe()
    assert (result.passed, result.local, result.reason) == (False, False, "connection refused")


@both_types
@pytest.mark.parametrize(
    ("code", "reason", "local"),
    [
        (errno.EHOSTUNREACH, "host unreachable", False),
        (errno.ENETUNREACH, "network unreachable", False),
        (errno.EADDRNOTAVAIL, "this machine cannot probe: Cannot assign requested address", True),
    ],
)
async def test_what_the_system_says_of_a_connection_is_put_into_words(
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    code: int,
    reason: str,
    local: bool,
) -> None:
    async def fail(_host: str) -> list[str]:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(connecting, "look_up", fail)
    result = await prober("node.test", session, type=kind).probe()
    assert (result.passed, result.reason, result.local) == (False, reason, local)


@both_types
async def test_without_a_free_file_the_result_is_local(
    stage: Stage, session: aiohttp.ClientSession, kind: str
) -> None:
    node = await stage.start_node()
    probing = prober(node, session, type=kind)
    with no_file_left():
        result = await probing.probe()
    assert (result.passed, result.local) == (False, True)
    assert result.reason == "this machine cannot probe: Too many open files"
    assert (await probing.probe()).passed


@both_types
async def test_a_cancelled_probe_closes_its_connection(
    stage: Stage, session: aiohttp.ClientSession, kind: str
) -> None:
    node = await stage.start_node(silent)
    task = asyncio.create_task(prober(node, session, type=kind).probe())
    if kind == "http":
        await node.requested()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    await closed(node)
    await asyncio.wait([task])
