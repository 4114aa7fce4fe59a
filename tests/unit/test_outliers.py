"""Outliers: each failure in a row leaves an endpoint out for longer, up to a bound."""

from __future__ import annotations

from trackproxy.health.outliers import FIRST_EJECTION_S, LONGEST_EJECTION_S, Outlier


def ejections(outlier: Outlier, failures: int, now: float = 100.0) -> list[float]:
    """Return for how long each of FAILURES in a row leaves it out; each comes as the one before ends."""
    lengths = []
    for _ in range(failures):
        length = outlier.failed(now)
        assert length is not None
        lengths.append(length)
        now += length
    return lengths


def test_each_failure_in_a_row_doubles_the_ejection_up_to_the_longest() -> None:
    assert ejections(Outlier(), 6) == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert ejections(Outlier(), 2000)[-1] == LONGEST_EJECTION_S


def test_a_failure_that_was_under_way_says_nothing_new() -> None:
    outlier = Outlier()
    assert outlier.failed(100.0) == FIRST_EJECTION_S
    assert outlier.failed(100.0) is None
    assert outlier.failed(100.999) is None
    assert outlier.until == 101.0
    assert outlier.failed(101.0) == 2 * FIRST_EJECTION_S


def test_a_success_forgets_the_failures_and_is_news_only_after_them() -> None:
    outlier = Outlier()
    assert not outlier.succeeded()
    ejections(outlier, 3)
    assert outlier.succeeded()
    assert not outlier.succeeded()
    assert outlier.failed(100.0) == FIRST_EJECTION_S


def test_a_success_ends_the_ejection() -> None:
    outlier = Outlier()
    outlier.failed(100.0)
    outlier.succeeded()
    assert outlier.until <= 100.0
