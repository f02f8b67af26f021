"""Counts how often something happened lately, in a ring of buckets. Pure: the time is an argument.

Adding and asking cost the same however much happened: the sum is kept, and buckets that have aged
are taken off it.
"""

from __future__ import annotations


class Rolling:
    """A count over the last `buckets` × `width_s` seconds, the bucket that runs now included.

    So a total covers between (`buckets` - 1) and `buckets` widths: with ten buckets of one second
    the nine to ten seconds just past. Who must rather count too much takes one bucket more.
    """

    __slots__ = ("_at", "_counts", "_index", "_next", "_total", "_width_s")

    def __init__(self, width_s: float, buckets: int) -> None:
        self._width_s = width_s
        self._counts = [0] * buckets
        self._index = 0
        """Which bucket of all time the newest one is."""
        self._at = 0
        """Where it stands in the ring."""
        self._next = width_s
        """When the one after it begins: adding is asked for with each request."""
        self._total = 0

    def add(self, now: float) -> None:
        """It happened once more. `now` never goes back."""
        if now >= self._next:
            self._advance(now)
        self._counts[self._at] += 1
        self._total += 1

    def total(self, now: float) -> int:
        self._advance(now)
        return self._total

    def clear(self) -> None:
        self._counts = [0] * len(self._counts)
        self._total = 0

    def _advance(self, now: float) -> None:
        index = int(now / self._width_s)
        if index <= self._index:
            return
        counts = self._counts
        size = len(counts)
        for aged in range(max(self._index + 1, index - size + 1), index + 1):
            self._total -= counts[aged % size]
            counts[aged % size] = 0
        self._index = index
        self._at = index % size
        # never early: until the division above says so, the running bucket goes on
        self._next = index * self._width_s
        while int(self._next / self._width_s) <= index:
            self._next += self._width_s
