"""The rule that the course teaches: the mean of the last five CPU samples, above 80 % one more,
below 35 % one fewer.

It says nothing of a machine that still boots, so this is assumed: the next action waits until the
last one has taken effect (nothing boots, as many serve as are wanted), and five new samples are
then taken, because the old ones speak of a group of another size. Without that wait the rule would
add a machine a second throughout a boot. One sample a second, the mean over the VMs that serve.
"""

from __future__ import annotations

from collections import deque

from autoscale.model import Fleet
from autoscale.rules import Rules
from autoscale.signals import Signals

SAMPLES = 5
HIGH = 0.80
LOW = 0.35


class CourseRule:
    """One more above 80 %, one fewer below 35 %. Its bounds are its own; only min and max of the
    rules count, and never below one: with no machine there is no CPU to sample."""

    name = "course"

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.start(rules.min)

    def start(self, replicas: int) -> None:
        self._desired = replicas
        self._samples: deque[float] = deque(maxlen=SAMPLES)

    def plan(self, signals: Signals, fleet: Fleet, now: float) -> int:
        if fleet.booting or len(signals.serving) < self._desired:
            self._samples.clear()
            return self._desired
        fresh = [
            signal.utilisation
            for vm in signals.serving
            if (signal := signals.cpu.get(vm)) is not None
            and now - signal.at <= self._rules.fresh_s
        ]
        if not fresh:
            return self._desired
        self._samples.append(sum(fresh) / len(fresh))
        if len(self._samples) < SAMPLES:
            return self._desired
        mean = sum(self._samples) / SAMPLES
        change = 1 if mean > HIGH else -1 if mean < LOW else 0
        wanted = max(1, self._rules.clamp(self._desired + change))
        if wanted != self._desired:
            self._desired = wanted
            self._samples.clear()
        return self._desired
