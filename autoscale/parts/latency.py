"""What a latency objective asks for, where CPU and concurrency say "enough". Pure.

More machines do not make every answer quicker: a slow database stays slow. So each one started for
latency alone is a trial. Where it helped, its replica is kept for as long as there is as much to
do; where it did not, nobody is started for latency for a while.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from autoscale.decision import Part
from autoscale.model import Fleet, Reason
from autoscale.windows import Window

OVER_S = 10.0
"""What the pool's p99 covers."""
JUDGED_AFTER_S = 2 * OVER_S
"""So long after the replica serves: by then every request of before has left the p99."""
HELPED = 0.9
"""A p99 below this share of the one before has become better: less is noise."""
GIVE_UP_S = 600.0
"""For so long nobody is started for latency after a trial that helped nobody; and a trial that
could not be judged in this time, because its replica never came or nobody asked, is over too."""
WORK_S = 60.0
"""Over how long the work is averaged: where requests are few, one second of it is a third off, and
what a trial won would be lost to noise, to be tried again, for ever."""
NEAR = 0.8
"""Above this share of the objective nobody leaves; below this share of the work then, the replica
that a trial won may."""


class Trial(NamedTuple):
    """One more was started for latency alone; it is not known yet whether that helps."""

    replicas: int
    """With it."""
    before_s: float
    """p99 before."""
    work: float
    """Σ utilisation before."""
    began: float


class LatencyState(NamedTuple):
    """What trials taught."""

    trial: Trial | None = None
    serves_since: float | None = None
    """Since when as many serve as the trial is about."""
    won: tuple[int, float] | None = None
    """So many were needed at this work."""
    futile_until: float = -math.inf
    work: Window = Window(WORK_S)

    def judge(
        self, p99_s: float | None, fleet: Fleet, base: int, work: float | None, now: float
    ) -> LatencyState:
        """How the trial goes. `base`: how many are wanted; `work`: Σ utilisation, None where
        samples are missing."""
        state = self if work is None else self._replace(work=self.work.add(now, work))
        mean, trial = state.work.mean(now), state.trial
        if state.won is not None and mean is not None and mean <= NEAR * state.won[1]:
            state = state._replace(won=None)
        if trial is None:
            return state
        if base < trial.replicas:
            # an operator, the bounds or an idle minute took it back: nothing was learned
            return state._replace(trial=None, serves_since=None)
        if now - trial.began >= GIVE_UP_S:
            return state._over(futile_until=now + GIVE_UP_S)
        if fleet.ready < trial.replicas:
            return state._replace(serves_since=None)
        if state.serves_since is None:
            return state._replace(serves_since=now)
        if now - state.serves_since < JUDGED_AFTER_S or p99_s is None:
            return state
        if p99_s < HELPED * trial.before_s:
            return state._over(won=(trial.replicas, trial.work))
        return state._over(futile_until=now + GIVE_UP_S)

    def tried(self, replicas: int, p99_s: float, now: float) -> LatencyState:
        """So many were asked for. What an earlier trial has won needs no other."""
        if self.won is not None and replicas <= self.won[0]:
            return self
        work = self.work.mean(now)
        # of what nobody could measure nothing is won for long
        trial = Trial(replicas, p99_s, math.inf if work is None else work, now)
        return self._replace(trial=trial, serves_since=None)

    def _over(
        self, *, won: tuple[int, float] | None = None, futile_until: float = -math.inf
    ) -> LatencyState:
        return LatencyState(won=won or self.won, futile_until=futile_until, work=self.work)


def latency_part(
    state: LatencyState,
    p99_s: float | None,
    target_s: float | None,
    base: int,
    now: float,
    *,
    enough: bool,
) -> Part | None:
    """None without an objective, or without a request to measure. `enough`: nobody else asks for
    more; where somebody does, that is tried first."""
    if target_s is None or p99_s is None:
        return None
    keeps = state.won[0] if state.won is not None else 0
    asks = keeps
    if state.trial is not None:
        asks = keeps = max(keeps, state.trial.replicas)
    elif now >= state.futile_until:
        if p99_s > target_s and enough:
            asks = base + 1
        if p99_s > NEAR * target_s:
            keeps = max(keeps, base)
    return Part(Reason.LATENCY, asks, keeps, {"p99_s": p99_s, "target_s": target_s})
