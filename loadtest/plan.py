"""What is to be sent: phases, each with a rate over time; parsed from the `--plan` text.

Owns the grammar and the arithmetic of a rate (its integral and the inverse of that). Knows no
clock, no randomness and no I/O; *when* a phase is entered is `timeline.py`'s.

    low=20@30s,high=60@60s        20/s for half a minute, then 60/s for a minute
    low=20@30s,high=60@trigger    60/s until somebody shifts or finishes
    climb=10..80@2m               a straight ramp
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol

from loadtest.errors import PlanError

# Far above what one core sends (about 20,000/s); it is there to catch a slipped digit.
MAX_RATE = 1_000_000.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


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
class Phase:
    """A named stretch of the plan. `seconds` is None for one that lasts until shifted."""

    name: str
    profile: Profile
    seconds: float | None

    def __str__(self) -> str:
        length = "trigger" if self.seconds is None else format_duration(self.seconds)
        return f"{self.name}={self.profile}@{length}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Phases in order; names may repeat (low, high, low)."""

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        if not self.phases:
            raise PlanError("plan: it has no phase; write e.g. low=20@30s,high=60@60s")
        total = self.requests
        if total is not None and total < 0.5:
            raise PlanError(f"plan {self}: it would send no request at all")

    @classmethod
    def constant(cls, rate: float, seconds: float | None, name: str = "steady") -> Plan:
        """One phase at one rate (per second); `seconds` None: until finished."""
        _check_rate(rate, f"rate {rate:g}")
        _check_seconds(seconds, "duration")
        return cls((Phase(name, Constant(rate), seconds),))

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Reads `name=rate@duration,…`. Raises PlanError naming the phase and the part."""
        parts = text.split(",")
        return cls(tuple(_parse_phase(part, number) for number, part in enumerate(parts, start=1)))

    @property
    def seconds(self) -> float | None:
        """How long it lasts if nobody shifts, None with a phase that waits for a trigger."""
        total = 0.0
        for phase in self.phases:
            if phase.seconds is None:
                return None
            total += phase.seconds
        return total

    @property
    def requests(self) -> float | None:
        """The integral of the rate over the whole plan, None with a triggered phase."""
        total = 0.0
        for phase in self.phases:
            if phase.seconds is None:
                return None
            total += phase.profile.count(phase.seconds)
        return total

    @property
    def names(self) -> tuple[str, ...]:
        """The phases' names in order."""
        return tuple(phase.name for phase in self.phases)

    def __str__(self) -> str:
        return ",".join(str(phase) for phase in self.phases)


def parse_duration(text: str) -> float:
    """Seconds from `500ms`, `30s`, `1m30s`, `2h`. Raises PlanError; a bare number is ambiguous."""
    stripped = text.strip()
    if not _DURATION.fullmatch(stripped):
        raise PlanError(f"duration {text!r}: write a number with a unit, e.g. 500ms, 30s, 1m30s")
    return sum(float(n) * _UNITS[unit] for n, unit in _DURATION_PART.findall(stripped))


def format_duration(seconds: float) -> str:
    """The shortest text `parse_duration` reads back to the same number of seconds, to 1 ns."""
    seconds = round(seconds, 9)  # before a unit is chosen: 899.9999999999995 s are 15m
    for unit in ("d", "h", "m"):
        whole = seconds / _UNITS[unit]
        if whole >= 1 and whole == int(whole):
            return f"{int(whole)}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def parse_rate(text: str) -> float:
    """Requests per second from `50` or `50/s`. Raises PlanError."""
    number = text.strip().removesuffix("/s")
    try:
        rate = float(number)
    except ValueError:
        raise PlanError(f"rate {text!r}: write requests per second, e.g. 50") from None
    _check_rate(rate, f"rate {text!r}")
    return rate


def _parse_phase(text: str, number: int) -> Phase:
    where = f"plan, phase {number} ({text.strip()!r})"
    name, equals, rest = (piece.strip() for piece in text.partition("="))
    rate_text, at, length = (piece.strip() for piece in rest.partition("@"))
    if not equals or not at:
        raise PlanError(f"{where}: write name=rate@duration, e.g. high=60@60s")
    if not _NAME.fullmatch(name):
        raise PlanError(f"{where}: name {name!r}: letters, digits, '_', '-' and '.' only")
    try:
        seconds = None if length == "trigger" else parse_duration(length)
        _check_seconds(seconds, f"duration {length!r}")
        return Phase(name, _parse_profile(rate_text, seconds), seconds)
    except PlanError as wrong:
        raise PlanError(f"{where}: {wrong}") from None


def _parse_profile(text: str, seconds: float | None) -> Profile:
    start, dots, end = text.partition("..")
    if not dots:
        return Constant(parse_rate(text))
    if seconds is None:
        raise PlanError(f"rate {text!r}: a ramp needs a duration, not a trigger")
    return Ramp(parse_rate(start), parse_rate(end), seconds)


def _check_rate(rate: float, what: str) -> None:
    if not 0 <= rate <= MAX_RATE:  # also refuses nan
        raise PlanError(f"{what}: allowed is 0 to {MAX_RATE:,.0f} requests per second")


def _check_seconds(seconds: float | None, what: str) -> None:
    if seconds is not None and not 0 < seconds < math.inf:
        raise PlanError(f"{what}: must be longer than nothing")
