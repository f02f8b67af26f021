"""The CPU signals that can be believed at one instant, and which are missing. Pure.

Owns what a missing sample stands for: idle when growing, busy when shrinking (the rule of the
Kubernetes Horizontal Pod Autoscaler), so that it never makes a machine start or leave by itself.
"""

from __future__ import annotations

from typing import NamedTuple

from autoscale.signals import Signals

BUSY = 1.0
"""What a replica without a sample is taken to use where others would leave."""


class Reading(NamedTuple):
    """CPU of the replicas that serve. Utilisations are sums over replicas: 1.5 keeps one and a half
    of them busy."""

    serving: int
    fresh: int
    work: float
    """Σ utilisation of those with a fresh sample: what is known to be used."""
    begin: float
    end: float
    """What the samples cover: from the beginning of the earliest to the end of the latest."""
    waits: bool = False
    """Some of them had to wait for a core of their host."""

    @property
    def missing(self) -> int:
        return self.serving - self.fresh

    @property
    def at_most(self) -> float:
        """Σ utilisation with those that are missing busy."""
        return self.work + BUSY * (self.serving - self.fresh)

    @property
    def mean(self) -> float:
        """Utilisation of a replica, those that are missing idle."""
        return self.work / self.serving if self.serving else 0.0


def read(signals: Signals, fresh_s: float, now: float) -> Reading:
    """What the newest samples say, those older than `fresh_s` left out."""
    oldest, cpu = now - fresh_s, signals.cpu
    begin, end, waits, work = now, oldest, False, []
    for vm in signals.serving:
        signal = cpu.get(vm)
        if signal is None or signal.at < oldest:
            continue
        work.append(signal.utilisation)
        began = signal.at - signal.interval_s
        if began < begin:
            begin = began
        if signal.at > end:
            end = signal.at
        if signal.delay_ratio:
            waits = True
    # sorted, so that the order of the machines changes not even the last bit
    work.sort()
    fresh = len(work)
    return Reading(len(signals.serving), fresh, sum(work), begin, end if fresh else now, waits)
