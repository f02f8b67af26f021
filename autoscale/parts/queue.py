"""What the queue asks for: by the time it takes to drain. Pure.

Little's law: with n replicas of C requests a second each and λ coming in, a queue of q is gone
after q ÷ (nC - λ). So n = (λ + q ÷ T) ÷ C drains it in T. And CPU says nothing above 1: where it
is used up, n = λ ÷ (C × target) is what target tracking would ask for if it could see the work.
"""

from __future__ import annotations

import math

from autoscale.decision import Part
from autoscale.model import Fleet, Reason
from autoscale.parts.cpu import HAIR, for_load
from autoscale.parts.reading import Reading, waiting_in_all
from autoscale.rules import Rules
from autoscale.signals import Signals


def drain_s(fleet: Fleet, rules: Rules) -> float:
    """In which time a queue may drain: no sooner than help could come."""
    return max(rules.queue_drain_s, fleet.ways[0].seconds if fleet.ways else 0.0)


def queue_part(
    signals: Signals,
    reading: Reading,
    each_per_s: float | None,
    fleet: Fleet,
    rules: Rules,
    base: int,
) -> Part | None:
    """`each_per_s`: what one replica can answer. None where there is no queue and CPU tells enough,
    or nobody knows what a replica can do: then those who wait count as running."""
    arrivals, waiting = signals.arrivals_per_s, waiting_in_all(signals, reading)
    if each_per_s is None or arrivals is None or not (waiting or reading.used_up):
        return None
    there = reading.serving + fleet.booting
    asks = for_load(arrivals / each_per_s, rules.target_cpu, there, rules.tolerance)
    drains: float | None = 0.0
    if waiting:
        drains = _drains_in(waiting, reading.serving * each_per_s - arrivals)
        need = arrivals + waiting / drain_s(fleet, rules)
        to_drain = math.ceil(need / each_per_s - HAIR)
        # a queue that grows while replicas boot is theirs to drain
        asks = max(asks, min(to_drain, fleet.active) if fleet.booting else to_drain)
    return Part(
        Reason.QUEUE,
        asks,
        base if waiting else 0,
        {
            "queued": waiting,
            "drain_s": drains,
            "drains": _words(waiting, drains, arrivals, each_per_s),
            "arrivals_per_s": arrivals,
            "each_per_s": each_per_s,
        },
    )


def _words(queued: int, drain_s: float | None, arrivals_per_s: float, each_per_s: float) -> str:
    if not queued:
        return f"while {arrivals_per_s:.1f} requests/s come and one answers {each_per_s:.1f}"
    rates = f"while {arrivals_per_s:.1f}/s come and one answers {each_per_s:.1f}/s"
    return f"grows {rates}" if drain_s is None else f"drains in {drain_s:.1f} s {rates}"


def _drains_in(queued: int, spare_per_s: float) -> float | None:
    return queued / spare_per_s if spare_per_s > 0 else None
