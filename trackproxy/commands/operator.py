"""Who has typed a command: where the trackproxy is that is meant, and how to answer.

Every command that talks to a running trackproxy is one function that takes an `Operator`; `asks` gives it the
options that they all share. With --json there is one JSON document on stdout, or else, when something went
wrong, nothing there and a problem (RFC 9457) on stderr. Exit codes are the same.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trackproxy.commands.client import ASK_S, Client, Refused, Unreachable
from trackproxy.commands.connection import Place
from trackproxy.commands.place import find_socket, read_token, read_url
from trackproxy.errors import ConfigError

ConfigOption = Annotated[Path | None, typer.Option("-c", "--config", help="Settings, a TOML file.")]
SocketOption = Annotated[
    Path | None, typer.Option("--socket", help="Where trackproxy answers, if not in its state folder.")
]
UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The same over TCP, such as http://127.0.0.1:8400.")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="Holds the token that --url wants.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
INTERRUPTED = 130  # as shells say it of Ctrl-C
SHARED = {"config": ConfigOption, "socket": SocketOption, "url": UrlOption, "token_file": TokenOption}


@dataclass(frozen=True, slots=True)
class Operator:
    """Who has typed a command. as_json: answers are for programs. config: the file that was named."""

    client: Client
    as_json: bool = False
    config: Path | None = None

    def answer(self, document: Any, lines: Iterable[str]) -> None:
        """Print what the command was for: DOCUMENT as JSON, or LINES for people."""
        typer.echo(json.dumps(document, indent=2) if self.as_json else "\n".join(lines))


def asks(app: typer.Typer, panel: str, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function, which takes an Operator first, a command of APP."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        @functools.wraps(function)
        def command(*, as_json: bool = False, **words: Any) -> None:
            where = {name: words.pop(name) for name in SHARED}
            hint = "" if any(where.values()) else "; or give -c FILE as to serve, --socket or --url"
            with_errors_told(
                lambda: function(Operator(client(**where), as_json, where["config"]), **words), as_json, hint
            )

        parameters = [*(one.replace(kind=one.KEYWORD_ONLY) for one in own), *_shared()]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        epilog = f"Example: {example}"
        app.command(function.__name__, rich_help_panel=panel, epilog=epilog)(command)
        return command

    return register


def _shared() -> Iterable[inspect.Parameter]:
    kind = inspect.Parameter.KEYWORD_ONLY
    for name, annotation in SHARED.items():
        yield inspect.Parameter(name, kind, default=None, annotation=annotation)
    yield inspect.Parameter("as_json", kind, default=False, annotation=JsonOption)


def client(
    config: Path | None, socket: Path | None, url: str | None, token_file: Path | None, ask_s: float = ASK_S
) -> Client:
    """Return what asks the trackproxy that is meant; raises ConfigError for files that are of no use."""
    if url is not None and socket is not None:
        raise typer.BadParameter("give either --url or --socket, not both")
    token = read_token(token_file) if token_file else ""
    place: Place
    if url is None:
        place = socket or find_socket(config)
    else:
        try:
            place = read_url(url)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return Client(place, token, ask_s)


def with_errors_told(work: Callable[[], None], as_json: bool, hint: str = "") -> None:
    """Do WORK; what cannot be done is told as `check` tells it, and ends with 1. Ctrl-C is no error.

    HINT: what to do, besides, if nobody answers.
    """
    try:
        work()
    except (ConfigError, Refused, Unreachable) as error:
        told = Unreachable(f"{error}{hint}") if isinstance(error, Unreachable) else error
        typer.echo(_problem(told) if as_json else _sentences(told), err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _problem(error: ConfigError | Refused | Unreachable) -> str:
    """Return an error as problem details; "status" is there if a trackproxy has answered."""
    title = {ConfigError: "Wrong settings", Unreachable: "Unreachable"}.get(type(error), "Refused")
    tree: dict[str, Any] = {"type": "about:blank", "title": title, "detail": str(error)}
    if isinstance(error, Refused):
        tree["status"] = error.status
    if not isinstance(error, Unreachable) and error.problems:
        tree["problems"] = error.problems
    return json.dumps(tree, indent=2)


def _sentences(error: ConfigError | Refused | Unreachable) -> str:
    if isinstance(error, Unreachable) or not error.problems:
        return f"trackproxy: {error}"
    return problem_lines(error.problems)


def problem_lines(problems: list[str]) -> str:
    """Return problems of settings, and how many they are."""
    return "\n".join([*problems, in_number(len(problems), "problem")])


def in_number(number: int, thing: str) -> str:
    """Return "1 node", "2 nodes"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
