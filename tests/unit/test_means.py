"""What the HTTP services of one worker share."""

from __future__ import annotations

import pytest

from trackproxy.board import Board
from trackproxy.http.means import Means
from trackproxy.sockets.poller import Poller


class Failing:
    """Certificates that cannot be looked at."""

    behind = False

    def look(self) -> list[str]:
        raise OSError("the disk is gone")


def no_poller() -> Poller:
    raise AssertionError("nobody needs one")


async def test_a_look_that_fails_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    means = Means(Board.create(1, 1), 0, no_poller)
    monkeypatch.setattr(means, "_certificates", [Failing()])
    with pytest.raises(OSError, match="the disk is gone"):
        means._look()
    assert means._timer is not None
    assert not means._timer.cancelled()
    means.stop()
