"""Second tries of one route: what becomes of a request whose endpoint failed, and who is to blame for it.

Whether a request may be sent again at all is decided in `retry`; here it is done, counted, and held against
endpoints.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trackproxy.access.names import End, Phase
from trackproxy.board import Counter, Traffic
from trackproxy.errors import ConnectFailed, Side
from trackproxy.health.outliers import Cause
from trackproxy.http.retry import Budget, Failure, may_retry

if TYPE_CHECKING:
    from trackproxy.http.edge import Edge
    from trackproxy.http.group import Group
    from trackproxy.http.heads import Request
    from trackproxy.http_sections import HttpService
    from trackproxy.pool.endpoints import Endpoint

log = logging.getLogger(__name__)

UNAVAILABLE = frozenset({502, 503, 504})  # what says that the endpoint, not the request, is to blame

_COUNTERS = {
    Failure.LOST: Counter.LOST,
    Failure.SILENT: Counter.SILENT,
    Failure.STALLED: Counter.SILENT,
    Failure.DOWN: Counter.SILENT,
    Failure.MALFORMED: Counter.MALFORMED,
}
_RETRIED = {failure: Traffic[f"RETRIED_{failure.name}"] for failure in Failure}
# How the access log tells of it: a request that ends so, and a try.
_ENDS = {
    Failure.CONNECT: (End.NODE_REFUSED, Phase.CONNECTING),
    Failure.LOST: (End.NODE_LOST, Phase.WAITING),
    Failure.SILENT: (End.NODE_SILENT, Phase.WAITING),
    Failure.STALLED: (End.NODE_SLOW, Phase.SENDING),
    Failure.MALFORMED: (End.NODE_MALFORMED, Phase.WAITING),
    Failure.STATUS: (End.NODE_ERROR, Phase.WAITING),
    Failure.DOWN: (End.NODE_DOWN, Phase.WAITING),
    Failure.ENDED: (End.TAKEN_OUT, Phase.WAITING),
}
_OUTCOMES = {failure: end.value.removeprefix("node_") for failure, (end, _) in _ENDS.items()}
# No load for a node: nothing was sent, or the node that had it is gone.
_FREE = frozenset({Failure.CONNECT, Failure.DOWN, Failure.ENDED})


class SecondTries:
    """Sends requests elsewhere as far as rules and budget go; else the client gets an answer."""

    def __init__(self, group: Group, settings: HttpService) -> None:
        """SETTINGS: as the route sees them."""
        self._group = group
        self._service = service = group.service
        self._balancer = group.balancer
        self._ejections = group.ejections
        self._rules = settings.retry
        self._statuses = frozenset(self._rules.statuses)
        self._budget = group.budget
        rules, shared = settings.retry, group.settings.retry
        if (rules.budget, rules.budget_min) != (shared.budget, shared.budget_min):
            self._budget = Budget(rules.budget, rules.budget_min, service.sweep.now)

    def failed(
        self, edge: Edge, request: Request, failure: Failure, *, reused: bool, detail: str = ""
    ) -> None:
        """An attempt failed: try another endpoint if the rules allow it, else answer.

        REUSED: on a connection that had served before; the node may just have closed it, so that the same
        endpoint may be tried once more if there is no other, or clients stay at theirs.
        """
        endpoint = request.endpoint
        assert endpoint is not None
        service, stale = self._service, reused and failure is Failure.LOST
        log.debug("%s: %s: %s %s", self._group.label, endpoint.address, failure.text, detail)
        if failure in _COUNTERS:
            endpoint.cells[_COUNTERS[failure]] += 1
        if failure.cause and failure is not Failure.CONNECT and not stale:
            self._ejections.failed(endpoint, failure.cause, detail)
        _note_try(request, endpoint, failure)
        request.note(endpoint, _OUTCOMES[failure])
        request.fails(*_ENDS[failure])
        if not self._may_retry(request, failure):
            service.release(request)
            self._answer(edge, request, failure)
            return
        _rewind(edge, request)
        stays = stale and request.route.sticking is not None and self._balancer.may_claim(endpoint)
        other = None if stays else self._balancer.take_other(request.client, request.tried)
        if other is None and stale:
            endpoint.repeats += 1
            self._resend(edge, request, endpoint)
            return
        service.release(request)
        if other is not None:
            self._resend(edge, request, other)
        elif self._group.queue.may_find_room(request):
            self._group.queue.wait(edge, request)
        else:
            self._answer(edge, request, failure)

    def _answer(self, edge: Edge, request: Request, failure: Failure) -> None:
        self._service.answer(edge, request, failure.status, failure.text, Traffic.REFUSED_FAILED)

    def connect_failed(self, edge: Edge, request: Request, endpoint: Endpoint, error: ConnectFailed) -> None:
        """A connect failed: hold it against the endpoint, and try another one for REQUEST."""
        endpoint.cells[Counter.CONNECT_FAILURES] += 1
        if error.side is Side.NODE:
            self._ejections.failed(endpoint, Cause.CONNECT, str(error))
        if edge.request is request and request.endpoint is endpoint:
            self.failed(edge, request, Failure.CONNECT, reused=False, detail=str(error))

    def asks_elsewhere(self, edge: Edge, request: Request, status: int) -> bool:
        """An endpoint answered with an error: send REQUEST to another one, if the rules allow it.

        If they do not, return False: the client gets this answer. An error counts against an endpoint once
        another one has answered better; what nobody can answer is the request's own fault.
        """
        endpoint = request.endpoint
        assert endpoint is not None
        _note_try(request, endpoint, Failure.STATUS)
        other = self._other_than_erring(edge, request, status)
        if other is None:
            if status in UNAVAILABLE and not request.doubted:
                self._ejections.failed(endpoint, Cause.STATUS, str(status))
            return False
        request.doubted = (*request.doubted, endpoint)
        request.note(endpoint, str(status))
        _rewind(edge, request)
        self._service.release(request)
        self._resend(edge, request, other)
        return True

    def answered_well(self, request: Request, endpoint: Endpoint) -> None:
        """ENDPOINT, or others before it, had failed, and now it has answered: that settles the blame."""
        self._ejections.succeeded(endpoint)
        for other in request.doubted:
            self._ejections.failed(other, Cause.STATUS, "another node answered better")

    def _other_than_erring(self, edge: Edge, request: Request, status: int) -> Endpoint | None:
        """Take an endpoint that may answer better than with STATUS; the budget is asked if there is one."""
        now = self._service.sweep.now
        if status not in self._statuses or not may_retry(request, Failure.STATUS, self._rules, now):
            return None
        if not any(other.listed and other not in request.tried for other in self._balancer.endpoints):
            return None
        if not self._budget_allows(request, now):
            return None
        return self._balancer.take_other(request.client, request.tried)

    def _may_retry(self, request: Request, failure: Failure) -> bool:
        """Ask the rules and the budget; who leaves a node that is gone has its share of traffic free."""
        now = self._service.sweep.now
        if not may_retry(request, failure, self._rules, now):
            return False
        return failure in _FREE or self._budget_allows(request, now)

    def _budget_allows(self, request: Request, now: float) -> bool:
        sent = sum(endpoint.total for endpoint in self._balancer.endpoints)
        allows = self._budget.take(sent, now)
        if not allows:
            request.route.cells[Traffic.BUDGET_EXHAUSTED] += 1
        return allows

    def _resend(self, edge: Edge, request: Request, endpoint: Endpoint) -> None:
        self.count(request, endpoint)
        self._service.send(edge, request, endpoint)

    def count(self, request: Request, endpoint: Endpoint) -> None:
        """Count that REQUEST, whose last try has failed, goes to ENDPOINT."""
        assert request.failure is not None
        endpoint.cells[Counter.RETRIES] += 1
        cells = request.route.cells
        cells[_RETRIED[request.failure]] += 1
        cells[Traffic.REDISPATCHED] += endpoint not in request.tried


def _note_try(request: Request, endpoint: Endpoint, failure: Failure) -> None:
    """Note that ENDPOINT was tried, once however often that was, and how the last try has failed."""
    request.failure = failure
    if endpoint not in request.tried:
        request.tried = (*request.tried, endpoint)


def _rewind(edge: Edge, request: Request) -> None:
    """Have the whole body sent again, and wait with the rest of it until somebody takes it."""
    if request.body is not None:
        request.body.rewind()
        if not request.body.complete:
            edge.hold()
