"""Which floor the operator's schedule sets now, and until when. Pure: entries, Unix time → floor.

Owns what a cron expression means where clocks are put forward and back. Reading expressions is
cronsim's; whether they can be read at all, the configuration has checked.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim

from autoscale.rules import Scheduled

_SECOND = timedelta(seconds=1)


class Floor(NamedTuple):
    """How many replicas there must be at least, and how long that stands."""

    replicas: int
    """0: the schedule asks for none."""
    until_s: float
    """Unix seconds, always after the time that was asked for. Until then it is not worth asking
    again: an answer takes 0.1 ms an entry, a decision 0.05 ms. inf: for good."""


def floor_at(entries: tuple[Scheduled, ...], wall_s: float) -> Floor:
    """The largest floor of the entries that are active at the Unix time `wall_s`.

    An entry is active where its last start is not before its last end; where both name the same
    minute it starts: with start `0 0 * * mon-fri` and end `0 0 * * *`, Tuesday is no gap. One that
    ended and never started is not active, one that started and never ended is. What cronsim does
    not find within 50 years never was and never will be (29 February is found).

    Expressions name times of a clock on a wall there (cronsim is asked without a zone: with one, it
    gives times before the one asked from in the hour that comes twice). Put forward, that clock has
    passed what it skips: from 02:30 on becomes from 03:00 on, and what would start and end within
    the skipped hour does not happen. Put back, it waits until the hour is over that it has shown
    already: each time happens once, when it is shown first, and what started at 02:30 goes on. This
    holds for `*/15` too, where Debian's cron makes an exception.

    Raises `CronSimError` or `ZoneInfoNotFoundError` for an entry that nobody checked.
    """
    replicas, until_s = 0, math.inf
    for entry in entries:
        zone = ZoneInfo(entry.timezone)
        started = _last(entry.start, wall_s, zone)
        ended = _last(entry.end, wall_s, zone)
        active = started is not None and (ended is None or started >= ended)
        if active:
            replicas = max(replicas, entry.replicas)
        until_s = min(until_s, _next(entry.end if active else entry.start, wall_s, zone))
    return Floor(replicas, until_s)


def _last(cron: str, wall_s: float, zone: ZoneInfo) -> datetime | None:
    """The last time that it names and that has come, without a zone."""
    shown = datetime.fromtimestamp(math.floor(wall_s), zone)
    # Where the hour comes a second time, all of it has come: so begin after its end.
    repeated = shown.replace(fold=0).utcoffset() - shown.utcoffset()  # type: ignore[operator]
    ahead = shown.replace(tzinfo=None, fold=0) + max(repeated, timedelta()) + _SECOND
    for named in CronSim(cron, ahead, reverse=True):
        if _comes_at(named, zone) <= wall_s:
            return named
    return None


def _next(cron: str, wall_s: float, zone: ZoneInfo) -> float:
    """When the next time that it names will come, in Unix seconds; inf: never."""
    shown = datetime.fromtimestamp(math.floor(wall_s), zone).replace(tzinfo=None, fold=0)
    for named in CronSim(cron, shown):
        comes_at = _comes_at(named, zone)
        if comes_at > wall_s:
            return comes_at
    return math.inf


def _comes_at(named: datetime, zone: ZoneInfo) -> float:
    """The Unix time at which a clock there shows `named` for the first time, or skips it."""
    first = named.replace(tzinfo=zone, fold=0).timestamp()
    other = named.replace(tzinfo=zone, fold=1).timestamp()
    if first <= other:
        return first
    # Skipped (PEP 495): `first` reckons by the offset before the change, `other` by the one after,
    # and the change lies between. It is where the clock begins to show later times than this one.
    between = range(math.ceil(other), math.ceil(first))
    later = bisect_left(
        between,
        True,
        key=lambda at: datetime.fromtimestamp(at, zone).replace(tzinfo=None, fold=0) > named,
    )
    return float(between.start + later)
