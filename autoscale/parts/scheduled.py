"""What the schedule asks for, now and by the time that help could be there. Pure.

Cron expressions are slow to evaluate (0.1 to 1 ms each), so what they say is remembered until it
changes: the floor of now, and the one that follows.
"""

from __future__ import annotations

from typing import NamedTuple

from autoscale.rules import Scheduled
from autoscale.schedule import Floor, floor_at


class ScheduleState(NamedTuple):
    """`since` is the Unix time from which `floor` is known; `then` follows it."""

    schedule: tuple[Scheduled, ...] = ()
    since: float = 0.0
    floor: Floor | None = None
    then: Floor | None = None

    def at(self, schedule: tuple[Scheduled, ...], wall_s: float, lead_s: float) -> ScheduleState:
        """What is known at this time, the next `lead_s` seconds included. A clock that steps back,
        and another schedule, are asked anew."""
        if not schedule:
            return ScheduleState()
        known, floor = self, self.floor
        if floor is None or self.schedule != schedule or wall_s < self.since:
            floor = floor_at(schedule, wall_s)
            known = ScheduleState(schedule, wall_s, floor)
        elif wall_s >= floor.until_s:
            floor = known.then
            if floor is None or wall_s >= floor.until_s:
                floor = floor_at(schedule, wall_s)
            known = ScheduleState(schedule, wall_s, floor)
        if known.then is None and wall_s + lead_s >= floor.until_s:
            known = known._replace(then=floor_at(schedule, floor.until_s))
        return known

    def replicas(self, wall_s: float, lead_s: float) -> int:
        """The floor: of now, or of what begins before a start would be over."""
        if self.floor is None:
            return 0
        ahead = self.then if self.then and wall_s + lead_s >= self.floor.until_s else self.floor
        return max(self.floor.replicas, ahead.replicas)
