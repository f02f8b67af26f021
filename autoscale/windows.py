"""Time-bucketed mean of a value over a span. Pure and immutable.

A window holds at most `BUCKETS` + 1 buckets whatever the sampling rate, so adding is O(1) and its
memory is bounded. It must not read a clock: every call says what time it is. A planner adds to
several of them every second, so they are plain tuples: 1 µs to add, less to ask.
"""

from __future__ import annotations

from typing import NamedTuple

BUCKETS = 12
"""Resolution: a 60 s window forgets in steps of 5 s."""

Bucket = tuple[float, int, float]
"""start, number of values, their sum"""


class Window(NamedTuple):
    """The last `span_s` seconds of a value."""

    span_s: float
    buckets: tuple[Bucket, ...] = ()
    added: int = 0
    total: float = 0.0
    """How many values, and their sum, of all buckets; summed up anew with each of them, so that no
    rounding piles up."""

    def add(self, at: float, value: float) -> Window:
        """This window with one more value. A clock that steps back starts the history anew."""
        span_s, buckets, added, total = self
        if not buckets or at < buckets[-1][0]:
            return Window(span_s, ((at, 1, value),), 1, value)
        width = span_s / BUCKETS
        if buckets[0][0] <= at - span_s - width:
            buckets = self._live(at)
            added, total = _sums(buckets)
        if buckets and at - buckets[-1][0] < width:
            start, count, so_far = buckets[-1]
            buckets = (*buckets[:-1], (start, count + 1, so_far + value))
            return Window(span_s, buckets, added + 1, total + value)
        buckets = (*buckets, (at, 1, value))
        return Window(span_s, buckets, *_sums(buckets))

    def mean(self, now: float) -> float | None:
        """None where the window is empty."""
        live = self._live(now)
        count, total = (self.added, self.total) if live is self.buckets else _sums(live)
        return total / count if count else None

    def _live(self, now: float) -> tuple[Bucket, ...]:
        # a bucket lives until its youngest possible value has left the span
        horizon = now - self.span_s - self.span_s / BUCKETS
        buckets = self.buckets
        if not buckets or buckets[0][0] > horizon:
            return buckets
        over = 1  # they ascend, and mostly one has left since the last time
        while over < len(buckets) and buckets[over][0] <= horizon:
            over += 1
        return buckets[over:]


def _sums(buckets: tuple[Bucket, ...]) -> tuple[int, float]:
    count, total = 0, 0.0
    for bucket in buckets:
        count += bucket[1]
        total += bucket[2]
    return count, total
