"""Time-bucketed mean, minimum and maximum of a value over a span. Pure and frozen.

A window holds at most `BUCKETS` + 1 buckets whatever the sampling rate, so adding is O(1) and its
memory is bounded. It must not read a clock: every call says what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

BUCKETS = 12
"""Resolution: a 60 s window forgets in steps of 5 s."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    start: float
    count: int
    total: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Window:
    """The last `span_s` seconds of a value."""

    span_s: float
    since: float | None = None
    """When the unbroken history began; None before the first value."""
    _buckets: tuple[_Bucket, ...] = ()

    def add(self, at: float, value: float) -> Window:
        """This window with one more value. A clock that steps back starts the history anew."""
        if self._buckets and at < self._buckets[-1].start:
            return Window(self.span_s).add(at, value)
        width = self.span_s / BUCKETS
        kept = self._live(at)
        if kept and at - kept[-1].start < width:
            last = kept[-1]
            grown = _Bucket(
                last.start,
                last.count + 1,
                last.total + value,
                min(last.low, value),
                max(last.high, value),
            )
            kept = (*kept[:-1], grown)
        else:
            kept = (*kept, _Bucket(at, 1, value, value, value))
        # with nothing left of before, the history was broken: it begins with this value
        since = self.since if len(kept) > 1 or kept[0].count > 1 else at
        return replace(self, since=since, _buckets=kept)

    def covers(self, now: float) -> bool:
        """Whether the history reaches back over the whole span."""
        return self.since is not None and now - self.since >= self.span_s

    def mean(self, now: float) -> float | None:
        """None where the window is empty, as with `low` and `high`."""
        live = self._live(now)
        return sum(b.total for b in live) / sum(b.count for b in live) if live else None

    def low(self, now: float) -> float | None:
        live = self._live(now)
        return min(b.low for b in live) if live else None

    def high(self, now: float) -> float | None:
        live = self._live(now)
        return max(b.high for b in live) if live else None

    def _live(self, now: float) -> tuple[_Bucket, ...]:
        # a bucket lives until its youngest possible value has left the span
        horizon = now - self.span_s - self.span_s / BUCKETS
        return tuple(b for b in self._buckets if b.start > horizon)
