"""Ejections of one service in one worker: what live traffic says of endpoints, and what follows from it.

The rules are in `health.outliers`. An ejection is written on the board at once, so that all workers leave the
endpoint out; whoever keeps the board tells by `follow` and `pardon` what came from elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from trackproxy.board import Counter
from trackproxy.clock import Sweep
from trackproxy.health.outliers import Cause, Outlier, may_eject
from trackproxy.pool.balancer import Balancer
from trackproxy.pool.endpoints import Endpoint
from trackproxy.sections import Outliers
from trackproxy.telling import tell

log = logging.getLogger(__name__)

EJECTED = {
    Cause.CONNECT: Counter.EJECTED_CONNECT,
    Cause.LOST: Counter.EJECTED_LOST,
    Cause.SILENT: Counter.EJECTED_SILENT,
    Cause.MALFORMED: Counter.EJECTED_MALFORMED,
    Cause.STATUS: Counter.EJECTED_STATUS,
}


class Ejections:
    """Takes failures and good answers of endpoints, ejects them and readmits them.

    alert: has an endpoint probed at once. changed: called when other endpoints may be picked than before.
    """

    def __init__(
        self,
        name: str,
        balancer: Balancer,
        rules: Outliers,
        sweep: Sweep,
        changed: Callable[[], None],
    ) -> None:
        self._name = name
        self._balancer = balancer
        self._rules = rules
        self._sweep = sweep
        self._changed = changed
        self.alert: Callable[[Endpoint], None] = _nobody
        # How many others are left out now, at any worker.
        self.others_out: Callable[[Endpoint, float], int] = self._others_out_here
        self.outliers = {endpoint: Outlier(rules) for endpoint in balancer.endpoints}

    def _others_out_here(self, endpoint: Endpoint, now: float) -> int:
        return sum(other.ejected for other in self._balancer.endpoints if other is not endpoint)

    def failed(self, endpoint: Endpoint, cause: Cause, detail: str = "") -> None:
        """Take a failure of ENDPOINT; eject it if that was one too many."""
        now, endpoints = self._sweep.time(), self._balancer.endpoints
        others = self.others_out(endpoint, now)
        may = may_eject(others + endpoint.ejected, len(endpoints), self._rules.max_ejected, cause)
        ejection_s = self.outliers[endpoint].failed(cause, now, may=may)
        if ejection_s is None:
            return
        reason = cause.text + (detail and f": {detail}")
        self._tell(endpoint, logging.WARNING, f": {reason}; left out for {ejection_s:g} s", "out", reason)
        endpoint.cells[Counter.EJECTED_UNTIL] = int((now + ejection_s) * 1000)
        endpoint.cells[EJECTED[cause]] += 1
        self._balancer.eject(endpoint)
        self._changed()
        self.alert(endpoint)

    def succeeded(self, endpoint: Endpoint) -> None:
        """Take a good answer of an endpoint that something was held against."""
        self.outliers[endpoint].succeeded(self._sweep.time())

    def connected(self, endpoint: Endpoint) -> None:
        """Take a connect that worked."""
        outlier = self.outliers[endpoint]
        if outlier.connected(self._sweep.time()) and not outlier.until:
            endpoint.cells[Counter.EJECTED_UNTIL] = 0

    def pardon(self, endpoint: Endpoint) -> None:
        """A probe was good: end our own ejection of ENDPOINT, unless probes know nothing of what is wrong.

        One that our column came with, from the generation before, is ended too.
        """
        outlier = self.outliers[endpoint]
        if outlier.pardon(self._sweep.time()) or not outlier.until:
            endpoint.cells[Counter.EJECTED_UNTIL] = 0

    def follow(self, endpoint: Endpoint, *, ejected: bool) -> None:
        """Do what all workers together say: leave ENDPOINT out as long as any of them does."""
        if ejected:
            changed = self._balancer.eject(endpoint)
        else:
            changed = self._balancer.readmit(endpoint)
            if changed:
                self._tell(endpoint, logging.INFO, " is in again", "in")
        if changed:
            self._changed()

    def _tell(self, endpoint: Endpoint, level: int, text: str, state: str, reason: str = "") -> None:
        node, address = endpoint.node.name, endpoint.address
        where = {"service": self._name, "node": node, "address": address}
        said = ("%s: node %s (%s)%s", self._name, node, address, text)
        tell(log, level, "ejection", *said, **where, state=state, reason=reason or None)


def _nobody(endpoint: Endpoint) -> None:
    """Nobody probes yet."""
