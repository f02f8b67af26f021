"""The machines of a simulation: when they come and go, and the seconds they existed for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autoscale.model import Path, VmState
from autoscale.simulation.machines import Machines
from autoscale.simulation.queue import NOBODY, Running
from autoscale.simulation.scenario import Faults, Timing
from tests.simulations import flat, scenario


def machines(**given: Any) -> Machines:
    return Machines(scenario(flat(1.0, 100.0), **given))


def pass_time(fleet: Machines, now: float) -> list[str]:
    """All that happens by then, each at its time; the names of those that died."""
    died = []
    while fleet.next_at <= now:
        at = fleet.next_at
        for machine in fleet.dying(at):
            fleet.die(machine, at)
            died.append(machine.name)
    return died


def states(fleet: Machines) -> dict[str, str]:
    return {machine.name: machine.state.value for machine in fleet.all}


def test_a_cold_boot() -> None:
    fleet = machines()
    fleet.grow(2, 5.0)
    assert states(fleet) == {"vm-1": "ready", "vm-2": "booting", "vm-3": "booting"}
    pass_time(fleet, 14.9)
    assert fleet.fleet().ready == 1
    pass_time(fleet, 15.0)
    assert fleet.fleet().ready == 3
    assert [machine.name for machine in fleet.ready] == ["vm-1", "vm-2", "vm-3"]
    assert fleet.vm_seconds(20.0) == (20.0 + 15.0 + 15.0, 0.0)


def test_the_quickest_way_goes_first_and_standbys_are_refilled_cold() -> None:
    timing = Timing(standby_s=0.5, snapshot_s=2.0, cold_s=10.0)
    fleet = machines(standbys=1, snapshot=True, timing=timing)
    ways = [(way.path, way.seconds, way.available) for way in fleet.fleet().ways]
    assert ways == [(Path.STANDBY, 0.5, 1), (Path.SNAPSHOT, 2.0, None), (Path.COLD, 10.0, None)]
    fleet.grow(2, 10.0)
    fleet.fill_standbys(10.0)
    fleet.fill_standbys(10.0)
    assert fleet.standbys == 1
    assert (fleet.fleet().standby, fleet.fleet().booting, fleet.fleet().existing) == (0, 2, 3)
    pass_time(fleet, 10.5)
    assert fleet.fleet().ready == 2
    pass_time(fleet, 12.0)
    assert fleet.fleet().ready == 3
    pass_time(fleet, 20.0)
    assert (fleet.fleet().standby, fleet.fleet().ready) == (1, 3)
    # vm-1 always, vm-2 first as a standby, vm-3 from the snapshot, vm-4 as the new standby
    assert fleet.vm_seconds(30.0) == (30.0 + 30.0 + 20.0 + 20.0, 10.0 + 20.0)


def test_who_drains_stays_until_its_last_request_is_over_and_a_little_longer() -> None:
    fleet = machines(initial_replicas=2, timing=Timing(drain_s=1.5))
    fleet.drain(fleet.ready[1], Running(np.zeros(2), np.zeros(2), np.array([12.0, 11.0])), 10.0)
    assert states(fleet) == {"vm-1": "ready", "vm-2": "draining"}
    pass_time(fleet, 13.4)
    assert fleet.fleet().draining == 1
    pass_time(fleet, 13.5)
    assert states(fleet) == {"vm-1": "ready"}
    assert fleet.vm_seconds(20.0) == (20.0 + 13.5, 0.0)


def test_a_boot_called_off_ends_it() -> None:
    fleet = machines()
    fleet.grow(1, 0.0)
    fleet.drain(fleet.all[1], NOBODY, 9.5)
    pass_time(fleet, 50.0)
    assert states(fleet) == {"vm-1": "ready"}
    assert fleet.vm_seconds(50.0) == (50.0 + 10.5, 0.0)


def test_whoever_leaves_counts_towards_the_maximum_and_standbys_do_not() -> None:
    fleet = machines(initial_replicas=2, max_replicas=3, standbys=2)
    fleet.drain(fleet.ready[0], NOBODY, 1.0)
    fleet.grow(5, 1.0)
    assert fleet.fleet().existing == 3
    assert fleet.standbys == 1
    pass_time(fleet, 2.0)
    fleet.grow(5, 2.0)
    assert fleet.fleet().existing == 3
    assert fleet.standbys == 0


def test_after_a_failed_boot_the_next_waits_as_in_the_product() -> None:
    """1 s, 2 s, 4 s, 8 s, then the breaker's minute; one at a time."""
    fleet = machines(faults=Faults(failing_boots=1.0))
    fleet.grow(3, 0.0)
    pass_time(fleet, 10.0)
    assert fleet.fleet().launch_failures == 3
    launches = []
    for tenth in range(1000):
        now = 10.0 + tenth / 10
        pass_time(fleet, now)
        before = len(fleet.all)
        fleet.grow(3, now)
        launches += [now] * (len(fleet.all) - before)
    # three at once have failed: 4 s; then 8 s would be due, but it was the fifth: a minute
    assert launches == pytest.approx([14.0, 32.0, 102.0])


def test_some_boots_fail_and_a_good_one_is_forgiven() -> None:
    fleet = machines(faults=Faults(failing_boots=0.5), max_replicas=200)
    seen = set()
    now = 0.0
    for _ in range(40):
        fleet.grow(1, now)
        now += 100.0
        pass_time(fleet, now)
        seen.add(fleet.fleet().launch_failures)
    assert 10 <= len(fleet.ready) <= 30
    assert {0, 1} < seen


def test_replicas_die_as_often_as_told() -> None:
    fleet = machines(initial_replicas=500, max_replicas=500, faults=Faults(deaths_per_hour=36.0))
    died = pass_time(fleet, 100.0)
    # each lives 100 s on average: 1 − 1/e of them are dead
    assert len(died) / 500 == pytest.approx(0.632, abs=0.06)
    assert fleet.fleet().ready == 500 - len(died)
    assert fleet.vm_seconds(100.0)[0] == pytest.approx(500 * 100 * 0.632, rel=0.06)


def test_who_died_while_it_drained_is_gone_once() -> None:
    fleet = machines(initial_replicas=1)
    machine = fleet.ready[0]
    fleet.drain(machine, Running(np.zeros(1), np.zeros(1), np.array([50.0])), 1.0)
    fleet.die(machine, 10.0)
    pass_time(fleet, 99.0)
    assert machine.state is VmState.GONE
    assert fleet.vm_seconds(99.0) == (10.0, 0.0)
