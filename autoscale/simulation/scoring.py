"""From what happened to what counts: the formulas of a score.

Owns their definitions; what the oracle could have done is in `oracle`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median

import numpy as np

from autoscale.simulation.result import Change, Score, Series
from autoscale.simulation.scenario import Scenario

SOON_S = 300.0
"""A change of direction within this time is an oscillation: over so long does the Kubernetes HPA
look back by default so as not to "flap"."""


def score(
    scenario: Scenario,
    series: Series,
    changes: Sequence[Change],
    vm_seconds: tuple[float, float],
    oracle_vm_seconds: float,
) -> Score:
    """`vm_seconds`: of all machines, and of those the standbys'."""
    relief = reliefs(scenario, series)
    return Score(
        violating_seconds=int(series.violated.sum()),
        requests_total=int(series.arrived.sum()),
        requests_over=int(series.over.sum()),
        requests_lost=int(series.lost.sum()),
        vm_seconds=vm_seconds[0],
        standby_vm_seconds=vm_seconds[1],
        oracle_vm_seconds=oracle_vm_seconds,
        actions=len(changes),
        oscillations=oscillations(changes),
        relief_median_s=median(relief) if relief else None,
        relief_worst_s=max(relief, default=None),
    )


def oscillations(changes: Sequence[Change], soon_s: float = SOON_S) -> int:
    """Actions in the other direction than the one before them, within `soon_s` of it.

    So the literature has it: "a series of scaling actions in opposite directions in a short time"
    (Al-Dhuraibi et al., Elasticity in Cloud Computing, 2018). Who follows a short spike up and down
    is counted too, once.
    """
    return sum(
        (before.after > before.before) != (after.after > after.before)
        and after.at - before.at <= soon_s
        for before, after in itertools.pairwise(changes)
    )


def reliefs(scenario: Scenario, series: Series) -> list[float]:
    """How long each overload lasted, in whole seconds.

    A second is overloaded where the work offered, rate × mean service time, is more than the
    servers of the replicas that are ready at its end can do. The mean and not what was drawn, so
    that the overloads of one trace begin alike for everybody. One that the end of the trace cuts
    short counts as long as it lasted.
    """
    can = series.ready * scenario.servers
    overloaded = series.offered_per_s * scenario.service_s > can * (1 + 1e-9)
    edges = np.diff(np.concatenate(([0], overloaded.astype(np.int8), [0])))
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [float(length) for length in (ends - begins).tolist()]
