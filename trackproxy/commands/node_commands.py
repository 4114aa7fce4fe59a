"""Commands about single nodes of a running trackproxy: see them, drain them, change, add and remove them."""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from typing import Annotated

import typer

from trackproxy.commands.completion import nodes_begun, services_begun
from trackproxy.commands.drain import Waiting
from trackproxy.commands.operator import Operator, asks
from trackproxy.commands.panels import CHANGE, LOOK
from trackproxy.commands.progress import Show
from trackproxy.commands.table import table

app = typer.Typer(rich_markup_mode=None)

NodeArgument = Annotated[
    str, typer.Argument(metavar="NODE", help="A node's name in the settings.", autocompletion=nodes_begun)
]
NewNodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Its name, which no node has yet.")]
ValueArgument = Annotated[
    str, typer.Argument(metavar="N|config", help="0 is none; config: as the file says.")
]
ServiceOption = Annotated[
    str, typer.Option("--service", help="Only in this service.", autocompletion=services_begun)
]
VersionOption = Annotated[
    str,
    typer.Option(
        "--if-version", metavar="V", help='Only if the "version" of the node is still V, see nodes --json.'
    ),
]


class StickyClients(StrEnum):
    """What becomes of clients that belong to a node on its way out."""

    KEEP = "keep"
    MOVE = "move"


@asks(app, LOOK, "trackproxy nodes --json")
def nodes(operator: Operator) -> None:
    """Show the nodes: state, health, load, the last probe."""
    known = operator.client.nodes()
    operator.answer(known, table(known["nodes"]))


@asks(app, CHANGE, "trackproxy drain node1 --timeout 5m --sticky move")
def drain(
    operator: Operator,
    node: NodeArgument,
    timeout: Annotated[str, typer.Option(help="Until what is left is ended.")] = "30s",
    sticky: Annotated[
        StickyClients, typer.Option(help="Whether clients that belong to the node stay until then.")
    ] = StickyClients.KEEP,
    waiting: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the node is empty.")] = True,
) -> None:
    """Send no new clients to a node; disable it once it is empty.

    Ends with 0 once it is empty, with 3 if the timeout has ended what was left, with 1 if somebody has
    stopped the drain, and with 130 after Ctrl-C, which leaves the drain alone.
    """
    begun = operator.client.drain(node, timeout, sticky)
    show = Show(sys.stderr if operator.as_json else sys.stdout)
    drained = Waiting(operator.client, begun, show)
    code = drained.wait() if waiting else 0
    if operator.as_json:
        operator.answer(drained.node, ())
    raise typer.Exit(code)


@asks(app, CHANGE, "trackproxy disable node1")
def disable(operator: Operator, node: NodeArgument) -> None:
    """Send nothing to a node any more, and probe it no more.

    What is open there goes on.
    """
    now = operator.client.disable(node)
    operator.answer(now, table([now]))


@asks(app, CHANGE, "trackproxy ready node1")
def ready(operator: Operator, node: NodeArgument) -> None:
    """Let a node take part again.

    One that was disabled is probed first.
    """
    now = operator.client.ready(node)
    operator.answer(now, table([now]))


@asks(app, CHANGE, "trackproxy weight node1 3 --service web")
def weight(
    operator: Operator,
    node: NodeArgument,
    share: ValueArgument,
    service: ServiceOption = "",
    if_version: VersionOption = "",
) -> None:
    """Change a node's share of traffic.

    It outlives a restart, until the file says something else than now.
    """
    now = operator.client.change(node, {"weight": _number(share)}, service, if_version)
    operator.answer(now, table([now]))


@asks(app, CHANGE, "trackproxy limit node1 100")
def limit(
    operator: Operator,
    node: NodeArgument,
    most: ValueArgument,
    service: ServiceOption = "",
    if_version: VersionOption = "",
) -> None:
    """Change what a node may have at once (max_connections).

    Requests and sessions count. It outlives a restart, as a weight does.
    """
    now = operator.client.change(node, {"max_connections": _number(most)}, service, if_version)
    operator.answer(now, table([now]))


@asks(app, CHANGE, "trackproxy add node3 10.0.0.3 --weight 2")
def add(
    operator: Operator,
    node: NewNodeArgument,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help='Such as "10.0.0.7" or "[::1]:80".')],
    weight: Annotated[int | None, typer.Option(help="Its share of traffic.")] = None,
    service: Annotated[
        list[str] | None,
        typer.Option(
            help="One that names its nodes and is to have it too; repeatable.", autocompletion=services_begun
        ),
    ] = None,
) -> None:
    """Add a node at run time.

    It serves in all services that name no nodes, once it has been probed, and outlives a restart.
    """
    services: dict[str, dict[str, object]] = {name: {} for name in service or ()}
    added = operator.client.add({"name": node, "address": address, "weight": weight, "services": services})
    operator.answer(added, table([added]))


@asks(app, CHANGE, "trackproxy remove node3")
def remove(operator: Operator, node: NodeArgument) -> None:
    """Remove a node that was added at run time.

    What is open there goes on.
    """
    done = operator.client.remove(node)
    operator.answer(done, [done["outcome"]])


def _number(text: str) -> int | None:
    """Return what a value is to be; None is what the configuration says."""
    if text == "config":
        return None
    if not re.fullmatch("[0-9]{1,9}", text):
        raise typer.BadParameter(f'give a whole number, or "config", not "{text}"')
    return int(text)
