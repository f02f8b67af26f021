"""How many replicas a service should have. Pure: signals, fleet, state, rules, now → decision.

Owns the rules of growing and shrinking, not the acting on them. It must not read a clock, await,
or know what a hypervisor is. Every answer carries a reason and one sentence with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from autoscale.model import Decision, Fleet, Reason, Signal
from autoscale.windows import Window


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator wants; the defaults and bounds stand in the configuration."""

    min: int
    max: int
    target_cpu: float
    grow_window_s: float
    shrink_window_s: float
    shrink_margin: float
    fresh_s: float
    """A signal older than this is missing. 2.5 sampling intervals: one lost sample is forgiven."""


SMOOTH_S = 10.0
"""Over how long the load is averaged before it is asked how few replicas would do."""

ONE_MISSED_TICK = 1 / 3
"""Of `fresh_s`, which is 2.5 intervals: data that went missing 0.8 intervals ago or less has missed
one tick, and those that events caused meanwhile."""


@dataclass(frozen=True, slots=True)
class State:
    """What one decision leaves for the next."""

    desired: int
    over_since: float | None = None
    """Since when every replica has been above the target without a break: the end of the first
    reading that said so."""
    missed_since: float | None = None
    """Since when samples have been missing; None while none is."""
    needed: Window | None = None
    """How many replicas were needed, tick by tick, over the shrink window."""
    load: Window = field(default_factory=lambda: Window(SMOOTH_S))
    """Σ utilisation of all replicas: one second's figure is noise where requests are few and
    costly (at 10 requests/s its spread is a third), and the peak of noise never lets shrink."""

    @staticmethod
    def start(active: int, rules: Rules) -> State:
        """After a start: as many as there are, within the bounds. No history, so no shrinking."""
        return State(_clamp(active, rules), needed=Window(rules.shrink_window_s))


def _clamp(count: int, rules: Rules) -> int:
    return max(rules.min, min(rules.max, count))


def replicas_needed(load: float, ceiling: float) -> int:
    """The fewest replicas that would carry this load (Σ utilisation) below `ceiling` each.

    Source: target tracking, n' = ceil(Σu / ceiling); with 2 replicas at 0.25 each and a ceiling
    of 0.48 (0.8 × 0.6) that is ceil(0.5 / 0.48) = 2: one would run at 0.50, too close to 0.60.
    """
    return max(1, math.ceil(load / ceiling - 1e-9))


@dataclass(frozen=True, slots=True)
class _Tick:
    """What one decision starts from, and how its answer is put."""

    fleet: Fleet
    state: State
    rules: Rules
    now: float
    base: int
    """How many were wanted before, within the bounds."""
    window: Window
    """How many were needed, up to the last tick."""

    @property
    def held_back(self) -> bool:
        """Launches fail: the fleet will not be what was decided, perhaps for ever, and what is
        ready has to be judged as it is."""
        return self.fleet.launch_failures > 0 and 0 < self.fleet.ready < self.base

    def answer(
        self,
        desired: int,
        reason: Reason,
        why: str,
        *,
        needed: Window | None = None,
        load: Window | None = None,
        over_since: float | None = None,
        missed_since: float | None = None,
    ) -> tuple[Decision, State]:
        """The decision and the next state. Unless told, as many were needed as are wanted, and
        the load is forgotten: so it is whenever the fleet moves or a sample is missing."""
        base = self.base
        sentence = f"{base} → {desired}: {why}" if desired != base else f"stay at {base}: {why}"
        return Decision(self.fleet.service, self.now, base, desired, reason, sentence), State(
            desired,
            over_since,
            missed_since,
            self.window.add(self.now, base) if needed is None else needed,
            load or Window(SMOOTH_S),
        )


@dataclass(frozen=True, slots=True)
class _Reading:
    """Fresh signals of all replicas that serve, and what follows from them."""

    signals: tuple[Signal, ...]
    low: float
    smooth: float
    """Σ utilisation over SMOOTH_S."""
    load: Window
    needed: Window
    numbers: str


def decide(
    signals: Mapping[str, Signal],
    available: tuple[str, ...],
    fleet: Fleet,
    state: State,
    rules: Rules,
    now: float,
) -> tuple[Decision, State]:
    """One decision.

    `signals` are the newest by VM name, `available` the VMs that get requests now: they are the
    capacity, all others only count. Returns the decision and the state for the next call. The
    order of the VMs makes no difference.
    """
    window = state.needed
    if window is None or window.span_s != rules.shrink_window_s:
        window = Window(rules.shrink_window_s)  # a reload changed it: it counts from now
    tick = _Tick(fleet, state, rules, now, _clamp(state.desired, rules), window)
    if state.desired != tick.base:
        return _follow_bounds(tick)
    if not tick.held_back and (fleet.booting or fleet.ready != tick.base):
        # The queue of a slow boot must not start the next one; a fleet in motion never shrinks.
        return tick.answer(tick.base, Reason.SETTLING, _in_motion(fleet))
    newest = tuple(
        signals[name]
        for name in available
        if name in signals and now - signals[name].at <= rules.fresh_s
    )
    if not newest or len(newest) < len(available):
        return _hold_without_data(tick, len(newest), len(available))
    reading = _read(tick, newest)
    if tick.held_back and (fleet.booting or reading.low > rules.target_cpu):
        why = f"{_in_motion(fleet)}, {fleet.launch_failures} launches in a row failed"
        return tick.answer(
            tick.base, Reason.SETTLING, why, needed=reading.needed, load=reading.load
        )
    if reading.low > rules.target_cpu:
        return _grow(tick, reading)
    return _shrink(tick, reading)


def _in_motion(fleet: Fleet) -> str:
    return f"{fleet.ready} ready, {fleet.booting} on the way, {fleet.draining} leaving"


def _follow_bounds(tick: _Tick) -> tuple[Decision, State]:
    """The bounds moved (a reload): follow them at once, whatever the load."""
    before, base, rules = tick.state.desired, tick.base, tick.rules
    reason = Reason.BELOW_MIN if before < base else Reason.ABOVE_MAX
    decision, after = tick.answer(base, reason, "", needed=Window(rules.shrink_window_s))
    why = f"{before} → {base}: the bounds are {rules.min} to {rules.max}"
    return replace(decision, current=before, sentence=why), after


def _hold_without_data(tick: _Tick, fresh: int, available: int) -> tuple[Decision, State]:
    """A missing sample is idle when growing, busy when shrinking: either way, hold.

    An overload outlives one missing tick. What makes a spike too short to count is the time from
    the end of its first reading to the beginning of its last; no gap between them adds to that.
    """
    since = tick.state.missed_since
    since = tick.now if since is None else since
    forgiven = tick.now - since <= ONE_MISSED_TICK * tick.rules.fresh_s
    return tick.answer(
        tick.base,
        Reason.NO_DATA,
        f"fresh samples of {fresh} of {available} replicas",
        over_since=tick.state.over_since if forgiven else None,
        missed_since=since,
    )


def _read(tick: _Tick, newest: tuple[Signal, ...]) -> _Reading:
    rules, now = tick.rules, tick.now
    utilisations = [signal.utilisation for signal in newest]
    count, total = len(utilisations), sum(utilisations)
    load = tick.state.load.add(now, total)
    smooth = load.mean(now) or total
    needed = tick.window.add(now, replicas_needed(smooth, rules.shrink_margin * rules.target_cpu))
    if tick.fleet.unavailable:
        # what they would carry shows with the others, or not at all: nobody knows
        load, needed = Window(SMOOTH_S), tick.window.add(now, tick.base)
    numbers = f"CPU {total / count:.2f} of target {rules.target_cpu:.2f} on {count}"
    return _Reading(newest, min(utilisations), smooth, load, needed, numbers)


def _grow(tick: _Tick, reading: _Reading) -> tuple[Decision, State]:
    """Every replica is above the target: one more, once that has lasted.

    What is certain lies between the end of the first reading above the target and the beginning
    of the newest: a spike of 4.8 s can lift the means of six seconds in a row, and a reading that
    is 2 s old says nothing of those 2 s.
    """
    rules, base, numbers = tick.rules, tick.base, reading.numbers
    over_since = tick.state.over_since
    if over_since is None:
        over_since = max(signal.at for signal in reading.signals)
    lasted = max(0.0, min(s.at - s.interval_s for s in reading.signals) - over_since)
    if base < rules.max and lasted >= rules.grow_window_s:
        why = f"{numbers}, every one above it for {lasted:.1f} s"
        needed = reading.needed.add(tick.now, base + 1)
        return tick.answer(base + 1, Reason.CPU_OVERLOAD, why, needed=needed, load=reading.load)
    if base >= rules.max:
        reason, why = Reason.AT_MAX, f"{numbers}, but max = {rules.max}"
    else:
        reason = Reason.STEADY
        why = f"{numbers} for {lasted:.1f} s of {rules.grow_window_s:g} s"
    return tick.answer(
        base, reason, why, needed=reading.needed, load=reading.load, over_since=over_since
    )


def _shrink(tick: _Tick, reading: _Reading) -> tuple[Decision, State]:
    """One fewer, once fewer would have been enough for the whole window."""
    fleet, rules, base, numbers = tick.fleet, tick.rules, tick.base, reading.numbers
    if fleet.unavailable:
        why = f"{numbers}; {fleet.unavailable} unavailable, so none leaves"
        return tick.answer(base, Reason.HOLD, why, needed=reading.needed, load=reading.load)
    peak = reading.needed.high(tick.now)
    if base == 1 or peak is None or peak >= base or not reading.needed.covers(tick.now):
        reason, why = Reason.STEADY, numbers
        if tick.held_back:
            reason = Reason.SETTLING
            why = f"{numbers}, {fleet.launch_failures} launches in a row failed"
        return tick.answer(base, reason, why, needed=reading.needed, load=reading.load)
    if base <= rules.min:
        why = f"{numbers}, but min = {rules.min}"
        return tick.answer(base, Reason.AT_MIN, why, needed=reading.needed, load=reading.load)
    why = (
        f"{numbers}; {base - 1} would run at {reading.smooth / (base - 1):.2f}, and no more than"
        f" {peak:.0f} was needed for {rules.shrink_window_s:g} s"
    )
    # a fresh window: the next step down waits its full time
    return tick.answer(
        base - 1, Reason.CPU_LOW, why, needed=Window(rules.shrink_window_s), load=reading.load
    )
