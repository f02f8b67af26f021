"""Counts of durations by bucket, and how they become a Prometheus histogram.

For what happens a few times an hour; requests are counted by `latency`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client.core import HistogramMetricFamily

# Milliseconds for a resumed standby, a second for a snapshot, up to two minutes for a cold boot.
ACTIVATION_BUCKETS_S: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0,
)  # fmt: skip


class Histogram:
    """Counts of durations by bucket, for what happens a few times an hour."""

    def __init__(self, bounds: Sequence[float] = ACTIVATION_BUCKETS_S) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum_s += seconds

    def row(self) -> HistogramRow:
        return HistogramRow(self._bounds, tuple(accumulate(self._counts)), self._sum_s)


@dataclass(frozen=True, slots=True)
class HistogramRow:
    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    """One more than the bounds: the last counts everything (+Inf)."""
    sum_s: float


def add_histogram(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    bounds: Sequence[float],
    cumulative: Sequence[int],
    sum_s: float,
) -> None:
    """One series of it; `cumulative` has one more than the bounds, the last being +Inf."""
    names = [*(repr(bound) for bound in bounds), "+Inf"]
    family.add_metric(labels, list(zip(names, cumulative, strict=True)), sum_s)
