"""One look at a running trackproxy: all that is shown together."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from trackproxy.commands.client import Client, Older
from trackproxy.commands.event_stream import Event

EVENTS = 50
LOOKS = 4  # until rates are known: they are the difference of two looks, a second apart


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen, as the admin API describes it. events: None if that trackproxy does not tell of them."""

    status: dict[str, Any]
    services: list[dict[str, Any]]
    nodes: list[dict[str, Any]]
    events: list[Event] | None

    @property
    def tree(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            "status": self.status,
            "services": self.services,
            "nodes": self.nodes,
            "events": self.events,
        }


def look(client: Client) -> Look:
    """Ask for everything; raises Unreachable or Refused."""
    return Look(
        status=client.status(),
        services=client.services()["services"],
        nodes=client.nodes()["nodes"],
        events=_events(client),
    )


def look_with_rates(client: Client, interval_s: float) -> Look:
    """Look again until rates are known, but not for ever."""
    seen = look(client)
    for _ in range(LOOKS):
        if all(service["recent"] for service in seen.services):
            break
        time.sleep(interval_s)
        seen = look(client)
    return seen


def _events(client: Client) -> list[Event] | None:
    try:
        found: list[Event] = client.events(EVENTS)["events"]
    except Older:
        return None
    return found
