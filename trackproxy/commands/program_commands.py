"""Commands about a running trackproxy as a whole: what it is, what it serves, what it is to read again."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trackproxy.commands.event_stream import Event
from trackproxy.commands.events import KEPT, Following, Wanted, line_of
from trackproxy.commands.operator import Operator, asks
from trackproxy.commands.panels import CHANGE, LOOK
from trackproxy.commands.program import program_lines
from trackproxy.commands.services import services_table
from trackproxy.commands.terminal import has_colours

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


@asks(app, LOOK, "trackproxy events --follow --kind health --kind drain")
def events(
    operator: Operator,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show also what comes, until Ctrl-C.")
    ] = False,
    last: Annotated[
        int | None, typer.Option("--last", min=0, max=KEPT, help="How many; 100, or 10 with --follow.")
    ] = None,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Only such events; repeatable.")] = None,
    probes: Annotated[
        bool, typer.Option("--probes", help="With --follow, also each probe's result.")
    ] = False,
) -> None:
    """Show what has happened: changes of state, health, drains, reloads.

    With --json each event is one line. --follow waits if trackproxy ends, and goes on once it is there again.
    """
    number = last if last is not None else 10 if follow else 100
    wanted = Wanted(number, frozenset(kind or ()), probes)
    colours = has_colours(sys.stdout)

    def show(event: Event) -> None:
        typer.echo(line_of(event, as_json=operator.as_json, colours=colours))

    if follow:
        Following(
            operator.client, wanted, show, lambda text: typer.echo(f"trackproxy: {text}", err=True)
        ).run()
    for event in wanted.last_of(operator.client.events(KEPT)["events"]):
        show(event)


@asks(app, CHANGE, "trackproxy reload -c cluster.toml")
def reload(operator: Operator) -> None:
    """Read the settings again; if they are wrong, the old ones stay in force."""
    done = operator.client.reload()
    operator.answer(done, [done["outcome"]])
