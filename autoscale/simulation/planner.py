"""Who says how many replicas there should be, as the simulator sees him: ours, or a rival.

Owns the Protocol that all of them meet, and the product's planner behind it. It must not decide
anything itself.
"""

from __future__ import annotations

from typing import Protocol

from autoscale.decision import Decision
from autoscale.model import Fleet
from autoscale.policy import State, decide
from autoscale.rules import Rules
from autoscale.signals import Signals


class Planner(Protocol):
    """Anything that says how many replicas there should be."""

    @property
    def name(self) -> str: ...

    def start(self, replicas: int) -> None:
        """A run begins with so many; whatever was learned in one before is forgotten."""

    def plan(self, signals: Signals, fleet: Fleet, now: float) -> int | Decision:
        """How many there should be, asked every `interval_s` of the scenario. Who has a longer
        period keeps count of it himself."""


class Ours:
    """The product's planner: the same `decide`, its state handed from one call to the next."""

    def __init__(self, rules: Rules, name: str = "ours") -> None:
        self.rules = rules
        self.name = name
        self._state = State.start(0, rules)

    def start(self, replicas: int) -> None:
        self._state = State.start(replicas, self.rules)

    def plan(self, signals: Signals, fleet: Fleet, now: float) -> Decision:
        decision, self._state = decide(signals, fleet, self._state, self.rules, now)
        return decision
