"""What `bench start` calls a miss. The run: `./run bench start`; which answer is the first is
`test_bench_restart.py`'s."""

from __future__ import annotations

from bench.start import misses, report


def test_the_median_start_must_be_within_a_second() -> None:
    assert misses([0.9, 1.0, 5.0]) == []
    assert misses([0.9, 1.01, 5.0]) == ["1.01 s, at most 1.00 s"]


def test_the_report_says_how_far_the_starts_lie_apart() -> None:
    assert report([0.8, 0.9, 1.5]).endswith("0.90 s (0.80 to 1.50 s in 3 starts)")
