"""Buckets are HdrHistogram's own, and merging is addition."""

from __future__ import annotations

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.stats import MAX_US, Distribution, Tally, bucket_of, lower_us, merged, upper_us

microseconds = st.integers(0, MAX_US)


def tally(values: list[int]) -> Tally:
    # Half a microsecond more, so that dividing by a million and back cannot lose one.
    counted = Tally()
    for us in values:
        counted.record((us + 0.5) / 1e6)
    return counted


@given(microseconds)
def test_a_bucket_holds_its_value_to_three_digits(us: int) -> None:
    bucket = bucket_of((us + 0.5) / 1e6)
    assert lower_us(bucket) <= us <= upper_us(bucket)
    assert upper_us(bucket) - lower_us(bucket) <= us / 1000


@settings(max_examples=25)
@given(st.lists(microseconds, min_size=1, max_size=60))
def test_percentiles_are_the_librarys(values: list[int]) -> None:
    library = HdrHistogram(1, MAX_US, 3)
    for us in values:
        library.record_value(us)
    counted = tally(values)
    for percent in (0.1, 50, 90, 99, 99.9, 100):
        found = counted.percentile(percent)
        assert found is not None
        assert round(found * 1e6) == library.get_value_at_percentile(percent)
    summary = counted.summary()
    assert summary.mean * 1e6 == pytest.approx(library.get_mean_value(), rel=1e-6, abs=0.01)
    assert round(summary.max * 1e6) == max(library.get_max_value(), 0)


@settings(max_examples=25)
@given(st.lists(microseconds, max_size=40), st.lists(microseconds, max_size=40))
def test_encoding_and_merging_lose_nothing(left: list[int], right: list[int]) -> None:
    whole = merged([Tally.decode(tally(left).encode()), Tally.decode(tally(right).encode())])
    assert whole.counts == tally(left + right).counts


@settings(max_examples=25)
@given(st.dictionaries(st.integers(0, bucket_of(3600)), st.integers(1, 10**14), max_size=30))
def test_large_counts_are_written_as_the_library_reads_them(counts: dict[int, int]) -> None:
    counted = Tally()
    counted.counts.update(counts)
    text = counted.encode()
    assert Tally.decode(text).counts == counts
    library = HdrHistogram.decode(text.encode())
    assert {index: library.get_count_at_index(index) for index in counts} == counts
    assert library.get_total_count() == sum(counts.values())


def test_empty_and_out_of_range() -> None:
    assert Tally().percentile(50) is None
    assert Tally().summary() == Distribution()
    assert bucket_of(-1) == 0
    assert bucket_of(1e9) == bucket_of(3600)
    with pytest.raises(ValueError, match="not an HdrHistogram"):
        Tally.decode("nonsense")
