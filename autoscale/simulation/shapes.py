"""The built-in loads, by name: what real traffic does, each in its plainest form.

Each is a function of a base and a peak rate (requests/s) and a duration (seconds) to a trace in
steps of one second. The defaults suit one to ten replicas that do some 10 requests/s each: service
times of 100 ms on one server. Nothing is drawn here, but `noise`, from its own seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoscale.simulation.trace import RateTrace, sampled

BASE = 5.0
PEAK = 40.0
DAY_S = 86400.0

_Seconds = NDArray[np.float64]


class Shape(Protocol):
    """A built-in load; without arguments, as its name says."""

    def __call__(
        self, base: float = ..., peak: float = ..., duration_s: float = ...
    ) -> RateTrace: ...


def step(base: float = BASE, peak: float = PEAK, duration_s: float = 900.0) -> RateTrace:
    """Base for the first third, then peak for good."""
    return _of(lambda at: np.where(at < 1 / 3, base, peak), duration_s)


def ramp(base: float = BASE, peak: float = PEAK, duration_s: float = 1200.0) -> RateTrace:
    """A quarter at base, up in a straight line over a quarter, a quarter at peak, down again."""
    times, rates = (0.0, 0.25, 0.5, 0.75, 1.0), (base, base, peak, peak, base)
    return _of(lambda at: np.interp(at, times, rates), duration_s)


def spike(base: float = BASE, peak: float = PEAK, duration_s: float = 900.0) -> RateTrace:
    """Peak for 30 s after the first third, base before and after."""
    start_s = duration_s / 3
    return _of(
        lambda at: np.where(
            (at * duration_s >= start_s) & (at * duration_s < start_s + 30), peak, base
        ),
        duration_s,
    )


def flash_crowd(base: float = BASE, peak: float = PEAK, duration_s: float = 1800.0) -> RateTrace:
    """From base to peak within 30 s after a sixth, a plateau of a sixth, then interest fades: half
    of what is above base every tenth of the whole."""
    start, plateau, half_life = 1 / 6, 1 / 6, 1 / 10
    rise = 30 / duration_s

    def rates(at: _Seconds) -> _Seconds:
        above = np.clip((at - start) / rise, 0.0, 1.0)
        faded = 0.5 ** (np.maximum(0.0, at - start - rise - plateau) / half_life)
        return base + (peak - base) * above * faded

    return _of(rates, duration_s)


def sine(base: float = BASE, peak: float = PEAK, duration_s: float = 1800.0) -> RateTrace:
    """Three waves between base and peak, from base."""
    return _of(
        lambda at: base + (peak - base) * (0.5 - 0.5 * np.cos(at * 3 * 2 * np.pi)), duration_s
    )


def diurnal(base: float = BASE, peak: float = PEAK, duration_s: float = 3600.0) -> RateTrace:
    """A day from midnight to midnight, compressed to `duration_s` (DAY_S: a real one): lowest at
    four o'clock, a rise in the morning, peak at noon, a smaller hump at eight in the evening."""
    hours = (0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24)
    shares = (0.15, 0.04, 0.0, 0.1, 0.5, 0.9, 1.0, 0.95, 0.8, 0.7, 0.75, 0.4, 0.15)
    return _of(lambda at: base + (peak - base) * np.interp(at * 24, hours, shares), duration_s)


def sawtooth(base: float = BASE, peak: float = PEAK, duration_s: float = 1800.0) -> RateTrace:
    """Six times up in a straight line and back to base at once."""
    return _of(lambda at: base + (peak - base) * (at * 6 % 1.0), duration_s)


def square(base: float = BASE, peak: float = PEAK, duration_s: float = 1800.0) -> RateTrace:
    """Base and peak by turns, six of each: 150 s long by default."""
    return _of(lambda at: np.where(at * 6 % 1.0 < 0.5, base, peak), duration_s)


def noise(
    base: float = BASE, peak: float = PEAK, duration_s: float = 1800.0, seed: int = 7
) -> RateTrace:
    """Around the middle of base and peak, without a trend: every 10 s another rate, which keeps
    0.7 of the last one's distance from the middle (an AR(1) process), between base and peak."""
    steps = -(-int(duration_s) // 10)
    drawn = np.random.default_rng(seed).normal(size=steps)
    wander = np.empty(steps)
    last = 0.0
    for index in range(steps):
        last = wander[index] = 0.7 * last + drawn[index]
    # its standard deviation is 1.4; so most of it lies between base and peak
    shares = np.clip(0.5 + wander / (4 * 1.4), 0.0, 1.0)
    return _of(
        lambda at: base + (peak - base) * shares[(at * duration_s).astype(int) // 10], duration_s
    )


def _of(rates: Callable[[_Seconds], _Seconds], duration_s: float) -> RateTrace:
    """`rates` of the middles of the seconds, as shares of the whole; it lasts whole seconds."""
    seconds = max(1, round(duration_s))
    return sampled(rates((np.arange(seconds) + 0.5) / seconds).tolist())


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "step": step,
        "ramp": ramp,
        "spike": spike,
        "flash-crowd": flash_crowd,
        "sine": sine,
        "diurnal": diurnal,
        "sawtooth": sawtooth,
        "square": square,
        "noise": noise,
    }
)
