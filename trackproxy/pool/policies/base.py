"""What a policy is: a set of endpoints that changes one by one, and a way to pick from it."""

from __future__ import annotations

from typing import ClassVar, Protocol

from trackproxy.pool.endpoints import Endpoint


class Policy(Protocol):
    """Picks among its members; who is one is decided by the balancer alone.

    tracks_load: wants to hear from `moved` about every change of a member's `active`.

    The weight of a member never changes: it is removed, changed, and added again.
    """

    tracks_load: ClassVar[bool] = False

    def add(self, endpoint: Endpoint) -> None:
        """Make it a member; it is none yet, and its weight is above 0."""

    def remove(self, endpoint: Endpoint) -> None:
        """End its membership; it is a member now, and may come back."""

    def pick(self, client: int) -> Endpoint:
        """Return a member for this client (a number that stands for its address); there is at least one."""
        ...

    def moved(self, endpoint: Endpoint, before: int) -> None:
        """Hear that a member's `active` was `before` until now."""
        return  # most do not care
