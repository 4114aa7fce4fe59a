"""Commands about a running trackproxy as a whole: what it is, what it serves, what it is to read again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from trackproxy.commands.client import Refused
from trackproxy.commands.event_stream import Event
from trackproxy.commands.events import KEPT, Following, Wanted, line_of
from trackproxy.commands.operator import Operator, asks
from trackproxy.commands.panels import CHANGE, LOOK
from trackproxy.commands.program import program_lines
from trackproxy.commands.services import services_table
from trackproxy.commands.terminal import has_colours, is_terminal

app = typer.Typer(rich_markup_mode=None)

TOP_ASK_S = 3.0  # who watches wants to know soon that nobody answers


@asks(app, LOOK, "trackproxy status")
def status(operator: Operator) -> None:
    """Show the program: version, uptime, workers, last reload."""
    known = operator.client.status()
    operator.answer(known, program_lines(known))


@asks(app, LOOK, "trackproxy services")
def services(operator: Operator) -> None:
    """Show the services: usable nodes, load, rates, latencies.

    Rates and latencies are those of the last seconds; they are known a second after somebody has asked first.
    """
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
    """Show what has happened: changes of state and health, reloads.

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


@asks(app, LOOK, "trackproxy top --interval 2")
def top(
    operator: Operator,
    interval: Annotated[
        float, typer.Option("--interval", min=0.2, max=3600, help="Seconds from one look to the next.")
    ] = 1.0,
) -> None:
    """Watch all of it live; drain nodes and more by key.

    Without a terminal, and with --json, it shows one look and ends.
    """
    from trackproxy.commands.top.look import look_with_rates
    from trackproxy.commands.top.plain import snapshot

    if operator.as_json or not all(map(is_terminal, (sys.stdin, sys.stdout, sys.stderr))):
        seen = look_with_rates(operator.client, interval)
        operator.answer(seen.tree, snapshot(seen))
        return
    from trackproxy.commands.top.screen import Top

    Top(operator.client.within(TOP_ASK_S), interval).run()


@asks(app, CHANGE, "trackproxy reload -c cluster.toml")
def reload(operator: Operator) -> None:
    """Read the settings again; wrong ones change nothing."""
    served = operator.client.status()["config"]
    if operator.config and served and Path(served).resolve() != operator.config.resolve():
        raise Refused(
            f"it serves {served}, and reads that again, not {operator.config}; put what is new there,"
            f" or start trackproxy with {operator.config}"
        )
    done = operator.client.reload()
    operator.answer(done, [done["outcome"]])
