"""What the planner remembers from one decision to the next. Immutable, and bounded however long it
goes on: windows of a few buckets, a figure a VM, a flight of steps no longer than `max`."""

from __future__ import annotations

from typing import NamedTuple

from autoscale.forecast import Forecast
from autoscale.pace import Pace
from autoscale.parts.capacity import Capacity
from autoscale.parts.concurrency import ConcurrencyState
from autoscale.parts.cpu import CpuState
from autoscale.parts.latency import LatencyState
from autoscale.parts.scheduled import ScheduleState
from autoscale.rules import Rules


class State(NamedTuple):
    """`start` makes the first one."""

    desired: int
    pace: Pace = Pace()
    cpu: CpuState = CpuState()
    concurrency: ConcurrencyState | None = None
    capacity: Capacity = Capacity()
    latency: LatencyState = LatencyState()
    schedule: ScheduleState = ScheduleState()
    forecast: Forecast | None = None
    missed_since: float | None = None
    """Since when samples have been missing; None while none is."""
    idle_since: float | None = None
    """Since when nobody has asked for anything."""

    @staticmethod
    def start(active: int, rules: Rules) -> State:
        """After a start: as many as there are. No history, so no shrinking; what is out of bounds
        is the first decision's to mend."""
        return State(active)
