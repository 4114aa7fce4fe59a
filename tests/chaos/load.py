"""The handle of the load, and what it counted."""

from __future__ import annotations

import json
from typing import Literal

from tests.chaos.client import LIMIT_S
from tests.chaos.processes import DEADLINE_S
from tests.chaos.talk import Program
from tests.chaos.tally import Tally

Kind = Literal["busy", "kept", "fresh"]  # of connections, as `client` says


class Load:
    """A running load: `ready`, then perhaps `leave`, then `stop`."""

    def __init__(self, port: int, connections: int, kind: Kind) -> None:
        self._program = Program("tests.chaos.client", port, connections, kind)

    def ready(self) -> None:
        """Wait until each connection has had an answer."""
        self._program.read()

    def leave(self) -> None:
        """From now on a refused connect is no failure."""
        self._program.ask("leave")

    def stop(self) -> Tally:
        """Let everything that is on its way end; the figures."""
        self._program.tell("stop")
        return Tally(**json.loads(self._program.read(LIMIT_S + DEADLINE_S)))

    def close(self) -> None:
        """End it at once."""
        self._program.close()
