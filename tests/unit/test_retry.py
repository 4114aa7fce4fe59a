"""Retries: what may be sent again, and how much of it."""

from __future__ import annotations

import pytest

from trackproxy.http.framing import RequestBody
from trackproxy.http.heads import Request, read_request
from trackproxy.http.retry import SAVED_RETRIES, SAVED_S, Budget, Failure, may_retry
from trackproxy.http_sections import Retry
from trackproxy.pool.endpoints import Endpoint
from trackproxy.pool.nodes import Node
from trackproxy.units import Address

RULES = Retry(tries=3)
IDEMPOTENT = [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"]
OTHERS = [b"POST", b"PATCH", b"get", b"PROPFIND"]
SENT = [failure for failure in Failure if failure is not Failure.CONNECT]


def request_of(method: bytes, tried: int = 1) -> Request:
    request = read_request(method + b" / HTTP/1.1", b"Host: a\r\n")
    endpoints = [Endpoint(Node(f"n{n}"), Address("127.0.0.1", 80)) for n in range(tried)]
    request.tried = tuple(endpoints)
    request.deadline = 100.0
    return request


def body_of(keep: int) -> RequestBody:
    body = RequestBody(4, 0, keep, None)
    body.feed(b"abcd")
    body.take()
    return body


@pytest.mark.parametrize("method", [*IDEMPOTENT, *OTHERS])
def test_after_a_failed_connect_any_request_goes_on(method: bytes) -> None:
    assert may_retry(request_of(method), Failure.CONNECT, RULES, 0.0)


@pytest.mark.parametrize("failure", SENT)
@pytest.mark.parametrize("method", [*IDEMPOTENT, *OTHERS])
def test_after_bytes_have_left_only_what_is_idempotent_goes_on(method: bytes, failure: Failure) -> None:
    expected = method in IDEMPOTENT and failure is not Failure.MALFORMED
    assert may_retry(request_of(method), failure, RULES, 0.0) is expected


@pytest.mark.parametrize("failure", SENT)
@pytest.mark.parametrize(("keep", "held"), [(4, True), (3, False)])
def test_after_bytes_have_left_only_a_body_that_is_still_held_goes_on(
    keep: int, held: bool, failure: Failure
) -> None:
    request = request_of(b"PUT")
    request.body = body_of(keep)
    assert may_retry(request, failure, RULES, 0.0) is (held and failure is not Failure.MALFORMED)


@pytest.mark.parametrize("failure", Failure)
def test_nothing_goes_on_once_the_client_has_seen_a_byte(failure: Failure) -> None:
    request = request_of(b"GET")
    request.answered = True
    assert not may_retry(request, failure, RULES, 0.0)


@pytest.mark.parametrize("failure", [Failure.CONNECT, Failure.LOST])
@pytest.mark.parametrize(("tried", "allowed"), [(1, True), (2, True), (3, False), (4, False)])
def test_no_more_endpoints_are_tried_than_allowed(tried: int, allowed: bool, failure: Failure) -> None:
    assert may_retry(request_of(b"GET", tried), failure, RULES, 0.0) is allowed


@pytest.mark.parametrize("failure", [Failure.CONNECT, Failure.LOST])
@pytest.mark.parametrize(("now", "allowed"), [(99.9, True), (100.0, False), (101.0, False)])
def test_nothing_is_tried_after_the_deadline(now: float, allowed: bool, failure: Failure) -> None:
    assert may_retry(request_of(b"GET"), failure, RULES, now) is allowed


@pytest.mark.parametrize("failure", Failure)
def test_a_failure_is_a_gateway_s_answer(failure: Failure) -> None:
    late = failure in (Failure.SILENT, Failure.STALLED, Failure.DOWN)
    assert failure.status == (504 if late else 502)


def taken(budget: Budget, requests: int, now: float) -> int:
    """Return how many retries there are at once, up to a bound that no budget reaches."""
    return next(count for count in range(10 * SAVED_RETRIES) if not budget.take(requests, now))


def test_a_budget_begins_with_what_the_minimum_saves() -> None:
    assert taken(Budget(0, 3, now=50.0), 0, 50.0) == 3 * SAVED_S


@pytest.mark.parametrize("seconds", [1, 7])
def test_the_minimum_comes_back_every_second(seconds: int) -> None:
    budget = Budget(0, 3, now=0.0)
    taken(budget, 0, 0.0)
    assert taken(budget, 0, float(seconds)) == 3 * seconds


@pytest.mark.parametrize(("requests", "retries"), [(9, 0), (10, 1), (100, 10), (1009, 100)])
def test_a_share_of_all_requests_may_be_sent_again(requests: int, retries: int) -> None:
    budget = Budget(10, 0, now=0.0)
    assert taken(budget, requests, 0.0) == retries


def test_each_request_counts_once() -> None:
    budget = Budget(50, 0, now=0.0)
    assert taken(budget, 100, 0.0) == 50
    assert taken(budget, 100, 0.0) == 0
    assert taken(budget, 104, 0.0) == 2


def test_no_more_is_saved_than_the_bound() -> None:
    budget = Budget(100, 1000, now=0.0)
    assert taken(budget, 10_000_000, 1_000_000.0) == SAVED_RETRIES


def test_without_a_budget_nothing_is_sent_again() -> None:
    assert taken(Budget(0, 0, now=0.0), 1000, 1000.0) == 0
