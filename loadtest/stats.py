"""Counts durations in HdrHistogram's buckets: microseconds, 3 significant digits, up to an hour.

A plain dict in the hot path (0.2 µs where the library's `record_value` takes 1.0 µs) with the
library's own bucket numbers, so that turning one into a real HdrHistogram loses nothing. Merging
is addition: seconds into phases, phases into a run, worker processes and machines into one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadtest import hdr_codec

MAX_US = 3_600_000_000
_DIGITS = 3
# 3 digits need 2 × 10³ values at single resolution: 2048 = 2¹¹ per bucket, half of them new in
# each further one.
_SUB_BITS = 11
_HALF_BITS = _SUB_BITS - 1
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_SHAPE = hdr_codec.Shape(_DIGITS, 1, MAX_US)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A summary in seconds; all zero if `count` is."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p99_9: float = 0.0
    max: float = 0.0


class Tally:
    """Counts by bucket. Not for several threads."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: defaultdict[int, int] = defaultdict(int)

    def __len__(self) -> int:
        return sum(self.counts.values())

    def record(self, seconds: float) -> None:
        """Counts one duration; below zero counts as zero, above an hour as an hour."""
        self.counts[bucket_of(seconds)] += 1

    def add(self, other: Tally) -> None:
        """Adds the other's counts."""
        for bucket, count in other.counts.items():
            self.counts[bucket] += count

    def percentile(self, percent: float) -> float | None:
        """In seconds, the bucket's upper edge as HdrHistogram has it; None if empty."""
        return self.percentiles(percent)[0]

    def percentiles(self, *ascending: float) -> Sequence[float | None]:
        """Several in one pass."""
        return self._percentiles(ascending) or [None] * len(ascending)

    def summary(self) -> Distribution:
        """Mean, percentiles and maximum, in seconds."""
        found = self._percentiles(PERCENTILES)
        if not found:
            return Distribution()
        total = len(self)
        weighted = sum(_middle_us(bucket) * count for bucket, count in self.counts.items())
        p50, p90, p99, p99_9 = found
        return Distribution(
            count=total,
            mean=round(weighted / total / 1e6, 9),
            p50=p50,
            p90=p90,
            p99=p99,
            p99_9=p99_9,
            max=upper_us(max(self.counts)) / 1e6,
        )

    def encode(self) -> str:
        """HdrHistogram's interchange text (V2, compressed, base64), in microseconds."""
        return hdr_codec.encode(self.counts, _SHAPE)

    @classmethod
    def decode(cls, text: str) -> Tally:
        """The inverse of `encode`; takes any range of as many digits from 1 up, as other tools
        write. Raises ValueError if it is not such a text."""
        shape, counts = hdr_codec.decode(text)
        if shape.digits != _DIGITS or shape.lowest != 1:
            raise ValueError(
                f"an HdrHistogram of {shape.digits} digits from {shape.lowest}, "
                f"not {_DIGITS} from 1: it does not merge"
            )
        tally = cls()
        tally.counts.update(counts)
        return tally

    def _percentiles(self, percents: Iterable[float]) -> list[float]:
        total = len(self)
        if not total:
            return []
        found = []
        wanted = iter(percents)
        rank = _rank(next(wanted), total)
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            while seen >= rank:
                found.append(upper_us(bucket) / 1e6)
                percent = next(wanted, None)
                if percent is None:
                    return found
                rank = _rank(percent, total)
        return found


def merged(tallies: Iterable[Tally]) -> Tally:
    """All of them in one."""
    whole = Tally()
    for tally in tallies:
        whole.add(tally)
    return whole


def bucket_of(seconds: float) -> int:
    """HdrHistogram's counts index for a duration."""
    us = int(seconds * 1e6)
    if us < 2048:
        return us if us > 0 else 0
    if us > MAX_US:
        us = MAX_US
    shift = us.bit_length() - _SUB_BITS
    return (shift << _HALF_BITS) + (us >> shift)


def lower_us(bucket: int) -> int:
    """The smallest number of microseconds that falls into the bucket."""
    shift = _shift_of(bucket)
    return (bucket - (shift << _HALF_BITS)) << shift


def upper_us(bucket: int) -> int:
    """The largest."""
    return lower_us(bucket) + (1 << _shift_of(bucket)) - 1


def _middle_us(bucket: int) -> int:
    return lower_us(bucket) + (1 << _shift_of(bucket) >> 1)


def _shift_of(bucket: int) -> int:
    return max((bucket >> _HALF_BITS) - 1, 0)


def _rank(percent: float, total: int) -> int:
    # As HdrHistogram rounds: the nearest rank, at least the first.
    return max(int(percent * total / 100 + 0.5), 1)
