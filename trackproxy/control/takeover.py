"""An upgrade in place: what one program hands to the one that replaces it in the same process.

The process keeps its id, its listening sockets and its workers; only the program is another one (execve). So
a signal that comes meanwhile must wait, and what is handed on has to be understood by another version: JSON,
and the settings of the workers that run, which a version too unlike may not be able to read.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from trackproxy.board import Board, BoardError
from trackproxy.control.children import FOR_SUPERVISOR
from trackproxy.control.drain import Sticky
from trackproxy.control.listeners import Place, Row
from trackproxy.errors import UpgradeFailed
from trackproxy.settings import Settings

FORMAT = 1
ENDED = (0, -1)
TRIAL_S = 60.0
MOST_LINES = 5  # of what a program that does not start has said last


@dataclass(slots=True, eq=False)
class Crewed:
    """A generation as it is handed on.

    settings: None if they cannot be read.
    workers: process id and descriptor of the control socket, by number; ENDED for those that have ended.
    """

    number: int
    retired: bool
    settings: Settings | None
    board_fd: int
    workers: list[tuple[int, int]]

    def open_board(self) -> Board | None:
        """Return its board, None if that or its settings are of a version too unlike ours."""
        try:
            return Board.open(self.board_fd, owned=True) if self.settings else None
        except BoardError:
            return None


@dataclass(slots=True, eq=False)
class Handover:
    """Everything that is handed on.

    states: by node. endpoints: what is known of each, by its key's text. drains: node, seconds left, sticky.
    traffic: what was counted besides; see `control.traffic`.
    events: the number of the last one.
    """

    rows: Mapping[Place, Row]
    generations: list[Crewed]
    states: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    drains: list[tuple[str, float, Sticky]] = field(default_factory=list)
    traffic: dict[str, Any] = field(default_factory=dict)
    events: int = 0

    def descriptors(self) -> list[int]:
        """Return what has to stay open."""
        fds = [listener.fileno() for row in self.rows.values() for listener in row]
        for generation in self.generations:
            fds += [generation.board_fd, *(fd for pid, fd in generation.workers if pid)]
        return fds

    def dump(self) -> bytes:
        """Return all of it as text."""
        return json.dumps(
            {
                "format": FORMAT,
                "rows": [[*place, [one.fileno() for one in row]] for place, row in self.rows.items()],
                "generations": [
                    {
                        "number": one.number,
                        "retired": one.retired,
                        "settings": base64.b64encode(pickle.dumps(one.settings)).decode(),
                        "board_fd": one.board_fd,
                        "workers": one.workers,
                    }
                    for one in self.generations
                ],
                "states": self.states,
                "endpoints": self.endpoints,
                "drains": self.drains,
                "traffic": self.traffic,
                "events": self.events,
            }
        ).encode()

    @classmethod
    def load(cls, text: bytes) -> Handover:
        """Take over what another program has dumped; raises ValueError if it is not understood."""
        tree = json.loads(text)
        if tree["format"] != FORMAT:
            raise ValueError(f"the program before hands over format {tree['format']}, not {FORMAT}")
        rows = {
            Place(family, host, port): [_opened(fd) for fd in fds] for family, host, port, fds in tree["rows"]
        }
        generations = [
            Crewed(
                one["number"],
                one["retired"],
                _readable(one["settings"]),
                one["board_fd"],
                [(pid, fd) for pid, fd in one["workers"]],
            )
            for one in tree["generations"]
        ]
        drains = [(node, left_s, sticky) for node, left_s, sticky in tree["drains"]]
        traffic = tree.get("traffic", {})
        events = tree.get("events", 0)  # a program without any has none
        handover = cls(rows, generations, tree["states"], tree["endpoints"], drains, traffic, events)
        for fd in handover.descriptors():
            os.set_inheritable(fd, False)
        return handover


def _opened(fd: int) -> socket.socket:
    return socket.socket(fileno=fd)


def _readable(text: str) -> Settings | None:
    try:
        settings = pickle.loads(base64.b64decode(text))
        _complete(settings)
    except Exception:  # noqa: BLE001 - whatever another version's objects do when they are made
        return None  # another version's; its workers end without hearing of health any more
    return settings if isinstance(settings, Settings) else None


def _complete(part: object) -> None:
    """Give settings of an older version what that did not have, as its default; raises ValueError without."""
    if isinstance(part, BaseModel):
        for name, field in type(part).model_fields.items():
            if name not in part.__dict__:
                part.__dict__[name] = _default(name, field)
        part = part.__dict__
    if isinstance(part, Mapping):
        part = [*part.values()]
    for one in part if isinstance(part, list | tuple) else ():
        _complete(one)


def _default(name: str, field: FieldInfo) -> object:
    if field.is_required():
        raise ValueError(f"{name} has no default")
    default = field.get_default(call_default_factory=True, validated_data={})
    kind: Any = Annotated[field.annotation, field]
    return TypeAdapter(kind).validate_python(default)  # defaults are written as a file has them


async def try_out() -> None:
    """Start the program that is installed now, let it do what may fail, and end it; raises UpgradeFailed."""
    trial = await asyncio.create_subprocess_exec(
        sys.executable, *own_arguments(), "--trial", str(FORMAT), stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )
    try:
        async with asyncio.timeout(TRIAL_S):
            _, said = await trial.communicate()
    except TimeoutError as error:
        raise UpgradeFailed(f"the new program does not start within {TRIAL_S:g} s") from error
    finally:
        if trial.returncode is None:
            trial.kill()
    if trial.returncode:
        last = said.decode(errors="replace").strip().splitlines()[-MOST_LINES:]
        raise UpgradeFailed(
            f"the new program does not start: {'; '.join(last) or f'exit code {trial.returncode}'}"
        )


def become(handover: Handover) -> NoReturn:
    """Replace the program of this process; raises OSError, and everything is as before then."""
    fd = os.memfd_create("trackproxy-handover", 0)
    os.write(fd, handover.dump())
    os.lseek(fd, 0, os.SEEK_SET)
    kept = handover.descriptors()
    # What comes before the new program listens would end it; it is delivered then.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_SUPERVISOR)
    try:
        for one in kept:
            os.set_inheritable(one, True)
        os.execv(sys.executable, [sys.executable, *own_arguments(), "--take-over", str(fd)])
    except OSError:
        os.close(fd)
        for one in kept:
            os.set_inheritable(one, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise


def receive(fd: int) -> Handover:
    """Read what `become` has left behind FD."""
    with open(fd, "rb") as handed:
        return Handover.load(handed.read())


def own_arguments() -> list[str]:
    """Return the command line of this process without the program and without an earlier `--take-over`."""
    arguments = sys.orig_argv[1:]
    if "--take-over" in arguments:
        at = arguments.index("--take-over")
        del arguments[at : at + 2]
    return arguments
