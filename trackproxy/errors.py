"""The errors of trackproxy: each says whose side it is on, and what a client is told.

Foreign exceptions are translated into these where the foreign library is called; nobody above reads
messages of other libraries.
"""

from __future__ import annotations

from enum import Enum


class Side(Enum):
    """Whose fault a failure is."""

    CLIENT = "client"
    NODE = "node"
    PROXY = "proxy"


class TrackproxyError(Exception):
    """Root of the family."""


class ConfigError(TrackproxyError):
    """The configuration cannot be used; `problems` holds one readable sentence for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ListenError(TrackproxyError):
    """A listening socket could not be opened; the message says which one and what to do."""


class StartFailed(TrackproxyError):
    """Workers could not be started; nothing of them runs any more."""


class NotChanged(TrackproxyError):
    """A change at run time does not fit; `problems` says why. Everything is as before."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Conflict(NotChanged):
    """The same, since a node is not what the change takes it for."""


class Outdated(NotChanged):
    """The same, since a node is not as it was when the change was thought of. version: what it is now."""

    def __init__(self, reason: str, version: str) -> None:
        super().__init__([reason])
        self.version = version


class UpgradeFailed(TrackproxyError):
    """The program was not replaced; the message says why."""


class HttpError(TrackproxyError):
    """One message or exchange cannot go on.

    status: what the client is told, if it has not seen a byte of another answer yet.
    """

    side = Side.PROXY
    status = 500


class BadRequest(HttpError):
    """The client's message is refused; nothing more of it may reach a node."""

    side = Side.CLIENT

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class BadAnswer(HttpError):
    """The node's message is refused; its connection is never used again."""

    side = Side.NODE
    status = 502


class ConnectFailed(HttpError):
    """The node refused, reset, or did not answer the handshake in time: nothing was sent.

    local: it is this machine that has no more files or ports; the node is not to blame.
    """

    side = Side.NODE
    status = 502

    def __init__(self, reason: str, local: bool = False) -> None:
        super().__init__(reason)
        if local:
            self.side = Side.PROXY
