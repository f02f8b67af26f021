"""What the CPU asks for: target tracking, or the operator's own steps. Pure.

Target tracking: n' = ceil(n × utilisation ÷ target), as in the Kubernetes Horizontal Pod
Autoscaler, with its tolerance of 10 %. Replicas on their way count as there, and not in the mean.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from autoscale.decision import Number, Part
from autoscale.model import Fleet, Reason
from autoscale.parts.reading import Reading, waiting_in_all
from autoscale.rules import Rules
from autoscale.signals import Signals
from autoscale.windows import Window

SMOOTH_S = 10.0
"""Over how long the load is averaged before it is asked how few replicas would do: one second's
figure is noise where requests are few and costly (at 10 requests/s its spread is a third), and the
peak of noise never lets shrink."""
HAIR = 1e-9


class CpuState(NamedTuple):
    """What is remembered between two decisions."""

    smooth: Window = Window(SMOOTH_S)
    """Σ utilisation, those missing taken as busy."""
    above: tuple[float, float, int] | None = None
    """Since when it has been above the target: begin, Σ mean, number of readings."""

    def add(self, reading: Reading, rules: Rules, now: float) -> CpuState:
        above = None
        if reading.mean > rules.target_cpu * (1 + rules.tolerance):
            before = self.above or (reading.begin, 0.0, 0)
            above = (before[0], before[1] + reading.mean, before[2] + 1)
        elif not reading.fresh:
            above = self.above
        smooth = self.smooth
        if reading.serving and reading.fresh:
            smooth = smooth.add(now, reading.at_most)
        return CpuState(smooth, above)


def for_load(work: float, target: float, there: int, tolerance: float) -> int:
    """How many replicas carry `work` (Σ utilisation) at `target` each: as many as are `there`, or
    on their way, where they would be above it by no more than the tolerance."""
    asks = math.ceil(work / target - HAIR)
    if asks > there and work <= there * target * (1 + tolerance) + HAIR:
        return there
    return asks


def cpu_part(
    reading: Reading, state: CpuState, signals: Signals, fleet: Fleet, rules: Rules, now: float
) -> Part | None:
    """None where no replica that serves has a sample: nothing is ever multiplied by zero."""
    if not reading.serving or not reading.fresh:
        return None
    if rules.steps:
        return _stepped(reading, rules)
    smooth = state.smooth.mean(now)
    keeps = math.ceil(
        (reading.at_most if smooth is None else smooth) / (rules.shrink_margin * rules.target_cpu)
        - HAIR
    )
    asks = for_load(
        reading.work * _of_arrivals(signals, reading),
        rules.target_cpu,
        reading.serving + fleet.booting,
        rules.tolerance,
    )
    return Part(Reason.CPU_OVERLOAD, asks, max(1, keeps), _numbers(reading, state, rules, now))


def _of_arrivals(signals: Signals, reading: Reading) -> float:
    """Which share of the work is for requests that come in: what works off a queue is the queue's
    to count, or replicas would start for a load that is over."""
    if signals.arrivals_per_s is None or not waiting_in_all(signals, reading):
        return 1.0
    # of those whose work is counted, and sorted for the same last bit whatever their order
    served = sum(sorted(signals.served_per_s.get(vm, 0.0) for vm in signals.serving))
    if served <= 0:
        return 1.0
    return min(1.0, signals.arrivals_per_s / served)


def _stepped(reading: Reading, rules: Rules) -> Part:
    """The furthest step whose bound was passed; counted from those that serve, so that one that
    boots is not asked for again."""
    serving, mean = reading.serving, reading.mean
    highest = reading.at_most / serving
    up = [s for s in rules.steps if s.change > 0 and mean > s.bound]
    down = [s for s in rules.steps if s.change < 0 and highest < s.bound]
    asks = keeps = serving
    where = "within the steps"
    if up:
        step = max(up, key=lambda s: (s.bound, s.change))
        asks = keeps = serving + step.change
        where = f"beyond {step.bound:.2f}"
    elif down:
        step = min(down, key=lambda s: (s.bound, s.change))
        asks = keeps = max(1, serving + step.change)
        where = f"below {step.bound:.2f}"
    return Part(Reason.STEP, asks, keeps, {"utilisation": mean, "where": where})


def _numbers(reading: Reading, state: CpuState, rules: Rules, now: float) -> dict[str, Number]:
    mean, over_s = reading.mean, reading.end - reading.begin
    if state.above is not None:
        began, total, count = state.above
        mean, over_s = total / count, now - began
    return {
        "utilisation": mean,
        "target": rules.target_cpu,
        "over_s": round(over_s, 1),
        "replicas": reading.serving,
        "on": f"{reading.serving} replica{'s' if reading.serving != 1 else ''}",
    }
