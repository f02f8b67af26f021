"""Kubernetes' horizontal pod autoscaler, on the CPU of the pods, with its default behaviour.

After kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale and
pkg/controller/podautoscaler/replica_calculator.go of kubernetes/kubernetes: every 15 s
ceil(pods × utilisation / target), nothing within 10 % of the target; up by 100 % or 4 within 15 s,
whichever is more; down only to the most that was recommended within 300 s.

A pod that boots, or became ready within the metric's window, is ignored, and taken for idle where
that matters for growing; one without a metric is idle for growing and at its limit for shrinking.
The metric is what metrics-server gives in its usual installation: the mean over 15 s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from autoscale.model import Fleet
from autoscale.rivals.usage import Usage, round_up
from autoscale.rules import Rules
from autoscale.signals import Signals

SYNC_S = 15.0
TOLERANCE = 0.1
STABILISATION_S = 300.0
UP_PODS = 4
UP_FACTOR = 2


class HorizontalPodAutoscaler:
    """Never below one: without a pod there is no CPU to measure."""

    name = "Kubernetes HPA"

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.start(rules.min)

    def start(self, replicas: int) -> None:
        self._desired = replicas
        self._usage = Usage(SYNC_S)
        self._recommended: deque[tuple[float, int]] = deque()

    def plan(self, signals: Signals, fleet: Fleet, now: float) -> int:
        over = self._usage.take(signals, now)
        if not self._recommended:
            self._recommended.append((now, self._desired))
        if over is None:
            return self._desired
        measured, ignored, missing = [], fleet.booting, 0
        for vm in signals.serving:
            if not self._usage.whole(vm, now):
                ignored += 1
            elif vm in over:
                measured.append(over[vm])
            else:
                missing += 1
        wanted = self.recommend(measured, ignored, missing, self._desired)
        if wanted is not None:
            self._desired = self._behave(wanted, now)
        return self._desired

    def recommend(
        self, measured: Collection[float], ignored: int, missing: int, current: int
    ) -> int | None:
        """How many pods the metric alone asks for; None where there is no metric at all.

        `measured`: utilisation of the ready ones.
        """
        if not measured:
            return None
        target = self._rules.target_cpu
        ratio = sum(measured) / len(measured) / target
        rebalance = ignored if ratio > 1 else 0
        if not rebalance and not missing:
            if abs(1 - ratio) <= TOLERANCE + 1e-9:
                return current
            return round_up(ratio * len(measured))
        counted = len(measured) + missing + rebalance
        total = sum(measured) + (missing if ratio < 1 else 0)
        again = total / counted / target
        if abs(1 - again) <= TOLERANCE + 1e-9 or (ratio < 1) != (again < 1):
            return current
        wanted = round_up(again * counted)
        if (again < 1 and wanted > current) or (again > 1 and wanted < current):
            return current
        return wanted

    def _behave(self, wanted: int, now: float) -> int:
        least = max(1, self._rules.min)
        most = min(self._rules.max, max(self._desired + UP_PODS, self._desired * UP_FACTOR))
        self._recommended.append((now, wanted))
        while self._recommended[0][0] <= now - STABILISATION_S:
            self._recommended.popleft()
        highest = max(count for _, count in self._recommended)
        if wanted >= self._desired:
            return max(least, min(most, wanted))
        return max(least, min(self._desired, highest))
