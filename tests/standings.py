"""Scores, standings and results of simulations, made up: what a test says of them, and defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from autoscale.compare import Standing, standing
from autoscale.simulation.result import Ending, Result, Score, Series
from autoscale.simulation.scenario import Scenario
from autoscale.simulation.trace import sampled

SCORE = Score(
    violating_seconds=0,
    requests_total=1000,
    requests_over=0,
    requests_lost=0,
    vm_seconds=100.0,
    standby_vm_seconds=0.0,
    oracle_vm_seconds=80.0,
    actions=2,
    oscillations=0,
    relief_median_s=None,
    relief_worst_s=None,
)


def score(**figures: Any) -> Score:
    return replace(SCORE, **figures)


def stands(name: str, **figures: Any) -> Standing:
    return standing(name, [score(**figures)])


def result(name: str, seconds: int = 60, *, late: tuple[int, ...] = ()) -> Result:
    """A steady load on two replicas; in the seconds `late` p99 was over the objective."""
    whole = np.full(seconds, 2, dtype=np.int64)
    none = np.zeros(seconds, dtype=np.int64)
    violated = np.zeros(seconds, dtype=np.bool_)
    violated[list(late)] = True
    series = Series(
        offered_per_s=np.full(seconds, 8.0),
        arrived=whole * 4,
        ready=whole,
        booting=none,
        standby=none,
        draining=none,
        desired=whole,
        utilisation=np.full(seconds, 0.4),
        queued=none,
        p99_s=np.where(violated, 3.0, 0.3),
        over=violated.astype(np.int64),
        lost=none,
        violated=violated,
    )
    return Result(
        name,
        Scenario("made up", sampled([8.0] * seconds)),
        series,
        score(violating_seconds=len(late)),
        (),
        Ending(8 * seconds, 0, 0, 0),
    )
