"""Probes of NNTP, SMTP and TCP endpoints: what passes, what fails and why, and that each ends politely."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.integration.conftest import Stage
from tests.integration.nodes import Exchange, Node, Script
from tests.integration.probing import closed
from trackproxy.health.looking import Result
from trackproxy.health.probes import make_prober, open_session
from trackproxy.proxy_protocol import LOCAL_V2, parse
from trackproxy.session_sections import SessionService
from trackproxy.settings import EndpointConfig
from trackproxy.units import parse_address

TIMEOUT_S = 0.3


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """The client of all probes."""
    async with open_session() as session:
        yield session


def talking(greeting: bytes, *replies: bytes) -> Script:
    """Greet, then answer each line with the next reply."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(greeting)
        for reply in replies:
            await exchange.wire.until(b"\r\n")
            await exchange.send(reply)

    return script


async def look(
    node: Node, http: aiohttp.ClientSession, protocol: str, version: Any = "off", **probe: Any
) -> Result:
    """Probe a node once."""
    service = SessionService.model_validate({"protocol": protocol, "listen": [":1"], "probe": probe})
    config = EndpointConfig("n1", parse_address(node.address, 1), 1, 0, 0, TIMEOUT_S, version)
    prober = make_prober(service, config, http)
    assert prober is not None
    return await prober.probe()


@pytest.mark.parametrize(
    ("protocol", "script", "said"),
    [
        ("nntp", talking(b"200 hi\r\n", b"111 2026\r\n", b"205 bye\r\n"), b"DATE\r\nQUIT\r\n"),
        ("nntp", talking(b"201 hi\r\n", b"500 old\r\n", b"205 bye\r\n"), b"DATE\r\nQUIT\r\n"),
        ("smtp", talking(b"220-a\r\n220 b\r\n", b"250-a\r\n250 b\r\n", b"221 c\r\n"), b"EHLO me\r\nQUIT\r\n"),
    ],
    ids=["nntp", "an old nntp server", "smtp"],
)
async def test_a_healthy_server_passes_and_is_taken_leave_of(
    stage: Stage, http: aiohttp.ClientSession, protocol: str, script: Script, said: bytes
) -> None:
    node = await stage.start_node(script)
    result = await look(node, http, protocol, name="me")
    assert result.passed
    await closed(node)
    assert node.received == said


@pytest.mark.parametrize(
    ("protocol", "script", "reason"),
    [
        ("smtp", talking(b"421 busy\r\n"), "greeting: 421 busy"),
        ("nntp", talking(b"400 busy\r\n"), "greeting: 400 busy"),
        ("nntp", talking(b"HTTP/1.1 400 Bad\r\n"), "greeting: HTTP/1.1 400 Bad"),
        ("nntp", talking(b"200 a\r\n", b"403 broken\r\n"), "reply to DATE: 403 broken"),
        ("smtp", talking(b"220 a\r\n", b"502 no\r\n"), "reply to EHLO: 502 no"),
        ("smtp", talking(b"220 a\r\n", b"250 a\r\n", b"421 x\r\n"), "reply to QUIT: 421 x"),
        ("smtp", talking(b"220 \x1b[2J\r\n", b"5\x07\r\n"), "reply to EHLO: 5?"),
        ("smtp", talking(b""), f"no greeting within {TIMEOUT_S:g} s"),
        ("smtp", talking(b"220 a\r\n"), f"no reply to EHLO within {TIMEOUT_S:g} s"),
        ("smtp", talking(b"220-a\r\n" * 1000), "greeting: more than 200 lines"),
        ("smtp", talking(b"x" * 20_000), "greeting: a line without an end"),
    ],
)
async def test_a_sick_server_fails_with_a_reason(
    stage: Stage, http: aiohttp.ClientSession, protocol: str, script: Script, reason: str
) -> None:
    node = await stage.start_node(script)
    result = await look(node, http, protocol)
    assert not result.passed
    assert result.reason.startswith(reason)
    await closed(node)


async def test_nodes_are_told_that_a_probe_is_nobodys(stage: Stage, http: aiohttp.ClientSession) -> None:
    node = await stage.start_node(talking(b"220 a\r\n", b"250 a\r\n", b"221 b\r\n"))
    await look(node, http, "smtp", "v2")
    await closed(node)
    assert node.received.startswith(LOCAL_V2 + b"EHLO ")
    node = await stage.start_node(talking(b"220 a\r\n", b"", b"250 a\r\n", b"221 b\r\n"))
    await look(node, http, "smtp", "v1")
    await closed(node)
    found = parse(node.received)
    assert found is not None
    assert found[0].source is not None
    assert found[0].source[0] == "127.0.0.1"
    assert found[0].destination == ("127.0.0.1", parse_address(node.address, 1).port)


async def test_a_tcp_probe_connects_or_sends_and_expects(stage: Stage, http: aiohttp.ClientSession) -> None:
    node = await stage.start_node(talking(b""))
    assert (await look(node, http, "tcp")).passed
    node = await stage.start_node(talking(b"hello\n", b"+PONG\r\n"))
    assert (await look(node, http, "tcp", send="PING\r\n", expect="+PONG")).passed
    assert node.received == b"PING\r\n"
    node = await stage.start_node(talking(b"hello\n"))
    result = await look(node, http, "tcp", expect="never")
    assert not result.passed
    assert result.reason == f"no expected text within {TIMEOUT_S:g} s"


async def test_nothing_listening_is_said_to_be(stage: Stage, http: aiohttp.ClientSession) -> None:
    service = SessionService.model_validate({"protocol": "smtp", "listen": [":1"]})
    config = EndpointConfig("n1", parse_address(stage.refusing(), 1), 1, 0, 0, TIMEOUT_S)
    prober = make_prober(service, config, http)
    assert prober is not None
    result = await prober.probe()
    assert (result.passed, result.reason) == (False, "connection refused")
