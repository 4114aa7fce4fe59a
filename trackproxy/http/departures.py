"""Departures: what becomes of connections and requests at an endpoint that is no longer to be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trackproxy.access.names import End
from trackproxy.http.edge import Edge
from trackproxy.http.retry import Failure, may_retry
from trackproxy.pool.endpoints import Health
from trackproxy.pool.nodes import AdminState
from trackproxy.tunnel import Tunnel

if TYPE_CHECKING:
    from trackproxy.http.group import Group
    from trackproxy.http.heads import Request
    from trackproxy.pool.endpoints import Endpoint


def follow(group: Group) -> None:
    """States have changed: end idle connections that nobody will use, and serve who waits."""
    for endpoint, channel in group.channels.items():
        if endpoint.node.state is AdminState.DISABLED or endpoint.health is Health.DOWN:
            channel.close_idle()
    group.queue.wake()


def move_from(group: Group, endpoint: Endpoint) -> None:
    """ENDPOINT is down: what waits for its answer, and may be sent again, goes to another one."""
    for edge, request in _requests_at(group, endpoint):
        if edge.upstream is not None and _may_move(group, request, endpoint):
            edge.upstream.give_up(Failure.DOWN)


def end(group: Group, endpoint: Endpoint) -> None:
    """End what is left at ENDPOINT: move what may be moved, close the rest."""
    service = group.service
    group.channels[endpoint].close_idle()
    for connection in [*service.open]:
        if isinstance(connection, Tunnel) and connection.endpoint is endpoint:
            connection.close()
    for edge, request in _requests_at(group, endpoint):
        if edge.upstream is None:  # nothing was sent yet
            taken_out = Failure.ENDED.text
            request.route.second_tries.failed(edge, request, Failure.CONNECT, reused=False, detail=taken_out)
        elif request.answered:
            request.note(endpoint, str(request.status))
            request.fails(End.TAKEN_OUT)
            edge.upstream.abandon()
            service.release(request)
            edge.cut()
        else:
            edge.upstream.give_up(Failure.ENDED)


def _requests_at(group: Group, endpoint: Endpoint) -> list[tuple[Edge, Request]]:
    return [
        (edge, edge.request)
        for edge in group.service.open
        if isinstance(edge, Edge) and edge.request is not None and edge.request.endpoint is endpoint
    ]


def _may_move(group: Group, request: Request, endpoint: Endpoint) -> bool:
    """Whether REQUEST may go, and find another endpoint or at least a place in the queue."""
    tried = (*request.tried, endpoint)
    others = [e for e in group.endpoints if group.balancer.counts(e) and e not in tried]
    if not any(other.has_room for other in others) and not (others and group.queue.has_place):
        return False
    return may_retry(request, Failure.DOWN, request.route.settings.retry, group.service.sweep.now)
