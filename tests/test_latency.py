"""Durations: exact counts for Prometheus, close percentiles for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.latency import CONTRACT_BUCKETS_S, Latency

durations = st.lists(st.floats(0, 200, allow_nan=False), max_size=60)


@given(durations, st.floats(0, 5))
def test_buckets_equal_a_recount(seconds: list[float], step: float) -> None:
    latency = Latency()
    for number, value in enumerate(seconds):
        latency.record(value, 100 + number * step)
    expected = [sum(value <= bound for value in seconds) for bound in CONTRACT_BUCKETS_S]
    assert latency.cumulative() == (*expected, len(seconds))
    assert latency.count == len(seconds)
    assert latency.sum_s == pytest.approx(sum(seconds))


@given(durations, durations)
def test_absorbing_adds_up(first: list[float], second: list[float]) -> None:
    one, two = Latency(), Latency()
    for value in first:
        one.record(value, 1)
    for value in second:
        two.record(value, 2)
    one.absorb(two)
    assert one.count == len(first) + len(second)
    assert one.sum_s == pytest.approx(sum(first) + sum(second))


@given(st.lists(st.floats(0.001, 50), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantiles_are_within_a_tenth(seconds: list[float], q: float) -> None:
    latency = Latency()
    for value in seconds:
        latency.record(value, 7.5)
    (seen,) = latency.quantiles((q,), 7.6)
    rank = max(0, -(-int(q * len(seconds) * 1000) // 1000) - 1)
    exact = sorted(seconds)
    low, high = exact[max(0, rank - 1)], exact[min(len(exact) - 1, rank + 1)]
    assert seen is not None
    assert low / 1.101 <= seen <= high * 1.101


def test_old_requests_are_forgotten_but_counted() -> None:
    latency = Latency()
    latency.record(1.0, 100.0)
    assert latency.quantiles((0.5,), 105.0) != (None,)
    assert latency.quantiles((0.5,), 111.0) == (None,)
    latency.record(0.1, 111.0)
    (p99,) = latency.quantiles((0.99,), 111.0)
    assert p99 is not None
    assert p99 < 0.2
    assert latency.count == 2


def test_rate_is_of_the_last_five_closed_seconds() -> None:
    latency = Latency()
    for second in range(100, 105):
        for _ in range(20):
            latency.record(0.01, second + 0.5)
    assert latency.rate(105.2) == 20.0
    assert latency.rate(107.2) == 12.0
    assert latency.rate(120.0) == 0.0
