"""Planners and scenarios for the simulator's tests: small, and with known outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autoscale.decision import Decision
from autoscale.model import Fleet
from autoscale.signals import Signals
from autoscale.simulation.scenario import Law, Scenario
from autoscale.simulation.trace import RateTrace


class Script:
    """Wants so many replicas from those seconds on."""

    def __init__(self, wants: Mapping[float, int], name: str = "script") -> None:
        self.name = name
        self._wants = dict(sorted(wants.items()))
        self.seen: list[tuple[float, Signals, Fleet]] = []
        self.started: list[int] = []

    def start(self, replicas: int) -> None:
        self.started.append(replicas)

    def plan(self, signals: Signals, fleet: Fleet, now: float) -> int | Decision:
        self.seen.append((now, signals, fleet))
        return [wanted for at, wanted in self._wants.items() if at <= now][-1]


def always(replicas: int) -> Script:
    return Script({0.0: replicas}, f"always {replicas}")


class Asks:
    """Wants what a function of (signals, fleet, now) says."""

    name = "asks"

    def __init__(self, ask: Callable[[Signals, Fleet, float], int]) -> None:
        self._ask = ask

    def start(self, replicas: int) -> None:
        pass

    def plan(self, signals: Signals, fleet: Fleet, now: float) -> int:
        return self._ask(signals, fleet, now)


def flat(rate: float, seconds: float) -> RateTrace:
    return RateTrace((0.0,), (rate,), seconds)


def steps(*rates_and_seconds: tuple[float, float]) -> RateTrace:
    starts, rates, at = [], [], 0.0
    for rate, seconds in rates_and_seconds:
        starts.append(at)
        rates.append(rate)
        at += seconds
    return RateTrace(tuple(starts), tuple(rates), at)


def scenario(rate: RateTrace, **given: Any) -> Scenario:
    """Deterministic service of 100 ms on one server a replica, unless told."""
    values: dict[str, Any] = {"name": "test", "law": Law.DETERMINISTIC, "service_s": 0.1}
    return Scenario(rate=rate, **(values | given))
