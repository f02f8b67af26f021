"""What demand to expect soon, from what it was at the same time of earlier seasons. Pure.

Owns the profile of a season and how wrong its predictions were. Whether anybody acts on them is the
planner's. It must not read a clock, and never invents: without history it says None.

The method is the sparse periodic auto-regression of Chen et al. (Energy-Aware Server Provisioning
and Load Dispatching for Connection-Intensive Internet Services, NSDI 2008), which predicts what was
there a season ago plus what the last few slots had more or less than theirs. Its fitted weights are
replaced by exponential ones: the profile is smoothed per slot as Winters smooths seasonal terms
(Management Science 6/3, 1960), the difference is damped by the slots ahead as in Taylor's
adjustment (Journal of the Operational Research Society 54/8, 2003). It is added, not multiplied:
after a night at 0 no ratio can be formed.

The numbers below were chosen on 15 days of synthetic seconds of 0.2 to 4 replicas' work in requests
of 0.1 s: a sine, one with days of 15 % more or less, working hours, weeks with quiet weekends, and
growth by 10 % a day.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeGuard

VERSION: Final = 1
"""Of what `as_dict` writes."""

SLOTS: Final = 288
SHORTEST_SLOT_S: Final = 30.0
"""A season has 288 slots: 5 minutes of a day, 35 of a week, so a launch comes at most that much too
early. Seasons under 2.4 hours have fewer: in 30 s there are readings enough to tell load from noise
and a machine boots in less."""

PARTS: Final = 5
"""A slot's demand is the highest of the means over its fifths. Capacity must carry the high end of
a rise, not the noise. Of a rise within the slot this sees 90 %, the mean 50 %. Replicas given by it
for a target of 0.6 were overloaded (over 10 s) for a third of the time that those given by the mean
were, at 4 % more of them; by mean + deviation they would be 27 % more, by the 90th percentile of
the seconds 35 %, by their maximum 79 %."""
ENOUGH: Final = 3
"""A slot of which fewer fifths were heard says nothing."""

LEARN: Final = 0.5
"""How much a season's value moves the profile: a pattern that changed has been learnt to 75 % after
two seasons and 88 % after three; a day that was an exception counts for half on the next, then a
quarter."""
FOLLOW: Final = 0.5
"""How much a slot's difference from its profile moves what is added to the next ones."""
DAMP: Final = 0.95
"""What is left of that a slot later: a half after 13, nothing after 288. With both the error was
4 %, with the profile alone 16 %."""

MOST: Final = 1e6
"""No fleet works that much: such a reading is garbage."""
LATEST_S: Final = 1e11
"""The same for Unix seconds: the year 5138."""


class _Running(NamedTuple):
    """The slot that is not over yet."""

    at: float
    """When the newest reading was."""
    until: float
    """When the running part is over."""
    slot: int
    total: float
    readings: int
    heard: int
    """Of how many parts, the running one included."""
    highest: float
    """The highest mean of those before it."""

    @property
    def demand(self) -> float:
        return max(self.highest, self.total / self.readings)


_Compared = tuple[float, float] | None
"""(expected, actual) of a slot."""


@dataclass(frozen=True, slots=True)
class _Learnt:
    """What the slots that are over have taught; changes once a slot."""

    profile: tuple[float | None, ...]
    """By slot of the season; None: never heard."""
    level: float = 0.0
    """By how much the latest slots were above their profile."""
    last: int | None = None
    """The newest slot, counted from 1970."""
    ceiling: float = 0.0
    """The highest of the profile and of the newest slot."""
    compared: tuple[_Compared, ...] = ()
    """Of the last season, by slot."""
    error: float | None = None

    def expected(self, slot: int) -> float | None:
        """The forecast for a slot; None where its profile is not known.

        What is added never lifts it above the highest that is known: a morning that begins a slot
        early is no reason to expect a day twice as high.
        """
        usual = self.profile[slot % len(self.profile)]
        if usual is None or self.last is None:
            return None
        ahead = max(1, abs(slot - self.last))
        return max(0.0, min(self.ceiling, usual + self.level * DAMP**ahead))

    def learn(self, slot: int, demand: float) -> _Learnt:
        """A slot is over, and `demand` was its demand."""
        slots = len(self.profile)
        last = slot - 1 if self.last is None else self.last
        index = slot % slots
        usual = self.profile[index]
        level = self.level * DAMP ** max(1, abs(slot - last))
        expected = self.expected(slot)
        if usual is None:
            learnt = demand
        else:
            level += FOLLOW * (demand - usual - level)
            learnt = usual + LEARN * (demand - usual)
        profile = (*self.profile[:index], learnt, *self.profile[index + 1 :])
        compared = list(self.compared)
        for missed in range(max(last + 1, slot - slots + 1), slot):
            compared[missed % slots] = None  # what stands there is older than a season
        compared[index] = None if expected is None else (expected, demand)
        return _learnt(profile, level, slot, demand, tuple(compared))


def _learnt(
    profile: tuple[float | None, ...],
    level: float,
    last: int | None,
    demand: float,
    compared: tuple[_Compared, ...],
) -> _Learnt:
    """With what follows from the rest. `demand`: of the newest slot."""
    ceiling = max(demand, max((usual for usual in profile if usual is not None), default=0.0))
    pairs = [pair for pair in compared if pair is not None]
    actual = math.fsum(pair[1] for pair in pairs)
    missed = math.fsum(abs(pair[0] - pair[1]) for pair in pairs)
    error = missed / actual if actual > 0 else None
    return _Learnt(profile, level, last, ceiling, compared, error)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The demand to expect, in replicas' work: how many replicas it would keep busy.

    Adding and asking are O(1), memory is that of `SLOTS` numbers and pairs of numbers. Slots are
    counted in Unix time: where clocks are put forward the pattern has moved by an hour and is
    learnt anew, in two or three days.
    """

    season_s: float
    _slot_s: float
    _learnt: _Learnt
    _running: _Running | None = None

    @staticmethod
    def start(season_s: float) -> Forecast:
        """Without any history. ValueError where `season_s` is not a time of at least a second."""
        if not 1 <= season_s <= LATEST_S:
            raise ValueError(f"a season of {season_s} s")
        slots = _slots(season_s)
        nothing = _Learnt(profile=(None,) * slots, compared=(None,) * slots)
        return Forecast(season_s, season_s / slots, nothing)

    @property
    def error(self) -> float | None:
        """How wrong it was over the last season: Σ|expected - actual| ÷ Σ actual of its slots, each
        as expected before it began (the weighted absolute percentage error: Kolassa and Schütz,
        Foresight 6, 2007). None until one was compared, and while all of them were idle."""
        return self._learnt.error

    def add(self, wall_s: float, demand: float) -> Forecast:
        """With one more reading of the demand; one in a second is what is meant.

        What cannot be is left out: a negative demand, one without an end, a time that is not after
        the last one. A clock that steps back by more than a slot makes the running slot void and
        goes on from there; a slot that it comes to twice is learnt twice.
        """
        running = self._running
        if not (0.0 <= demand <= MOST and -LATEST_S <= wall_s <= LATEST_S):
            return self
        if running is None or not running.at < wall_s < running.until:
            return self._next_part(wall_s, demand)
        _, until, slot, total, readings, heard, highest = running
        running = _Running(wall_s, until, slot, total + demand, readings + 1, heard, highest)
        return Forecast(self.season_s, self._slot_s, self._learnt, running)

    def _next_part(self, wall_s: float, demand: float) -> Forecast:
        running, learnt = self._running, self._learnt
        part_s = self._slot_s / PARTS
        part = math.floor(wall_s / part_s)
        slot = part // PARTS
        heard, highest = 0, 0.0
        if running is not None:
            if 0 <= running.at - wall_s < self._slot_s:
                return self
            if slot == running.slot:
                heard, highest = running.heard, running.demand
            elif slot > running.slot and running.heard >= ENOUGH:
                learnt = learnt.learn(running.slot, running.demand)
        until = (part + 1) * part_s
        running = _Running(wall_s, until, slot, demand, 1, heard + 1, highest)
        return Forecast(self.season_s, self._slot_s, learnt, running)

    def expect(self, wall_s: float, lead_s: float) -> float | None:
        """The highest demand expected from `wall_s` to `lead_s` seconds later; of a `lead_s` longer
        than a season, a season counts.

        None where any slot between the two was not heard in an earlier season: in the first season
        always, and after it where there was a gap. Never below 0, never above the highest reading.
        """
        if not -LATEST_S <= wall_s <= LATEST_S:
            return None
        learnt = self._learnt
        first = math.floor(wall_s / self._slot_s)
        last = first
        if lead_s > 0:
            last = math.floor((wall_s + min(lead_s, self.season_s)) / self._slot_s)
        highest = 0.0
        for slot in range(first, last + 1):
            expected = learnt.expected(slot)
            if expected is None:
                return None
            highest = max(highest, expected)
        return highest

    def as_dict(self) -> dict[str, Any]:
        """For JSON: everything but the slot that is running."""
        learnt = self._learnt
        return {
            "version": VERSION,
            "season_s": self.season_s,
            "profile": list(learnt.profile),
            "level": learnt.level,
            "last": learnt.last,
            "ceiling": learnt.ceiling,
            "compared": [pair and list(pair) for pair in learnt.compared],
        }

    @staticmethod
    def from_dict(data: object, season_s: float | None = None) -> Forecast | None:
        """What `as_dict` gave. None for anything else, and for another season than `season_s` where
        that is given: a day's slots say nothing about a week's. Raises nothing."""
        if not isinstance(data, dict) or data.get("version") != VERSION:
            return None
        season, profile, compared = (data.get(k) for k in ("season_s", "profile", "compared"))
        last, level, ceiling = (data.get(k) for k in ("last", "level", "ceiling"))
        if not _is_number(season, 1, LATEST_S) or season_s not in (None, season):
            return None
        slots = _slots(season)
        if not (isinstance(profile, list) and isinstance(compared, list)):
            return None
        if not len(profile) == len(compared) == slots:
            return None
        if not all(usual is None or _is_number(usual, 0, MOST) for usual in profile):
            return None
        if not all(pair is None or _is_pair(pair) for pair in compared):
            return None
        if not (_is_number(level, -MOST, MOST) and _is_number(ceiling, 0, MOST)):
            return None
        if last is not None and not (isinstance(last, int) and abs(last) <= LATEST_S):
            return None
        pairs = tuple(pair and (pair[0], pair[1]) for pair in compared)
        learnt = _learnt(tuple(profile), level, last, ceiling, pairs)
        return Forecast(season, season / slots, learnt)


def _slots(season_s: float) -> int:
    return max(1, min(SLOTS, int(season_s / SHORTEST_SLOT_S)))


def _is_number(value: object, least: float, most: float) -> TypeGuard[float]:
    """Booleans are none; not-a-number is within no bounds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _is_pair(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(_is_number(number, 0, MOST) for number in value)
