"""A request rate over time: steps, each of which holds until the next. Reads CSV files of it.

Owns what a trace is and what is wrong with a file that is none. It must not draw anything.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HEADER = ("seconds", "requests_per_second")


class TraceError(ValueError):
    """A trace that cannot be read: the file's fault, or that of who gave its name."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {message}" if line is not None else message)
        self.line = line


@dataclass(frozen=True, slots=True)
class RateTrace:
    """`rates[i]` requests/s hold from `starts[i]` seconds to the next, the last to `duration_s`."""

    starts: tuple[float, ...]
    """Ascending from 0."""
    rates: tuple[float, ...]
    duration_s: float

    def __post_init__(self) -> None:
        if not self.starts or len(self.starts) != len(self.rates):
            raise TraceError("a trace needs as many rates as times, and one at least")
        times = (*self.starts, self.duration_s)
        if self.starts[0] != 0 or any(b <= a for a, b in itertools.pairwise(times)):
            raise TraceError("the times of a trace ascend from 0 to its duration")
        if not all(math.isfinite(rate) and rate >= 0 for rate in self.rates):
            raise TraceError("rates are numbers from 0")
        if not math.isfinite(self.duration_s):
            raise TraceError("a trace ends")

    @property
    def expected(self) -> float:
        """How many requests come on average."""
        times = (*self.starts, self.duration_s)
        return sum(
            rate * (end - start)
            for rate, start, end in zip(self.rates, times, times[1:], strict=False)
        )

    @property
    def peak(self) -> float:
        return max(self.rates)

    def at(self, seconds: float) -> float:
        """The rate at that time; that of the end after it."""
        index = int(np.searchsorted(self.starts, seconds, side="right")) - 1
        return self.rates[max(0, index)]

    def per_second(self) -> NDArray[np.float64]:
        """The mean rate of each second [i, i + 1); the last may be cut short."""
        bounds = np.append(np.arange(0.0, self.duration_s), self.duration_s)
        times = np.append(self.starts, self.duration_s)
        so_far = np.concatenate(([0.0], np.cumsum(np.diff(times) * self.rates)))
        reached = np.interp(bounds, times, so_far)
        mean = np.diff(reached) / np.diff(bounds)
        # a second within one step has its rate, not that but for the rounding
        first = np.searchsorted(self.starts, bounds[:-1], side="right") - 1
        last = np.searchsorted(self.starts, bounds[1:], side="left") - 1
        rates: NDArray[np.float64] = np.where(first == last, np.asarray(self.rates)[first], mean)
        return rates

    def scaled(self, speed: float = 1.0, scale: float = 1.0) -> RateTrace:
        """The same `speed` times as fast, with `scale` times the rate. TraceError unless both are
        above 0."""
        for name, factor in (("speed", speed), ("scale", scale)):
            if not math.isfinite(factor) or factor <= 0:
                raise TraceError(f"{name} = {factor:g} is not above 0")
        return RateTrace(
            tuple(start / speed for start in self.starts),
            tuple(rate * scale for rate in self.rates),
            self.duration_s / speed,
        )


def sampled(rates: Sequence[float], step_s: float = 1.0) -> RateTrace:
    """One rate every `step_s`."""
    return RateTrace(
        tuple(index * step_s for index in range(len(rates))),
        tuple(float(rate) for rate in rates),
        len(rates) * step_s,
    )


def read_trace(path: Path, speed: float = 1.0, scale: float = 1.0) -> RateTrace:
    """The trace of a CSV file. TraceError with the line and what is wrong there."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path} is no text") from error
    return parse_trace(text.splitlines(), speed, scale)


def parse_trace(lines: Iterable[str], speed: float = 1.0, scale: float = 1.0) -> RateTrace:
    """The trace of CSV lines: the header `seconds,requests_per_second`, then a row for each change.

    Times ascend by any step and may begin anywhere: the first is second 0. A rate holds until the
    next row. A row with an empty rate is a gap: its rate lies on the straight line between the
    rates known before and after it, by time; before the first and after the last known, it is that
    one's. The last row holds as long as the step before it (a single row: one second). Empty lines,
    and those that begin with `#`, count for nothing.
    """
    rows = csv.reader(lines)
    times: list[float] = []
    rates: list[float] = []
    headed = False
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        if not headed:
            if tuple(cell.lower() for cell in cells) != HEADER:
                raise TraceError(f"the header {','.join(HEADER)} is missing", rows.line_num)
            headed = True
            continue
        seconds, rate = _row(cells, rows.line_num)
        if times and seconds <= times[-1]:
            raise TraceError(f"second {seconds:g} does not come after {times[-1]:g}", rows.line_num)
        times.append(seconds)
        rates.append(rate)
    if not headed:
        raise TraceError(f"the file is empty: the header {','.join(HEADER)} is missing")
    if not times:
        raise TraceError("there is no row after the header")
    known = ~np.isnan(rates)
    if not known.any():
        raise TraceError("no row has a rate")
    filled = np.interp(times, np.asarray(times)[known], np.asarray(rates)[known])
    last_s = times[-1] - times[-2] if len(times) > 1 else 1.0
    trace = RateTrace(
        tuple(seconds - times[0] for seconds in times),
        tuple(filled.tolist()),
        times[-1] - times[0] + last_s,
    )
    return trace.scaled(speed, scale)


def _row(cells: Sequence[str], line: int) -> tuple[float, float]:
    """Seconds and rate; NaN for a rate left empty."""
    if len(cells) != len(HEADER):
        raise TraceError(f"{len(cells)} columns where {len(HEADER)} are wanted", line)
    values = []
    for name, cell in zip(HEADER, cells, strict=True):
        if not cell and name != HEADER[0]:
            values.append(math.nan)
            continue
        try:
            value = float(cell)
        except ValueError:
            raise TraceError(f"{name} = {cell!r} is not a number", line) from None
        if not math.isfinite(value):
            raise TraceError(f"{name} = {cell} is not a number to count with", line)
        if value < 0:
            raise TraceError(f"{name} = {cell} is negative", line)
        values.append(value)
    return values[0], values[1]
