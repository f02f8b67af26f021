"""Standbys, step by step: who is put to rest, who is lost or too many, the end, starting again.

A boot takes 10 s, powering off 2 s; boot timeout 30 s, drain timeout 20 s. Here `want` says how
many replicas there should be.
"""

from __future__ import annotations

import pytest

from autoscale.host import PowerState
from autoscale.model import EventKind, Path, Reason
from autoscale.reserve import USUAL_WEIGHT
from tests.fakes import Odd
from tests.reserves import all_of, asleep, domain_of, filled, last_join, want, with_standby
from tests.world import World, rules, shape

JOIN, DRAIN, LEAVE = EventKind.JOIN, EventKind.DRAIN, EventKind.LEAVE


# --- put to rest


async def test_one_that_is_not_needed_rests_where_the_reserve_lacks_one() -> None:
    world = await with_standby(replicas=2, standby=0)
    await world.run(60)
    leases = [world.pool.lease(), world.pool.lease()]
    world.reload(standby=1)
    want(world, 1)
    await world.run(1)
    (name,) = world.told(DRAIN)
    identity = domain_of(world, name).identity
    assert identity is not None
    assert identity.role == "standby", "a successor shall not count it"
    assert domain_of(world, name).power is PowerState.RUNNING, "it still has a request"
    assert world.told(LEAVE) == []
    for lease in leases:
        lease.release()
    await filled(world, 1, 1)
    assert [vm.name for vm in asleep(world)] == [name]
    assert world.told(LEAVE) == [name]
    assert world.reasons("vm.resting") != []
    assert world.host.asked("shutdown") == []
    assert len(world.host.asked("create")) == 2

    want(world, 2)
    await world.tick()
    assert name in world.fleet.ready_names()
    assert last_join(world).ready
    assert name in [backend.name for backend in world.pool.available]


async def test_that_it_rests_is_written_again_where_it_could_not_be() -> None:
    world = await with_standby(replicas=2, standby=0)
    leases = [world.pool.lease(), world.pool.lease()]
    world.host.next_call("set_identity", Odd.FAILS)
    world.reload(standby=1)
    want(world, 1)
    await world.run(4)
    roles = {d.identity.role for d in world.domains() if d.identity}
    assert roles == {"replica", "standby"}
    for lease in leases:
        lease.release()


async def test_a_request_that_never_ends_is_cut_before_it_rests() -> None:
    world = await with_standby(replicas=2, standby=0)
    leases = [world.pool.lease(), world.pool.lease()]
    world.reload(standby=1)
    want(world, 1)
    await world.run(20)
    assert asleep(world) == []
    await world.run(3)
    assert len(asleep(world)) == 1
    for lease in leases:
        lease.release()


async def test_wanted_again_while_it_still_finishes_requests_it_goes_on() -> None:
    world = await with_standby(replicas=2, standby=0)
    leases = [world.pool.lease(), world.pool.lease()]
    world.reload(standby=1)
    want(world, 1)
    await world.run(1)
    (name,) = world.told(DRAIN)
    want(world, 2)
    await world.tick()
    assert name in [backend.name for backend in world.pool.available]
    assert (world.told(LEAVE), world.host.asked("suspend")) == ([], [])
    for lease in leases:
        lease.release()
    await filled(world, 2, 1)
    assert name in world.fleet.ready_names()


async def test_a_sick_one_is_no_standby() -> None:
    world = await with_standby(replicas=2, standby=0, boot_timeout_s=200.0)
    sick = world.fleet.ready_names()[0]
    world.unprobed.add(sick)
    await world.run(2)
    world.reload(standby=1)
    want(world, 1)
    await world.run(8)
    assert world.domain(sick) is None
    await filled(world, 1, 1)


async def test_with_the_reserve_full_one_that_is_not_needed_ends() -> None:
    world = await with_standby(replicas=2)
    (vm,) = asleep(world)
    want(world, 1)
    await world.run(8)
    assert asleep(world) == [vm]
    assert len(world.domains()) == 2


async def test_a_standby_that_boots_is_not_who_leaves_when_fewer_are_needed() -> None:
    world = await with_standby(replicas=2, standby=0)
    world.reload(standby=2)
    await world.run(3)
    booting = next(vm for vm in all_of(world) if vm.starting)
    want(world, 1)
    await world.run(2)
    assert booting.in_reserve
    assert booting.name not in world.told(DRAIN)
    await filled(world, 1, 2)


# --- lost, or too many


@pytest.mark.parametrize("leaves", [True, False], ids=["gone from the listing", "seen crashed"])
async def test_a_standby_that_dies_is_replaced_and_no_launch_failed(leaves: bool) -> None:
    world = await with_standby()
    (vm,) = asleep(world)
    events = list(world.events)
    world.host.crash(vm.name, leaves=leaves)
    await world.run(3)
    assert world.reasons("vm.gone") == [Reason.CRASHED]
    assert world.events == events, "the pool never knew it"
    assert world.fleet.gate.failures == 0
    await filled(world, 1, 1)
    assert world.reasons("vm.launch")[-1] is Reason.RESERVED


async def test_one_that_somebody_resumed_sleeps_again() -> None:
    world = await with_standby()
    (vm,) = asleep(world)
    domain_of(world, vm.name).power = PowerState.RUNNING
    await world.run(5)
    assert domain_of(world, vm.name).power is PowerState.PAUSED
    assert vm.name not in world.told(JOIN)


async def test_a_surplus_goes_and_the_last_bit_of_it_when_none_is_wanted_any_more() -> None:
    world = await with_standby(standby=3)
    world.reload(standby=1)
    await world.until(lambda: len(world.domains()) == 2)
    assert world.host.asked("shutdown") == [], "who sleeps hears no power button"
    assert set(world.reasons("vm.gone")) == {Reason.SURPLUS}
    world.reload(standby=0)
    await world.until(lambda: len(world.domains()) == 1)
    await world.run(60)
    assert len(world.domains()) == 1
    assert world.fleet.counts().ready == 1


async def test_one_that_rests_and_is_not_wanted_any_more_leaves_the_pool() -> None:
    """It still has a request when the reserve is reloaded to none."""
    world = await with_standby(replicas=2, standby=0)
    leases = [world.pool.lease(), world.pool.lease()]
    world.reload(standby=1)
    want(world, 1)
    await world.run(2)
    (name,) = world.told(DRAIN)
    world.reload(standby=0)
    want(world, 1)
    await world.run(3)
    assert world.host.asked("shutdown") == []
    for lease in leases:
        lease.release()
    await world.until(lambda: len(world.domains()) == 1)
    assert world.told(LEAVE) == [name]
    assert name not in world.pool


async def test_never_more_than_max_and_the_standbys_and_one() -> None:
    """A standby that becomes a replica counts as one, and one that leaves counts until it went."""
    world = await with_standby(replicas=2, standby=2, wanted=rules(2, 2))
    lease = world.pool.lease()
    sick = lease.backend.name
    world.host.domains[sick].will_not_die = True
    world.unprobed.add(sick)
    await world.run(40)
    assert world.fleet.counts().ready == 1, "max is 2, and the sick one is still there"
    assert len(world.domains()) == 4
    world.host.forget_faults()
    lease.release()
    await world.run(2)
    assert world.fleet.counts().ready == 2
    assert world.host.peak <= 5


async def test_what_cannot_be_ended_takes_the_place_of_what_could_be_started() -> None:
    """Two replicas and one more may exist: two standbys of an earlier setting do not go."""
    world = await with_standby(replicas=2, standby=2, wanted=rules(2, 2))
    for vm in asleep(world):
        world.host.domains[vm.name].will_not_die = True
    world.reload(standby=0)
    await world.run(5)
    world.host.crash(world.fleet.ready_names()[0])
    await world.run(30)
    assert len(world.domains()) == 3
    world.host.forget_faults()
    await filled(world, 2, 0)


# --- hosts


async def test_a_standby_of_a_host_that_does_not_answer_is_not_counted_on() -> None:
    world = World(rules(1), hosts=("a", "b"), vm=shape(standby=1))
    await filled(world, 1, 1)
    (vm,) = asleep(world)
    world.hosts[vm.host].unreachable = True
    want(world, 2)
    await world.run(1)
    assert (world.reasons("vm.wake"), world.fleet.counts().booting) == ([], 1)
    await world.until(lambda: world.fleet.counts().ready == 2)
    world.hosts[vm.host].unreachable = False
    await world.run(3)
    assert asleep(world) == [vm]


# --- the end, and starting again


async def test_retiring_ends_those_in_reserve_too() -> None:
    world = await with_standby(standby=2)
    world.reload(standby=3)
    await world.run(2)
    world.controller.retire()
    await world.until(lambda: not world.fleet.counts().existing, at_most_s=60)
    assert world.domains() == []
    assert {event.reason for event in world.events if event.kind is LEAVE} <= {Reason.DRAINED}


async def test_a_retirement_that_is_taken_back_has_its_reserve_again() -> None:
    world = await with_standby()
    world.controller.retire()
    await world.run(3)
    world.controller.keep()
    await filled(world, 1, 1)


async def test_a_successor_takes_the_reserve_over_and_can_wake_it() -> None:
    world = await with_standby()
    (vm,) = asleep(world)
    await world.restart()
    await world.run(1)
    assert [one.name for one in asleep(world)] == [vm.name]
    await world.until(lambda: world.fleet.counts().ready == 1)
    want(world, 2)
    await world.tick()
    assert vm.name in world.fleet.ready_names()
    assert last_join(world).ready, "it was ready when it went to sleep"
    assert last_join(world).address == f"127.0.0.1:{vm.identity.host_port}"
    assert world.boots[-1] == (Path.STANDBY, 0.0)
    assert len(world.host.asked("create")) == 2


@pytest.mark.parametrize("verb", ["suspend", "set_cpu_weight", "address"])
async def test_killed_while_a_standby_is_on_its_way_nothing_is_doubled(verb: str) -> None:
    world = await with_standby(standby=0)
    world.host.calls.clear()
    world.host.hold_calls(verb)
    world.reload(standby=1)
    await world.until(lambda: world.host.asked(verb))
    await world.restart()
    world.host.forget_faults()
    await filled(world, 1, 1)
    assert len(world.host.asked("create")) == 1
    assert {domain.weight for domain in world.domains()} == {USUAL_WEIGHT}


@pytest.mark.parametrize("verb", ["resume", "set_identity"])
async def test_killed_while_one_wakes_it_is_found_and_used(verb: str) -> None:
    world = await with_standby()
    world.host.hold_calls(verb)
    world.reload(standby=0)
    want(world, 2)
    await world.run(2)
    world.rules = rules(2, 2)
    await world.restart()
    world.host.forget_faults()
    await filled(world, 2, 0)
    assert len(world.host.asked("create")) == 2
    assert all(domain.power is PowerState.RUNNING for domain in world.domains())


async def test_a_replica_that_is_found_suspended_is_woken() -> None:
    world = await with_standby(replicas=2, standby=0)
    name = world.fleet.ready_names()[0]
    domain_of(world, name).power = PowerState.PAUSED
    await world.restart()
    await world.run(2)
    assert name in world.fleet.ready_names()
    assert domain_of(world, name).power is PowerState.RUNNING
    assert name in [backend.name for backend in world.pool.available]


async def test_killed_while_one_goes_to_rest_its_successor_counts_right() -> None:
    """Its last request runs when the process dies: it is in reserve by its metadata already."""
    world = await with_standby(replicas=2, standby=0)
    world.pool.lease()
    world.pool.lease()
    world.reload(standby=1)
    want(world, 1)
    await world.run(3)
    (name,) = world.told(DRAIN)
    world.rules = rules(1, 1)
    await world.restart()
    await filled(world, 1, 1)
    assert [vm.name for vm in asleep(world)] == [name]
    assert len(world.host.asked("create")) == 2
