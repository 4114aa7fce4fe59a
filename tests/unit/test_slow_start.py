"""Slow start: the share grows in steps, and is whole when the time is over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.health.slow_start import share

TIMES = st.floats(0, 7 * 24 * 3600)


@pytest.mark.parametrize(
    ("since_s", "percent"),
    [(0, 10), (1, 10), (5.9, 10), (6, 20), (15, 50), (29.9, 90), (30, 100), (1e9, 100)],
)
def test_the_share_grows_in_steps(since_s: float, percent: int) -> None:
    assert share(since_s, 30) == percent


@given(TIMES)
def test_without_a_slow_start_the_share_is_whole_at_once(since_s: float) -> None:
    assert share(since_s, 0) == 100


@given(TIMES, TIMES)
def test_the_share_is_a_step_between_the_least_and_all(since_s: float, slow_start_s: float) -> None:
    assert share(since_s, slow_start_s) in range(10, 101, 10)


@given(TIMES, TIMES, TIMES)
def test_the_share_never_shrinks(since_s: float, later_s: float, slow_start_s: float) -> None:
    assert share(since_s, slow_start_s) <= share(since_s + later_s, slow_start_s)
