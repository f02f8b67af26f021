"""Are the replicas of a new image worse than the old ones? By what requests told of both. Pure.

Owns the two comparisons, of errors and of latency, what is collected for them, and the count of
new ones that failed. It must not decide what follows from an answer: that is `turnover`'s.

Both sides are looked at over the same time and under the same load, as Kayenta compares a canary
with a baseline instead of with yesterday; and as there, a difference has to be more than chance
before it counts. Looked at again each second, chance has many tries: hence bounds of 99 % and not
of the usual 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from autoscale.model import Answers

Z = 2.33
"""Of a normal distribution: one in a hundred lies above. Each of two bounds is that sure."""

BAD_FLOOR = 5
"""Fewer bad answers than this are nobody's fault: a request that kills its replica may come twice.
As many are what outlier ejection lets through before it takes a failing replica out."""
SHARE_FLOOR = 0.01
"""A share of errors that is larger by less than this is no reason to stop, however sure."""

MIN_ANSWERS = 20
"""On each side, before latency is compared; below it the bounds of a median span everything."""
MEDIAN_RATIO, MEDIAN_FLOOR_S = 1.5, 0.02
TAIL, TAIL_RATIO, TAIL_FLOOR_S = 0.95, 2.0, 0.05
"""Slower by so much, and by so many seconds at least: what is quick may double unnoticed."""

WARM_S = 3.0
"""So long the durations of a fresh replica are not counted: its caches are empty."""


def why_worse(new: Answers, old: Answers) -> str:
    """By which numbers; empty where nothing speaks against the new ones."""
    return _fails_more(new, old) or _is_slower(new, old)


def _fails_more(new: Answers, old: Answers) -> str:
    """The lower bound of the new share of errors lies above the upper one of the old."""
    if new.bad < BAD_FLOOR:
        return ""
    least, _ = share_bounds(new.bad, new.asked)
    # who was asked nothing has shown no error: what is new has to fail more often than not then
    _, most = share_bounds(old.bad, old.asked) if old.asked else (0.0, 0.5)
    if least <= most or least < SHARE_FLOOR + most:
        return ""
    return (
        f"{new.bad} of {new.asked} requests failed on the new ones,"
        f" {old.bad} of {old.asked} on the old ones"
    )


def share_bounds(found: int, of: int, z: float = Z) -> tuple[float, float]:
    """Between which shares the true one lies, by `found` of `of`: Wilson's interval (1927), which
    holds for few and for none too."""
    if of <= 0:
        return 0.0, 1.0
    share, spread = found / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def _is_slower(new: Answers, old: Answers) -> str:
    for quantile, ratio, floor_s, words in (
        (0.5, MEDIAN_RATIO, MEDIAN_FLOOR_S, "half of the answers"),
        (TAIL, TAIL_RATIO, TAIL_FLOOR_S, f"{1 - TAIL:.0%} of the answers"),
    ):
        mine = duration_bounds(new, quantile)
        theirs = duration_bounds(old, quantile)
        if mine is None or theirs is None:
            continue
        if mine[0] > theirs[1] * ratio and mine[0] > theirs[1] + floor_s:
            return (
                f"{words} of the new ones take longer than {mine[0] * 1000:.0f} ms, of the old"
                f" ones than {theirs[1] * 1000:.0f} ms"
            )
    return ""


def duration_bounds(answers: Answers, quantile: float) -> tuple[float, float] | None:
    """Between which durations, in seconds, the true quantile lies; None where there are too few
    answers to say. By order statistics: how many of n answers lie below it is binomial, whatever
    the durations' distribution is."""
    total = sum(answers.durations)
    if total < MIN_ANSWERS:
        return None
    off = Z * math.sqrt(quantile * (1 - quantile) / total)
    if quantile + off >= 1:
        return None  # the largest seen is no upper bound
    return (
        _quantile(answers.durations, answers.bounds_s, max(0.0, quantile - off)),
        _quantile(answers.durations, answers.bounds_s, quantile + off),
    )


def _quantile(counts: Sequence[int], bounds_s: Sequence[float], quantile: float) -> float:
    """The upper edge of the bucket it lies in: the same edge for both sides, so it cancels out."""
    rank, seen = quantile * sum(counts), 0
    for count, bound in zip(counts, bounds_s, strict=False):
        seen += count
        if seen >= rank and seen:
            return bound
    return bounds_s[-1]


FAILURES = 2
"""New ones in a row that never got ready, or died early: one may be the host's, two are the
image's."""
EARLY_S = 120.0
"""Who dies after serving for longer died of something else than being new; who has served for so
long since the last died shows that they can."""
AT_ONCE_S = 1.0
"""Those lost on one host within so short a time were lost by one cause, and count once."""


class Losses:
    """New ones that failed in a row. Mutable, and only `turnover` writes it."""

    def __init__(self) -> None:
        self.why = ""
        """Of the last."""
        self._unborn = self._died = 0
        self._host, self._at = "", -math.inf

    @property
    def count(self) -> int:
        return self._unborn + self._died

    def add(self, host: str, served_s: float | None, why: str, now: float) -> None:
        """One was lost there, having served for so long; None: it never got ready."""
        late = served_s is not None and served_s > EARLY_S
        if late or (host == self._host and now - self._at < AT_ONCE_S):
            return
        self._host, self._at, self.why = host, now, why
        if served_s is None:
            self._unborn += 1
        else:
            self._died += 1

    def born(self) -> None:
        """One got ready: the image boots."""
        self._unborn = 0

    def serve(self, since: Collection[float], now: float) -> None:
        """Since when those that serve do so."""
        if any(at > self._at and now - at > EARLY_S for at in since):
            self._died = 0


class Comparison:
    """What requests told of old and new since the first new one served. Mutable, and only
    `turnover` writes it. Whoever leaves meanwhile has told what he told."""

    def __init__(self) -> None:
        self._first: dict[str, Answers] = {}
        self._last: dict[str, Answers] = {}
        self._warm: dict[str, tuple[int, ...]] = {}
        self._new: set[str] = set()

    def read(self, name: str, answers: Answers, *, new: bool, served_s: float) -> None:
        """Its counters now, having served for so long."""
        if name not in self._first:
            # a new one's first second counts: it may be ejected by the end of it
            self._first[name] = Answers() if new else answers
        if new:
            self._new.add(name)
        if name not in self._warm and (not new or served_s >= WARM_S):
            self._warm[name] = answers.durations
        self._last[name] = answers

    def new(self) -> Answers:
        return self._sum(self._new)

    def old(self) -> Answers:
        return self._sum(set(self._last) - self._new)

    def _sum(self, names: set[str]) -> Answers:
        asked = sum(self._last[name].asked - self._first[name].asked for name in names)
        bad = sum(self._last[name].bad - self._first[name].bad for name in names)
        each = [
            [late - early for late, early in zip(self._last[name].durations, warm, strict=False)]
            for name in names
            if (warm := self._warm.get(name)) is not None
        ]
        durations = tuple(map(sum, zip(*each, strict=False)))
        bounds = next((self._last[name].bounds_s for name in names), ())
        return Answers(asked, bad, durations, bounds)
