"""The shapes a rate can have over time: each knows its integral and the inverse of that. Pure.

Owns the arithmetic and how a shape is written; which text is which shape is `plan.py`'s. Rates are
requests per second, t is seconds since the phase began. All hold their last rate after their end.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Protocol

_TURN = 2 * math.pi


class Profile(Protocol):
    """A rate over time, t in seconds since the profile began. Rates are requests per second."""

    def rate(self, t: float) -> float:
        """The rate at t."""

    def count(self, t: float) -> float:
        """The integral of the rate from 0 to t: requests due by then."""

    def time_of(self, count: float) -> float:
        """The inverse: the t at which `count` requests are due, `inf` if that never comes."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The same rate throughout."""

    per_second: float

    def rate(self, t: float) -> float:
        return self.per_second

    def count(self, t: float) -> float:
        return self.per_second * t

    def time_of(self, count: float) -> float:
        if self.per_second == 0:
            return math.inf
        return count / self.per_second

    def __str__(self) -> str:
        return f"{self.per_second:g}"


@dataclass(frozen=True, slots=True)
class Ramp:
    """A straight line from one rate to another over `seconds`; holds the last rate after that."""

    start: float
    end: float
    seconds: float

    def rate(self, t: float) -> float:
        share = min(t / self.seconds, 1.0)
        return self.start + (self.end - self.start) * share

    def count(self, t: float) -> float:
        inside = min(t, self.seconds)
        slope = (self.end - self.start) / self.seconds
        return self.start * inside + slope * inside * inside / 2 + self.end * (t - inside)

    def time_of(self, count: float) -> float:
        over = count - self.count(self.seconds)
        if over > 0:
            return self.seconds + over / self.end if self.end else math.inf
        if count <= 0:
            return 0.0
        slope = (self.end - self.start) / self.seconds
        # Root of start·t + slope·t²/2 = count in the form that does not cancel when the slope
        # is small: 2c / (a + √(a² + 2·slope·c)). The max() only catches rounding at the end of
        # a ramp down to zero.
        root = math.sqrt(max(self.start * self.start + 2 * slope * count, 0.0))
        return min(2 * count / (self.start + root), self.seconds)

    def __str__(self) -> str:
        return f"{self.start:g}..{self.end:g}"


@dataclass(frozen=True, slots=True)
class Sine:
    """Swings from `start` to `crest` and back once every `period` seconds, for ever.

    rate(t) = m − a·cos(2πt/T) with m the middle and a half the way from start to crest.
    """

    start: float
    crest: float
    period: float
    written: str  # the period as in the plan's text

    @property
    def _middle(self) -> float:
        return (self.start + self.crest) / 2

    @property
    def _swing(self) -> float:
        return (self.crest - self.start) / 2

    def rate(self, t: float) -> float:
        return self._middle - self._swing * math.cos(_TURN * t / self.period)

    def count(self, t: float) -> float:
        angle = _TURN * t / self.period
        return self._middle * t - self._swing * self.period / _TURN * math.sin(angle)

    def time_of(self, count: float) -> float:
        each_turn = self._middle * self.period
        # So slow that a request takes 10¹⁵ turns: never, and nothing that divides by zero.
        if count > each_turn * 1e15:
            return math.inf
        if count <= 0:
            return 0.0
        turns, rest = divmod(count / each_turn, 1.0)
        angle = _kepler(_TURN * rest, self._swing / self._middle)
        return (turns + angle / _TURN) * self.period

    def __str__(self) -> str:
        return f"{self.start:g}~{self.crest:g}/{self.written}"


@dataclass(frozen=True, slots=True)
class Steps:
    """`rates[i]` holds from `starts[i]` to the next, the last one for ever; `text` as written.

    Stairs, spikes and traces are all this. `starts` ascends from 0.
    """

    text: str
    starts: tuple[float, ...]
    rates: tuple[float, ...]
    seconds: float
    _counts: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        lengths = (b - a for a, b in pairwise(self.starts))
        parts = (length * rate for length, rate in zip(lengths, self.rates[:-1], strict=True))
        # The integral up to each start.
        object.__setattr__(self, "_counts", (0.0, *accumulate(parts)))

    @classmethod
    def stairs(cls, start: float, end: float, steps: int, seconds: float) -> Steps:
        """`steps` steps of equal length, the first at one rate, the last at the other."""
        # Weighed, not added up: stairs down to 0 must not end a rounding error below it.
        shares = [i / (steps - 1) for i in range(steps)]
        rates = tuple(start * (1 - share) + end * share for share in shares)
        starts = tuple(seconds * i / steps for i in range(steps))
        return cls(f"{start:g}..{end:g}/{steps}", starts, rates, seconds)

    @classmethod
    def spike(cls, base: float, peak: float, width: float, seconds: float, written: str) -> Steps:
        """`peak` for `width` seconds in the middle of `seconds` at `base`."""
        up = (seconds - width) / 2
        starts = (0.0, up, up + width)
        return cls(f"{base:g}^{peak:g}/{written}", starts, (base, peak, base), seconds)

    def rate(self, t: float) -> float:
        return self.rates[max(bisect_right(self.starts, t) - 1, 0)]

    def count(self, t: float) -> float:
        i = max(bisect_right(self.starts, t) - 1, 0)
        return self._counts[i] + (t - self.starts[i]) * self.rates[i]

    def time_of(self, count: float) -> float:
        if count <= 0:
            return 0.0
        # The step within which the integral first reaches it: none of rate 0 but the last.
        i = bisect_left(self._counts, count) - 1
        if self.rates[i] == 0:
            return math.inf
        return self.starts[i] + (count - self._counts[i]) / self.rates[i]

    def __str__(self) -> str:
        return self.text


def _kepler(mean: float, eccentricity: float) -> float:
    """The x in [0, 2π] with x − e·sin x = mean: Newton's steps, halving where one leads astray.

    The left side never falls for |e| ≤ 1, so that the root stays between the two bounds.
    """
    low, high = 0.0, _TURN
    x = mean
    for _ in range(100):
        wrong = x - eccentricity * math.sin(x) - mean
        if abs(wrong) < 1e-15:
            break
        if wrong > 0:
            high = x
        else:
            low = x
        slope = 1 - eccentricity * math.cos(x)
        nearer = x - wrong / slope if slope else low
        if not low < nearer < high:
            nearer = (low + high) / 2
        if nearer == x:
            break
        x = nearer
    return x
