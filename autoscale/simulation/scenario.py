"""What a simulation plays: the load, the machines, how long they take, what goes wrong with them.

Owns the values and what contradicts itself among them. It must not draw or simulate anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from autoscale.model import Path
from autoscale.simulation.trace import RateTrace

MONDAY = 1767571200.0
"""2026-01-05 00:00 UTC, in Unix seconds."""


class ScenarioError(ValueError):
    """A scenario that contradicts itself: the caller's fault; says which values and why."""


class Law(StrEnum):
    """How service times are distributed about their mean."""

    EXPONENTIAL = "exponential"
    """Coefficient of variation 1."""
    LOGNORMAL = "lognormal"
    GAMMA = "gamma"
    DETERMINISTIC = "deterministic"
    """All alike."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long machines take, in seconds, for each of them alike."""

    standby_s: float = 0.05
    """From the call to serving, where a standby is woken."""
    snapshot_s: float = 1.5
    cold_s: float = 10.0
    drain_s: float = 1.0
    """From the end of the last request on a replica that leaves until its machine is gone."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong. Shares are probabilities from 0 to 1."""

    deaths_at: tuple[float, ...] = ()
    """Seconds at each of which one replica that serves dies."""
    deaths_per_hour: float = 0.0
    """So often does a replica die that serves, on average: its life is exponential."""
    failing_boots: float = 0.0
    """So many launches come to nothing: the machine takes its time to boot, and is gone then."""
    missing_samples: float = 0.0
    """So many readings of a machine's CPU get lost, each by itself."""
    repeated: bool = True
    """Requests are idempotent: those that ran on a replica that died are tried again. Else they
    are lost."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulation, without its planner. The same scenario brings every planner the same
    requests: arrivals, work and faults are drawn from streams of their own."""

    name: str
    rate: RateTrace
    service_s: float = 0.1
    """Mean time that a request takes one server."""
    law: Law = Law.EXPONENTIAL
    cv: float = 1.0
    """Standard deviation ÷ mean of the service time; for `lognormal` and `gamma` only."""
    servers: int = 1
    """Requests that a replica works on at a time, each on a core of its own: with so many running
    its CPU utilisation is 1.0."""
    min_replicas: int = 1
    max_replicas: int = 10
    initial_replicas: int = 1
    objective_p99_s: float = 1.0
    max_in_flight: int = 64
    """A replica is given so many requests at a time: what is more than its servers work on waits
    inside it, where only the number running tells of it. The order is the queue's all the same."""
    queue_length: int = 512
    """A request that finds so many waiting is lost."""
    max_wait_s: float = 30.0
    """A request that has waited so long is lost."""
    timing: Timing = field(default_factory=Timing)
    faults: Faults = field(default_factory=Faults)
    interval_s: float = 1.0
    """Between two readings, each followed by a plan."""
    standbys: int = 0
    """So many are kept booted and suspended, beside those that serve; one that was woken is
    followed by another, booted cold."""
    snapshot: bool = False
    """Whether replicas can be restored from a snapshot."""
    overhead_cores: float = 0.0
    """CPU that a machine takes whatever it does: what QEMU itself costs."""
    starts_at: float = MONDAY
    """Unix seconds at second 0 of the trace, for schedules."""
    seed: int = 1

    def __post_init__(self) -> None:
        for complaint in self._contradictions():
            raise ScenarioError(f"{self.name}: {complaint}")

    @property
    def duration_s(self) -> float:
        """As long as the trace is."""
        return self.rate.duration_s

    @property
    def ways(self) -> tuple[Path, ...]:
        """How a replica can come, the quickest first."""
        standby = (Path.STANDBY,) if self.standbys else ()
        snapshot = (Path.SNAPSHOT,) if self.snapshot else ()
        return (*standby, *snapshot, Path.COLD)

    def seconds_of(self, path: Path) -> float:
        """From the call to serving."""
        match path:
            case Path.STANDBY:
                return self.timing.standby_s
            case Path.SNAPSHOT:
                return self.timing.snapshot_s
            case Path.COLD:
                return self.timing.cold_s

    def _contradictions(self) -> Iterator[str]:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            yield f"{self.min_replicas} to {self.max_replicas} replicas cannot be"
        if not 0 <= self.initial_replicas <= self.max_replicas:
            yield f"{self.initial_replicas} replicas at the start, but {self.max_replicas} at most"
        if self.max_in_flight < 1:
            yield f"max_in_flight = {self.max_in_flight} lets nobody in"
        if self.servers < 1 or self.standbys < 0 or self.queue_length < 0:
            yield "servers must be 1 or more, standbys and queue_length 0 or more"
        positive = {
            "service_s": self.service_s,
            "objective_p99_s": self.objective_p99_s,
            "interval_s": self.interval_s,
        }
        timing, faults = self.timing, self.faults
        not_negative = {
            "cv": self.cv,
            "max_wait_s": self.max_wait_s,
            "overhead_cores": self.overhead_cores,
            "standby_s": timing.standby_s,
            "snapshot_s": timing.snapshot_s,
            "cold_s": timing.cold_s,
            "drain_s": timing.drain_s,
            "deaths_per_hour": faults.deaths_per_hour,
        }
        for name, value in {**positive, **not_negative}.items():
            if not math.isfinite(value) or value < 0 or (name in positive and value == 0):
                yield f"{name} = {value:g} cannot be"
        shares = {
            "failing_boots": faults.failing_boots,
            "missing_samples": faults.missing_samples,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                yield f"{name} = {value:g} is no probability"
        if self.law in (Law.LOGNORMAL, Law.GAMMA) and self.cv == 0:
            yield f"cv = 0 is law = {Law.DETERMINISTIC.value}"
