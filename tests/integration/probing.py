"""Probing a node of the stage, and what must be true of it afterwards."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import pytest

from tests.integration.conftest import Stage
from tests.integration.nodes import Node, Script
from trackproxy.health.looking import Prober, Result
from trackproxy.health.probes import make_prober
from trackproxy.http_sections import HttpService
from trackproxy.route_sections import Probe
from trackproxy.settings import EndpointConfig
from trackproxy.units import Address, parse_address

TIMEOUT_S = 0.3  # of a probe that is meant to meet it
LATE_S = 0.5  # that a result may be late on a busy machine
DEADLINE_S = 5.0  # of everything else
OK_HEAD = b"HTTP/1.1 200 OK\r\n"

both_types = pytest.mark.parametrize("kind", ["http", "tcp"])


def prober(
    where: Node | Address | str,
    session: aiohttp.ClientSession,
    timeout_s: float = DEADLINE_S,
    **settings: Any,
) -> Prober:
    """What probes this address with these settings."""
    text = where.address if isinstance(where, Node) else where
    address = parse_address(text, 80) if isinstance(text, str) else text
    service = HttpService(protocol="http", listen=[Address("", 80)], probe=Probe(**settings))
    made = make_prober(service, EndpointConfig("n1", address, 1, 0, 0, timeout_s), session)
    assert made is not None
    return made


async def closed(node: Node, count: int = 1) -> None:
    """Wait until a node has had so many connections, no more, and all are over."""
    await node.connected(count)
    assert len(node.connections) == count
    for wire in node.connections:
        assert wire.sock.fileno() < 0 or await wire.ends_within(DEADLINE_S)


async def look(
    stage: Stage,
    script: Script,
    session: aiohttp.ClientSession,
    timeout_s: float = DEADLINE_S,
    **settings: Any,
) -> Result:
    """Probe a node that follows the script; there must be one connection, closed afterwards."""
    node = await stage.start_node(script)
    result = await prober(node, session, timeout_s, **settings).probe()
    await closed(node)
    return result


def on_time(result: Result) -> bool:
    """Has it met its timeout and ended then?"""
    return TIMEOUT_S - 0.01 <= result.took_s <= TIMEOUT_S + LATE_S


@contextmanager
def no_file_left() -> Iterator[None]:
    """Let this process open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
