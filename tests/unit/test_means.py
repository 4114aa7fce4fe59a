"""What the HTTP services of one worker share."""

from __future__ import annotations

import logging

import pytest

from tests.unit.told import told
from trackproxy.board import Board
from trackproxy.certificates.index import Complaint
from trackproxy.http.means import Means
from trackproxy.sockets.poller import Poller


class Failing:
    """Certificates that cannot be looked at."""

    behind = False

    def look(self) -> list[str]:
        raise OSError("the disk is gone")


class Telling:
    """Certificates of which one has changed and one is wrong."""

    behind = False

    def look(self) -> list[str]:
        return ["loaded again: a.pem", Complaint("b.pem is nothing")]


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


async def test_a_certificate_that_is_wrong_is_a_warning_and_one_that_has_changed_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    means = Means(Board.create(1, 1), 0, no_poller)
    monkeypatch.setattr(means, "_certificates", [Telling()])
    means._look()
    assert told(caplog, "certificate") == [
        {"level": "info", "state": "changed", "reason": None},
        {"level": "warning", "state": "wrong", "reason": "b.pem is nothing"},
    ]
    means.stop()
