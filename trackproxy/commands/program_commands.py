"""Commands about a running trackproxy as a whole: what it is, what it serves, what it is to read again."""

from __future__ import annotations

import typer

from trackproxy.commands.operator import Operator, asks
from trackproxy.commands.panels import CHANGE, LOOK
from trackproxy.commands.program import program_lines
from trackproxy.commands.services import services_table

app = typer.Typer(rich_markup_mode=None)


@asks(app, LOOK, "trackproxy status")
def status(operator: Operator) -> None:
    """Show the program itself: version, uptime, settings, workers, what the last reload came to."""
    known = operator.client.status()
    operator.answer(known, program_lines(known))


@asks(app, LOOK, "trackproxy services")
def services(operator: Operator) -> None:
    """Show the services: where they listen, how many of their nodes can be used, what goes through them."""
    known = operator.client.services()
    operator.answer(known, services_table(known["services"]))


@asks(app, CHANGE, "trackproxy reload -c cluster.toml")
def reload(operator: Operator) -> None:
    """Read the settings again; if they are wrong, the old ones stay in force."""
    done = operator.client.reload()
    operator.answer(done, [done["outcome"]])
