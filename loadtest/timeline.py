"""Where a running test stands in its plan, and when each next request is due. Pure.

Owns the one mutable position: current phase, how much of the rate's integral has passed, which
count is due next. Times are seconds since the test began and come in as arguments, randomness as
an `rng`; whoever drives it does the waiting and the sending.

Send times invert the integral of the rate. With constant arrivals the n-th request (n = 0, 1, …)
is due where the integral reaches n + ½: spacing is exactly 1/rate, a plan's count is its integral
rounded, and a fraction left over at the end of a phase carries into the next one. With Poisson
arrivals the targets are a unit-rate Poisson process (exponential gaps of mean 1), which the same
inversion turns into one of rate(t): the time-rescaling theorem.

Several workers share one plan: worker k of N takes every N-th of the same arrivals, from the k-th
on, so that together they send at the times at which one alone would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from loadtest.errors import PlanError, ShiftError
from loadtest.plan import Phase, Plan, check_rate
from loadtest.profiles import Constant, Profile

Arrivals = Literal["constant", "poisson"]
Cause = Literal["plan", "control", "signal"]


class Rng(Protocol):
    """The part of `random.Random` that is needed."""

    def expovariate(self, lambd: float) -> float:
        """An exponentially distributed number of mean 1/lambd."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A change of phase or rate, `t` seconds after the start."""

    t: float
    phase: str
    rate: float
    cause: Cause


@dataclass(slots=True)
class Visit:
    """One stay in a phase; going back to a phase later is another visit."""

    phase: Phase
    start: float
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """Which of the arrivals are this timeline's: the `index`-th (from 0) of every `of`."""

    index: int = 0
    of: int = 1


ALL = Share()


def check_shift_rate(rate: float) -> None:
    """May a phase be given this rate? Raises ShiftError."""
    try:
        check_rate(rate, f"rate {rate:g}")
    except PlanError as wrong:
        raise ShiftError(str(wrong)) from None


class Timeline:
    """Hands out due times in order and moves through the phases, planned or shifted."""

    def __init__(self, plan: Plan, arrivals: Arrivals, rng: Rng, share: Share | None = ALL) -> None:
        """`share` None: keeps the phases' time and hands out nothing."""
        self.plan = plan
        self.shifts: list[Shift] = []
        self.visits: list[Visit] = []
        self.finished = False
        poisson = arrivals == "poisson"
        self._gap: Callable[[], float] = partial(rng.expovariate, 1.0) if poisson else _evenly
        self._stride = 1 if share is None else share.of
        # The integral at which the next request is due; summed gap by gap, so that the times are
        # the same to the last bit however many workers there are.
        self._goal = math.inf if share is None else self._gap() if poisson else 0.5
        for _ in range(0 if share is None else share.index):
            self._goal += self._gap()
        self._index = 0
        self._profile: Profile = plan.phases[0].profile
        self._segment_start = 0.0  # since when `_profile` holds …
        self._segment_base = 0.0  # … and the integral up to then
        self._ends = math.inf
        self._next = math.inf
        self._enter(0, 0.0, "plan")

    @property
    def phase(self) -> Phase:
        """The current phase (after the end: the last one)."""
        return self.plan.phases[self._index]

    @property
    def index(self) -> int:
        """The current phase's place in the plan."""
        return self._index

    @property
    def since(self) -> float:
        """When the current rate began to hold: no shift may lie before it."""
        return self._segment_start

    @property
    def ends_at(self) -> float:
        """When the current phase ends by plan; `inf` if it waits for a trigger."""
        return self._ends

    @property
    def wakes_at(self) -> float:
        """When `due` next has something to do: a request or a planned change of phase."""
        return min(self._next, self._ends)

    def rate(self, now: float) -> float:
        """The intended rate at `now`, requests per second; 0 once finished."""
        return 0.0 if self.finished else self._profile.rate(max(now - self._segment_start, 0.0))

    @property
    def last_rate(self) -> float:
        """Once finished: the rate up to the end."""
        end = self.visits[-1].end
        return 0.0 if end is None else self._profile.rate(end - self._segment_start)

    def due(self, now: float, limit: int) -> list[tuple[float, int]]:
        """Takes at most `limit` requests due by `now`: (intended time, index into `visits`)."""
        taken: list[tuple[float, int]] = []
        visit = len(self.visits) - 1
        while len(taken) < limit and self.wakes_at <= now:
            if self._next < self._ends:
                taken.append((self._next, visit))
                for _ in range(self._stride):
                    self._goal += self._gap()
                self._aim()
            elif self._index + 1 < len(self.plan.phases):
                self._enter(self._index + 1, self._ends, "plan")
                visit += 1
            else:
                self.finish(self._ends)
        return taken

    def shift(self, now: float, name: str, cause: Cause) -> None:
        """Enters the phase `name` now: the next of that name after this one, else the first."""
        places = [i for i, phase in enumerate(self.plan.phases) if phase.name == name]
        if not places:
            raise ShiftError(f"phase {name!r}: the plan has {', '.join(self.plan.names)}")
        later = [i for i in places if i > self._index]
        self.enter(now, (later or places)[0], cause)

    def step(self, now: float, steps: int, cause: Cause) -> bool:
        """To the phase `steps` further on (or back); False if there is none, nothing changes."""
        index = self._index + steps
        if self.finished or not 0 <= index < len(self.plan.phases):
            return False
        self.enter(now, index, cause)
        return True

    def enter(self, now: float, index: int, cause: Cause) -> None:
        """Enters the plan's phase of that index now. Raises ShiftError once finished."""
        self._must_be_running(now)
        self._enter(index, now, cause)

    def set_rate(self, now: float, rate: float, cause: Cause) -> None:
        """Replaces the current phase's rate from now on; its end stays where it is."""
        check_shift_rate(rate)
        self._must_be_running(now)
        self._segment_base = self._integral(now)
        self._segment_start = now
        self._profile = Constant(rate)
        self.shifts.append(Shift(now, self.phase.name, rate, cause))
        self._aim()

    def finish(self, now: float) -> None:
        """No request is due after `now`. Again: no effect."""
        if self.finished:
            return
        self.finished = True
        self.visits[-1].end = now
        self._next = self._ends = math.inf

    def _must_be_running(self, now: float) -> None:
        if self.finished:
            raise ShiftError("the test sends no more requests")
        if self.wakes_at <= now:
            raise ValueError("take what is due before shifting, or it would be lost")

    def _enter(self, index: int, at: float, cause: Cause) -> None:
        self._segment_base = self._integral(at)
        self._segment_start = at
        if self.visits:
            self.visits[-1].end = at
        self._index = index
        self._profile = self.phase.profile
        self._ends = math.inf if self.phase.seconds is None else at + self.phase.seconds
        self.visits.append(Visit(self.phase, at))
        self.shifts.append(Shift(at, self.phase.name, self._profile.rate(0.0), cause))
        self._aim()

    def _integral(self, now: float) -> float:
        return self._segment_base + self._profile.count(now - self._segment_start)

    def _aim(self) -> None:
        # max(): at a phase boundary the goal may lie a rounding error below the integral so far.
        left = max(self._goal - self._segment_base, 0.0)
        self._next = self._segment_start + self._profile.time_of(left)


def _evenly() -> float:
    return 1.0
