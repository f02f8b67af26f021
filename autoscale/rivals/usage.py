"""CPU of each VM by fixed periods, as metric services give it: the mean of a period, at its end.

Owns when a period ends and since when a VM serves. A period in which a VM had no sample gives no
figure for it. Pure: every call says what time it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from autoscale.signals import Signals


class Usage:
    """Collects the samples of the running period, of those VMs that serve."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self.since: dict[str, float] = {}
        """When each VM of those that serve began to; long ago for the first ones."""
        self._period: int | None = None
        self._taken: dict[str, float] = {}
        self._sums: dict[str, tuple[float, int]] = {}

    def take(self, signals: Signals, now: float) -> Mapping[str, float] | None:
        """Take in what is known now. At the first call after the end of a period the mean
        utilisation of each VM in it (1.0: all that it may use), else None."""
        period = int(now // self.period_s)
        began = -math.inf if self._period is None else now
        self.since = {vm: self.since.get(vm, began) for vm in signals.serving}
        over = None
        if self._period is not None and period != self._period:
            over = {vm: total / count for vm, (total, count) in self._sums.items()}
            self._sums = {}
        self._period = period
        for vm in signals.serving:
            signal = signals.cpu.get(vm)
            if signal is None or signal.at <= self._taken.get(vm, -math.inf):
                continue
            self._taken[vm] = signal.at
            total, count = self._sums.get(vm, (0.0, 0))
            self._sums[vm] = total + signal.utilisation, count + 1
        self._taken = {vm: at for vm, at in self._taken.items() if vm in self.since}
        return over

    def whole(self, vm: str, now: float) -> bool:
        """Whether it served throughout the period that has just ended."""
        ended = now // self.period_s * self.period_s
        return self.since.get(vm, math.inf) <= ended - self.period_s


def round_up(replicas: float) -> int:
    """Ceiling that forgives floating point: 0.6 × 5 / 0.6 is 5, not 6."""
    return math.ceil(replicas - 1e-9)
