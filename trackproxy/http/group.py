"""A group: the endpoints that one or several routes of a service share, and who waits for them."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING

from trackproxy.health.ejections import Ejections
from trackproxy.http import departures
from trackproxy.http.channel import Channel
from trackproxy.http.queue import Queue
from trackproxy.http.retry import Budget
from trackproxy.pool.balancer import Balancer

if TYPE_CHECKING:
    from trackproxy.http.service import Service
    from trackproxy.http_sections import HttpService
    from trackproxy.pool.endpoints import Endpoint


class Group:
    """Endpoints, their balancer, and what live traffic says of them; see `served.Group`.

    settings: of the service as the routes of this group see it. budget: of second tries, for all routes that
    have none of their own: each with one could add up to a storm.
    """

    def __init__(
        self, service: Service, label: str, settings: HttpService, endpoints: list[Endpoint]
    ) -> None:
        self.service = service
        self.label = label
        self.settings = settings
        self.endpoints = endpoints
        self.balancer = Balancer(endpoints, settings.picks_by, settings.panic_threshold)
        self.alert: Callable[[int], None] = _nobody
        self.refresh: Callable[[], None] = _nothing
        self.budget = Budget(settings.retry.budget, settings.retry.budget_min, service.sweep.now)
        self.queue = Queue(self)
        self.waiting = self.queue.waiting
        self.ejections = Ejections(label, self.balancer, settings.outliers, service.sweep, self.queue.wake)
        self.ejections.alert = lambda endpoint: self.alert(endpoint.index)
        self.tls = _context(settings)
        self.channels = {endpoint: Channel(self, endpoint) for endpoint in endpoints}

    def idle(self, endpoint: Endpoint) -> Sized:
        """Return the idle connections of an endpoint, as they change."""
        return self.channels[endpoint].idle

    def close_idle(self) -> None:
        """Close all idle connections."""
        for channel in self.channels.values():
            channel.close_idle()

    def wake(self) -> None:
        """There may be room now."""
        self.queue.wake()

    def follow(self) -> None:
        """States of nodes and endpoints have changed."""
        departures.follow(self)

    def move_from(self, endpoint: Endpoint) -> None:
        """ENDPOINT is down: what may be sent again goes to another one."""
        departures.move_from(self, endpoint)

    def end(self, endpoint: Endpoint) -> None:
        """End what is left at ENDPOINT: move what may be moved, close the rest."""
        departures.end(self, endpoint)


def _context(settings: HttpService) -> ssl.SSLContext | None:
    """Return what nodes are spoken to with, None for plain HTTP."""
    if not settings.upstream_tls.enabled:
        return None
    from trackproxy.tls import upstream_context  # few services need it

    return upstream_context(settings.upstream_tls.verify, settings.upstream_tls.ca_file)


def _nobody(index: int) -> None:
    """Nobody probes yet."""


def _nothing() -> None:
    """Nobody tells of other workers yet."""
