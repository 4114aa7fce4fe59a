"""Verdicts: what the probes of one endpoint add up to, up or down.

Only results in a row count, so that a single odd one changes nothing. Live traffic is a second witness: while
it speaks against an endpoint, one bad probe is enough.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Verdict:
    """The state of one endpoint. rise, fall: how many good, or bad, results in a row change it."""

    rise: int
    fall: int
    up: bool
    _against: int = 0

    @property
    def changing(self) -> bool:
        """Whether the last result spoke against the present state, so that the next ones are wanted soon."""
        return self._against > 0

    def observe(self, passed: bool, *, suspected: bool = False) -> bool:
        """Take one result; return True if `up` has just changed.

        suspected: live traffic speaks against the endpoint now.
        """
        if passed == self.up:
            self._against = 0  # no longer in a row
            return False
        self._against += 1
        down_at = 1 if suspected else self.fall
        if self._against < (self.rise if passed else down_at):
            return False
        return self.settle(passed)

    def settle(self, passed: bool) -> bool:
        """Take one result that decides alone, as the first one does; return True if `up` has just changed."""
        changed = passed != self.up
        self.up, self._against = passed, 0
        return changed
