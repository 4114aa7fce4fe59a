"""Verdicts: only results in a row count, unless live traffic speaks against the endpoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.health.verdict import Verdict

PASS, FAIL = True, False
ROW = st.lists(st.booleans(), max_size=30)


def after(results: list[bool], *, up: bool, rise: int = 2, fall: int = 3) -> Verdict:
    """Return what these results make of a state."""
    verdict = Verdict(rise=rise, fall=fall, up=up)
    for passed in results:
        verdict.observe(passed)
    return verdict


@pytest.mark.parametrize(
    ("results", "up"),
    [([FAIL, FAIL], True), ([FAIL, FAIL, FAIL], False), ([FAIL, FAIL, PASS, FAIL, FAIL], True)],
    ids=["below fall", "falls", "a pass starts over"],
)
def test_an_endpoint_goes_down_only_after_enough_failures_in_a_row(results: list[bool], up: bool) -> None:
    assert after(results, up=True).up is up


@pytest.mark.parametrize(
    ("results", "up"),
    [([PASS], False), ([PASS, PASS], True), ([PASS, FAIL, PASS], False)],
    ids=["below rise", "rises", "a failure starts over"],
)
def test_an_endpoint_comes_up_only_after_enough_passes_in_a_row(results: list[bool], up: bool) -> None:
    assert after(results, up=False).up is up


@given(ROW, st.booleans(), st.integers(1, 4), st.integers(1, 4))
def test_a_change_is_reported_exactly_when_the_state_changes(
    results: list[bool], up: bool, rise: int, fall: int
) -> None:
    verdict = Verdict(rise, fall, up)
    for passed in results:
        before = verdict.up
        assert verdict.observe(passed) is (verdict.up is not before)


@given(ROW, st.booleans())
def test_after_a_change_the_row_begins_anew(results: list[bool], up: bool) -> None:
    verdict = after([not up] * 3, up=up, rise=3, fall=3)
    assert (verdict.up, verdict.changing) == (not up, False)
    verdict.observe(up)
    assert verdict.up is not up


def test_under_suspicion_one_failure_takes_an_endpoint_down() -> None:
    verdict = Verdict(rise=2, fall=3, up=True)
    assert verdict.observe(FAIL, suspected=True)
    assert not verdict.up


def test_under_suspicion_an_endpoint_still_needs_all_its_passes_to_come_up() -> None:
    verdict = Verdict(rise=2, fall=3, up=False)
    assert not verdict.observe(PASS, suspected=True)
    assert verdict.observe(PASS, suspected=True)


def test_under_suspicion_a_pass_leaves_an_endpoint_up() -> None:
    verdict = Verdict(rise=2, fall=3, up=True)
    assert not verdict.observe(PASS, suspected=True)
    assert verdict.up


@pytest.mark.parametrize(
    ("up", "results", "changing"),
    [
        (True, [], False),
        (True, [FAIL], True),
        (True, [FAIL, PASS], False),
        (True, [FAIL, FAIL, FAIL], False),
        (False, [FAIL], False),
        (False, [PASS], True),
        (False, [PASS, FAIL], False),
        (False, [PASS, PASS], False),
    ],
)
def test_the_state_is_changing_while_the_last_result_spoke_against_it(
    up: bool, results: list[bool], changing: bool
) -> None:
    assert after(results, up=up).changing is changing


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("passed", [True, False])
def test_a_first_result_decides_alone(up: bool, passed: bool) -> None:
    verdict = after([not up], up=up)
    assert verdict.settle(passed) is (up is not passed)
    assert (verdict.up, verdict.changing) == (passed, False)
