"""The requests of a scenario: when each arrives and how much work it is. The same for everybody.

Owns the random streams, one for each purpose, so that what a planner does moves no draw of
another. It must not know the queue or the machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from autoscale.simulation.scenario import Law, Scenario

Floats = NDArray[np.float64]

BATCH = 65536
"""Drawn at once: 1 MiB, and a call to numpy costs nothing beside it."""
LEAST_WORK_S = 1e-9
"""No request takes no time at all: then it would matter which of two at one instant goes first."""


class Stream(IntEnum):
    """What is drawn from a stream of its own."""

    ARRIVALS = 0
    WORK = 1
    DEATHS = 2
    BOOTS = 3
    SAMPLES = 4
    BALANCE = 5


def stream(seed: int, purpose: Stream, number: int = 0) -> np.random.Generator:
    """The generator of one purpose; `number` tells apart those of many machines."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, number)))


def arrivals(scenario: Scenario) -> Iterator[Floats]:
    """When requests arrive, ascending, in batches: a Poisson process with the trace's rate.

    By change of time (Çinlar 1975): where E₁ < E₂ < … is a Poisson process of rate 1, Λ⁻¹(Eᵢ) is
    one of rate λ(t), with Λ(t) = ∫₀ᵗ λ. Exact, as λ is constant between two steps.
    """
    rng = stream(scenario.seed, Stream.ARRIVALS)
    starts = np.asarray(scenario.rate.starts)
    rates = np.asarray(scenario.rate.rates)
    lengths = np.diff(np.append(starts, scenario.duration_s))
    reached = np.concatenate(([0.0], np.cumsum(rates * lengths)))
    total, at = float(reached[-1]), 0.0
    while at < total:
        unit = at + np.cumsum(rng.exponential(size=BATCH))
        at = float(unit[-1])
        if at >= total:
            unit = unit[: np.searchsorted(unit, total)]
        # "right": of steps that end at the same Λ the last one, the only one with a rate above 0
        step = np.searchsorted(reached, unit, side="right") - 1
        times = starts[step] + (unit - reached[step]) / rates[step]
        # rounding must not carry one over the end
        yield np.minimum(times, np.nextafter(scenario.duration_s, 0.0))


def work(scenario: Scenario) -> Iterator[Floats]:
    """How long each request takes a server, in seconds, in batches as long as those of arrivals.

    Gamma: shape 1/cv², scale mean × cv². Lognormal: σ² = ln(1 + cv²), μ = ln(mean) − σ²/2.
    """
    rng = stream(scenario.seed, Stream.WORK)
    mean, cv2 = scenario.service_s, scenario.cv**2
    sigma2 = math.log1p(cv2)
    while True:
        match scenario.law:
            case Law.EXPONENTIAL:
                drawn = rng.exponential(mean, BATCH)
            case Law.LOGNORMAL:
                drawn = rng.lognormal(math.log(mean) - sigma2 / 2, math.sqrt(sigma2), BATCH)
            case Law.GAMMA:
                drawn = rng.gamma(1 / cv2, mean * cv2, BATCH)
            case Law.DETERMINISTIC:
                drawn = np.full(BATCH, mean)
        yield np.maximum(drawn, LEAST_WORK_S)


class Requests:
    """Reads both streams together, in the order of time."""

    def __init__(self, scenario: Scenario) -> None:
        self._arrivals = arrivals(scenario)
        self._work = work(scenario)
        self._times: Floats = np.empty(0)
        self._works: Floats = np.empty(0)

    def until(self, end: float) -> tuple[Floats, Floats]:
        """Arrival times and work of all before `end` that no call before has given."""
        while not len(self._times) or self._times[-1] < end:
            batch = next(self._arrivals, None)
            if batch is None:
                break
            works = next(self._work)[: len(batch)]
            self._times = np.concatenate((self._times, batch))
            self._works = np.concatenate((self._works, works))
        count = int(np.searchsorted(self._times, end))
        given = self._times[:count], self._works[:count]
        self._times, self._works = self._times[count:], self._works[count:]
        return given
