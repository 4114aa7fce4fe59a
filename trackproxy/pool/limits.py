"""The limits of one service: what each client may have, at once and in a second, and all of them together."""

from __future__ import annotations

from collections.abc import Iterable

from trackproxy.addresses import client_key
from trackproxy.pool.admission import Admission, Quota, key_of

LOCAL = "local"  # clients without an address


def key_of_client(service: str, host: str) -> int:
    """Return the key of whoever counts as one client with HOST; "" is no address."""
    return key_of(service, client_key(host) if host else LOCAL)


class Limits:
    """Counts connections or sessions, in a table that all workers see.

    each, whole: what one client may have, and the service. limits: whether there is any limit.
    """

    def __init__(self, service: str, each: Quota, whole: Quota, admission: Admission) -> None:
        self._service = service
        self._admission = admission
        self.each = each
        self.whole = whole
        self.limits = each.limits or whole.limits

    def admit(self, host: str, now_s: int, *, trusted: bool = False) -> tuple[Quota | None, tuple[int, ...]]:
        """Count one from HOST; return the quota that refuses it, if one does, and what `leave` takes.

        NOW_S: the present second, for all workers alike. TRUSTED: it is a proxy, and many clients' word.
        """
        held: list[int] = []
        # First the client's: whom its own limit refuses takes nothing from the others.
        for quota in (self.whole,) if trusted else (self.each, self.whole):
            if quota.limits:
                key = key_of(self._service) if quota is self.whole else key_of_client(self._service, host)
                admitted = self._admission.admit(key, quota, now_s)
                if admitted is False:
                    self.leave(held)
                    return quota, ()
                if admitted:
                    held.append(key)
        return None, tuple(held)

    def leave(self, held: Iterable[int]) -> None:
        """One that was admitted is over."""
        for key in held:
            self._admission.leave(key)
