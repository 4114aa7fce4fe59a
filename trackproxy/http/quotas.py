"""Quotas: what one client, or all clients of a service together, may have, over all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trackproxy.addresses import client_key
from trackproxy.pool.admission import Admission, Quota, key_of
from trackproxy.pool.rates import Rates

if TYPE_CHECKING:
    from trackproxy.board import Board
    from trackproxy.http_sections import HttpService

LOCAL = "local"  # clients without an address

Refusal = tuple[int, str]  # status, reason

NO_ROOM: Refusal = (503, "too many connections")
TOO_MANY: Refusal = (429, "too many connections from this address")


class Quotas:
    """The limits of one service as one worker keeps them, through tables on BOARD.

    limits_connections, limits_rate: whether there is any such limit.
    """

    def __init__(self, name: str, settings: HttpService, board: Board, number: int) -> None:
        """NUMBER: of the worker on BOARD."""
        self._name = name
        client = settings.per_client
        self._all = Quota(settings.max_connections)
        self._one = Quota(client.max_connections)
        self.limits_connections = self._all.limits or self._one.limits
        self.limits_rate = client.max_request_rate > 0
        others = [other for other in range(board.workers) if other != number]
        self._admission = Admission(board.clients(number), [board.clients(other) for other in others])
        if self.limits_rate:
            tables = [board.rates(other) for other in others]
            burst = client.burst or client.max_request_rate
            self._rates = Rates(board.rates(number), tables, client.max_request_rate, burst)

    def admit(self, host: str, now: float, *, trusted: bool) -> tuple[Refusal | None, tuple[int, ...]]:
        """Count a connection from HOST; return why it is refused, if it is, and what `leave` takes.

        NOW: of a clock that all workers share. TRUSTED: it is a proxy, whose connections are many clients'.
        """
        held: list[int] = []
        wanted = (
            (self._one, key_of(self._name, client_key(host) if host else LOCAL), TOO_MANY),
            (self._all, key_of(self._name), NO_ROOM),
        )
        for quota, key, refusal in wanted[trusted:]:
            if quota.limits:
                admitted = self._admission.admit(key, quota, int(now))
                if admitted is False:
                    self.leave(held)
                    return refusal, ()
                if admitted:
                    held.append(key)
        return None, tuple(held)

    def leave(self, held: tuple[int, ...] | list[int]) -> None:
        """A connection that was admitted is over."""
        for key in held:
            self._admission.leave(key)

    def wait_s(self, host: str, now: float) -> float:
        """Count a request from HOST; return 0.0 if it may come, else the seconds until it might.

        NOW: of a clock that all workers share.
        """
        return self._rates.take(key_of(self._name, client_key(host) if host else LOCAL), now)
