"""From the configuration of a service's size to the rules that the planner goes by.

Pure. Every default and bound stands in `config_fleet`; here is only what one follows from another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from autoscale.rules import (
    Contention,
    Forecasting,
    Mode,
    Override,
    RateLimit,
    Rules,
    Scheduled,
    Step,
)
from lb.config import ScaleConfig
from lb.config_fleet import GrowLimitConfig, ScheduleConfig, StepConfig

FULL: Final = 0.7
"""Share of the requests a replica may get that it is meant to have, unless told: what is left is
for the time until another one has come."""


def rules_of(scale: ScaleConfig, max_in_flight: int, override: Override | None = None) -> Rules:
    """`max_in_flight`: the most requests that a backend of the service gets at a time. An
    `override` to a number that is now out of bounds becomes the nearest one within them."""
    return Rules(
        min=scale.min,
        max=scale.max,
        mode=Mode(scale.mode),
        target_cpu=scale.target_cpu,
        tolerance=scale.tolerance,
        standby_window_s=scale.standby_window,
        snapshot_window_s=scale.snapshot_window,
        grow_window_s=scale.grow_window,
        grow_limit=_limit(scale.grow_limit),
        shrink_window_s=scale.shrink_window,
        shrink_window_max_s=scale.shrink_window_max,
        shrink_margin=scale.shrink_margin,
        shrink_limit=_limit(scale.shrink_limit),
        min_change=scale.min_change,
        target_concurrency=scale.target_concurrency or FULL * max_in_flight,
        stable_window_s=scale.stable_window,
        panic_window_s=scale.panic_window,
        panic_at=scale.panic_at,
        queue_drain_s=scale.queue_drain,
        latency_p99_s=scale.latency_p99,
        idle_after_s=scale.idle_after,
        burst=scale.burst,
        host_contention=Contention(scale.host_contention),
        steps=tuple(_step(step) for step in scale.step),
        schedule=tuple(_scheduled(entry) for entry in scale.schedule),
        forecast=Forecasting(scale.forecast),
        season_s=scale.season,
        interval_s=scale.sample_interval,
        override=_within(override, scale),
    )


def _limit(limit: GrowLimitConfig) -> RateLimit:
    return RateLimit(limit.replicas, limit.percent, limit.period)


def _step(step: StepConfig) -> Step:
    if step.cpu_above is not None:
        return Step(step.cpu_above, step.add or 0)
    return Step(step.cpu_below or 0.0, -(step.remove or 0))


def _scheduled(entry: ScheduleConfig) -> Scheduled:
    return Scheduled(entry.start, entry.end, entry.timezone, entry.replicas)


def _within(override: Override | None, scale: ScaleConfig) -> Override | None:
    if override is None or override.to is None:
        return override
    return replace(override, to=max(scale.min, min(scale.max, override.to)))
