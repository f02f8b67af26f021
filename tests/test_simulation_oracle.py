"""The oracle: by hand, against every way to live, and against runs without a violating second."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.simulate import simulate
from autoscale.simulation.oracle import least_vm_seconds, lives_s
from autoscale.simulation.planner import Planner
from autoscale.simulation.scenario import Law, Timing
from autoscale.simulation.shapes import SHAPES
from autoscale.simulation.trace import RateTrace
from tests.simulations import Script, always, flat, scenario, steps


def test_a_life_spans_its_windows_and_boots_before() -> None:
    """Windows of 2 s at 10, 11 … 20: there from 12 at the latest until 20."""
    starts = [float(second) for second in range(10, 21)]
    assert lives_s(starts, 2.0, 5.0, 1.0, there=False) == 5.0 + 8.0
    # there already at 0 and kept: 20 s, which is more than to go and boot again
    assert lives_s(starts, 2.0, 5.0, 1.0, there=True) == 13.0
    assert lives_s(starts, 2.0, 50.0, 1.0, there=True) == 20.0
    assert lives_s([], 2.0, 5.0, 1.0, there=False) == 0.0


@pytest.mark.parametrize(("boot_s", "total"), [(5.0, 5.0 + 0 + 1 + 5 + 0), (40.0, 40.0 + 38.0)])
def test_a_gap_is_lived_through_where_booting_again_costs_more(boot_s: float, total: float) -> None:
    assert lives_s([0.0, 40.0], 2.0, boot_s, 1.0, there=False) == total


@given(
    starts=st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True).map(sorted),
    slack=st.integers(0, 12),
    boot=st.integers(0, 15),
    drain=st.integers(0, 4),
    there=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_no_way_to_live_is_cheaper(
    starts: list[int], slack: int, boot: int, drain: int, there: bool
) -> None:
    """Against every way to part the windows into lives."""
    count, costs = len(starts), []
    for cuts in range(count):
        for where in combinations(range(1, count), cuts):
            bounds = [0, *where, count]
            lives = [starts[a:b] for a, b in pairwise(bounds)]
            cost = [boot + max(0, life[-1] - life[0] - slack) + drain for life in lives]
            if there:
                cost[0] = min(cost[0], lives[0][-1] + drain)
            costs.append(max(0, sum(cost) - drain))
    got = lives_s([float(start) for start in starts], slack, boot, drain, there=there)
    assert got == min(costs)


def test_a_steady_load_takes_what_it_takes_all_the_time() -> None:
    """35 requests/s of 0.1 s: 4 replicas at least, and no more than those that do without a
    violation."""
    played = scenario(flat(35.0, 300.0), initial_replicas=5, objective_p99_s=0.6)
    bound = least_vm_seconds(played)
    assert 4 * 300 * 0.9 < bound <= 5 * 300
    result = simulate(played, always(5))
    assert result.score.violating_seconds == 0
    assert result.score.oracle_vm_seconds == bound


def test_an_idle_service_takes_its_minimum() -> None:
    assert least_vm_seconds(scenario(flat(0.0, 50.0))) == 50.0
    assert least_vm_seconds(scenario(flat(0.0, 50.0), min_replicas=0)) == 0.0


def test_a_longer_boot_costs_more_and_a_standby_less() -> None:
    rate = steps((5.0, 100.0), (60.0, 100.0), (5.0, 100.0))
    slow = scenario(rate, timing=Timing(cold_s=60.0))
    quick = scenario(rate, timing=Timing(cold_s=10.0))
    standby = scenario(rate, timing=Timing(cold_s=60.0), standbys=1)
    assert least_vm_seconds(slow) > least_vm_seconds(quick) + 5 * 45
    assert least_vm_seconds(standby) <= least_vm_seconds(quick)


def test_a_load_beyond_the_maximum_asks_for_the_maximum() -> None:
    played = scenario(flat(500.0, 100.0), max_replicas=3)
    assert 3 * 80 < least_vm_seconds(played) <= 300


def test_who_is_there_already_need_not_boot() -> None:
    rate, slow = flat(35.0, 300.0), Timing(cold_s=100.0)
    there = least_vm_seconds(scenario(rate, timing=slow, initial_replicas=4))
    assert there < least_vm_seconds(scenario(rate, timing=slow, initial_replicas=1))


def test_a_tight_objective_asks_for_more_than_the_work() -> None:
    """4 requests/s of 0.1 s that may wait for 0.01 s: two at once need two servers."""
    tight = least_vm_seconds(scenario(flat(4.0, 200.0), objective_p99_s=0.11))
    loose = least_vm_seconds(scenario(flat(4.0, 200.0), objective_p99_s=5.0))
    assert loose == 200.0
    assert tight > 1.4 * loose


def test_requests_that_are_too_long_by_themselves_ask_for_nothing() -> None:
    played = scenario(flat(2.0, 60.0), service_s=2.0, objective_p99_s=1.0)
    assert least_vm_seconds(played) == 60.0


def test_busy_windows_are_judged_by_their_work() -> None:
    """1,000 requests/s of 20 ms are 20 servers' work."""
    played = scenario(flat(1000.0, 60.0), service_s=0.02, max_replicas=40, objective_p99_s=0.25)
    assert 20 * 60 * 0.95 < least_vm_seconds(played) < 21 * 60


STEADY: dict[str, Any] = {"objective_p99_s": 2.0, "max_replicas": 12}
SPIKE = steps((5.0, 120.0), (60.0, 60.0), (5.0, 120.0))
SQUARE = steps(*[(5.0, 50.0), (45.0, 50.0)] * 3)


@pytest.mark.parametrize(
    ("rate", "given", "planner", "near"),
    [
        (flat(35.0, 200.0), {"initial_replicas": 5}, always(5), 0.7),
        (flat(7.0, 200.0), {"initial_replicas": 2, "law": Law.EXPONENTIAL}, always(2), 0.5),
        # who knows what comes: boots ahead, and goes when it is over
        (SPIKE, {}, Script({0: 1, 109: 8, 184: 1}), 0.65),
        (SPIKE, {"standbys": 7}, Script({0: 1, 119: 8, 184: 1}), 0.6),
        (SPIKE, {"snapshot": True}, Script({0: 1, 118: 8, 184: 1}), 0.6),
        (SPIKE, {"initial_replicas": 8}, Script({0: 8, 184: 1}), 0.3),
        (SQUARE, {}, Script({0: 1, 39: 6, 102: 1, 139: 6, 202: 1, 239: 6}), 0.6),
        (SQUARE, {"timing": Timing(cold_s=40.0)}, Script({0: 1, 9: 6}), 0.6),
        (SQUARE, {"law": Law.EXPONENTIAL, "servers": 4}, Script({0: 1, 38: 3}), 0.4),
        (flat(99.0, 60.0), {"service_s": 0.2, "servers": 8, "initial_replicas": 4}, always(4), 0.5),
    ],
)  # fmt: skip
def test_no_run_without_a_violation_does_with_less(
    rate: RateTrace, given: dict[str, Any], planner: Planner, near: float
) -> None:
    got = simulate(scenario(rate, **(STEADY | given)), planner).score
    assert got.violating_seconds == 0
    serving = got.vm_seconds - got.standby_vm_seconds
    assert got.oracle_vm_seconds <= serving
    # the rest is what these planners hold in reserve, and what the bound does not see
    assert got.oracle_vm_seconds >= near * serving


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_has_its_bound(name: str) -> None:
    rate = SHAPES[name](duration_s=600.0)
    played = scenario(rate, law=Law.EXPONENTIAL, objective_p99_s=2.0)
    work = rate.expected * 0.1
    assert work * 0.9 < least_vm_seconds(played) < 6 * work
