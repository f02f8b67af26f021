"""The growing share: a tenth at first, all of it in the end, and never back in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.slow_start import warmth

durations = st.floats(0.1, 1000)


@pytest.mark.parametrize(("passed_s", "part"), [(0, 0.1), (15, 0.55), (30, 1.0), (3600, 1.0)])
def test_it_grows_evenly(passed_s: float, part: float) -> None:
    assert warmth(1000 + passed_s, 1000, 30) == pytest.approx(part)


def test_switched_off_it_is_whole_at_once() -> None:
    assert warmth(1000, 1000, 0) == 1.0


def test_one_that_was_always_there_is_warm() -> None:
    assert warmth(0.0, float("-inf"), 30) == 1.0


@given(st.floats(0, 1e6), durations, st.floats(0, 2000), st.floats(0, 2000))
def test_it_never_falls(since: float, duration_s: float, one: float, other: float) -> None:
    early, late = sorted((one, other))
    before = warmth(since + early, since, duration_s)
    after = warmth(since + late, since, duration_s)
    assert 0.1 <= before <= after <= 1
