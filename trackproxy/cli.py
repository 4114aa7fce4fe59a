"""The command line: what serves and checks settings; what talks to a running trackproxy is in `commands`.

Each command loads settings, hands them on, and turns errors into sentences. Exit codes: 0 for done, 1 for
what could not be done (settings, listeners, nobody there), 2 for wrong usage, 3 for a drain that its deadline
has ended, 130 for Ctrl-C.
"""

from __future__ import annotations

import json
import os
import re
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trackproxy.commands import node_commands, program_commands
from trackproxy.commands.completion import VARIABLE, Shell, register, script
from trackproxy.commands.operator import ConfigOption, JsonOption, in_number, problem_lines
from trackproxy.commands.panels import SERVE, SHELL, Grouped
from trackproxy.control.memory import CONTROL_SOCKET
from trackproxy.errors import ConfigError, ListenError, StartFailed

# What only `serve`, `check` and `demo` need is imported there: the others answer twice as soon without.
if TYPE_CHECKING:
    from trackproxy.commands.check import Checked
    from trackproxy.settings import Settings
    from trackproxy.supervisor import Start

app = typer.Typer(
    name="trackproxy",
    cls=Grouped,
    help="Load balancer for clusters of list-manager nodes.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(program_commands.app)
app.add_typer(node_commands.app)


class Role(StrEnum):
    """What somebody may do."""

    READ = "read"
    WRITE = "write"


def main() -> None:
    """Run the command that the arguments name; never returns."""
    if VARIABLE in os.environ:
        register()
    app(prog_name="trackproxy")


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        typer.echo(f"trackproxy {version('trackproxy')}")
    except PackageNotFoundError:
        typer.echo("trackproxy (run from its sources, not installed)")
    raise typer.Exit


@app.callback()
def _common(
    version_wanted: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Load balancer for clusters of list-manager nodes."""


@app.command(rich_help_panel=SERVE, epilog="Example: trackproxy serve -c cluster.toml")
def serve(
    config: ConfigOption = None,
    listen: Annotated[list[str] | None, typer.Option(help="Where clients connect; repeatable.")] = None,
    to: Annotated[list[str] | None, typer.Option(help="A node's address; repeatable.")] = None,
    balance: Annotated[str | None, typer.Option(help="How a node is picked.")] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Processes that serve; auto is one for each CPU, 0 is none of their own."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Reload when FILE has changed.")] = False,
    trial: Annotated[int, typer.Option("--trial", hidden=True)] = 0,
    take_over: Annotated[int, typer.Option("--take-over", hidden=True)] = 0,
) -> None:
    """Serve a settings file (-c FILE), or in short: --listen :8080 --to a:80 --to b:80."""
    from trackproxy.control.watch import FileWatch
    from trackproxy.settings import load
    from trackproxy.supervisor import Start

    if config is not None and (listen or to or balance):
        raise typer.BadParameter("give either -c FILE or --listen, --to and --balance, not both")
    if config is None and not (listen and to):
        raise typer.BadParameter("give -c FILE, or --listen and --to, such as --listen :8080 --to node1:80")
    if watch and config is None:
        raise typer.BadParameter("there is no file to watch; give -c FILE")
    file_watch = FileWatch(config) if watch and config else None
    overrides = _quick_form(listen, to, balance) if listen and to else {}
    if workers is not None:
        overrides["workers"] = workers
    load_again = partial(load, config, overrides)
    start = Start(
        _load(config, overrides),
        load_again if config else None,
        watch=file_watch,
        take_over=take_over,
        config=config and config.absolute(),
    )
    raise typer.Exit(_serve(start, trial=trial))


@app.command(rich_help_panel=SERVE, epilog="Example: trackproxy check -c cluster.toml")
def check(
    config: ConfigOption = None,
    explain_all: Annotated[
        bool, typer.Option("--explain", help="Show every setting, its default and its meaning.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="Show which route, policy and nodes a request for URL gets.")
    ] = None,
    method: Annotated[str, typer.Option(help="The method of that request.")] = "GET",
    as_json: JsonOption = False,
) -> None:
    """Check a settings file as serve would; no port is opened."""
    from trackproxy.commands.check import check as checked_file
    from trackproxy.explain import explain
    from trackproxy.settings import Settings

    if explain_all:
        typer.echo("\n".join(explain(Settings)))
        raise typer.Exit
    if config is None:
        raise typer.BadParameter("give -c FILE to check, or --explain")
    checked = checked_file(config)
    if checked.settings is not None and url is not None:
        _show_way(checked.settings, url, method, as_json)
        return
    if as_json:
        typer.echo(json.dumps(checked.tree(config), indent=2))
    else:
        _show_checked(config, checked)
    raise typer.Exit(1 if checked.problems else 0)


def _show_checked(config: Path, checked: Checked) -> None:
    if checked.warnings:
        typer.echo("\n".join(checked.warnings), err=True)
    if (settings := checked.settings) is not None:
        counts = f"{in_number(len(settings.services), 'service')}, {in_number(len(settings.nodes), 'node')}"
        typer.echo(f"{config}: {'served, but for these' if checked.problems else 'ok'} ({counts})")
    if checked.problems:
        _show_problems(checked.problems)


def _show_way(settings: Settings, url: str, method: str, as_json: bool) -> None:
    from trackproxy.commands.which import tree, way, which

    try:
        shown = (
            json.dumps(tree(way(settings, url, method)), indent=2)
            if as_json
            else "\n".join(which(settings, url, method))
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(shown)


def _demo_place(place: str) -> str:
    from trackproxy.demo import checked_place

    try:
        checked_place(place)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return place


def _demo_place_or_none(place: str) -> str:
    return place and _demo_place(place)


@app.command(rich_help_panel=SERVE, epilog="Example: trackproxy demo")
def demo(
    listen: Annotated[
        str, typer.Option(callback=_demo_place, help="Where to serve web pages and tracking.")
    ] = "127.0.0.1:8080",
    news: Annotated[
        str, typer.Option(callback=_demo_place_or_none, help='Where to serve news (NNTP); "" is nowhere.')
    ] = "127.0.0.1:8119",
    mail: Annotated[
        str, typer.Option(callback=_demo_place_or_none, help='Where to take mail (SMTP); "" is nowhere.')
    ] = "127.0.0.1:8025",
    admin: Annotated[
        str, typer.Option(callback=_demo_place_or_none, help='Where the dashboard is; "" is nowhere.')
    ] = "127.0.0.1:8400",
    balance: Annotated[str, typer.Option(help="How a node is picked.")] = "round_robin",
) -> None:
    """Serve three demo nodes in this process, and show what to try."""
    from trackproxy import demo as demo_nodes
    from trackproxy.supervisor import Start

    places = demo_nodes.Places(listen, news, mail, admin)
    with demo_nodes.open_sockets(places) as sockets, TemporaryDirectory(prefix="trackproxy-demo-") as folder:
        banner = demo_nodes.banner(places, _own_name(), Path(folder, CONTROL_SOCKET))
        settings = _load(None, demo_nodes.overrides(places, balance, sockets, folder))
        code = _serve(Start(settings, companion=partial(demo_nodes.running, sockets), banner=banner))
    raise typer.Exit(code)


@app.command(rich_help_panel=SERVE, epilog="Example: trackproxy token alice --role write")
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for, in the log of changes.")],
    role: Annotated[Role, typer.Option(help="write may change things, too.")] = Role.READ,
) -> None:
    """Make a token for the admin endpoint: its secret, and the lines for the settings file."""
    from trackproxy.commands.token import token
    from trackproxy.units import checked_name

    try:
        typer.echo("\n".join(token(checked_name(name), role)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command(rich_help_panel=SHELL, epilog='Example: eval "$(trackproxy completion bash)"')
def completion(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish")]) -> None:
    """Print what makes a shell complete commands and names.

    Names of nodes and services are those of the running trackproxy.
    """
    typer.echo(script(shell))


def _own_name() -> str:
    """Return how this program was called, as one would type it."""
    called = Path(sys.argv[0])
    if called.name != "trackproxy":
        return "trackproxy"
    return str(called.relative_to(Path.cwd())) if called.is_relative_to(Path.cwd()) else str(called)


def _quick_form(listen: list[str], to: list[str], balance: str | None) -> dict[str, Any]:
    """Return settings of one service, its nodes named after their addresses."""
    nodes: dict[str, dict[str, str]] = {}
    for address in to:
        name = re.sub(r"[^A-Za-z0-9]+", "-", address).strip("-")[:50] or "node"
        nodes[f"{name}-{len(nodes) + 1}" if name in nodes else name] = {"address": address}
    service = {"protocol": "http", "listen": listen} | ({"balance": balance} if balance else {})
    return {"nodes": nodes, "services": {"web": service}}


def _load(config: Path | None, overrides: dict[str, Any] | None = None) -> Settings:
    from trackproxy.settings import load

    try:
        return load(config, overrides)
    except ConfigError as error:
        _show_problems(error.problems)
        raise typer.Exit(1) from error


def _show_problems(problems: list[str]) -> None:
    typer.echo(problem_lines(problems), err=True)


def _serve(start: Start, *, trial: int = 0) -> int:
    from trackproxy import supervisor

    try:
        return supervisor.rehearse(start, trial) if trial else supervisor.serve(start)
    except (ListenError, StartFailed) as error:
        typer.echo(f"trackproxy: {error}", err=True)
        return 1
