"""Second by second: what became of the requests that arrived in it, and how the fleet stood.

Owns the series while a simulation runs. A second's p99 is known once its last request is answered
or lost; until then its latencies are kept, and not longer, so a day costs no more memory than its
series.
"""

from __future__ import annotations

import math

import numpy as np

from autoscale.simulation.queue import Floats, Outcome
from autoscale.simulation.result import Series
from autoscale.simulation.scenario import Scenario

_STANDING = ("ready", "booting", "standby", "draining", "desired", "queued")


class Ledger:
    """The books of one run. Mutable."""

    def __init__(self, scenario: Scenario) -> None:
        self._objective_s = scenario.objective_p99_s
        self.offered = scenario.rate.per_second()
        self.seconds = len(self.offered)
        count = self.seconds
        self.arrived = np.zeros(count, dtype=np.int64)
        self.lost = np.zeros(count, dtype=np.int64)
        self.over = np.zeros(count, dtype=np.int64)
        self.p99_s = np.full(count, np.nan)
        self.utilisation = np.full(count, np.nan)
        self.standing = {name: np.zeros(count, dtype=np.int64) for name in _STANDING}
        self._answered = np.zeros(count, dtype=np.int64)
        self._latencies: dict[int, list[Floats]] = {}
        self._oldest = 0
        self._busy_s = 0.0
        self._server_s = 0.0

    def came(self, second: int, count: int) -> None:
        self.arrived[second] += count

    def worked(self, busy_s: float, server_s: float) -> None:
        """Of so many seconds that the servers of ready replicas were there, they worked so many."""
        self._busy_s += busy_s
        self._server_s += server_s

    def became(self, outcome: Outcome) -> None:
        """Some requests were answered, some lost."""
        for came in outcome.lost:
            self.lost[int(came)] += 1
        if len(outcome.arrived):
            self._answer(outcome.arrived, outcome.latency)

    def _answer(self, arrived: Floats, latency: Floats) -> None:
        seconds = arrived.astype(np.int64)
        first, last = int(seconds.min()), int(seconds.max())
        if first == last:
            self._keep(first, latency)
            return
        for second in range(first, last + 1):
            which = seconds == second
            if which.any():
                self._keep(second, latency[which])

    def _keep(self, second: int, latency: Floats) -> None:
        self._latencies.setdefault(second, []).append(latency)
        self._answered[second] += len(latency)

    def close(self, second: int, **standing: int) -> None:
        """It is over, and so the fleet stands at its end."""
        for name, value in standing.items():
            self.standing[name][second] = value
        if self._server_s:
            self.utilisation[second] = self._busy_s / self._server_s
        self._busy_s = self._server_s = 0.0
        while self._oldest <= second and self._is_settled(self._oldest):
            self._settle(self._oldest)
            self._oldest += 1

    def _is_settled(self, second: int) -> bool:
        return bool(self._answered[second] + self.lost[second] == self.arrived[second])

    def _settle(self, second: int) -> None:
        kept = self._latencies.pop(second, None)
        if kept is None:
            return
        latency = np.concatenate(kept)
        self.p99_s[second] = nearest_rank(latency, 0.99)
        self.over[second] = np.count_nonzero(latency > self._objective_s)

    def finish(self, arrived: Floats, latency: Floats) -> Series:
        """The series. These requests run or wait at the end; they count as long as they would
        take, or have waited."""
        answered = self._answered.copy()
        if len(arrived):
            self._answer(arrived, latency)
        for second in sorted(self._latencies):
            self._settle(second)
        self._answered = answered
        return Series(
            offered_per_s=self.offered,
            arrived=self.arrived,
            utilisation=self.utilisation,
            p99_s=self.p99_s,
            over=self.over,
            lost=self.lost,
            # a comparison with NaN is false, as it should be
            violated=(self.p99_s > self._objective_s) | (self.lost > 0),
            **self.standing,
        )

    @property
    def answered_total(self) -> int:
        return int(self._answered.sum())


def nearest_rank(values: Floats, share: float) -> float:
    """The smallest of the values that so many of them do not exceed: element ⌈share × n⌉."""
    rank = math.ceil(share * len(values)) - 1
    return float(np.partition(values, rank)[rank])
