"""How fast a fleet may follow what is asked for: windows that grow, windows that shrink, limits.

Pure and immutable. What is cheap and reversible may be quick, what is costly must be sure: a level
is acted on once it was asked for, without a break, through the window of the way the replica comes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from autoscale.model import Path, Way
from autoscale.rules import RateLimit, Rules
from autoscale.sustained import Sustained

INSTANT, AVERAGED, SLOW = range(3)
"""How the figures came about that asked: seen at this instant (a queue), as means since the last
reading (CPU), as means over ten seconds (a p99)."""


class Asked(NamedTuple):
    """What the parts ask for at one instant, by how their figures came about."""

    replicas: int
    begin: float
    """What the figure covers: a mean says nothing of the moments within it."""
    end: float


AskedAll = tuple[Asked, Asked, Asked]
"""By INSTANT, AVERAGED, SLOW."""


class Lull(NamedTuple):
    """What pauses in the load taught: whoever left in one was missed at its end.

    Loads that come in waves, such as every five minutes, would else cost a start each, and the
    seconds that it takes. A pause that ended within the longest hold makes nobody leave in the next
    one of its kind; it is forgotten once no wave has come for HOLD_FOR_S.
    """

    fell_at: float | None = None
    """When the load fell because of which somebody left; None while all came back since."""
    hold_s: float = 0.0
    """So long fewer must have been enough, where that is longer than the window."""
    until: float = -math.inf

    def left(self, fell_at: float) -> Lull:
        return self if self.fell_at is not None else self._replace(fell_at=fell_at)

    def came_back(self, longest_s: float, now: float) -> Lull:
        """Somebody is started for the load: how long did the pause last?"""
        if self.fell_at is None:
            return self
        lasted_s = now - self.fell_at
        if lasted_s > longest_s:
            return self._replace(fell_at=None)
        hold_s = max(self.hold_s if now < self.until else 0.0, SPARE * lasted_s)
        return Lull(None, min(longest_s, hold_s), now + HOLD_FOR_S)

    def window(self, window_s: float, now: float) -> float:
        return max(window_s, self.hold_s) if now < self.until else window_s


SPARE = 1.25
"""The next pause may be a quarter longer than the last one."""
HOLD_FOR_S = 3600.0
"""So long a lull is remembered: then somebody leaves in one again, to see whether it still ends."""


class Pace(NamedTuple):
    """What was asked for lately, and what was done about it."""

    up: tuple[Sustained, Sustained, Sustained] = (Sustained(), Sustained(), Sustained())
    down: Sustained = Sustained()
    """Of what was to be kept, with the sign turned: what was never exceeded."""
    changes: tuple[tuple[float, int], ...] = ()
    """When the fleet changed, and by how much; as far back as a limit looks."""
    lull: Lull = Lull()

    def ask(self, asked: AskedAll) -> Pace:
        """One more instant. Counted from the end of the first reading that asked for so many: what
        was before, within it, nobody knows."""
        a, b, c = asked
        up = (
            self.up[0].add(a.replicas, a.end),
            self.up[1].add(b.replicas, b.end),
            self.up[2].add(c.replicas, c.end),
        )
        return Pace(up, self.down, self.changes, self.lull)

    def at_least_as_before(self, asked: AskedAll) -> AskedAll:
        """Where samples are missing: what was asked for last still is."""
        ask, steps = asked[AVERAGED], self.up[AVERAGED].steps
        last = steps[-1][0] if steps else 0
        return asked[INSTANT], ask._replace(replicas=max(ask.replicas, last)), asked[SLOW]

    def keep(self, replicas: int, now: float) -> Pace:
        return Pace(self.up, self.down.add(-replicas, now), self.changes, self.lull)

    def changed(self, by: int, rules: Rules, now: float, *, by_load: bool) -> Pace:
        """The fleet changes by so many: the window of the other direction begins anew, so it does
        not flip within it. `by_load`: not because somebody, or a schedule, says so."""
        longest_s = max(rules.grow_limit.period_s, rules.shrink_limit.period_s)
        recent = tuple(change for change in self.changes if change[0] > now - longest_s)
        changes, lull = (*recent, (now, by)), self.lull
        if by > 0:
            # who came back because somebody said so tells nothing of the load
            lull = lull.came_back(rules.shrink_window_max_s if by_load else 0.0, now)
            return Pace(self.up, Sustained(), changes, lull)
        if by_load:
            lull = lull.left(now - lull.window(rules.shrink_window_s, now))
        return Pace(Pace().up, self.down, changes, lull)

    def sustained(self, window_s: float, asked: AskedAll) -> int:
        """How many were asked for all through the last `window_s`: a spike that is any shorter
        counts for nothing, whatever it does to the means around it."""
        levels = [
            level
            for steps, ask in zip(self.up, asked, strict=True)
            if (level := steps.at_least(ask.begin - window_s)) is not None
        ]
        return max(levels, default=0)

    def lasted(self, replicas: int, asked: AskedAll) -> float:
        """For how many seconds at least so many have been asked for, for certain."""
        seconds = [
            ask.begin - began
            for steps, ask in zip(self.up, asked, strict=True)
            if (began := steps.began(replicas)) is not None
        ]
        return max(0.0, *seconds) if seconds else 0.0

    def kept(self, window_s: float, now: float) -> int | None:
        """The most that was to be kept within the window; None where history does not reach back
        so far."""
        level = self.down.at_least(now - window_s)
        return None if level is None else -level

    def room_up(self, limit: RateLimit, base: int, now: float) -> int:
        """How many may still be started."""
        recent = self._within(limit, now)
        done = sum(by for by in recent if by > 0)
        return self._room(limit, base - sum(recent), done)

    def room_down(self, limit: RateLimit, base: int, now: float) -> int:
        """How many may still leave."""
        recent = self._within(limit, now)
        done = -sum(by for by in recent if by < 0)
        return self._room(limit, base - sum(recent), done)

    def _within(self, limit: RateLimit, now: float) -> list[int]:
        return [by for at, by in self.changes if at > now - limit.period_s]

    @staticmethod
    def _room(limit: RateLimit, before: int, done: int) -> int:
        """`before`: how many there were when the period began."""
        return max(0, max(limit.replicas, math.floor(limit.percent * before / 100)) - done)


def window_of(path: Path, rules: Rules) -> float:
    """How long an overload must last before a replica comes this way."""
    return {
        Path.STANDBY: rules.standby_window_s,
        Path.SNAPSHOT: rules.snapshot_window_s,
        Path.COLD: rules.grow_window_s,
    }[path]


def grow(
    pace: Pace,
    asked: AskedAll,
    ways: tuple[Way, ...],
    base: int,
    rules: Rules,
) -> tuple[int, Way | None]:
    """How many there may be now, and how the first of those that are missing comes."""
    desired, first = base, None
    for way in ways:
        level = pace.sustained(window_of(way.path, rules), asked)
        more = max(0, level - desired)
        if way.available is not None:
            more = min(more, way.available)
        if more and first is None:
            first = way
        desired += more
    return desired, first
