"""Counts of the last seconds, against a list of when it happened."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lb.rolling import Rolling

steps = st.lists(st.floats(0, 7, allow_nan=False), min_size=1, max_size=60)


@given(steps, st.sampled_from([0.1, 1.0, 3.0]), st.integers(1, 11))
@settings(max_examples=150, deadline=None)
def test_it_counts_whole_buckets_and_the_running_one(
    pauses: list[float], width: float, buckets: int
) -> None:
    rolling = Rolling(width, buckets)
    now = 1000.0
    happened: list[float] = []
    for number, pause in enumerate(pauses):
        now += pause
        if number % 3:
            rolling.add(now)
            happened.append(now)
        first = int(now / width) - buckets + 1
        assert rolling.total(now) == sum(int(at / width) >= first for at in happened)


def test_cleared_it_begins_at_nothing() -> None:
    rolling = Rolling(1.0, 10)
    for now in (5.0, 6.0, 6.5):
        rolling.add(now)
    rolling.clear()
    assert rolling.total(6.5) == 0
    rolling.add(7.0)
    assert rolling.total(7.0) == 1
    assert rolling.total(17.0) == 0
