"""Standbys, step by step: how the reserve is kept, how one wakes, and what may go wrong with it.

A boot takes 10 s, powering off 2 s; boot timeout 30 s, drain timeout 20 s. Here `want` says how
many replicas there should be.
"""

from __future__ import annotations

import pytest

from autoscale.host import PowerState
from autoscale.limits import FREE_S
from autoscale.model import EventKind, Path, Reason
from autoscale.reserve import LOW_WEIGHT, USUAL_WEIGHT
from autoscale.vm import Role
from tests.fakes import Fault, Odd
from tests.reserves import all_of, asleep, domain_of, filled, last_join, want, with_standby
from tests.world import World, rules, shape

JOIN, DRAIN = EventKind.JOIN, EventKind.DRAIN


# --- kept filled


async def test_the_reserve_is_filled_once_those_that_serve_are_there() -> None:
    world = World(rules(2), vm=shape(standby=1))
    await world.run(10)
    assert len(world.host.asked("create")) == 2, "nothing is booted beside them"
    await filled(world, 2, 1)
    assert world.reasons("vm.launch")[-1] is Reason.RESERVED
    assert ("vm.standby", Reason.RESERVED) in world.said()
    counts = world.fleet.counts()
    assert (counts.ready, counts.booting, counts.standby, counts.existing) == (2, 0, 1, 3)
    (vm,) = asleep(world)
    assert domain_of(world, vm.name).power is PowerState.PAUSED
    assert vm.name not in world.told(JOIN), "no pool hears of it"
    assert world.boots == [(Path.COLD, 10.0)] * 2, "and it is no replica that came into service"


async def test_a_standby_boots_with_a_low_weight_and_sleeps_with_the_usual_one() -> None:
    """Never at the price of those that serve; and waking has no time to set anything."""
    world = await with_standby(standby=0)
    world.reload(standby=1)
    await world.until(lambda: len(world.domains()) == 2)
    booting = next(vm for vm in all_of(world) if vm.in_reserve)
    assert domain_of(world, booting.name).weight == LOW_WEIGHT
    (serving,) = world.fleet.ready_names()
    assert domain_of(world, serving).weight == USUAL_WEIGHT
    await filled(world, 1, 1)
    assert domain_of(world, booting.name).weight == USUAL_WEIGHT
    assert serving not in world.host.asked("set_cpu_weight")


async def test_a_host_that_weighs_nothing_keeps_a_reserve_all_the_same() -> None:
    world = World(vm=shape(standby=1))
    world.host.limits = False
    await filled(world, 1, 1)


async def test_a_weight_that_could_not_be_put_back_is_tried_again_before_it_sleeps() -> None:
    world = await with_standby(standby=0)
    world.reload(standby=1)
    await world.until(lambda: len(world.domains()) == 2)
    world.host.next_call("set_cpu_weight", Odd.FAILS, times=3)
    await filled(world, 1, 1)
    assert [domain.weight for domain in world.domains()] == [USUAL_WEIGHT] * 2


async def test_whoever_has_just_come_has_the_cores_to_himself_for_three_seconds() -> None:
    """What queued up while he was missing is worked off without a boot beside it."""
    world = await with_standby()
    before = len(world.host.asked("create"))
    want(world, 2)
    await world.run(2.5)
    assert world.fleet.counts().ready == 2
    assert len(world.host.asked("create")) == before
    await world.run(2)
    assert len(world.host.asked("create")) == before + 1, "and the reserve is filled again"


async def test_one_standby_boots_at_a_time() -> None:
    world = await with_standby(standby=0)
    world.reload(standby=3)
    most = 0
    for _ in range(60):
        await world.run(1)
        most = max(most, sum(vm.starting for vm in all_of(world)))
    assert (most, len(asleep(world))) == (1, 3)


async def test_the_reserve_waits_while_a_replica_is_on_its_way() -> None:
    world = await with_standby(standby=0)
    want(world, 2)
    await world.run(1)
    world.reload(standby=1)
    world.controller.rules = rules(2, 2)
    await world.run(9)
    assert len(world.domains()) == 2
    await filled(world, 2, 1)


async def test_a_standby_that_fails_to_boot_backs_off_without_holding_up_replicas() -> None:
    world = await with_standby(standby=0)
    world.host.next_create(Fault.REFUSED, times=4)
    world.reload(standby=1)
    await world.run(10)
    assert len(world.host.asked("create")) == 1 + 4, "now, + 1, + 2, + 4 s"
    assert world.fleet.gate.failures == 0
    want(world, 2)
    await world.run(1)
    assert world.reasons("vm.launch")[-1] is Reason.BELOW_MIN
    await filled(world, 2, 1)


async def test_a_reserve_that_got_filled_forgets_its_failures() -> None:
    world = await with_standby(standby=0)
    world.host.next_create(Fault.REFUSED, times=4)
    world.reload(standby=1)
    await filled(world, 1, 1)
    world.host.crash(asleep(world)[0].name)
    await world.run(4)
    assert any(vm.in_reserve for vm in all_of(world)), "a second later, not a minute"


async def test_a_standby_that_dies_whenever_it_is_suspended_is_not_booted_without_end() -> None:
    world = await with_standby(standby=0)
    world.host.hold_calls("suspend")
    world.reload(standby=1)
    for _ in range(400):
        await world.run(1)
        for name in set(world.host.asked("suspend")) & set(world.host.domains):
            world.host.crash(name)
            world.host.release_calls("suspend")
            world.host.hold_calls("suspend")
    # 5 tries within 65 s, then one a minute
    assert len(world.host.asked("create")) <= 1 + 5 + 6
    assert world.fleet.gate.failures == 0


# --- waking


async def test_a_standby_wakes_at_the_decision_and_serves_at_once() -> None:
    world = await with_standby()
    (vm,) = asleep(world)
    want(world, 2)
    await world.tick()  # the same instant
    assert world.reasons("vm.wake") == [Reason.BELOW_MIN]
    assert world.fleet.counts().ready == 2
    joined = last_join(world)
    assert (joined.backend, joined.ready) == (vm.name, True)
    assert joined.address == f"127.0.0.1:{vm.identity.host_port}"
    assert vm.name in [backend.name for backend in world.pool.available]
    assert world.boots[-1] == (Path.STANDBY, 0.0)
    assert world.notes[-1].message.endswith("0 s after it was asked for (standby)")
    assert len(world.host.asked("create")) == 2, "nothing was booted for it"
    await world.run(1)
    identity = domain_of(world, vm.name).identity
    assert identity is not None
    assert identity.role == "replica", "a successor shall not put it to sleep"
    assert identity.path == "standby", "and shall know how it came"
    await filled(world, 2, 1)
    assert asleep(world) != [vm], "and the reserve is filled again"


async def test_the_cpu_limit_comes_once_it_serves() -> None:
    world = World(vm=shape(cpu_limit=0.4, standby=1))
    await filled(world, 1, 1)
    (vm,) = asleep(world)
    assert domain_of(world, vm.name).limit_cores is None
    want(world, 2)
    await world.run(FREE_S - 1)
    assert domain_of(world, vm.name).limit_cores is None
    await world.run(2)
    assert domain_of(world, vm.name).limit_cores == 0.4


async def test_two_are_wanted_and_one_waits_so_one_wakes_and_one_boots() -> None:
    world = await with_standby()
    (vm,) = asleep(world)
    want(world, 3)
    await world.tick()
    counts = world.fleet.counts()
    assert (counts.ready, counts.booting, counts.standby) == (2, 1, 0)
    assert vm.name in world.fleet.ready_names()
    await world.until(lambda: world.fleet.counts().ready == 3)
    assert [path for path, _ in world.boots] == [Path.COLD, Path.STANDBY, Path.COLD]


async def test_a_standby_that_still_boots_is_taken_rather_than_booting_another() -> None:
    world = await with_standby(standby=0)
    world.reload(standby=1)
    await world.run(6)
    assert Path.STANDBY not in [way.path for way in world.fleet.counts().ways]
    want(world, 2)
    await world.run(1)
    assert len(world.domains()) == 2
    assert world.fleet.counts().booting == 1
    booting = next(vm for vm in all_of(world) if vm.starting)
    assert (booting.role, booting.name in world.pool) == (Role.REPLICA, True)
    await world.run(1)
    assert domain_of(world, booting.name).weight == USUAL_WEIGHT, "now it is wanted"
    await world.until(lambda: world.fleet.counts().ready == 2)
    (_, took) = world.boots[-1]
    assert 9 <= took <= 11, "a boot took as long as a boot, not as the rest of it"
    await filled(world, 2, 1)


async def test_its_weight_is_put_back_even_after_it_serves() -> None:
    world = await with_standby(standby=0)
    world.reload(standby=1)
    await world.run(4)
    world.host.next_call("set_cpu_weight", Odd.FAILS, times=9)
    want(world, 2)
    world.controller.rules = rules(2, 2)
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert LOW_WEIGHT in {domain.weight for domain in world.domains()}
    await world.run(6)
    assert {d.weight for d in world.domains() if d.name in world.fleet.ready_names()} == {
        USUAL_WEIGHT
    }


async def test_ready_and_not_yet_asleep_it_serves_too() -> None:
    """Its weight is being put back when it is wanted."""
    world = await with_standby(standby=0)
    world.reload(standby=1)
    await world.until(lambda: any(vm.in_reserve and vm.checked for vm in all_of(world)))
    want(world, 2)
    await world.run(2)
    assert len(world.pool.available) == 2
    assert {domain.power for domain in world.domains() if domain.weight == USUAL_WEIGHT} == {
        PowerState.RUNNING
    }


@pytest.mark.parametrize("odd", [None, *Odd])
async def test_wanted_while_it_is_being_suspended_it_is_woken_after(odd: Odd | None) -> None:
    world = await with_standby(standby=0)
    world.host.hold_calls("suspend")
    world.reload(standby=1)
    await world.until(lambda: world.host.asked("suspend"))
    (name,) = set(world.host.asked("suspend"))
    want(world, 2)
    await world.run(2)
    assert name not in world.told(JOIN)
    if odd is not None:
        world.host.next_call("suspend", odd)
    world.host.release_calls("suspend")
    await world.run(2)
    assert name in world.fleet.ready_names()
    assert domain_of(world, name).power is PowerState.RUNNING
    assert name in [backend.name for backend in world.pool.available]


async def test_a_suspension_that_comes_late_is_taken_back() -> None:
    """The call was given up, and libvirt did it after all: it serves, so it must run."""
    world = await with_standby()
    want(world, 2)
    await world.run(3)
    name = last_join(world).backend
    domain_of(world, name).power = PowerState.PAUSED
    await world.run(2)
    assert domain_of(world, name).power is PowerState.RUNNING


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_one_that_will_not_wake_is_given_up_after_five_seconds(how: str) -> None:
    world = await with_standby()
    (vm,) = asleep(world)
    if how == "fails":
        world.host.next_call("resume", Odd.FAILS, times=50)
    else:
        world.host.hold_calls("resume")
    want(world, 2)
    await world.run(4)
    assert world.reasons("vm.failed") == []
    await world.run(3)
    failed = next(note for note in world.notes if note.kind == "vm.failed")
    assert (failed.subject, failed.message) == (
        vm.name,
        f"{vm.name} could not be started: it does not wake",
    )
    assert world.reasons("vm.launch")[-1] is Reason.REPLACED, "another way is taken"
    assert world.fleet.counts().booting == 1
    assert vm.name not in world.told(JOIN)
    assert world.fleet.gate.failures == 0
    world.host.forget_faults()
    await filled(world, 2, 1)
    assert world.domain(vm.name) is None


async def test_with_fewer_wanted_the_one_that_does_not_wake_leaves_not_one_that_serves() -> None:
    world = await with_standby()
    (vm,) = asleep(world)
    serving = world.fleet.ready_names()
    world.host.hold_calls("resume")
    want(world, 2)
    await world.run(2)
    want(world, 1)
    await world.run(1)
    assert world.told(DRAIN) == [vm.name]
    world.host.forget_faults()
    await filled(world, 1, 1)
    assert world.fleet.ready_names() == serving


async def test_one_that_served_and_leaves_for_good_is_not_told_as_reserved() -> None:
    world = await with_standby()
    want(world, 2)
    await world.run(2)
    world.reload(standby=0)
    want(world, 1)
    await world.until(lambda: len(world.domains()) == 1)
    assert Reason.DRAINED in world.reasons("vm.gone")
    assert Reason.RESERVED not in world.reasons("vm.gone")


async def test_a_wake_that_failed_once_is_tried_again() -> None:
    world = await with_standby()
    (vm,) = asleep(world)
    world.host.next_call("resume", Odd.FAILS)
    want(world, 2)
    await world.run(2)
    assert vm.name in world.fleet.ready_names()


async def test_a_wake_that_timed_out_and_was_done_serves() -> None:
    world = await with_standby()
    (vm,) = asleep(world)
    world.host.next_call("resume", Odd.DONE_ALL_THE_SAME)
    want(world, 2)
    await world.run(2)
    assert vm.name in world.fleet.ready_names()


async def test_with_the_breaker_open_a_standby_still_wakes() -> None:
    """What stopped is booting; it has booted."""
    world = await with_standby()
    world.host.next_create(Fault.REFUSED, times=50)
    want(world, 3)
    await world.run(20)
    assert world.fleet.gate.is_open
    assert world.fleet.counts().ready == 2
    world.host.forget_faults()


async def test_from_zero_by_waking() -> None:
    world = World(rules(0, 3, idle_after_s=30.0), vm=shape(standby=1))
    await filled(world, 0, 1)
    world.queued = 1
    await world.run(1)
    assert world.fleet.counts().ready == 1
    assert world.boots == [(Path.STANDBY, 0.0)]
    assert world.reasons("vm.wake") == [Reason.FROM_ZERO]


async def test_the_ways_tell_of_those_that_wait() -> None:
    world = await with_standby(standby=2)
    assert [(way.path, way.available) for way in world.fleet.counts().ways] == [
        (Path.STANDBY, 2),
        (Path.COLD, None),
    ]
    want(world, 3)
    await world.run(1)
    assert Path.STANDBY not in [way.path for way in world.fleet.counts().ways]
