"""What the planner gets to see of a simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autoscale.simulate import simulate
from autoscale.simulation.machines import Machines
from autoscale.simulation.readings import Recent, shares
from autoscale.simulation.scenario import MONDAY, Faults, Scenario, Timing
from tests.simulations import Script, always, flat, scenario, steps


def seen(played: Scenario, planner: Script) -> list[Any]:
    simulate(played, planner)
    return planner.seen


def test_it_is_asked_every_interval_and_told_the_time() -> None:
    planner = always(1)
    ticks = seen(scenario(flat(5.0, 10.0), interval_s=2.5), planner)
    assert [now for now, _, _ in ticks] == [2.5, 5.0, 7.5]
    assert [signals.wall_s for _, signals, _ in ticks] == [MONDAY + t for t in (2.5, 5.0, 7.5)]
    assert planner.started == [1]


def test_cpu_is_the_servers_work_shared_by_all_that_serve() -> None:
    """50 requests/s of 0.1 s are 5 servers' work: on 4 replicas of 2 servers, 0.625 of each."""
    played = scenario(flat(50.0, 60.0), servers=2, initial_replicas=4, overhead_cores=0.05)
    ticks = seen(played, always(4))
    _, first, _ = ticks[0]
    assert set(first.cpu) == set(first.serving) == {"vm-1", "vm-2", "vm-3", "vm-4"}
    uses = [signals.cpu["vm-2"].utilisation for _, signals, _ in ticks]
    assert np.mean(uses) == pytest.approx(0.625 + 0.05 / 2, rel=0.03)
    cores = [signals.cpu["vm-2"].vcpu_cores for _, signals, _ in ticks]
    assert np.mean(cores) == pytest.approx(1.25, rel=0.03)
    for _, signals, _ in ticks:
        assert len({round(cpu.utilisation, 9) for cpu in signals.cpu.values()}) == 1
        assert all(cpu.at == signals.wall_s - MONDAY for cpu in signals.cpu.values())


def test_arrivals_running_and_answers() -> None:
    played = scenario(flat(200.0, 30.0), servers=10, initial_replicas=3)
    ticks = seen(played, always(3))[1:]
    arrivals = [signals.arrivals_per_s for _, signals, _ in ticks]
    assert np.mean(arrivals) == pytest.approx(200, rel=0.05)
    answers = [sum(signals.served_per_s.values()) for _, signals, _ in ticks]
    assert np.mean(answers) == pytest.approx(200, rel=0.05)
    running = [signals.in_flight for _, signals, _ in ticks]
    assert np.mean(running) == pytest.approx(20, rel=0.15)


def test_the_queue_and_since_when_it_waits() -> None:
    """20 requests/s to one that does 10 and is given one: after 10 s some 100 wait, without a
    break."""
    ticks = seen(scenario(flat(20.0, 10.5), max_in_flight=1), always(1))
    _, last, _ = ticks[-1]
    assert last.queued == pytest.approx(100, abs=40)
    assert 8.0 < last.waiting_s < 10.0
    assert last.latency_p99_s == pytest.approx(last.queued / 20, abs=1.5)


def test_who_waits_inside_a_replica_is_not_seen_to_wait() -> None:
    """The same, and it is given 64 of them: the first seconds show no queue at all."""
    ticks = seen(scenario(flat(20.0, 10.5)), always(1))
    shown = [(signals.in_flight, signals.queued) for _, signals, _ in ticks]
    assert all(inside == 64 for inside, queued in shown if queued)
    assert shown[2][1] == 0 < shown[2][0]
    assert shown[-1][1] > 0


def test_an_idle_service_has_no_latency() -> None:
    ticks = seen(scenario(steps((5.0, 5.0), (0.0, 20.0))), always(1))
    latencies = {now: signals.latency_p99_s for now, signals, _ in ticks}
    assert latencies[5.0] is not None
    assert latencies[16.0] is None


def test_who_boots_has_a_reading_and_serves_nothing() -> None:
    played = scenario(flat(5.0, 20.0), timing=Timing(cold_s=5.0))
    ticks = {now: signals for now, signals, _ in seen(played, always(2))}
    assert ticks[5.0].serving == ("vm-1",)
    assert ticks[5.0].cpu["vm-2"].utilisation == 0.0
    assert ticks[6.0].serving == ("vm-1", "vm-2")
    # what the first has done before is not its work
    assert ticks[6.0].cpu["vm-2"].utilisation == 0.0
    assert ticks[7.0].cpu["vm-2"].utilisation == pytest.approx(ticks[7.0].cpu["vm-1"].utilisation)
    assert sum(ticks[7.0].served_per_s.values()) <= 20
    assert ticks[19.0].cpu["vm-1"].utilisation == ticks[19.0].cpu["vm-2"].utilisation


def test_who_leaves_finishes_and_its_cpu_shows_it() -> None:
    played = scenario(flat(40.0, 8.0), service_s=3.0, servers=100, initial_replicas=2)
    ticks = {now: (s, fleet) for now, s, fleet in seen(played, Script({0: 2, 4: 1}))}
    signals, fleet = ticks[5.0]
    assert (fleet.ready, fleet.draining) == (1, 1)
    (left,) = set(signals.cpu) - set(signals.serving)
    # it had half of some 120 running
    assert 30 < signals.cpu[left].vcpu_cores < 70
    assert 5 < ticks[6.0][0].served_per_s[left] < 40
    assert ticks[7.0][0].cpu[left].vcpu_cores < signals.cpu[left].vcpu_cores


def test_samples_get_lost_as_often_as_told() -> None:
    played = scenario(flat(5.0, 300.0), initial_replicas=4, faults=Faults(missing_samples=0.25))
    ticks = seen(played, always(4))
    fresh = sum(cpu.at == now for now, signals, _ in ticks for cpu in signals.cpu.values())
    assert fresh / (len(ticks) * 4) == pytest.approx(0.75, abs=0.04)


def test_the_recent_p99_is_within_a_bucket_of_the_true_one() -> None:
    rng = np.random.default_rng(3)
    recent = Recent()
    assert recent.p99() is None
    kept = []
    for second in range(1, 21):
        latencies = rng.lognormal(-3, 1, 200)
        recent.add(latencies, float(second))
        kept.append(latencies)
    true = float(np.quantile(np.concatenate(kept[-10:]), 0.99))
    assert recent.p99() == pytest.approx(true, rel=0.1)
    recent.add(np.empty(0), 31.0)
    assert recent.p99() is None


@pytest.mark.parametrize("latency", [1e-6, 1e4])
def test_no_latency_falls_off_the_scale(latency: float) -> None:
    recent = Recent()
    recent.add(np.array([latency]), 1.0)
    assert recent.p99() is not None


def test_running_requests_are_shared_evenly() -> None:
    ready = Machines(scenario(flat(1.0, 1.0), initial_replicas=3)).ready
    assert shares(8, ready) == {"vm-1": 3, "vm-2": 3, "vm-3": 2}
    assert shares(0, ready) == {"vm-1": 0, "vm-2": 0, "vm-3": 0}
    assert shares(5, []) == {}
