"""Completion of words in shells: the scripts, and names that the running trackproxy knows.

While somebody types there is neither time nor room for errors: who does not answer at once knows no names.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import typer

from trackproxy.commands.client import Client
from trackproxy.commands.operator import SHARED, client
from trackproxy.errors import TrackproxyError

ASK_S = 0.5
VARIABLE = "_TRACKPROXY_COMPLETE"  # by which a shell asks; typer takes that name from the program's


class Shell(StrEnum):
    """Shells whose words can be completed."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def script(shell: Shell) -> str:
    """Return what a shell is to run so that it asks us."""
    from typer._completion_shared import get_completion_script

    return get_completion_script(prog_name="trackproxy", complete_var=VARIABLE, shell=shell.value)


def register() -> None:
    """Be ready to be asked by a shell; typer does it only together with options that change its files."""
    from typer._completion_classes import completion_init

    completion_init()


def nodes_begun(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of nodes that begin so."""
    return _names(context, incomplete, lambda asked: asked.nodes()["nodes"])


def services_begun(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of services that begin so."""
    return _names(context, incomplete, lambda asked: asked.services()["services"])


def _names(
    context: typer.Context, begun: str, described: Callable[[Client], list[dict[str, Any]]]
) -> list[str]:
    where = {name: context.params.get(name) for name in SHARED}
    try:
        names = [str(one["name"]) for one in described(client(**where, ask_s=ASK_S))]
    except (TrackproxyError, typer.BadParameter, KeyError, TypeError):
        return []
    return [name for name in names if name.startswith(begun)]
