"""Nodes that greet, and what the tests of sessions share."""

from __future__ import annotations

from typing import Any

from tests.integration.conftest import Stage
from tests.integration.nodes import Exchange, Node, Script
from tests.integration.wire import Wire

GREETING = b"220 n ESMTP\r\n"
UNAVAILABLE = b"421 mail Service not available, closing transmission channel\r\n"
CROWDED = b"421 mail Too many connections, try again later\r\n"


def greeting(line: bytes = GREETING) -> Script:
    """Greet, and leave the rest to the test."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(line)

    return script


async def hands_off(exchange: Exchange) -> None:
    """Say nothing; the rest is up to the test."""


async def start_mail(stage: Stage, nodes: list[Node | str], **service: Any) -> str:
    """An SMTP service called "mail" before these nodes; its address."""
    return await stage.start_proxy(nodes, name="mail", protocol="smtp", **service)


async def session(stage: Stage, **service: Any) -> tuple[Wire, Wire, Node]:
    """A greeted client, the node's end of its session, and the node."""
    node = await stage.start_node(greeting())
    client = await stage.connect(await start_mail(stage, [node], **service))
    assert await client.exactly(len(GREETING)) == GREETING
    return client, await node.connected(), node
