"""Outliers: what live traffic has to say against an endpoint until it is left out, and for how long."""

from __future__ import annotations

import pytest

from trackproxy.health.outliers import DOUBT_S, Cause, Outlier, may_eject
from trackproxy.sections import Outliers

NOT_CONNECT = [cause for cause in Cause if cause is not Cause.CONNECT]


def outlier(**rules: float) -> Outlier:
    return Outlier(Outliers.model_validate({"connects": 1, "failures": 3, "longest": 8.0, **rules}))


def lengths(one: Outlier, failures: int, now: float = 100.0, cause: Cause = Cause.CONNECT) -> list[float]:
    """Return for how long each of FAILURES leaves it out; each comes as the ejection before ends."""
    found = []
    for _ in range(failures):
        length = one.failed(cause, now)
        assert length is not None
        found.append(length)
        now += length
    return found


def ejected(cause: Cause = Cause.STATUS, now: float = 100.0, **rules: float) -> Outlier:
    """Return one that CAUSE has just ejected for 1 s."""
    one = outlier(connects=1, failures=1, **rules)
    assert one.failed(cause, now) == 1.0
    return one


@pytest.mark.parametrize("connects", [1, 3])
def test_enough_failed_connects_in_a_row_eject(connects: int) -> None:
    one = outlier(connects=connects)
    assert [one.failed(Cause.CONNECT, 100.0) for _ in range(connects)] == [None] * (connects - 1) + [1.0]
    assert one.until == 101.0


@pytest.mark.parametrize("cause", NOT_CONNECT)
def test_enough_other_failures_in_a_row_eject(cause: Cause) -> None:
    one = outlier()
    assert [one.failed(cause, 100.0) for _ in range(3)] == [None, None, 1.0]


def test_other_failures_of_any_kind_make_one_row() -> None:
    one = outlier()
    causes = [Cause.LOST, Cause.STATUS, Cause.SILENT]
    assert [one.failed(cause, 100.0) for cause in causes] == [None, None, 1.0]


def test_failed_connects_and_other_failures_are_separate_rows() -> None:
    one = outlier(connects=2, failures=2)
    causes = [Cause.CONNECT, Cause.STATUS, Cause.CONNECT]
    assert [one.failed(cause, 100.0) for cause in causes] == [None, None, 1.0]


@pytest.mark.parametrize(("rule", "cause"), [("connects", Cause.CONNECT), ("failures", Cause.LOST)])
def test_zero_is_never_even_on_probation(rule: str, cause: Cause) -> None:
    one = outlier(**{"connects": 1, "failures": 1, rule: 0})
    assert [one.failed(cause, 100.0) for _ in range(50)] == [None] * 50
    other = Cause.LOST if cause is Cause.CONNECT else Cause.CONNECT
    assert one.failed(other, 100.0) == 1.0
    assert one.failed(cause, 101.0) is None


def test_a_good_answer_ends_both_rows_and_is_news_only_after_failures() -> None:
    one = outlier(connects=2)
    assert not one.succeeded(100.0)
    for cause in (Cause.CONNECT, Cause.STATUS, Cause.STATUS):
        one.failed(cause, 100.0)
    assert one.succeeded(100.0)
    assert not one.succeeded(100.0)
    causes = [Cause.CONNECT, Cause.STATUS, Cause.STATUS]
    assert [one.failed(cause, 100.0) for cause in causes] == [None, None, None]


def test_a_connect_that_works_ends_the_row_of_failed_connects_only() -> None:
    one = outlier(connects=2)
    assert not one.connected(100.0)
    for cause in (Cause.CONNECT, Cause.STATUS, Cause.STATUS):
        one.failed(cause, 100.0)
    assert one.connected(100.0)
    assert not one.connected(100.0)
    assert one.failed(Cause.CONNECT, 100.0) is None
    assert one.failed(Cause.STATUS, 100.0) == 1.0


def test_each_ejection_is_twice_as_long_up_to_the_longest() -> None:
    assert lengths(outlier(), 6) == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert lengths(outlier(ejection=3.0), 3) == [3.0, 6.0, 8.0]
    assert lengths(outlier(ejection=20.0), 1) == [8.0]
    assert lengths(outlier(), 2000)[-1] == 8.0


def test_good_answers_do_not_make_the_next_ejection_shorter() -> None:
    one = ejected(Cause.CONNECT)
    assert one.succeeded(101.0)
    assert one.failed(Cause.CONNECT, 102.0) == 2.0


@pytest.mark.parametrize(("quiet_s", "length"), [(8.0, 2.0), (8.01, 1.0)])
def test_growth_is_forgotten_after_as_long_as_the_longest_without_failures(
    quiet_s: float, length: float
) -> None:
    one = ejected(Cause.CONNECT)
    assert one.failed(Cause.CONNECT, 101.0 + quiet_s) == length


@pytest.mark.parametrize(("quiet_s", "length"), [(8.0, 2.0), (8.01, 1.0)])
def test_the_time_without_failures_begins_when_a_probe_lets_it_in(quiet_s: float, length: float) -> None:
    one = ejected(Cause.CONNECT)
    assert one.pardon(100.5)
    assert one.failed(Cause.CONNECT, 100.5 + quiet_s) == length


def test_a_failure_that_ejects_nobody_keeps_growth_from_being_forgotten() -> None:
    one = outlier(connects=1, failures=3)
    lengths(one, 1)
    one.succeeded(101.0)
    assert one.failed(Cause.STATUS, 108.0) is None
    assert one.failed(Cause.CONNECT, 115.0) == 2.0


def test_what_was_under_way_says_nothing_new_during_an_ejection() -> None:
    one = ejected()
    assert one.failed(Cause.CONNECT, 100.999) is None
    assert not one.succeeded(100.999)
    assert one.until == 101.0
    assert one.failed(Cause.STATUS, 101.0) == 2.0


@pytest.mark.parametrize("first", [Cause.CONNECT, Cause.STATUS])
@pytest.mark.parametrize("second", [Cause.CONNECT, Cause.STATUS])
def test_after_an_ejection_one_failure_of_any_kind_ejects_again(first: Cause, second: Cause) -> None:
    one = outlier(connects=3, failures=3)
    while one.failed(first, 100.0) is None:
        pass
    one.connected(101.0)
    assert one.failures, "or the caller would not report the good answer that ends the probation"
    assert one.failed(second, 101.5) == 2.0


def test_a_good_answer_ends_the_probation() -> None:
    one = outlier(failures=2)
    lengths(one, 1)
    assert one.succeeded(101.0)
    assert not one.failures
    assert one.failed(Cause.STATUS, 101.5) is None


def test_a_connect_that_works_ends_an_ejection_for_failed_connects_only() -> None:
    one = ejected(Cause.CONNECT)
    assert one.connected(100.5)
    assert one.until == 0.0
    other = ejected(Cause.STATUS)
    assert not other.connected(100.5)
    assert other.until == 101.0


def test_failures_are_0_exactly_while_nothing_is_held_against_it() -> None:
    one = outlier(connects=3)
    assert one.failures == 0
    one.failed(Cause.CONNECT, 100.0)
    assert one.failures == 1
    one.failed(Cause.STATUS, 100.0)
    assert one.failures == 2
    one.connected(100.0)
    assert one.failures == 1
    one.succeeded(100.0)
    assert one.failures == 0


def test_without_leave_a_failure_only_counts() -> None:
    one = outlier(failures=2)
    assert [one.failed(Cause.STATUS, 100.0, may=False) for _ in range(3)] == [None] * 3
    assert one.until == 0.0
    assert one.failed(Cause.STATUS, 100.0) == 1.0


@pytest.mark.parametrize("cause", Cause)
def test_a_good_probe_ends_an_ejection_and_leaves_it_on_probation(cause: Cause) -> None:
    one = ejected(cause)
    assert one.pardon(100.5)
    assert one.until == 0.0
    assert not one.pardon(100.5)
    assert one.failed(Cause.CONNECT, 100.6) == 2.0


def test_there_is_nothing_to_pardon_when_it_is_not_ejected_or_not_any_more() -> None:
    assert not outlier().pardon(100.0)
    assert not ejected().pardon(101.0)


@pytest.mark.parametrize("cause", NOT_CONNECT)
def test_an_ejection_soon_after_a_pardon_lasts_its_time(cause: Cause) -> None:
    one = ejected(cause, longest=30.0)
    assert one.pardon(100.5)
    assert one.failed(cause, 100.5 + DOUBT_S - 0.1) == 2.0
    assert not one.pardon(110.5)
    assert not one.pardon(112.3)
    assert one.until == pytest.approx(112.4)


def test_probes_are_heard_again_when_a_pardon_has_held_for_a_while() -> None:
    one = ejected(longest=30.0)
    assert one.pardon(100.5)
    assert one.failed(Cause.STATUS, 100.5 + DOUBT_S) == 2.0
    assert one.pardon(111.0)


def test_probes_are_always_heard_about_failed_connects() -> None:
    one = ejected(Cause.STATUS)
    assert one.pardon(100.5)
    assert one.failed(Cause.CONNECT, 100.6) == 2.0
    assert one.pardon(100.7)


def test_probes_stay_unheard_while_each_ejection_is_soon_followed_by_the_next() -> None:
    one = ejected(longest=30.0)
    assert one.pardon(100.5)
    now = 101.0
    for length in (2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        assert one.failed(Cause.STATUS, now) == length
        assert not one.pardon(now + length - 0.1)
        now += length + 1


def test_every_cause_can_be_read_after_the_name_of_a_node() -> None:
    assert f"node1 {Cause.CONNECT.text}" == "node1 takes no connection"
    assert len({cause.text for cause in Cause}) == len(Cause)


@pytest.mark.parametrize("cause", NOT_CONNECT)
@pytest.mark.parametrize(
    ("ejected_now", "all_", "percent", "may"),
    [
        (0, 2, 50, True),
        (1, 2, 50, False),
        (1, 4, 50, True),
        (2, 4, 50, False),
        (0, 4, 10, True),
        (0, 2, 0, True),
        (1, 20, 0, False),
        (0, 1, 50, False),
        (3, 4, 100, True),
    ],
    ids=[
        "half",
        "more",
        "up to half",
        "more of four",
        "one at least",
        "even at 0",
        "only one",
        "alone",
        "all",
    ],
)
def test_only_a_share_of_the_endpoints_may_be_out_for_bad_answers(
    cause: Cause, ejected_now: int, all_: int, percent: int, may: bool
) -> None:
    assert may_eject(ejected_now, all_, percent, cause) is may


def test_whoever_takes_no_connection_may_always_be_left_out() -> None:
    assert may_eject(1, 2, 50, Cause.CONNECT)
    assert may_eject(0, 1, 0, Cause.CONNECT)
