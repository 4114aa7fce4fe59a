"""What a proxy may lose while nodes, workers and configurations fail: nothing that could be answered.

Each row of `tests.chaos.faults` runs once, in its short form; `scripts/chaos` runs the long ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.figures import Excuse, left_alone, repeated, unexcused
from tests.chaos.nodes import Received
from tests.chaos.runs import SHORT, perform
from tests.chaos.tally import Tally

LOST = {"how": "lost", "detail": "", "number": 1, "post": False, "begun_at": 4.0, "at": 5.0}


@pytest.mark.parametrize("name", FAULTS)
def test_no_request_is_lost_and_no_post_is_sent_twice(name: str, tmp_path: Path) -> None:
    figures, log = perform(FAULTS[name], SHORT, tmp_path)
    assert figures.problems == [], f"{figures}\nthe end of its log:\n{log}"


# --- the judge, which must be able to say no ---


def test_a_lost_request_is_a_problem() -> None:
    assert unexcused(Tally(failed=1, failures=[LOST]), [], posts_may_fail=True)


def test_a_failed_post_is_a_problem_unless_a_node_was_sick() -> None:
    tally = Tally(posts_failed=1, failures=[LOST | {"post": True}])
    assert unexcused(tally, [], posts_may_fail=False)
    assert not unexcused(tally, [], posts_may_fail=True)


@pytest.mark.parametrize(
    ("excuse", "excused"),
    [(Excuse(2, 4.9, 5.1), True), (Excuse(1, 4.9, 5.1), False), (Excuse(2, 5.1, 5.3), False)],
    ids=["as many as there were", "more than there were", "at another time"],
)
def test_a_killed_worker_excuses_what_it_had_on_its_way_and_no_more(excuse: Excuse, excused: bool) -> None:
    tally = Tally(failed=2, failures=[LOST, LOST | {"number": 2}])
    assert bool(unexcused(tally, [excuse], posts_may_fail=False)) is not excused


def test_a_wrong_status_is_never_excused() -> None:
    tally = Tally(failed=1, failures=[LOST | {"how": "status 502"}])
    assert unexcused(tally, [Excuse(64, 0.0, 9.0)], posts_may_fail=True)


def test_failures_beyond_those_that_were_kept_count_too() -> None:
    assert unexcused(Tally(failed=2, failures=[LOST]), [Excuse(64, 0.0, 9.0)], posts_may_fail=True)


def test_a_post_at_two_nodes_is_told_from_a_get_that_moved() -> None:
    post, get = Received(1.0, 10, True), Received(1.0, 11, False)
    assert repeated([post, get]) == (0, 0)
    assert repeated([post, post, get]) == (1, 0)
    assert repeated([post, get, get]) == (0, 1)


def test_a_node_is_left_alone_only_when_the_others_work_meanwhile() -> None:
    attempts = [10.0, 10.1, 12.0]
    steady = [10.0 + number / 100 for number in range(500)]
    stuck = [at for at in steady if at > 11.9]
    assert left_alone(attempts, steady, 10.0, 15.0) == pytest.approx(0.1)
    assert left_alone(attempts, stuck, 10.0, 15.0) == pytest.approx(2.0)
    assert left_alone(attempts, [], 10.0, 15.0) is None
