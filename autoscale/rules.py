"""What the operator wants of the planner: bounds, targets, windows, limits, and an override.

Values only. Their defaults, bounds and contradictions stand in the configuration; those given here
are the same ones, for the simulator and the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """What is done about what the planner finds."""

    AUTO = "auto"
    """It is done."""
    OBSERVE = "observe"
    """It is computed and shown; the fleet keeps its size."""
    HOLD = "hold"
    """The fleet keeps its size."""
    FIXED = "fixed"
    """The fleet has the size that an operator gave it."""


class Forecasting(StrEnum):
    """What the forecast is for."""

    OFF = "off"
    OBSERVE = "observe"
    """It is computed and shown, and asks for nothing."""
    ACT = "act"
    """It asks for replicas ahead of the load; it never lets one go earlier."""


class Contention(StrEnum):
    """What a host whose cores are all taken means for growing there."""

    HOLD = "hold"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many replicas within `period_s`, at most; or so many percent of those there are, where
    that is more."""

    replicas: int
    percent: float
    period_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """At a CPU utilisation beyond a bound, `change` replicas more (above 0) or fewer (below 0)."""

    bound: float
    change: int


@dataclass(frozen=True, slots=True)
class Scheduled:
    """At least `replicas` from each time that `start` names to the next that `end` names: cron
    expressions, in a time zone of the IANA database."""

    start: str
    end: str
    timezone: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Override:
    """What an operator told it, until he takes it back or `until` (Unix seconds) has passed."""

    mode: Mode
    to: int | None = None
    """How many, with FIXED."""
    until: float | None = None

    def holds(self, wall_s: float) -> bool:
        return self.until is None or wall_s < self.until


@dataclass(frozen=True, slots=True)
class Rules:
    """The planner's configuration of one service; times in seconds, ratios of the CPU that a
    replica may use. docs/configuration.md says what each is for."""

    min: int = 1
    max: int = 4
    mode: Mode = Mode.AUTO
    target_cpu: float = 0.6
    tolerance: float = 0.1
    """So far above its target, as a share of it, a signal asks for nothing yet."""
    standby_window_s: float = 0.5
    snapshot_window_s: float = 0.5
    grow_window_s: float = 3.0
    grow_limit: RateLimit = RateLimit(10, 100.0, 15.0)
    shrink_window_s: float = 60.0
    shrink_window_max_s: float = 300.0
    """The longest that it grows to by itself, where the load comes in waves."""
    shrink_margin: float = 0.9
    shrink_limit: RateLimit = RateLimit(1, 50.0, 15.0)
    min_change: int = 1
    target_concurrency: float = 45.0
    """Running requests per replica; 0.7 × the most that a backend gets, unless configured."""
    stable_window_s: float = 60.0
    panic_window_s: float = 6.0
    panic_at: float = 2.0
    queue_drain_s: float = 5.0
    latency_p99_s: float | None = None
    idle_after_s: float = 600.0
    burst: float | None = None
    """How many times its CPU limit a replica may use while another is on its way."""
    host_contention: Contention = Contention.HOLD
    steps: tuple[Step, ...] = ()
    schedule: tuple[Scheduled, ...] = ()
    forecast: Forecasting = Forecasting.OBSERVE
    season_s: float = 86400.0
    interval_s: float = 1.0
    """Between two samples."""
    override: Override | None = None
    """Goes before `mode` while it holds."""

    @property
    def fresh_s(self) -> float:
        """A signal older than this is missing: one lost sample is forgiven."""
        return 2.5 * self.interval_s

    def clamp(self, count: int) -> int:
        return max(self.min, min(self.max, count))
