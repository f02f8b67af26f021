"""Knative's pod autoscaler, on the requests that run or wait.

After knative.dev/docs/serving/autoscaling (concurrency, kpa-specific) and
pkg/autoscaler/scaling/autoscaler.go of knative/serving: every 2 s the mean concurrency over 60 s
(stable) and 6 s (panic) divided by the target, rounded up; panic where the short one asks for twice
those ready, until that was not so for 60 s, and while it lasts none leaves. The queue of its
activator is part of the concurrency. Ready replicas count, those booting do not.

The target is 70 % of what a container takes at once; what it takes at once is chosen so that the
target is the concurrency of a replica at the CPU target of the others.
"""

from __future__ import annotations

import math
from collections import deque

from autoscale.model import Fleet
from autoscale.rivals.usage import round_up
from autoscale.rules import Rules
from autoscale.signals import Signals

TICK_S = 2.0
STABLE_S = 60.0
PANIC_S = 6.0
PANIC_AT = 2.0
MOST_UP = 1000.0
MOST_DOWN = 2.0
TARGET_SHARE = 0.7
ZERO_GRACE_S = 30.0


class KnativePodAutoscaler:
    """`container_concurrency`: requests that one replica takes at once. Goes to zero with min = 0
    alone."""

    name = "Knative KPA"

    def __init__(self, rules: Rules, container_concurrency: float) -> None:
        self._rules = rules
        self._target = TARGET_SHARE * container_concurrency
        self.start(rules.min)

    def start(self, replicas: int) -> None:
        self._desired = replicas
        self._seen: deque[tuple[float, float]] = deque()
        self._ticked = -math.inf
        self._idle_since: float | None = None
        # with more than one it begins in panic, so that nobody leaves before there is history
        self._panic_pods = replicas
        self._panic_since: float | None = None
        self._begins_in_panic = replicas > 1

    def plan(self, signals: Signals, fleet: Fleet, now: float) -> int:
        self._seen.append((now, float(signals.in_flight + signals.queued)))
        while self._seen[0][0] <= now - STABLE_S:
            self._seen.popleft()
        if self._begins_in_panic:
            self._panic_since, self._begins_in_panic = now, False
        # from zero the activator does not wait for the next tick
        pokes = self._desired == 0 and signals.queued > 0
        if now - self._ticked < TICK_S - 1e-9 and not pokes:
            return self._desired
        self._ticked = now
        self._desired = self._rules.clamp(self._zero_later(self._scale(fleet.ready, now), now))
        return self._desired

    def _scale(self, serving: int, now: float) -> int:
        ready = max(1, serving)
        least, most = ready // MOST_DOWN, math.ceil(MOST_UP * ready)
        stable = round_up(self._mean(STABLE_S, now) / self._target)
        panic = round_up(self._mean(PANIC_S, now) / self._target)
        wanted = int(min(max(stable, least), most))
        if panic / ready >= PANIC_AT:
            self._panic_since = now
        elif self._panic_since is not None and now - self._panic_since > STABLE_S:
            self._panic_since = None
            self._panic_pods = 0
        if self._panic_since is None:
            return wanted
        self._panic_pods = max(self._panic_pods, wanted, int(min(max(panic, least), most)))
        return self._panic_pods

    def _mean(self, over_s: float, now: float) -> float:
        recent = [value for at, value in self._seen if at > now - over_s]
        return sum(recent) / len(recent)

    def _zero_later(self, wanted: int, now: float) -> int:
        """The last one leaves after a grace period."""
        if wanted > 0:
            self._idle_since = None
            return wanted
        if self._idle_since is None:
            self._idle_since = now
        return 0 if now - self._idle_since >= ZERO_GRACE_S else min(1, self._desired)
