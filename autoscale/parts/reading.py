"""The CPU signals that can be believed at one instant, and which are missing. Pure.

Owns what a missing sample stands for: idle when growing, busy when shrinking (the rule of the
Kubernetes Horizontal Pod Autoscaler), so that it never makes a machine start or leave by itself.
"""

from __future__ import annotations

from typing import NamedTuple

from autoscale.signals import Signals

USED_UP = 0.9
"""Mean utilisation from which on more load shows in queues only."""
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
    vcpus: int = 0
    """Of those with a fresh sample together."""
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
    def used_up(self) -> bool:
        """CPU no longer tells how much work there is."""
        return self.mean >= USED_UP

    @property
    def mean(self) -> float:
        """Utilisation of a replica, those that are missing idle."""
        return self.work / self.serving if self.serving else 0.0


def read(signals: Signals, fresh_s: float, now: float) -> Reading:
    """What the newest samples say, those older than `fresh_s` left out."""
    oldest, cpu = now - fresh_s, signals.cpu
    begin, end, vcpus, waits, work = now, oldest, 0, False, []
    for vm in signals.serving:
        signal = cpu.get(vm)
        if signal is None or signal.at < oldest:
            continue
        work.append(signal.utilisation)
        vcpus += signal.vcpus
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
    return Reading(
        len(signals.serving), fresh, sum(work), begin, end if fresh else now, vcpus, waits
    )


def waiting_in_all(signals: Signals, reading: Reading) -> int:
    """Who waits in the proxy; and where CPU is used up, who waits inside the replicas: of those
    that run there, only as many as there are vCPUs can be worked on."""
    inside = signals.in_flight - reading.vcpus if reading.used_up else 0
    return signals.queued + max(0, inside)
