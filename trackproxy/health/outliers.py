"""Outliers: endpoints that live traffic speaks against.

An endpoint that takes no connection is left out for a while, so that not every request has to find out
for itself; then one request tries it again. Each failure in a row doubles the while.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_EJECTION_S = 1.0
LONGEST_EJECTION_S = 8.0


@dataclass(slots=True, eq=False)
class Outlier:
    """What live traffic has said of one endpoint. until: the end of its ejection, on the caller's clock."""

    until: float = 0.0
    _ejection_s: float = 0.0

    def failed(self, now: float) -> float | None:
        """Take one failed connect; return for how many seconds it is to be ejected, None if it is already."""
        if now < self.until:
            return None  # an attempt that was under way says nothing new
        self._ejection_s = min(2 * self._ejection_s or FIRST_EJECTION_S, LONGEST_EJECTION_S)
        self.until = now + self._ejection_s
        return self._ejection_s

    def succeeded(self) -> bool:
        """Take one connect that worked; return whether there had been failures before it."""
        had_failed = self._ejection_s > 0
        self.until = self._ejection_s = 0.0
        return had_failed
