"""The product's planner in the simulator: what it decides here, it would decide there."""

from __future__ import annotations

import pytest

from autoscale import policy
from autoscale.model import Fleet
from autoscale.policy import State
from autoscale.rules import Rules
from autoscale.signals import Signals
from autoscale.simulate import simulate
from autoscale.simulation.planner import Ours, Planner
from tests.simulations import flat, scenario, steps

RULES = Rules(max=6)
RATE = steps((5.0, 60.0), (40.0, 120.0), (5.0, 300.0))


def test_it_is_decide_with_its_state_handed_on() -> None:
    ours: Planner = Ours(RULES)
    ours.start(2)
    state = State.start(2, RULES)
    fleet = Fleet("simulated", ready=2, existing=2)
    for second in range(1, 20):
        signals = Signals(serving=("a", "b"), queued=second, wall_s=float(second))
        decision, state = policy.decide(signals, fleet, state, RULES, float(second))
        assert ours.plan(signals, fleet, float(second)) == decision


def test_it_grows_and_shrinks_with_the_load_and_says_why() -> None:
    result = simulate(scenario(RATE, max_replicas=6), Ours(RULES))
    assert result.planner == "ours"
    assert result.series.ready[:60].max() == 1
    assert result.series.ready[170] >= 4
    assert result.series.ready[-1] < 4
    for change in result.changes:
        assert change.why.startswith(f"{change.before} → {change.after}: ")


def test_a_run_knows_nothing_of_the_one_before() -> None:
    planner = Ours(RULES, "again")
    played = scenario(RATE, max_replicas=6)
    first, second = simulate(played, planner), simulate(played, planner)
    assert first.as_dict() == second.as_dict()
    assert second.planner == "again"


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_constant_load_settles(replicas: int) -> None:
    """30 requests/s of 0.1 s are three servers' work: five or six replicas at 0.6."""
    played = scenario(flat(30.0, 600.0), max_replicas=8, initial_replicas=replicas)
    result = simulate(played, Ours(Rules(max=8)))
    late = result.series.desired[300:]
    assert late.min() == late.max() in (4, 5, 6, 7)
