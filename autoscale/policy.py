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


@dataclass(frozen=True, slots=True)
class State:
    """What one decision leaves for the next."""

    desired: int
    over_since: float | None = None
    """Since when every replica has been above the target without a break: the end of the first
    reading that said so."""
    needed: Window | None = None
    """How many replicas were needed, tick by tick, over the shrink window."""
    load: Window = field(default_factory=lambda: Window(SMOOTH_S))
    """Σ utilisation of all replicas: one second's figure is noise where requests are few and
    costly (at 10 requests/s its spread is a third), and the peak of noise never lets shrink."""

    @staticmethod
    def start(active: int, rules: Rules) -> State:
        """After a start: as many as there are, within the bounds. No history, so no shrinking."""
        return State(_clamp(active, rules), None, Window(rules.shrink_window_s))


def _clamp(count: int, rules: Rules) -> int:
    return max(rules.min, min(rules.max, count))


def replicas_needed(load: float, ceiling: float) -> int:
    """The fewest replicas that would carry this load (Σ utilisation) below `ceiling` each.

    Source: target tracking, n' = ceil(Σu / ceiling); with 2 replicas at 0.25 each and a ceiling
    of 0.48 (0.8 × 0.6) that is ceil(0.5 / 0.48) = 2: one would run at 0.50, too close to 0.60.
    """
    return max(1, math.ceil(load / ceiling - 1e-9))


def decide(
    signals: Mapping[str, Signal],
    ready: tuple[str, ...],
    fleet: Fleet,
    state: State,
    rules: Rules,
    now: float,
) -> tuple[Decision, State]:
    """One decision.

    `signals` are the newest by VM name, `ready` the VMs that serve now. Returns the decision and
    the state for the next call. The order of the VMs makes no difference.
    """
    window = state.needed
    if window is None or window.span_s != rules.shrink_window_s:
        window = Window(rules.shrink_window_s)  # a reload changed it: it counts from now
    base = _clamp(state.desired, rules)
    load = Window(SMOOTH_S)  # forgotten whenever the fleet moves or a sample is missing

    def answer(
        desired: int, reason: Reason, why: str, *, over_since: float | None, needed: Window
    ) -> tuple[Decision, State]:
        sentence = f"{base} → {desired}: {why}" if desired != base else f"stay at {base}: {why}"
        decision = Decision(fleet.service, now, base, desired, reason, sentence)
        return decision, State(desired, over_since, needed, load)

    if state.desired != base:
        # the bounds moved (a reload): follow them at once, whatever the load
        reason = Reason.BELOW_MIN if state.desired < base else Reason.ABOVE_MAX
        decision, after = answer(base, reason, "", over_since=None, needed=Window(window.span_s))
        why = f"{state.desired} → {base}: the bounds are {rules.min} to {rules.max}"
        return replace(decision, current=state.desired, sentence=why), after

    if fleet.booting or fleet.ready != base:
        # The queue of a slow boot must not start the next one; a fleet in motion never shrinks.
        why = f"{fleet.ready} ready, {fleet.booting} on the way, {fleet.draining} leaving"
        return answer(base, Reason.SETTLING, why, over_since=None, needed=window.add(now, base))

    newest = [
        signals[name]
        for name in ready
        if name in signals and now - signals[name].at <= rules.fresh_s
    ]
    fresh = [signal.utilisation for signal in newest]
    if not fresh or len(fresh) < len(ready):
        # A missing sample is idle when growing, busy when shrinking: either way, hold.
        why = f"fresh samples of {len(fresh)} of {len(ready)} replicas"
        return answer(base, Reason.NO_DATA, why, over_since=None, needed=window.add(now, base))

    count, low, total = len(fresh), min(fresh), sum(fresh)
    load = state.load.add(now, total)
    smooth = load.mean(now) or total
    needed = window.add(now, replicas_needed(smooth, rules.shrink_margin * rules.target_cpu))
    numbers = f"CPU {total / count:.2f} of target {rules.target_cpu:.2f} on {count}"

    if low > rules.target_cpu:
        # What is certain lies between the end of the first reading above the target and the
        # beginning of the newest: a spike of 4.8 s can lift the means of six seconds in a row,
        # and a reading that is 2 s old says nothing of those 2 s.
        over_since = state.over_since
        if over_since is None:
            over_since = max(signal.at for signal in newest)
        lasted = max(0.0, min(s.at - s.interval_s for s in newest) - over_since)
        if base >= rules.max:
            return answer(
                base,
                Reason.AT_MAX,
                f"{numbers}, but max = {rules.max}",
                over_since=over_since,
                needed=needed,
            )
        if lasted < rules.grow_window_s:
            why = f"{numbers} for {lasted:.1f} s of {rules.grow_window_s:g} s"
            return answer(base, Reason.STEADY, why, over_since=over_since, needed=needed)
        why = f"{numbers}, every one above it for {lasted:.1f} s"
        return answer(
            base + 1, Reason.CPU_OVERLOAD, why, over_since=None, needed=needed.add(now, base + 1)
        )

    peak = needed.high(now)
    if base > 1 and peak is not None and peak < base and needed.covers(now):
        if base <= rules.min:
            return answer(
                base,
                Reason.AT_MIN,
                f"{numbers}, but min = {rules.min}",
                over_since=None,
                needed=needed,
            )
        rest = smooth / (count - 1)
        why = (
            f"{numbers}; {base - 1} would run at {rest:.2f}, and no more than {peak:.0f} was"
            f" needed for {rules.shrink_window_s:g} s"
        )
        # a fresh window: the next step down waits its full time
        return answer(
            base - 1, Reason.CPU_LOW, why, over_since=None, needed=Window(rules.shrink_window_s)
        )
    return answer(base, Reason.STEADY, numbers, over_since=None, needed=needed)
