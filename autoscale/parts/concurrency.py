"""What running requests ask for, in the way of Knative's autoscaler. Pure.

A stable window (60 s) and a panic window (6 s): where the short one shows twice what the replicas
are for, it counts alone and nobody leaves until it was below for 60 s. Measured against those that
serve *and* those that boot, so that the queue of a slow boot does not inflate the count. Source:
Knative Serving, "Configuring the autoscaler" and its KPA design (stable and panic mode).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from autoscale.decision import Part
from autoscale.model import Fleet, Reason
from autoscale.parts.cpu import HAIR
from autoscale.rules import Rules
from autoscale.signals import Signals
from autoscale.windows import Window


class ConcurrencyState(NamedTuple):
    """Means are of replicas' worth: running requests ÷ target_concurrency, with the queue."""

    stable: Window
    panic: Window
    panic_until: float = -math.inf

    def panics(self, now: float) -> bool:
        return now < self.panic_until


def start(rules: Rules) -> ConcurrencyState:
    return ConcurrencyState(Window(rules.stable_window_s), Window(rules.panic_window_s))


def measure(
    state: ConcurrencyState,
    signals: Signals,
    fleet: Fleet,
    drains_per_replica: float | None,
    rules: Rules,
    now: float,
) -> tuple[ConcurrencyState, float]:
    """The state with this instant, and how many replicas' worth there is now. `drains_per_replica`:
    how many of a queue one replica works off in the time it may take; None where nobody knows, and
    then who waits counts like who runs."""
    if (state.stable.span_s, state.panic.span_s) != (rules.stable_window_s, rules.panic_window_s):
        state = start(rules)  # a reload changed them: they count from now
    running = signals.in_flight / rules.target_concurrency
    waiting = signals.queued / (drains_per_replica or rules.target_concurrency)
    if fleet.booting:
        # those on their way are for those who wait
        waiting = min(waiting, max(0.0, fleet.active - running))
    worth = running + waiting
    stable, panic = state.stable.add(now, worth), state.panic.add(now, worth)
    until = state.panic_until
    mean = panic.mean(now)
    if fleet.active and mean is not None and mean >= rules.panic_at * fleet.active:
        until = now + rules.stable_window_s
    return ConcurrencyState(stable, panic, until), worth


def concurrency_part(
    state: ConcurrencyState, worth: float, fleet: Fleet, rules: Rules, now: float
) -> Part:
    """Asks by the mean of its window, and by no more than there is this instant: the mean of a
    minute would else go on asking for a spike that is over."""
    panics = state.panics(now)
    stable = state.stable.mean(now) or 0.0
    mean, window = stable, state.stable
    if panics:
        mean, window = state.panic.mean(now) or 0.0, state.panic
    wanted = min(mean, worth)
    asks = math.ceil(wanted - HAIR)
    if asks > fleet.active and wanted <= fleet.active * (1 + rules.tolerance):
        asks = fleet.active
    keeps = math.ceil(stable / rules.shrink_margin - HAIR)
    return Part(
        Reason.CONCURRENCY,
        asks,
        keeps,
        {
            "in_flight": worth * rules.target_concurrency,
            "mean": mean * rules.target_concurrency,
            "target": rules.target_concurrency,
            "over_s": window.span_s,
        },
    )
