"""What a simulation comes to: what happened second by second, and how it is scored.

Owns the values. The scores' formulas stand in `scoring`, the oracle's in `oracle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscale.simulation.scenario import Scenario

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Series:
    """One value a second; element i is of second [i, i + 1), counts of machines at its end."""

    offered_per_s: Floats
    """The trace's rate."""
    arrived: Counts
    """Requests that came."""
    ready: Counts
    booting: Counts
    standby: Counts
    """Those booted and suspended, and those on the way there."""
    draining: Counts
    desired: Counts
    utilisation: Floats
    """Busy servers ÷ servers of the replicas that serve; NaN without any."""
    queued: Counts
    p99_s: Floats
    """Of the requests that arrived in this second; NaN where nobody did, or nobody was served."""
    over: Counts
    """Requests that arrived in this second and took longer than the objective."""
    lost: Counts
    """Requests that arrived in this second and were never answered."""
    violated: Flags
    """p99 over the objective, or a request lost."""

    def as_dict(self) -> dict[str, list[float | int | bool | None]]:
        """For JSON: NaN becomes null."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Score:
    """What counts. `seconds` are those of the scenario; VM-seconds are of every machine that
    exists, from its launch until it is gone, whatever its state."""

    violating_seconds: int
    """Seconds in which the p99 of the requests that arrived in them is over the objective, or one
    of them was lost."""
    requests_total: int
    requests_over: int
    requests_lost: int
    vm_seconds: float
    """Booting, draining and standby included."""
    standby_vm_seconds: float
    """Of those, as a standby or on the way there."""
    oracle_vm_seconds: float
    """No planner without a violating second can do with less (see `oracle`)."""
    actions: int
    """Changes of the size that was asked for."""
    oscillations: int
    """Actions against the direction of the one before, soon after it (see `scoring`)."""
    relief_median_s: float | None
    """From the onset of an overload until it is over; None without one."""
    relief_worst_s: float | None

    @property
    def times_the_oracle(self) -> float:
        """VM-seconds without standby, as a multiple of the oracle's."""
        serving = self.vm_seconds - self.standby_vm_seconds
        return serving / self.oracle_vm_seconds if self.oracle_vm_seconds else float("inf")

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Change:
    """One action: the planner asked for another size than before."""

    at: float
    before: int
    after: int
    why: str
    """The Decision's sentence; empty where the planner gave none."""

    def as_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ending:
    """Where the requests are at the end: arrived = served + lost + running + waiting."""

    served: int
    lost: int
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Result:
    """One planner on one scenario."""

    planner: str
    scenario: Scenario
    series: Series
    score: Score
    changes: tuple[Change, ...]
    ending: Ending

    def as_dict(self, series: bool = True) -> dict[str, Any]:
        """For JSON; `series` are long."""
        told: dict[str, Any] = {
            "planner": self.planner,
            "scenario": self.scenario.name,
            "seed": self.scenario.seed,
            "seconds": self.scenario.duration_s,
            "score": self.score.as_dict(),
            "changes": [change.as_dict() for change in self.changes],
            "ending": asdict(self.ending),
        }
        if series:
            told["series"] = self.series.as_dict()
        return told


def _plain(values: NDArray[Any]) -> list[float | int | bool | None]:
    listed: Sequence[float | int | bool] = values.tolist()
    return [None if value != value else value for value in listed]
