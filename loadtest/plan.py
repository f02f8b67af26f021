"""What is to be sent: phases, each with a rate over time; parsed from the `--plan` text.

Owns the grammar. Knows no clock, no randomness and no I/O: whoever wants traces gives the function
that reads them. The shapes are `profiles.py`'s, *when* a phase is entered is `timeline.py`'s.

    low=20@30s,high=60@60s        20/s for half a minute, then 60/s for a minute
    low=20@30s,high=60@trigger    60/s until somebody shifts or finishes
    climb=10..80@2m               a straight ramp
    stairs=10..80/8@2m            eight steps of 15 s, the first at 10/s, the last at 80/s
    wave=20~60/30s@5m             a sine: from 20/s to 60/s and back every 30 s
    burst=20^200/5s@1m            20/s, and 200/s for 5 s in the middle
    replay=day.csv*24             a trace's own rates and times, 24 times as fast
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from loadtest.errors import PlanError
from loadtest.profiles import Constant, Profile, Ramp, Sine, Steps

# Far above what one core sends (about 20,000/s); it is there to catch a slipped digit.
MAX_RATE = 1_000_000.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TRACE = re.compile(r"(?P<file>.+\.csv)(?:\*(?P<speed>.*))?", re.IGNORECASE | re.DOTALL)
MAX_STEPS = 100_000

TraceReader = Callable[[str, float], Steps]
"""(file name, speed) → the trace; PlanError with line and column where it is none."""


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
        check_rate(rate, f"rate {rate:g}")
        _check_seconds(seconds, "duration")
        return cls((Phase(name, Constant(rate), seconds),))

    @classmethod
    def parse(cls, text: str, read_trace: TraceReader | None = None) -> Plan:
        """Reads `name=rate@duration,…`. Raises PlanError naming column, phase and part."""
        phases = []
        column = 1
        for number, part in enumerate(text.split(","), start=1):
            indent = len(part) - len(part.lstrip())
            where = f"plan column {column + indent}, phase {number} ({part.strip()!r})"
            try:
                phases.append(_parse_phase(part, read_trace))
            except PlanError as wrong:
                raise PlanError(f"{where}: {wrong}") from None
            column += len(part) + 1
        return cls(tuple(phases))

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
    check_rate(rate, f"rate {text!r}")
    return rate


def _parse_phase(text: str, read_trace: TraceReader | None) -> Phase:
    name, equals, rest = (piece.strip() for piece in text.partition("="))
    rate_text, at, length = (piece.strip() for piece in rest.partition("@"))
    trace = _TRACE.fullmatch(rate_text)
    if not equals or not (at or trace):
        raise PlanError("write name=rate@duration, e.g. high=60@60s")
    if not _NAME.fullmatch(name):
        raise PlanError(f"name {name!r}: letters, digits, '_', '-' and '.' only")
    seconds = None if length == "trigger" or not at else parse_duration(length)
    _check_seconds(seconds, f"duration {length!r}")
    if trace:
        profile = _parse_trace(trace["file"], trace["speed"], read_trace)
        if length == "trigger":
            raise PlanError(f"rate {rate_text!r}: a trace needs a duration or none, not a trigger")
        if seconds is not None and seconds > profile.seconds * (1 + 1e-9):
            lasts = format_duration(profile.seconds)
            raise PlanError(f"duration {length!r}: the trace {rate_text} lasts only {lasts}")
        return Phase(name, profile, profile.seconds if seconds is None else seconds)
    return Phase(name, _parse_profile(rate_text, seconds), seconds)


def _parse_profile(text: str, seconds: float | None) -> Profile:
    if "~" in text:
        start, _, rest = text.partition("~")
        crest, _, period = rest.rpartition("/")
        if not crest:
            raise PlanError(f"rate {text!r}: write a sine as low~high/period, e.g. 20~60/30s")
        every = parse_duration(period)
        _check_seconds(every, f"period {period!r}")
        return Sine(parse_rate(start), parse_rate(crest), every, format_duration(every))
    if "^" in text:
        base, _, rest = text.partition("^")
        peak, _, width = rest.rpartition("/")
        if not peak:
            raise PlanError(f"rate {text!r}: write a spike as base^peak/width, e.g. 20^200/5s")
        return _spike(text, base, peak, parse_duration(width), seconds)
    start, dots, end = text.partition("..")
    if not dots:
        return Constant(parse_rate(text))
    if seconds is None:
        raise PlanError(f"rate {text!r}: a ramp needs a duration, not a trigger")
    last, slash, steps = end.rpartition("/")
    if slash and steps != "s":
        count = int(steps) if steps.isascii() and steps.isdigit() else 0
        if not 2 <= count <= MAX_STEPS:
            raise PlanError(f"rate {text!r}: {steps!r} steps: allowed is 2 to {MAX_STEPS:,}")
        return Steps.stairs(parse_rate(start), parse_rate(last), count, seconds)
    return Ramp(parse_rate(start), parse_rate(end), seconds)


def _spike(text: str, base: str, peak: str, width: float, seconds: float | None) -> Steps:
    if seconds is None:
        raise PlanError(f"rate {text!r}: a spike needs a duration, not a trigger")
    if not 0 < width < seconds:
        raise PlanError(f"rate {text!r}: the spike must be shorter than its phase")
    written = format_duration(width)
    return Steps.spike(parse_rate(base), parse_rate(peak), width, seconds, written)


def _parse_trace(file: str, speed_text: str | None, read_trace: TraceReader | None) -> Steps:
    try:
        speed = 1.0 if speed_text is None else float(speed_text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise PlanError(f"speed {speed_text!r}: write how many times as fast, e.g. {file}*24")
    if read_trace is None:
        raise PlanError(f"{file}: traces cannot be read here")
    return read_trace(file, speed)


def check_rate(rate: float, what: str) -> None:
    """Raises PlanError, beginning with `what`."""
    if not 0 <= rate <= MAX_RATE:  # also refuses nan
        raise PlanError(f"{what}: allowed is 0 to {MAX_RATE:,.0f} requests per second")


def _check_seconds(seconds: float | None, what: str) -> None:
    if seconds is not None and not 0 < seconds < math.inf:
        raise PlanError(f"{what}: must be longer than nothing")
