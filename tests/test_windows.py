"""Windows against brute force, and what they forget when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.windows import BUCKETS, Window

values = st.lists(
    st.tuples(
        st.floats(0, 20, allow_nan=False).map(lambda s: round(s, 3)),
        st.floats(-100, 100, allow_nan=False),
    ),
    min_size=1,
    max_size=60,
)


def test_an_empty_window_has_no_figure_rather_than_zero() -> None:
    assert Window(60).mean(100.0) is None


def test_a_minute_of_values() -> None:
    """1 at now, 3 at now + 30: mean 2. At now + 66 the first is forgotten, at now + 96 both."""
    now = 100.0
    window = Window(60).add(now, 1).add(now + 30, 3)
    assert window.mean(now + 30) == 2
    assert window.mean(now + 66) == 3
    assert window.mean(now + 96) is None


def test_after_a_gap_longer_than_the_span_only_what_is_new_counts() -> None:
    now = 100.0
    assert Window(60).add(now, 9).add(now + 3600, 1) == Window(60).add(now + 3600, 1)


def test_a_clock_that_steps_back_starts_the_history_anew() -> None:
    now = 100.0
    window = Window(60).add(now, 9).add(now - 50, 1)
    assert window == Window(60).add(now - 50, 1)


@given(values, st.floats(0.5, 120))
def test_against_brute_force(steps: list[tuple[float, float]], span: float) -> None:
    """Every value of the last `span` counts; none older than one bucket more than that does."""
    window, at, seen = Window(span), 1000.0, []
    for pause, value in steps:
        at += pause
        window = window.add(at, value)
        seen.append((at, value))
        assert len(window.buckets) <= BUCKETS + 1
    must = [v for t, v in seen if t >= at - span]
    may = [v for t, v in seen if t > at - span - span / BUCKETS]
    # what counts is a suffix of what was seen, between those two
    suffixes = [may[len(may) - n :] for n in range(len(must), len(may) + 1)]
    assert any(
        window.added == len(s) and window.mean(at) == pytest.approx(sum(s) / len(s), abs=1e-6)
        for s in suffixes
    )


@given(values)
def test_the_mean_lies_between_what_was_added(steps: list[tuple[float, float]]) -> None:
    window, at = Window(10), 0.0
    for pause, value in steps:
        at += pause
        window = window.add(at, value)
    mean = window.mean(at)
    assert mean is not None
    assert min(v for _, v in steps) - 1e-9 <= mean <= max(v for _, v in steps) + 1e-9
