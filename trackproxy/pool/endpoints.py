"""Endpoints: one node as one service sees it, with what is known and counted about it.

Three opinions are kept apart and never overwrite each other: the operator's (`node.state`), the probe's
(`health`) and that of live traffic (`ejected`). Only the balancer changes them, because the policies have to
follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from trackproxy.board import no_row
from trackproxy.pool.nodes import AdminState, Node

if TYPE_CHECKING:
    from trackproxy.settings import EndpointConfig
    from trackproxy.units import Address


class Health(Enum):
    """What probes say of an endpoint. STARTING: up again, on its way to its full weight."""

    UP = "up"
    DOWN = "down"
    STARTING = "starting"


@dataclass(slots=True, eq=False)
class Endpoint:
    """One node as one service sees it; equal to itself alone, so it can be a key.

    weight: share of traffic relative to its peers; 0 takes it out of balancing.
    priority: the lower number is used first.
    max_connections: requests or sessions at once in this process; 0 means no limit, -1 nothing for now.
    active: how many it has now, those elsewhere included. elsewhere: how many other workers say they have.
    total: how many it has ever taken from this one. repeats: how many times one was sent to it again at once.
    dials: how many times a connection was opened for one.
    ejected: taken out by live traffic for a while.
    tunnels: of the active ones, those that no longer speak HTTP.
    index: its place on the board. cells: its row there, see `board.Counter`.
    listed: whether its policy may pick it; the balancer's own note.
    """

    node: Node
    address: Address
    weight: int = 1
    priority: int = 0
    max_connections: int = 0
    active: int = 0
    elsewhere: int = 0
    total: int = 0
    repeats: int = 0
    dials: int = 0
    health: Health = Health.UP
    ejected: bool = False
    listed: bool = False
    tunnels: int = 0
    index: int = 0
    cells: memoryview = field(default_factory=no_row)

    @classmethod
    def of(cls, config: EndpointConfig, node: Node, health: Health = Health.UP) -> Endpoint:
        """Return a fresh endpoint of `node` as configured."""
        assert config.node == node.name
        return cls(
            node, config.address, config.weight, config.priority, config.max_connections, health=health
        )

    @property
    def admitted(self) -> bool:
        """Operators let it have new clients."""
        return self.weight > 0 and self.node.state is AdminState.READY

    @property
    def usable(self) -> bool:
        """Admitted, and probes do not speak against it."""
        return self.admitted and self.health is not Health.DOWN

    @property
    def reused(self) -> int:
        """How many times a connection was used again: whoever is sent there has one opened, or has none."""
        return self.total + self.repeats - self.dials

    @property
    def own(self) -> int:
        """How many of the active ones this process has open."""
        return self.active - self.elsewhere

    @property
    def has_room(self) -> bool:
        """May take one more without going over its limit."""
        return self.max_connections == 0 or self.own < self.max_connections
