"""How many requests a second a replica can serve, learned from what it served. Pure.

The utilisation law: a replica that answers X requests a second and is busy for a share U of the
time can answer X ÷ U (Denning and Buzen, "The Operational Analysis of Queueing Network Models",
1978). CPU says nothing above 1; this tells how much work there really is. Where somebody waits all
the time, a replica answers as many as it can, whatever its CPU does: it may wait for a database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from autoscale.signals import Signals

LEAST_BUSY = 0.1
"""Below, timers and health checks would be a good part of what is measured."""
LEAST_KNOWN = 0.1
"""Σ U faded, from which on a capacity is told: two seconds of one busy replica."""
MEMORY_S = 20.0
"""What was learned fades with this time constant: requests change their cost with a deployment,
and one second's X ÷ U is noise where requests are few."""


class Capacity(NamedTuple):
    """`busy` holds (X, U) by VM, both faded alike, so that their quotient weighs each second by its
    load. `usual` is what a replica can do on average; kept while there is none, None before the
    first was learned."""

    busy: Mapping[str, tuple[float, float]] = {}
    usual: float | None = None

    def learn(self, signals: Signals, fresh_s: float, now: float) -> Capacity:
        """With one more reading. VMs that serve no more are forgotten."""
        served, cpu, oldest = signals.served_per_s, signals.cpu, now - fresh_s
        new = min(1.0, signals.reading_s / MEMORY_S)
        keep, before = 1 - new, self.busy
        saturated = signals.waiting_s >= signals.reading_s
        busy = {}
        for vm in signals.serving:
            signal, rate, known = cpu.get(vm), served.get(vm), before.get(vm)
            if signal is None or rate is None or signal.at < oldest:
                used = 0.0
            else:
                used = signal.utilisation
                # one that joined within this reading did not answer all through it
                if saturated and used < 1.0 and known is not None:
                    used = 1.0
            if used >= LEAST_BUSY and rate is not None:
                x, u = known or (0.0, 0.0)
                known = (x * keep + rate * new, u * keep + used * new)
            if known is not None:
                busy[vm] = known
        # sorted, for the same last bit whatever their order
        answered = worked = 0.0
        for x, u in sorted(busy.values()):
            answered += x
            worked += u
        enough = answered > 0 and worked >= LEAST_KNOWN
        return Capacity(busy, answered / worked if enough else self.usual)
