"""The retry budget: what it grants, and that no run of requests gets more than that out of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lb.budget import WINDOW_S, RetryBudget
from lb.config_service import RetryConfig


def granted(budget: RetryBudget, now: float, wanted: int = 10_000) -> int:
    """How many of so many retries at this instant it allows."""
    return sum(budget.allow(now) for _ in range(wanted))


def test_a_fifth_of_the_traffic_and_three_a_second() -> None:
    budget = RetryBudget(RetryConfig(budget=0.2, min_per_second=3))
    for number in range(600):
        budget.request(100 + number / 60)
    assert granted(budget, 109.99) == 0.2 * 600 + 10 * 3


def test_without_traffic_there_are_the_few_that_are_always_allowed() -> None:
    budget = RetryBudget(RetryConfig(budget=0.2, min_per_second=3))
    assert granted(budget, 50.0) == 30
    assert granted(budget, 59.9) == 0
    assert granted(budget, 61.0) == 30


def test_nothing_is_allowed_where_both_are_zero() -> None:
    budget = RetryBudget(RetryConfig(budget=0, min_per_second=0))
    for _ in range(1000):
        budget.request(7.0)
    assert not budget.allow(7.0)


def test_while_every_request_fails_a_fifth_more_is_sent() -> None:
    budget = RetryBudget(RetryConfig(budget=0.2, min_per_second=0))
    retries = 0
    for number in range(60_000):
        now = number / 1000
        budget.request(now)
        retries += budget.allow(now) + budget.allow(now)
    assert 0.17 * 60_000 <= retries <= 0.2 * 60_000


def test_new_rules_hold_from_the_next_retry_on() -> None:
    budget = RetryBudget(RetryConfig(budget=0, min_per_second=1))
    assert granted(budget, 20.0) == 10
    budget.config = RetryConfig(budget=0, min_per_second=2)
    assert granted(budget, 20.0) == 10


happenings = st.lists(
    st.tuples(st.floats(0, 6, allow_nan=False), st.integers(0, 40), st.integers(0, 12)),
    max_size=40,
)


@given(happenings, st.sampled_from([0.0, 0.1, 0.2, 1.0]), st.sampled_from([0.0, 0.4, 1.0, 3.0]))
@settings(max_examples=150, deadline=None)
def test_no_ten_seconds_hold_more_retries_than_the_rule(
    steps: list[tuple[float, int, int]], share: float, always: float
) -> None:
    config = RetryConfig(budget=share, min_per_second=always)
    budget = RetryBudget(config)
    now = 1000.0
    requests: list[float] = []
    retries: list[float] = []
    for pause, arriving, failing in steps:
        now += pause
        for _ in range(arriving):
            budget.request(now)
            requests.append(now)
        for _ in range(failing):
            if budget.allow(now):
                retries.append(now)
                recent = sum(at > now - WINDOW_S for at in requests)
                again = sum(at > now - WINDOW_S for at in retries)
                assert again <= share * recent + always * WINDOW_S


@given(st.lists(st.floats(0, 3, allow_nan=False), max_size=60), st.sampled_from([1.0, 3.0]))
@settings(max_examples=80, deadline=None)
def test_one_that_stays_within_the_few_always_allowed_is_never_refused(
    pauses: list[float], always: float
) -> None:
    """Over eleven seconds, which is what it counts at most."""
    budget = RetryBudget(RetryConfig(budget=0, min_per_second=always))
    now = 1000.0
    sent: list[float] = []
    for pause in pauses:
        now += pause
        if sum(at >= now - WINDOW_S - 1 for at in sent) < always * WINDOW_S:
            assert budget.allow(now)
            sent.append(now)
