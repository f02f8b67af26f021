"""The peak-sensitive average: up at once, down by and by."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.peak import TAU_S, PeakLatency

latencies = st.floats(0.0001, 100)
steps = st.lists(st.tuples(latencies, st.floats(0, 100)), min_size=1, max_size=20)


def test_before_the_first_answer_nothing_is_known() -> None:
    peak = PeakLatency()
    assert (peak.value_s, peak.decayed_s(5.0)) == (None, None)


def test_a_slower_answer_counts_in_full_and_faster_ones_little_by_little() -> None:
    peak = PeakLatency()
    peak.record(0.1, 0.0)
    peak.record(2.0, 1.0)
    assert peak.value_s == 2.0
    peak.record(0.1, 1.0 + TAU_S)
    assert peak.value_s == pytest.approx(2.0 * exp(-1) + 0.1 * (1 - exp(-1)))
    peak.record(0.1, 1000.0)
    assert peak.value_s == pytest.approx(0.1)


@given(steps)
def test_it_lies_between_the_last_answer_and_the_slowest(told: list[tuple[float, float]]) -> None:
    peak, now = PeakLatency(), 0.0
    for seconds, pause in told:
        now += pause
        peak.record(seconds, now)
        assert peak.value_s is not None
        slowest = max(one for one, _ in told)
        assert seconds - 1e-9 <= peak.value_s <= slowest + 1e-9


@given(latencies, st.floats(0, 1000), st.floats(0, 1000))
def test_unheard_it_only_falls(seconds: float, early: float, late: float) -> None:
    peak = PeakLatency()
    peak.record(seconds, 0.0)
    first, second = sorted((early, late))
    before, after = peak.decayed_s(first), peak.decayed_s(second)
    assert before is not None
    assert after is not None
    assert seconds >= before >= after >= 0
