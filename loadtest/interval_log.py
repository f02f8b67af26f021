"""HdrHistogram interval logs (`.hlog`, format 1.3): one histogram of latencies for each second.

Any HdrHistogram log tool reads them. Logs of workers, machines and files merge second by second,
by the clock. Values are microseconds; the column of maxima is in milliseconds, as is usual.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadtest.errors import InputError, LoadtestError
from loadtest.result import Result, write_text
from loadtest.stats import Tally, merged, upper_us

_START = re.compile(r"#\[(StartTime|BaseTime): *([\d.]+)")
_LEGEND = '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'


@dataclass(frozen=True, slots=True)
class Interval:
    """The latencies seen in [start, start + length), Unix seconds."""

    start: float
    length: float
    latency: Tally


def intervals_of(result: Result) -> Iterator[Interval]:
    """Those of a result's series. Raises InputError if it was written before rows had them."""
    for row in result.series:
        if not row.latency_us:
            raise InputError("this result's seconds have no histograms: it is an old one")
        yield Interval(result.started_unix + row.t, row.span, Tally.decode(row.latency_us))


def to_text(intervals: Sequence[Interval]) -> str:
    """The log. Its times are seconds since the first interval's start."""
    began = intervals[0].start if intervals else 0.0
    when = datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds")
    lines = [
        "#[latency from the intended time to the whole answer, microseconds]",
        "#[Histogram log format version 1.3]",
        f"#[StartTime: {began:.3f} (seconds since epoch), {when}]",
        f"#[BaseTime: {began:.3f} (seconds since epoch)]",
        _LEGEND,
    ]
    for interval in intervals:
        largest = upper_us(max(interval.latency.counts, default=0)) / 1000
        lines.append(
            f"{interval.start - began:.3f},{interval.length:.3f},{largest:.3f},"
            f"{interval.latency.encode()}"
        )
    return "\n".join(lines) + "\n"


def read_log(path: Path) -> list[Interval]:
    """The intervals of a log; those of any tag. Raises InputError with the line."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise InputError(f"{path}: {wrong}") from None
    told = {"StartTime": 0.0, "BaseTime": 0.0}
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _START.match(line):
            told[match[1]] = float(match[2])
        if not line or line.startswith(("#", '"')):
            continue
        cells = line.split(",")
        if cells[0].startswith("Tag="):
            cells = cells[1:]
        try:
            start, length = float(cells[0]), float(cells[1])
            latency = Tally.decode(cells[3])
        except (ValueError, IndexError) as wrong:
            raise InputError(f"{path}:{number}: not an interval ({wrong})") from None
        # Without a base, small numbers are relative to the start, as the Java reader has it.
        base = told["BaseTime"] or (told["StartTime"] if start < told["StartTime"] / 2 else 0.0)
        found.append(Interval(base + start, length, latency))
    if not found:
        raise InputError(f"{path}: there is no interval in it")
    return found


def write_log(log: Sequence[Interval], path: Path) -> None:
    """The whole file or none of it. Raises LoadtestError."""
    try:
        write_text(to_text(log), path)
    except OSError as wrong:
        raise LoadtestError(f"--hlog {path}: {wrong.strerror}") from None


def merge_logs(logs: Iterable[Sequence[Interval]]) -> list[Interval]:
    """What begins in the same second of the first log's rhythm becomes one interval, in that
    rhythm: so they do not overlap."""
    every = [interval for log in logs for interval in log]
    began = min(interval.start for interval in every)
    by_second: defaultdict[int, list[Interval]] = defaultdict(list)
    for interval in every:
        # A millisecond's rounding in a file must not move a row into the second before.
        by_second[math.floor(interval.start - began + 0.001)].append(interval)
    return [
        Interval(began + second, max(interval.length for interval in together), whole(together))
        for second, together in sorted(by_second.items())
    ]


def whole(log: Sequence[Interval]) -> Tally:
    """All of it in one."""
    return merged(interval.latency for interval in log)
