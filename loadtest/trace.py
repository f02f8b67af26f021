"""A rate over time from a CSV file, as `lbctl simulate` reads it, but without holes.

    seconds,requests_per_second
    0,20
    60,55

A rate holds until the next row, the last as long as the row before it (a single row: one second).
Times ascend and may begin anywhere. Empty lines and those that begin with `#` count for nothing.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

from loadtest.errors import PlanError
from loadtest.plan import check_rate
from loadtest.profiles import Steps

HEADER = ("seconds", "requests_per_second")
# A day of seconds eleven times over; beyond that it is the wrong file.
MAX_ROWS = 1_000_000


def read_trace(name: str, speed: float) -> Steps:
    """The trace in the file `name`, `speed` times as fast, its rates as written. PlanError."""
    try:
        text = Path(name).read_text("utf-8-sig")
    except OSError as wrong:
        raise PlanError(f"{name}: {wrong.strerror}") from None
    except UnicodeDecodeError as wrong:
        line = wrong.object.count(b"\n", 0, wrong.start) + 1
        raise PlanError(f"{name}:{line}: not UTF-8 text") from None
    return parse_trace(text, name, speed)


def parse_trace(text: str, name: str, speed: float = 1.0) -> Steps:
    """Reads CSV text; PlanError says `name:line:column` and what is wrong there."""
    lines = enumerate(text.splitlines(), start=1)
    rows = ((n, line) for n, line in lines if line.strip() and not line.lstrip().startswith("#"))
    number, header = next(rows, (1, ""))
    if tuple(cell.strip() for cell in header.split(",")) != HEADER:
        raise PlanError(f"{name}:{number}:1: the first row must be {','.join(HEADER)}")
    times: list[float] = []
    rates: list[float] = []
    for number, line in rows:
        where = f"{name}:{number}"
        first, comma, second = line.partition(",")
        if not comma or "," in second:
            raise PlanError(f"{where}:1: a row is two columns, {','.join(HEADER)}")
        time = _number(first, f"{where}:1", HEADER[0], -math.inf)
        place = f"{where}:{len(first) + 2}"
        rate = _number(second, place, HEADER[1], 0.0)
        check_rate(rate, f"{place}: rate {rate:g}")
        if times and time <= times[-1]:
            raise PlanError(f"{where}:1: times ascend, and {time:g} comes after {times[-1]:g}")
        if len(times) == MAX_ROWS:
            raise PlanError(f"{where}:1: more than {MAX_ROWS:,} rows")
        times.append(time)
        rates.append(rate)
    if not times:
        raise PlanError(f"{name}:{number}:1: it has no row after the first")
    last = times[-1] - times[-2] if len(times) > 1 else 1.0
    starts = tuple((time - times[0]) / speed for time in times)
    seconds = (times[-1] + last - times[0]) / speed
    if any(b <= a for a, b in pairwise((*starts, seconds))):
        raise PlanError(f"{name}: at speed {speed:g} its rows are too close to tell apart")
    written = name if speed == 1 else f"{name}*{speed:g}"
    return Steps(written, starts, tuple(rates), seconds)


def _number(text: str, where: str, column: str, least: float) -> float:
    if not text.strip():
        raise PlanError(f"{where}: {column} is missing: a trace has no holes")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise PlanError(f"{where}: {column} is {text.strip()!r}, not a number that can be used")
    return value
