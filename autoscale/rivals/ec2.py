"""Amazon EC2 Auto Scaling's target tracking and step scaling, on the average CPU of a group.

After the user guide (docs.aws.amazon.com/autoscaling/ec2/userguide: as-scaling-target-tracking,
as-scaling-simple-step, ec2-auto-scaling-default-instance-warmup). Both work on one figure a minute
from CloudWatch (detailed monitoring). An instance that warms up is not in the average; what a
policy wants is reckoned from the warm ones and compared with what is wanted already, so a second
alarm during a warm-up adds only the difference; nothing leaves while one warms up.

In their favour: a figure is there in the instant its minute ends (CloudWatch takes longer), and the
warm-up is one minute, the shortest that gives the average a whole figure (its default is 300 s).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

from autoscale.model import Fleet
from autoscale.rivals.usage import Usage, round_up
from autoscale.rules import Rules
from autoscale.signals import Signals

PERIOD_S = 60.0
WARM_UP_S = 60.0

OUT_PERIODS = 3
IN_PERIODS = 15
IN_BELOW = 0.9
"""Target tracking's low alarm: below 90 % of the target."""

STEP_PERIODS = 2
STEPS_OUT = ((0.10, 30), (0.0, 10))
"""Above the target by so much: so many percent more. The guide's example has its bounds at 60 % and
70 % of CPU, which is what these are for the default target of 60 %."""
STEPS_IN = ((0.30, 30), (0.20, 10))
"""Below the target by so much: so many percent fewer; at 40 % and 30 % in the guide's example."""


class _Group(ABC):
    """What both policies share: the metric, who is warm, how many are wanted."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.start(rules.min)

    def start(self, replicas: int) -> None:
        self._desired = replicas
        self._usage = Usage(PERIOD_S)
        self._points: deque[float] = deque(maxlen=IN_PERIODS)

    def plan(self, signals: Signals, fleet: Fleet, now: float) -> int:
        warm_before = {vm for vm, since in self._usage.since.items() if since + WARM_UP_S <= now}
        over = self._usage.take(signals, now)
        if over is None:
            return self._desired
        # CPUUtilization ends at 100 %
        measured = [min(1.0, over[vm]) for vm in over if vm in warm_before]
        warm = sum(vm in warm_before for vm in signals.serving)
        if not measured or not warm:
            return self._desired  # a missing figure leaves an alarm as it is
        self._points.append(sum(measured) / len(measured))
        warming = warm < self._desired or warm < len(signals.serving) or fleet.booting > 0
        more, fewer = self._more(warm), self._fewer(warm)
        wanted = self._desired
        if more:
            wanted = max(wanted, warm + more)
        elif fewer and not warming:
            wanted = min(wanted, warm - fewer)
        # with no instance there is no CPU to average, and so no way back
        self._desired = max(1, self._rules.clamp(wanted))
        return self._desired

    def _above(self, bound: float, periods: int) -> bool:
        recent = list(self._points)[-periods:]
        return len(recent) == periods and min(recent) > bound

    def _below(self, bound: float, periods: int) -> bool:
        recent = list(self._points)[-periods:]
        return len(recent) == periods and max(recent) < bound

    @abstractmethod
    def _more(self, warm: int) -> int:
        """How many more than the warm ones there should be; 0 without an alarm."""

    @abstractmethod
    def _fewer(self, warm: int) -> int:
        """How many fewer; 0 without an alarm."""


class TargetTracking(_Group):
    """Three figures above the target: out to ceil(warm × figure / target). Fifteen below 90 % of
    it: in to as many by the same formula."""

    name = "EC2 target tracking"

    def _more(self, warm: int) -> int:
        target = self._rules.target_cpu
        if not self._above(target, OUT_PERIODS):
            return 0
        return max(0, round_up(warm * self._points[-1] / target) - warm)

    def _fewer(self, warm: int) -> int:
        target = self._rules.target_cpu
        if not self._below(IN_BELOW * target, IN_PERIODS):
            return 0
        return max(0, warm - round_up(warm * self._points[-1] / target))


class StepScaling(_Group):
    """Two figures beyond an alarm: so many percent more or fewer, by how far beyond the last is.

    Percentages as EC2 rounds them: down to whole instances, and at least one.
    """

    name = "EC2 step scaling"

    def _more(self, warm: int) -> int:
        target = self._rules.target_cpu
        if not self._above(target - 1e-9, STEP_PERIODS):
            return 0
        beyond = self._points[-1] - target
        return next(_percent(p, warm) for by, p in STEPS_OUT if beyond >= by - 1e-9)

    def _fewer(self, warm: int) -> int:
        target = self._rules.target_cpu
        if not self._below(target - STEPS_IN[-1][0] + 1e-9, STEP_PERIODS):
            return 0
        below = target - self._points[-1]
        return next(_percent(p, warm) for by, p in STEPS_IN if below >= by - 1e-9)


def _percent(percent: int, of: int) -> int:
    return max(1, of * percent // 100)
