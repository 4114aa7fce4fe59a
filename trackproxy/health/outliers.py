"""Outliers: endpoints that live traffic speaks against.

An endpoint that takes no connection, or answers nothing good any more, is left out for a while (it is
"ejected"), so that not every request has to find out for itself; then traffic tries it again, on probation:
one more failure, and it is out for twice as long. A good probe ends an ejection early. But where the probe's
way works and that of traffic does not, that would go back and forth for ever; so a probe is not heard when
its last good word was soon proved wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

from trackproxy.sections import Outliers

DOUBT_S = 10.0  # failures this soon after a good probe had its way show that it knows nothing of them


class Cause(Enum):
    """What an endpoint did wrong. text: for the log, after its name."""

    CONNECT = "takes no connection"
    LOST = "closes connections without an answer"
    SILENT = "does not answer in time"
    MALFORMED = "sends malformed answers"
    STATUS = "answers with errors"

    @property
    def text(self) -> str:
        return self.value


def may_eject(ejected: int, all_: int, max_ejected: int, cause: Cause) -> bool:
    """Whether one more of `all_` endpoints may be left out when `ejected` are already.

    max_ejected: percent of the endpoints; one of several may always be. The share does not hold for an
    endpoint that takes no connection: it can serve nobody.
    """
    if cause is Cause.CONNECT or (ejected == 0 and all_ > 1):
        return True
    return (ejected + 1) * 100 <= max_ejected * all_


@dataclass(slots=True, eq=False)
class Outlier:
    """What live traffic has said of one endpoint, as one worker sees it.

    until: the end of its ejection, on the caller's clock; past or 0 if there is none.
    failures: what is held against it: failures in a row, and its probation. While it is 0 there is no need to
    call `succeeded`.

    An ejection is over when its time has come, which the caller looks after, or when a method that has
    returned True left `until` at 0.
    """

    rules: Outliers
    until: float = 0.0
    failures: int = 0
    _connects: int = 0  # failed ones in a row
    _others: int = 0  # other failures in a row
    _probation: bool = False
    _cause: Cause = Cause.CONNECT  # of the last ejection
    _lasting: bool = False  # the last ejection is not for probes to end
    _length_s: float = 0.0  # of the last ejection; 0 when that is forgotten
    _against: float = -inf  # when it failed, or was let in early, last
    _doubt_until: float = -inf  # if it fails before that, probes are not heard

    def failed(self, cause: Cause, now: float, *, may: bool = True) -> float | None:
        """Take one failure; return for how many seconds it is to be ejected, None if it is not.

        may: what `may_eject` says; if False the failure only counts.
        """
        if now < self.until:
            return None  # an attempt that was under way says nothing new
        if now - max(self._against, self.until) > self.rules.longest:
            self._length_s = 0.0
        self._against = now
        enough = self._enough(cause)
        self._tally()
        return self._eject(cause, now) if enough and may else None

    def succeeded(self, now: float) -> bool:
        """Take a good answer: it ends the rows of failures and the probation; return whether there were any.

        Like a failure, it says nothing while the endpoint is ejected.
        """
        if not self.failures or now < self.until:
            return False
        self._connects = self._others = self.failures = 0
        self._probation = False
        return True

    def connected(self, now: float) -> bool:
        """Take a connect that worked: it ends the row of failed ones; return whether there was one.

        It also ends an ejection for failed connects, since it takes them again; no other one.
        """
        ejected = self._cause is Cause.CONNECT and now < self.until
        had_failed = self._connects > 0 or ejected
        self._connects = 0
        if ejected:
            self._release(now)
        self._tally()
        return had_failed

    def pardon(self, now: float) -> bool:
        """Take a good probe; return whether that ended an ejection."""
        if now >= self.until or self._lasting:
            return False
        self._release(now)
        self._doubt_until = now + DOUBT_S
        return True

    def _enough(self, cause: Cause) -> bool:
        """Count one failure; return whether it is one to eject for."""
        if cause is Cause.CONNECT:
            self._connects += 1
            row, limit = self._connects, self.rules.connects
        else:
            self._others += 1
            row, limit = self._others, self.rules.failures
        return limit > 0 and (self._probation or row >= limit)

    def _tally(self) -> None:
        self.failures = self._connects + self._others + self._probation

    def _eject(self, cause: Cause, now: float) -> float:
        self._length_s = min(2 * self._length_s or self.rules.ejection, self.rules.longest)
        self._cause = cause
        self.until = now + self._length_s
        self._probation = True
        self._lasting = cause is not Cause.CONNECT and now < self._doubt_until
        if self._lasting:
            self._doubt_until = self.until + DOUBT_S
        return self._length_s

    def _release(self, now: float) -> None:
        self.until = 0.0
        self._against = now  # the time without failures begins here
