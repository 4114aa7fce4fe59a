"""Asks a running trackproxy: a method for each thing that its API does; each failure is a sentence that says
what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from trackproxy.commands.connection import Place, Unreachable, exchange
from trackproxy.commands.event_stream import Event, events_in
from trackproxy.errors import TrackproxyError

__all__ = ["Client", "Refused", "Unreachable"]

NODES = "/api/v1/nodes/"
ASK_S = 10.0
PROBE_S = 120.0  # a node is probed first
RELOAD_S = 300.0  # workers start, and another reload or an upgrade may have to end before
SILENCE_S = 45.0  # of a stream of events, which says something every 15 s


class Refused(TrackproxyError):
    """It was not done. status: of the answer; problems: each reason, one if there is only one."""

    def __init__(self, detail: str, problems: Sequence[str] = (), status: int = 0) -> None:
        super().__init__(detail)
        self.problems = list(problems)
        self.status = status


class Older(Refused):
    """The running trackproxy does not offer this yet."""


class Client:
    """The trackproxy at a place. token: says who asks, where that counts. ask_s: deadline of a question."""

    def __init__(self, place: Place, token: str = "", ask_s: float = ASK_S) -> None:
        self.place = place
        self._token = token
        self._ask_s = ask_s

    def within(self, ask_s: float) -> Client:
        """Return the same with another deadline for questions; orders have as long as ever."""
        return Client(self.place, self._token, ask_s)

    def status(self) -> dict[str, Any]:
        """Return what is known of the program, see `admin.overview.status`."""
        return self._call("GET", "/api/v1/status", self._ask_s)

    def services(self) -> dict[str, Any]:
        """Return all services, under "services"; see `admin.overview.services`."""
        return self._call("GET", "/api/v1/services", self._ask_s)

    def nodes(self) -> dict[str, Any]:
        """Return all nodes, under "nodes"; see `admin.nodes.describe`."""
        return self._call("GET", "/api/v1/nodes", self._ask_s)

    def node(self, name: str) -> dict[str, Any]:
        """Return one node."""
        return self._call("GET", _path(name), self._ask_s)

    def events(self, last: int) -> dict[str, Any]:
        """Return the last events that are kept, under "events", oldest first."""
        return self._call("GET", f"/api/v1/events?last={last}", self._ask_s)

    def follow(self, after: int, *, probes: bool = False) -> Iterator[Event | None]:
        """Yield None once events are to come, then those after number AFTER, until the stream ends."""
        headers = self._headers | {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        target = "/api/v1/events" + ("?probes=all" if probes else "")
        with exchange(self.place, "GET", target, SILENCE_S, None, headers) as response:
            if response.status >= 400:
                self._must_be_done(response.status, _tree(response.read()), target)
            yield None
            yield from events_in(response)

    def drain(self, name: str, timeout: str, sticky: str) -> dict[str, Any]:
        """Begin to drain a node, and return it."""
        return self._call("POST", _path(name, "drain"), ASK_S, {"timeout": timeout, "sticky": sticky})

    def disable(self, name: str) -> dict[str, Any]:
        """Disable a node, and return it."""
        return self._call("POST", _path(name, "disable"), ASK_S)

    def ready(self, name: str) -> dict[str, Any]:
        """Let a node take part again, and return it."""
        return self._call("POST", _path(name, "ready"), PROBE_S)

    def change(
        self, name: str, values: Mapping[str, int | None], service: str = "", if_version: str = ""
    ) -> dict[str, Any]:
        """Give a node other values, in one service or in all, None as configured; return the node.

        IF_VERSION: only if its "version" is still this one.
        """
        target = f"/api/v1/services/{quote(service, safe='')}/nodes/" if service else NODES
        wanted = {"If-Match": f'"{if_version}"'} if if_version else {}
        return self._call("PATCH", target + quote(name, safe=""), RELOAD_S, values, wanted)

    def add(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Add a node, as `admin.api` takes it, and return it."""
        return self._call("POST", NODES.rstrip("/"), RELOAD_S, node)

    def remove(self, name: str) -> dict[str, Any]:
        """Remove a node that was added; return its "outcome"."""
        return self._call("DELETE", _path(name), RELOAD_S)

    def reload(self) -> dict[str, Any]:
        """Have the settings read again; return the "outcome"."""
        return self._call("POST", "/api/v1/reload", RELOAD_S)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _call(
        self,
        method: str,
        target: str,
        deadline_s: float,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the answer's JSON; raises Unreachable or Refused."""
        sent = self._headers | dict(headers or {})
        text = json.dumps(body) if body else None
        if text is not None:
            sent["Content-Type"] = "application/json"
        with exchange(self.place, method, target, deadline_s, text, sent) as response:
            tree = _tree(response.read())
        self._must_be_done(response.status, tree, target)
        return tree

    def _must_be_done(self, status: int, tree: Mapping[str, Any], target: str) -> None:
        if status < 400:
            return
        path = target.partition("?")[0]
        if status == 404 and path.count("/") == 3:  # it names no node or service
            raise Older(f"the running trackproxy is older than this command: it has no {path}", status=404)
        detail = f"{tree.get('detail', f'the answer is {status}')}{_advice(status, bool(self._token))}"
        raise Refused(detail, tree.get("problems", ()), status)


def _tree(body: bytes) -> dict[str, Any]:
    """Return an answer's JSON object; raises ValueError for anything else."""
    tree = json.loads(body)
    if not isinstance(tree, dict):
        raise ValueError("the answer is no JSON object")
    return tree


def _advice(status: int, has_token: bool) -> str:
    """Return what to do about a refusal, to be said behind its reason."""
    match status:
        case 401 if has_token:
            return "; it does not know the token in --token-file"
        case 401:
            return "; give --token-file FILE"
        case 403 if has_token:
            return '; the token in --token-file needs the role "write"'
        case 412:
            return "; look again with `trackproxy nodes --json`"
        case 421:
            return "; ask by its address, or add this name to admin.hosts"
        case _:
            return ""


def _path(name: str, verb: str = "") -> str:
    return f"{NODES}{quote(name, safe='')}" + (f"/{verb}" if verb else "")
