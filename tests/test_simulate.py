"""The simulator as a whole: nothing gets lost in it, nothing happens too early, all is counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.decision import Decision
from autoscale.model import Fleet, Reason
from autoscale.signals import Signals
from autoscale.simulate import simulate
from autoscale.simulation.result import Result
from autoscale.simulation.scenario import Faults, Law, Scenario, Timing
from autoscale.simulation.shapes import spike
from tests.simulations import Asks, Script, always, flat, scenario, steps


def run(played: Scenario, wants: Mapping[float, int]) -> Result:
    return simulate(played, Script(wants))


# --- conservation, bounds, determinism

scenarios = st.builds(
    scenario,
    st.lists(st.tuples(st.floats(0.0, 60.0), st.floats(0.3, 12.0)), min_size=1, max_size=5).map(
        lambda pairs: steps(*pairs)
    ),
    service_s=st.floats(0.01, 3.0),
    law=st.sampled_from(Law),
    cv=st.floats(0.2, 3.0),
    servers=st.integers(1, 8),
    min_replicas=st.just(0),
    initial_replicas=st.integers(0, 4),
    max_replicas=st.integers(4, 8),
    queue_length=st.integers(0, 40),
    max_wait_s=st.sampled_from([0.1, 2.0, 30.0]),
    interval_s=st.sampled_from([0.3, 1.0, 2.5]),
    standbys=st.integers(0, 2),
    snapshot=st.booleans(),
    timing=st.builds(
        Timing,
        standby_s=st.sampled_from([0.0, 0.05]),
        cold_s=st.sampled_from([0.7, 4.0]),
        drain_s=st.sampled_from([0.0, 1.0]),
    ),
    faults=st.builds(
        Faults,
        deaths_at=st.lists(st.floats(0.0, 30.0), max_size=4).map(tuple),
        deaths_per_hour=st.sampled_from([0.0, 600.0]),
        failing_boots=st.sampled_from([0.0, 0.5]),
        missing_samples=st.sampled_from([0.0, 0.3]),
        repeated=st.booleans(),
    ),
    seed=st.integers(0, 1000),
)


@given(played=scenarios, wants=st.lists(st.integers(-2, 12), min_size=1, max_size=40))
@settings(max_examples=120, deadline=None)
def test_no_request_and_no_machine_gets_lost(played: Scenario, wants: list[int]) -> None:
    seen: list[Fleet] = []

    def ask(signals: Signals, fleet: Fleet, now: float) -> int:
        seen.append(fleet)
        assert 0 <= signals.in_flight <= fleet.ready * played.max_in_flight
        assert signals.queued <= played.queue_length or played.faults.repeated
        assert not signals.queued or signals.in_flight >= fleet.ready * played.max_in_flight
        return wants[len(seen) % len(wants)]

    result = simulate(played, Asks(ask))
    series, ending, score = result.series, result.ending, result.score
    arrived = int(series.arrived.sum())
    assert ending.served + ending.lost + ending.running + ending.waiting == arrived
    assert score.requests_total == arrived
    assert score.requests_lost == ending.lost == series.lost.sum()
    assert (series.over + series.lost <= series.arrived).all()
    assert np.nanmax(series.utilisation, initial=0.0) <= 1 + 1e-6
    everybody = series.ready + series.booting + series.draining
    assert everybody.max() <= played.max_replicas
    assert series.standby.max() <= played.standbys
    assert ((series.desired >= 0) & (series.desired <= played.max_replicas)).all()
    assert 0 <= score.standby_vm_seconds <= score.vm_seconds
    most = (played.max_replicas + played.standbys) * played.duration_s
    assert score.vm_seconds <= most + 1e-6


@pytest.mark.parametrize("repeated", [True, False])
def test_the_same_again_is_the_same(repeated: bool) -> None:
    played = scenario(
        spike(duration_s=200.0),
        law=Law.LOGNORMAL,
        cv=2.0,
        standbys=1,
        faults=Faults((60.0, 90.0), 60.0, 0.3, 0.1, repeated),
    )
    first, second = (run(played, {0: 2, 60: 7, 120: 3}) for _ in range(2))
    assert first.as_dict() == second.as_dict()
    assert first.series.lost.sum() == 0 or not repeated


def test_every_planner_meets_the_same_requests() -> None:
    played = scenario(spike(duration_s=200.0), law=Law.EXPONENTIAL, initial_replicas=8)
    few, many = run(played, {0: 3}), run(played, {0: 8})
    assert few.series.arrived.tolist() == many.series.arrived.tolist()
    assert few.score.oracle_vm_seconds == many.score.oracle_vm_seconds
    assert few.score.requests_over > many.score.requests_over


# --- time


def test_nobody_is_served_before_a_replica_is_ready() -> None:
    """Asked for at 1 s, ready at 11 s: who came at t has waited 11 − t at least."""
    result = run(scenario(flat(3.0, 30.0), initial_replicas=0, min_replicas=0), {0: 1})
    series = result.series
    assert series.ready[:10].tolist() == [0] * 10
    assert series.booting[:12].tolist() == [0] + [1] * 9 + [0] * 2
    assert series.ready[10:].tolist() == [1] * 20
    assert np.isnan(series.utilisation[:11]).all()
    assert series.utilisation[11] == 1.0
    for second in range(10):
        assert np.isnan(series.p99_s[second]) or series.p99_s[second] >= 11 - (second + 1)
    assert result.ending.lost == 0
    assert series.queued[9] == series.arrived[:10].sum()


def test_a_standby_serves_at_once_a_snapshot_soon() -> None:
    played = scenario(flat(25.0, 20.0), standbys=1, snapshot=True, timing=Timing(drain_s=0.5))
    series = run(played, {0: 1, 5: 3}).series
    # asked for at 5 s: the standby is there at 5.05 s, who comes by the snapshot at 6.5 s
    assert series.ready[3:8].tolist() == [1, 1, 2, 3, 3]
    assert series.booting[3:8].tolist() == [0, 0, 1, 0, 0]
    assert series.standby[3:17].tolist() == [1] * 14


def test_who_leaves_finishes_first_and_loses_nothing() -> None:
    """Requests of 3 s on 20 servers each; one of three leaves at 10 s."""
    played = scenario(
        flat(5.0, 40.0), service_s=3.0, servers=20, initial_replicas=3, objective_p99_s=3.5
    )
    result = run(played, {0: 3, 10: 2})
    series = result.series
    assert series.draining[9:15].tolist() == [0, 1, 1, 1, 0, 0]
    assert (result.ending.lost, result.score.requests_over) == (0, 0)
    # until its last request was over, and a second
    assert 12.0 < result.score.vm_seconds - 2 * 40.0 < 14.0


@pytest.mark.parametrize("seed", range(1, 7))
def test_who_has_the_fewest_requests_leaves(seed: int) -> None:
    """Of an odd number the first replica has one more; of an even one both have as many, and they
    are equally old: the first leaves then."""
    planner = Script({0: 2, 4: 1})
    played = scenario(flat(4.0, 6.0), service_s=9.0, servers=99, initial_replicas=2, seed=seed)
    simulate(played, planner)
    seen = {now: signals for now, signals, _ in planner.seen}
    stays = "vm-1" if seen[4.0].in_flight % 2 else "vm-2"
    assert seen[5.0].serving == (stays,)


def test_machines_are_counted_from_launch_to_gone() -> None:
    played = scenario(flat(0.0, 60.0))
    assert run(played, {0: 1}).score.vm_seconds == 60.0
    # the second from 10 s until it is gone at 41 s
    assert run(played, {0: 1, 10: 2, 40: 1}).score.vm_seconds == 60.0 + 31.0
    assert run(played, {0: 1, 55: 2}).score.vm_seconds == 60.0 + 5.0


def test_standbys_are_counted_apart() -> None:
    played = scenario(flat(0.0, 60.0), standbys=1)
    score = run(played, {0: 1, 10: 2, 40: 1}).score
    # the standby for 10 s and its successor for 50 s; then what it did as a replica
    assert score.standby_vm_seconds == 10.0 + 50.0
    assert score.vm_seconds == 60.0 + 31.0 + 60.0


def test_the_maximum_and_the_minimum_hold_whatever_is_wanted() -> None:
    played = scenario(flat(1.0, 40.0), min_replicas=2, max_replicas=4, initial_replicas=2)
    result = run(played, {0: 99, 20: -5})
    assert set(result.series.desired.tolist()) == {2, 4}
    assert [(c.before, c.after) for c in result.changes] == [(2, 4), (4, 2)]


def test_changes_say_why() -> None:
    class Says:
        name = "says"

        def start(self, replicas: int) -> None:
            pass

        def plan(self, signals: Signals, fleet: Fleet, now: float) -> Decision:
            wanted = 2 if now >= 3 else 1
            return Decision("simulated", now, 1, wanted, Reason.STEADY, told="so it is")

    (change,) = simulate(scenario(flat(1.0, 10.0)), Says()).changes
    assert (change.at, change.before, change.after, change.why) == (3.0, 1, 2, "1 → 2: so it is")


# --- what goes wrong


def test_a_replica_that_dies_is_replaced_and_its_requests_are_tried_again() -> None:
    rate, deaths = flat(20.0, 60.0), Faults(deaths_at=(20.5,))
    played = scenario(rate, service_s=2.0, servers=40, initial_replicas=2, faults=deaths)
    result = run(played, {0: 2})
    assert result.series.ready[[19, 20, 29, 30]].tolist() == [2, 1, 1, 2]
    assert result.ending.lost == 0
    # they ran for up to 2 s before they began anew
    assert 3.0 < float(np.nanmax(result.series.p99_s[15:25])) <= 4.5
    assert result.score.vm_seconds == 60.0 + 20.5 + (60.0 - 21.0)


def test_or_they_are_lost() -> None:
    rate, deaths = flat(20.0, 60.0), Faults(deaths_at=(20.5,), repeated=False)
    played = scenario(rate, service_s=2.0, servers=40, initial_replicas=2, faults=deaths)
    result = run(played, {0: 2})
    lost = result.series.lost
    assert 12 <= lost.sum() <= 28
    assert lost[18:21].sum() == lost.sum()
    assert result.series.violated[np.flatnonzero(lost)].all()


def test_nobody_dies_where_nobody_serves() -> None:
    played = scenario(
        flat(1.0, 10.0), initial_replicas=0, min_replicas=0, faults=Faults(deaths_at=(2.0,))
    )
    assert run(played, {0: 0}).score.vm_seconds == 0.0


def test_a_boot_that_fails_takes_its_time_and_nobody_serves() -> None:
    result = run(scenario(flat(1.0, 100.0), faults=Faults(failing_boots=1.0)), {0: 2})
    assert result.series.ready.max() == 1
    # 10 s each, begun at 1, 12, 24, 38 and 56 s: 1, 2, 4 and 8 s after the one before
    assert result.score.vm_seconds == 100.0 + 5 * 10.0
    assert result.series.booting[[5, 11, 15, 23, 30, 36]].tolist() == [1, 0, 1, 0, 1, 0]


def test_a_full_queue_and_impatience_lose_requests() -> None:
    rate: Any = flat(20.0, 30.0)
    short = run(scenario(rate, queue_length=5), {0: 1})
    assert short.score.requests_lost == pytest.approx(300, rel=0.15)
    assert np.nanmax(short.series.p99_s) <= 0.1 * 6 + 1e-9
    hasty = run(scenario(rate, max_wait_s=0.3), {0: 1})
    assert hasty.score.requests_lost == pytest.approx(300, rel=0.15)
    assert np.nanmax(hasty.series.p99_s) <= 0.4 + 1e-9


def test_relief_comes_with_the_boot() -> None:
    """Overloaded from 20 s; asked for at 25 s, ready at 35 s."""
    result = run(scenario(steps((5.0, 20.0), (15.0, 40.0))), {0: 1, 25: 2})
    assert (result.score.relief_median_s, result.score.relief_worst_s) == (14.0, 14.0)


def test_a_trace_may_end_within_a_second() -> None:
    result = simulate(scenario(flat(30.0, 2.5)), always(1))
    assert len(result.series.ready) == 3
    assert result.series.utilisation[2] == pytest.approx(1.0)
    assert result.score.vm_seconds == 2.5
