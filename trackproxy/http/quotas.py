"""Quotas: what one client, or all clients of a service together, may have, over all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trackproxy.pool.admission import Admission, Quota
from trackproxy.pool.limits import Limits, key_of_client
from trackproxy.pool.rates import Rates

if TYPE_CHECKING:
    from trackproxy.board import Board
    from trackproxy.http_sections import HttpService

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
        self.limits_rate = client.max_request_rate > 0
        others = [other for other in range(board.workers) if other != number]
        admission = Admission(board.clients(number), [board.clients(other) for other in others])
        each, whole = Quota(client.max_connections), Quota(settings.max_connections)
        self._connections = Limits(name, each, whole, admission)
        self.limits_connections = self._connections.limits
        if self.limits_rate:
            tables = [board.rates(other) for other in others]
            burst = client.burst or client.max_request_rate
            self._rates = Rates(board.rates(number), tables, client.max_request_rate, burst)

    def admit(self, host: str, now: float, *, trusted: bool) -> tuple[Refusal | None, tuple[int, ...]]:
        """Count a connection from HOST; return why it is refused, if it is, and what `leave` takes.

        NOW: of a clock that all workers share. TRUSTED: it is a proxy, whose connections are many clients'.
        """
        refuses, held = self._connections.admit(host, int(now), trusted=trusted)
        if refuses is None:
            return None, held
        return NO_ROOM if refuses is self._connections.whole else TOO_MANY, held

    def leave(self, held: tuple[int, ...]) -> None:
        """A connection that was admitted is over."""
        self._connections.leave(held)

    def wait_s(self, host: str, now: float) -> float:
        """Count a request from HOST; return 0.0 if it may come, else the seconds until it might.

        NOW: of a clock that all workers share.
        """
        return self._rates.take(key_of_client(self._name, host), now)
