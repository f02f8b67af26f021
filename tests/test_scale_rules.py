"""The configuration of a size as the planner's rules: every key arrives."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

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
from lb.config import ScaleConfig, parse_config
from lb.scale_rules import rules_of

EVERYTHING: dict[str, Any] = {
    "min": 2,
    "max": 9,
    "mode": "observe",
    "target_cpu": 0.5,
    "tolerance": 0.2,
    "standby_window": "2s",
    "snapshot_window": "3s",
    "grow_window": "6s",
    "grow_limit": {"replicas": 3, "percent": 60, "period": "20s"},
    "shrink_window": "2m",
    "shrink_window_max": "7m",
    "shrink_margin": 0.7,
    "shrink_limit": {"replicas": 2, "percent": 30, "period": "30s"},
    "min_change": 2,
    "target_concurrency": 12,
    "stable_window": "50s",
    "panic_window": "5s",
    "panic_at": 3,
    "queue_drain": "4s",
    "latency_p99": "250ms",
    "idle_after": "1m",
    "burst": 2,
    "host_contention": "ignore",
    "step": [{"cpu_above": 0.9, "add": 3}, {"cpu_below": 0.2, "remove": 2}],
    "schedule": [
        {"start": "0 8 * * *", "end": "0 9 * * *", "timezone": "Europe/Berlin", "replicas": 4}
    ],
    "forecast": "act",
    "season": "1h",
    "sample_interval": "2s",
}


def scale(**keys: Any) -> ScaleConfig:
    service = {"vm": {"vcpus": 4}, "scale": keys}
    return parse_config({"service": {"web": service}}).service["web"].scale


def test_every_key_arrives() -> None:
    # how many wait in reserve is the fleet's to know
    assert set(EVERYTHING) == set(ScaleConfig.model_fields) - {"standby"}
    rules = rules_of(scale(**EVERYTHING), 64)
    assert rules == Rules(
        min=2,
        max=9,
        mode=Mode.OBSERVE,
        target_cpu=0.5,
        tolerance=0.2,
        standby_window_s=2,
        snapshot_window_s=3,
        grow_window_s=6,
        grow_limit=RateLimit(3, 60, 20),
        shrink_window_s=120,
        shrink_window_max_s=420,
        shrink_margin=0.7,
        shrink_limit=RateLimit(2, 30, 30),
        min_change=2,
        target_concurrency=12,
        stable_window_s=50,
        panic_window_s=5,
        panic_at=3,
        queue_drain_s=4,
        latency_p99_s=0.25,
        idle_after_s=60,
        burst=2,
        host_contention=Contention.IGNORE,
        steps=(Step(0.9, 3), Step(0.2, -2)),
        schedule=(Scheduled("0 8 * * *", "0 9 * * *", "Europe/Berlin", 4),),
        forecast=Forecasting.ACT,
        season_s=3600,
        interval_s=2,
    )
    default = Rules()
    same = [f.name for f in fields(Rules) if getattr(rules, f.name) == getattr(default, f.name)]
    assert same == ["override"], "a value that is the default proves nothing"


def test_the_rules_defaults_are_the_configurations() -> None:
    rules, default = rules_of(ScaleConfig(), 64), Rules()
    assert rules.target_concurrency == pytest.approx(44.8)
    for field in fields(Rules):
        if field.name != "target_concurrency":
            assert getattr(rules, field.name) == getattr(default, field.name), field.name


def test_the_concurrency_meant_for_a_replica_follows_the_most_it_gets() -> None:
    assert rules_of(ScaleConfig(), 10).target_concurrency == pytest.approx(7)
    assert rules_of(scale(target_concurrency=3), 10).target_concurrency == 3


@pytest.mark.parametrize(("to", "then"), [(0, 2), (2, 2), (5, 5), (9, 9), (10, 9)])
def test_an_override_out_of_bounds_becomes_the_nearest_within(to: int, then: int) -> None:
    rules = rules_of(scale(min=2, max=9), 64, Override(Mode.FIXED, to, 5.0))
    assert rules.override == Override(Mode.FIXED, then, 5.0)


def test_an_override_without_a_number_stays_as_it_is() -> None:
    hold = Override(Mode.HOLD, until=5.0)
    assert rules_of(ScaleConfig(), 64, hold).override is hold
    assert rules_of(ScaleConfig(), 64).override is None
