"""Which backend do requests themselves speak against, and for how long is it spared them? Pure.

Owns the judgement: each backend's record of good and bad answers, the two grounds for an ejection,
its length and how many may be ejected. Whom it means, and what an ejection does, is the pool's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from statistics import median_high
from typing import Final, TypeVar

from lb.config_service import OutlierConfig
from lb.rolling import Rolling

T = TypeVar("T")

DOES_WELL: Final = 0.75
"""Three good answers of four. Of a fleet that fails every fourth request, five failures in a row
come to a backend by chance once in 0.25⁵ = 1000 requests; that must not eject it."""

COMPARE_S: Final = 1.0
"""Success rates are compared at most so often: a round looks at everybody."""

_BUCKETS: Final = 10
_MOST_DOUBLED: Final = 32

# "Not implemented" and "version not supported" are good answers to odd requests.
_NOT_AGAINST: Final = frozenset({501, 505})


class Grounds(StrEnum):
    """Why a backend is ejected; the label of the metric."""

    CONSECUTIVE = "consecutive_5xx"
    SUCCESS_RATE = "success_rate"


def speaks_against(status: int) -> bool:
    """Does this answer count as a failure of the backend?"""
    return status >= 500 and status not in _NOT_AGAINST


class Record:
    """What requests told of one backend of late, and its ejections."""

    __slots__ = ("_bad", "_good", "back_at", "doubled", "streak", "until")

    def __init__(self) -> None:
        self.streak = 0
        """Failures since the last good answer."""
        self.until: float | None = None
        """When its ejection ends; None while it is not ejected."""
        self.back_at = 0.0
        """When its last ejection ended."""
        self.doubled = 0
        """How often the next ejection's length is doubled."""
        self.measure(OutlierConfig().window)

    def measure(self, window_s: float) -> None:
        """Count anew, over a window of this length."""
        self._good = Rolling(window_s / _BUCKETS, _BUCKETS)
        self._bad = Rolling(window_s / _BUCKETS, _BUCKETS)

    def good(self, now: float) -> None:
        self.streak = 0
        self._good.add(now)

    def bad(self, now: float) -> None:
        self.streak += 1
        self._bad.add(now)

    def requests(self, now: float) -> int:
        return self._good.total(now) + self._bad.total(now)

    def success(self, now: float) -> float | None:
        """The share of good answers in the window; None without any answer."""
        requests = self.requests(now)
        return self._good.total(now) / requests if requests else None

    def eject(self, config: OutlierConfig, now: float) -> float:
        """Begin an ejection; returns its length in seconds.

        Twice as long each time: 10 s, 20 s, 40 s … Each `ejection` of seconds without one since
        the last takes one doubling back: after a minute of doing well six are forgotten.
        """
        well = int((now - self.back_at) / config.ejection)
        self.doubled = max(0, self.doubled - well)
        length_s = min(config.ejection * 2.0**self.doubled, config.max_ejection)
        self.doubled = min(self.doubled + 1, _MOST_DOUBLED)
        self.until = now + length_s
        return length_s

    def reinstate(self, now: float) -> None:
        """End it. What was counted before says nothing of what comes."""
        self.until = None
        self.back_at = now
        self.streak = 0
        self._good.clear()
        self._bad.clear()


def fails_alone(
    record: Record, others: Iterable[Record], config: OutlierConfig, now: float
) -> bool:
    """Has this one failed often enough in a row, while the others do better?

    They do where at least half of those heard of in the window do well: three good answers of
    four, and the last two not both bad. The second half of that catches the moment in which
    everything breaks at once, when the window still shows the good times. Where nothing was heard
    of any other, nothing speaks against them.
    """
    if record.streak < config.consecutive_5xx:
        return False
    heard = [(other.streak, other.success(now)) for other in others]
    well = [streak < 2 and success >= DOES_WELL for streak, success in heard if success is not None]
    return bool(median_high(well)) if well else True


def below_the_rest(
    backends: Sequence[tuple[T, Record]], config: OutlierConfig, now: float
) -> list[tuple[T, float, float]]:
    """Those whose success rate lies `success_margin` below the median of the others, each with its
    rate and that median; the worst first. Only who had `min_requests` is compared."""
    rated = []
    for backend, record in backends:
        if record.requests(now) >= config.min_requests:
            rated.append((record.success(now) or 0.0, backend))
    rated.sort(key=lambda pair: pair[0])
    rates = [rate for rate, _ in rated]
    found = []
    for index, (rate, backend) in enumerate(rated):
        middle = _median_without(rates, index)
        # The allowance is for binary fractions: 1.0 - 0.8 is less than 0.2.
        if middle is None or rate > middle - config.success_margin + 1e-9:
            break
        found.append((backend, rate, middle))
    return found


def _median_without(ordered: Sequence[float], index: int) -> float | None:
    """Of two in the middle the lower: where one of three does well, the other two are no outliers
    but the rule."""
    rest = len(ordered) - 1
    if not rest:
        return None
    middle = (rest - 1) // 2
    return ordered[middle + (middle >= index)]


def most_ejected(config: OutlierConfig, healthy: int) -> int:
    """How many of so many healthy backends may be ejected: the share, rounded down, but one of
    two or more; never all, and none of one. Switched off, or with a share of 0, none."""
    if not config.enabled or not config.max_share or healthy < 2:
        return 0
    return min(max(1, int(config.max_share * healthy)), healthy - 1)
