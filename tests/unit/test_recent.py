"""What has gone through in the last seconds, from totals that grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.board import BUCKETS_S, HISTOGRAM, ROW, Counter
from trackproxy.control.recent import ASKED_S, LOOKS, Looks, quantile_ms
from trackproxy.control.views import Key

A, B = Key("web", "a", "10.0.0.1:80"), Key("web", "b", "10.0.0.2:80")


class Totals:
    """Totals of two endpoints."""

    def __init__(self) -> None:
        self.rows = {A: [0] * ROW, B: [0] * ROW}
        self.looked = 0

    def look(self) -> dict[Key, list[int]]:
        self.looked += 1
        return {key: [*row] for key, row in self.rows.items()}


@pytest.fixture
def totals() -> Totals:
    return Totals()


@pytest.fixture
def looks(totals: Totals) -> Looks:
    return Looks(totals.look)


def test_nothing_is_said_before_the_second_look(looks: Looks) -> None:
    looks.ask(0.0)
    assert looks.of([A]) is None
    looks.take(0.0)
    assert looks.of([A]) is None


def test_rates_are_what_has_come_between_the_oldest_look_and_the_newest(looks: Looks, totals: Totals) -> None:
    looks.ask(0.0)
    looks.take(0.0)
    totals.rows[A][Counter.TOTAL] = 30
    totals.rows[B][Counter.TOTAL] = 10
    totals.rows[B][Counter.STATUS_5XX] = 4
    totals.rows[B][Counter.LOST] = 2
    looks.take(2.0)
    alone, together = looks.of([A]), looks.of([A, B])
    assert alone is not None
    assert together is not None
    assert (alone.window_s, alone.rate, alone.errors) == (2.0, 15.0, 0.0)
    assert (together.rate, together.errors) == (20.0, 3.0)


def test_old_looks_are_forgotten(looks: Looks, totals: Totals) -> None:
    looks.ask(0.0)
    for second in range(LOOKS + 3):
        totals.rows[A][Counter.TOTAL] = 100 if second < 3 else 100 + second
        looks.take(float(second))
    recent = looks.of([A])
    assert recent is not None
    assert (recent.window_s, recent.rate) == (LOOKS - 1, 1.0)


def test_an_endpoint_that_has_just_come_is_not_compared_with_nothing(looks: Looks, totals: Totals) -> None:
    looks.ask(0.0)
    totals.rows.pop(B)
    looks.take(0.0)
    totals.rows[B] = [1000] * ROW
    looks.take(1.0)
    assert looks.of([B]) is None


def test_of_an_endpoint_that_went_and_came_back_counts_what_has_come_since(
    looks: Looks, totals: Totals
) -> None:
    looks.ask(0.0)
    totals.rows[A][Counter.TOTAL] = totals.rows[A][Counter.WHOLE + 3] = 30
    looks.take(0.0)
    totals.rows[A][Counter.TOTAL] = totals.rows[A][Counter.WHOLE + 5] = 40  # counted anew: none under + 3
    totals.rows[A][Counter.WHOLE + 3] = 0
    looks.take(2.0)
    found = looks.of([A])
    assert found is not None
    assert found.rate == 20.0
    assert found.p50_ms is not None
    assert BUCKETS_S[4] < found.p50_ms / 1000 <= BUCKETS_S[5]


def test_nobody_looks_once_nobody_has_asked_for_a_while(looks: Looks, totals: Totals) -> None:
    assert looks.ask(0.0)
    assert looks.take(0.0)
    assert not looks.ask(10.0)  # somebody takes already
    assert looks.take(10.0 + ASKED_S - 0.1)
    assert not looks.take(10.0 + ASKED_S)
    assert totals.looked == 2
    assert looks.of([A]) is None
    assert looks.ask(100.0)  # from the beginning


def test_sessions_are_timed_to_their_greeting_and_requests_to_their_end(looks: Looks, totals: Totals) -> None:
    looks.ask(0.0)
    looks.take(0.0)
    totals.rows[A][Counter.FIRST_BYTE + 3] = 1
    totals.rows[A][Counter.DURATION + 10] = 1
    looks.take(1.0)
    requests, sessions = looks.of([A]), looks.of([A], sessions=True)
    assert requests is not None
    assert sessions is not None
    assert requests.p99_ms is not None
    assert sessions.p99_ms is not None
    assert BUCKETS_S[9] * 1000 <= requests.p99_ms <= BUCKETS_S[10] * 1000
    assert BUCKETS_S[2] * 1000 <= sessions.p99_ms <= BUCKETS_S[3] * 1000


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile_ms([0] * HISTOGRAM, 0.5) is None


def test_above_the_last_bound_the_last_bound_is_said() -> None:
    counts = [0] * HISTOGRAM
    counts[-1] = 5
    assert quantile_ms(counts, 0.5) == BUCKETS_S[-1] * 1000


@given(
    st.lists(st.integers(0, HISTOGRAM - 2), min_size=1, max_size=200),
    st.sampled_from([0.01, 0.5, 0.99, 1.0]),
)
def test_a_quantile_lies_in_the_bucket_of_its_value(places: list[int], share: float) -> None:
    counts = [0] * HISTOGRAM
    for place in places:
        counts[place] += 1
    found = quantile_ms(counts, share)
    ordered = sorted(places)
    index = next(n for n in range(len(ordered)) if n + 1 >= share * len(ordered))
    bucket = ordered[index]
    assert found is not None
    low = BUCKETS_S[bucket - 1] * 1000 if bucket else 0.0
    assert low - 1e-3 <= found <= BUCKETS_S[bucket] * 1000 + 1e-3
