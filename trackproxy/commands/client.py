"""Asks a running trackproxy over its unix socket; each call has a deadline, and each failure a sentence."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trackproxy.errors import TrackproxyError

NODES = "/api/v1/nodes/"
ASK_S = 10.0
PROBE_S = 120.0  # a node is probed first
RELOAD_S = 300.0  # workers start, and another reload or an upgrade may have to end before


class Unreachable(TrackproxyError):
    """Nobody answers; the message says where, and what to look for."""


class Refused(TrackproxyError):
    """It was not done. problems: each reason, one if there is only one."""

    def __init__(self, detail: str, problems: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.problems = list(problems)


class Client:
    """The trackproxy that listens at PATH."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def nodes(self) -> dict[str, Any]:
        """Return all nodes, under "nodes"; see `admin.nodes.describe`."""
        return self._call("GET", "/api/v1/nodes", ASK_S)

    def node(self, name: str) -> dict[str, Any]:
        """Return one node."""
        return self._call("GET", _path(name), ASK_S)

    def drain(self, name: str, timeout: str, sticky: str) -> dict[str, Any]:
        """Begin to drain a node, and return it."""
        return self._call("POST", _path(name, "drain"), ASK_S, {"timeout": timeout, "sticky": sticky})

    def disable(self, name: str) -> dict[str, Any]:
        """Disable a node, and return it."""
        return self._call("POST", _path(name, "disable"), ASK_S)

    def ready(self, name: str) -> dict[str, Any]:
        """Let a node take part again, and return it."""
        return self._call("POST", _path(name, "ready"), PROBE_S)

    def change(self, name: str, values: Mapping[str, int | None], service: str = "") -> dict[str, Any]:
        """Give a node other values, in one service or in all, None as configured; return the node."""
        target = f"/api/v1/services/{quote(service, safe='')}/nodes/" if service else NODES
        return self._call("PATCH", target + quote(name, safe=""), RELOAD_S, values)

    def add(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Add a node, as `admin.api` takes it, and return it."""
        return self._call("POST", NODES.rstrip("/"), RELOAD_S, node)

    def remove(self, name: str) -> str:
        """Remove a node that was added; return what came of it."""
        return str(self._call("DELETE", _path(name), RELOAD_S)["outcome"])

    def reload(self) -> str:
        """Have the settings read again; return what came of it."""
        return str(self._call("POST", "/api/v1/reload", RELOAD_S)["outcome"])

    def _call(
        self, method: str, target: str, deadline_s: float, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the answer's JSON; raises Unreachable or Refused."""
        with closing(_Connection(self.path, deadline_s)) as connection:
            try:
                connection.request(method, target, json.dumps(body) if body else None)
                response = connection.getresponse()
                answer = dict(json.loads(response.read()))
            except TimeoutError as error:
                text = f"the trackproxy at {self.path} has not answered within {deadline_s:g} s"
                raise Unreachable(text) from error
            except PermissionError as error:
                text = f"{self.path}: permission denied; it answers its own user and root"
                raise Unreachable(text) from error
            except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
                text = f"no trackproxy answers at {self.path}; is it running, with this state_dir?"
                raise Unreachable(text) from error
        if response.status >= 400:
            raise Refused(str(answer.get("detail", response.reason)), answer.get("problems", ()))
        return answer


def _path(name: str, verb: str = "") -> str:
    return f"{NODES}{quote(name, safe='')}" + (f"/{verb}" if verb else "")


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the path instead of the host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
