"""Durations counted in plain integers: cheap on the request path, folded when somebody reads.

One list of bounds serves both readers: the buckets of CONTRACT (for Prometheus) are a subset of
the fine geometric ones (for recent percentiles), so a request costs one bisect and one increment.
Takes the time as an argument; knows no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate
from operator import add
from typing import Final

CONTRACT_BUCKETS_S: Final[tuple[float, ...]] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip

# Steps of 10 % from 0.2 ms to about 110 s: a percentile read off them is at most 10 % too high or
# low before interpolation, and 139 + 16 integers a second-slot are a small price.
_FINE = [0.0002 * 1.1**step for step in range(139)]
BOUNDS_S: Final[tuple[float, ...]] = tuple(sorted({*_FINE, *CONTRACT_BUCKETS_S}))
_SIZE: Final = len(BOUNDS_S) + 1
_CONTRACT_INDEX: Final = tuple([BOUNDS_S.index(bound) for bound in CONTRACT_BUCKETS_S])

SLOT_S: Final = 1.0
SLOTS: Final = 10
"""Recent means the last ten slots of one second: the running one and nine before it."""
RATE_SLOTS: Final = 5


def bucket_of(seconds: float) -> int:
    """Where a duration is counted."""
    return bisect_left(BOUNDS_S, seconds)


class Latency:
    """A histogram since the start, and the same of the last seconds."""

    __slots__ = ("_current", "_older", "_slot", "_slot_end", "_total", "sum_s")

    def __init__(self) -> None:
        self.sum_s = 0.0
        # Everything before the running slot; the running one is added when it closes.
        self._total = [0] * _SIZE
        self._slot = 0
        self._slot_end = 1
        self._current = [0] * _SIZE
        # (slot number, counts, requests) of the closed slots that still count as recent.
        self._older: list[tuple[int, list[int], int]] = []

    def record(self, seconds: float, now: float) -> None:
        """One request took `seconds` and ended at `now`."""
        self.count_in(bisect_left(BOUNDS_S, seconds), seconds, now)

    def count_in(self, bucket: int, seconds: float, now: float) -> None:
        """The same for who knows the bucket (`bucket_of`), because it goes into several."""
        if not self._slot <= now < self._slot_end:
            self._close_slot(now)
        self._current[bucket] += 1
        self.sum_s += seconds

    def take(self, counts: Mapping[int, int], sum_s: float, now: float) -> None:
        """What another worker counted since it last told: requests by index of BOUNDS_S, and their
        seconds. They are as recent as the telling."""
        if int(now) != self._slot:
            self._close_slot(now)
        for index, number in counts.items():
            self._current[index] += number
        self.sum_s += sum_s

    def _close_slot(self, now: float) -> None:
        slot = int(now)
        if any(self._current):
            self._total = list(map(add, self._total, self._current))
            self._older.append((self._slot, self._current, sum(self._current)))
            self._current = [0] * _SIZE
        self._older = [entry for entry in self._older if entry[0] > slot - SLOTS]
        self._slot = slot
        self._slot_end = slot + 1

    def cumulative(self) -> tuple[int, ...]:
        """Requests at most as long as each CONTRACT bucket, then all of them (+Inf)."""
        sums = list(accumulate(map(add, self._total, self._current)))
        return (*(sums[index] for index in _CONTRACT_INDEX), sums[-1])

    def counts(self) -> tuple[int, ...]:
        """Since the start: up to each of BOUNDS_S, and longer than all of them."""
        return tuple(map(add, self._total, self._current))

    @property
    def count(self) -> int:
        return sum(self._total) + sum(self._current)

    def absorb(self, other: Latency) -> None:
        """Add the totals of one that will count no more; its recent part is forgotten."""
        self._total = [
            a + b + c for a, b, c in zip(self._total, other._total, other._current, strict=True)
        ]
        self.sum_s += other.sum_s

    def quantiles(self, qs: tuple[float, ...], now: float) -> tuple[float | None, ...]:
        """Recent quantiles in seconds, interpolated within a bucket; None without a request."""
        oldest = int(now) - SLOTS
        recent = [counts for slot, counts, _ in self._older if slot > oldest]
        if self._slot > oldest:
            recent.append(self._current)
        sums = list(accumulate(map(sum, zip(*recent, strict=True)))) if recent else [0]
        if not sums[-1]:
            return (None,) * len(qs)
        return tuple(_quantile(sums, q) for q in qs)

    def rate(self, now: float) -> float:
        """Requests per second over the last five closed slots."""
        slot = int(now)
        first = slot - RATE_SLOTS
        done = sum(number for at, _, number in self._older if first <= at < slot)
        if first <= self._slot < slot:
            done += sum(self._current)
        return done / (RATE_SLOTS * SLOT_S)


def _quantile(sums: list[int], q: float) -> float:
    rank = q * sums[-1]
    index = bisect_left(sums, max(rank, 1e-9))
    if index >= len(BOUNDS_S):
        return BOUNDS_S[-1]
    below = sums[index - 1] if index else 0
    low = BOUNDS_S[index - 1] if index else 0.0
    share = (rank - below) / (sums[index] - below)
    return low + (BOUNDS_S[index] - low) * share
