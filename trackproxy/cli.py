"""The command line: each command loads settings, hands them on, and turns errors into sentences.

Exit codes: 0 for done, 1 for what could not be done (settings, listeners), 2 for wrong usage.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from trackproxy import demo as demo_nodes
from trackproxy.errors import ConfigError, ListenError, StartFailed
from trackproxy.explain import explain
from trackproxy.settings import Settings, load
from trackproxy.supervisor import Start, rehearse
from trackproxy.supervisor import serve as serve_until_stopped

app = typer.Typer(
    name="trackproxy",
    help="Load balancer for clusters of list-manager nodes.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigOption = Annotated[Path | None, typer.Option("-c", "--config", help="Settings, a TOML file.")]


def main() -> None:
    """Run the command that the arguments name; never returns."""
    app(prog_name="trackproxy")


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
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


@app.command()
def serve(
    config: ConfigOption = None,
    listen: Annotated[list[str] | None, typer.Option(help="Where clients connect; repeatable.")] = None,
    to: Annotated[list[str] | None, typer.Option(help="A node's address; repeatable.")] = None,
    balance: Annotated[str | None, typer.Option(help="How a node is picked.")] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Processes that serve; auto is one for each CPU, 0 is none of their own."),
    ] = None,
    trial: Annotated[bool, typer.Option("--trial", hidden=True)] = False,
    take_over: Annotated[int, typer.Option("--take-over", hidden=True)] = 0,
) -> None:
    """Serve a settings file (-c FILE), or in short: --listen :8080 --to a:80 --to b:80."""
    if config is not None and (listen or to or balance):
        raise typer.BadParameter("give either -c FILE or --listen, --to and --balance, not both")
    if config is None and not (listen and to):
        raise typer.BadParameter("give -c FILE, or --listen and --to, such as --listen :8080 --to node1:80")
    overrides = _quick_form(listen, to, balance) if listen and to else {}
    if workers is not None:
        overrides["workers"] = workers
    load_again = partial(load, config, overrides)
    start = Start(_load(config, overrides), load_again if config else None, take_over=take_over)
    raise typer.Exit(_serve(start, rehearse if trial else serve_until_stopped))


@app.command()
def check(
    config: ConfigOption = None,
    explain_all: Annotated[
        bool, typer.Option("--explain", help="Show every setting, its default and its meaning.")
    ] = False,
) -> None:
    """Check a settings file as serve would, without opening a listener."""
    if explain_all:
        typer.echo("\n".join(explain(Settings)))
        raise typer.Exit
    if config is None:
        raise typer.BadParameter("give -c FILE to check, or --explain")
    settings = _load(config)
    counts = f"{_count(len(settings.services), 'service')}, {_count(len(settings.nodes), 'node')}"
    typer.echo(f"{config}: ok ({counts})")


@app.command()
def demo(
    listen: Annotated[str, typer.Option(help="Where to serve the demo.")] = "127.0.0.1:8080",
    balance: Annotated[str, typer.Option(help="How a node is picked.")] = "round_robin",
) -> None:
    """Serve three demo nodes in this process, and show what to try."""
    try:
        banner = demo_nodes.banner(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from error
    with demo_nodes.open_sockets() as sockets:
        settings = _load(None, demo_nodes.overrides(listen, balance, sockets))
        code = _serve(Start(settings, companion=partial(demo_nodes.running, sockets), banner=banner))
    raise typer.Exit(code)


def _quick_form(listen: list[str], to: list[str], balance: str | None) -> dict[str, Any]:
    """Return settings of one service, its nodes named after their addresses."""
    nodes: dict[str, dict[str, str]] = {}
    for address in to:
        name = re.sub(r"[^A-Za-z0-9]+", "-", address).strip("-")[:50] or "node"
        nodes[f"{name}-{len(nodes) + 1}" if name in nodes else name] = {"address": address}
    service = {"protocol": "http", "listen": listen} | ({"balance": balance} if balance else {})
    return {"nodes": nodes, "services": {"web": service}}


def _load(config: Path | None, overrides: dict[str, Any] | None = None) -> Settings:
    try:
        return load(config, overrides)
    except ConfigError as error:
        typer.echo("\n".join([*error.problems, _count(len(error.problems), "problem")]), err=True)
        raise typer.Exit(1) from error


def _serve(start: Start, how: Callable[[Start], int] = serve_until_stopped) -> int:
    try:
        return how(start)
    except (ListenError, StartFailed) as error:
        typer.echo(f"trackproxy: {error}", err=True)
        return 1


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
