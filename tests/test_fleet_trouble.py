"""A fleet whose replicas are there and do not serve, or whose launches never succeed: what the
whole scaler makes of it. A replica has one core, boots in 10 s; target 0.6, grow after 5 s, shrink
after 60 s; boot timeout 30 s.
"""

from __future__ import annotations

from typing import Any

import pytest

from autoscale.domain_xml import Identity, VmSpec
from autoscale.host import LimitUnsupported
from autoscale.limits import FREE_S
from autoscale.model import EventKind, Reason, VmState
from tests.fakes import Fault
from tests.world import World, rules, shape


async def serving(count: int, wanted: Any = None, **settings: Any) -> World:
    world = World(wanted or rules(), **settings)
    world.demand = {1: 0.3, 2: 0.9, 3: 1.5}[count]
    await world.until(lambda: world.fleet.counts().ready == count)
    await world.run(3)
    return world


def counted(world: World) -> tuple[int, int]:
    counts = world.fleet.counts()
    return counts.ready, counts.unavailable


# --- replicas that get no requests


async def test_the_healthy_one_is_not_retired_for_the_hung_one() -> None:
    """Two replicas, one hangs: it is idle, so one would be enough, and the other is that one."""
    world = await serving(2, rules(shrink_window_s=20.0), vm=shape(boot_timeout_s=200.0))
    world.demand = 0.2
    healthy, hung = world.fleet.ready_names()
    world.unprobed.add(hung)
    await world.run(120)
    assert counted(world) == (2, 1)
    assert world.decision.reason is Reason.UNAVAILABLE
    assert world.told(EventKind.DRAIN) == []
    await world.until(lambda: world.fleet.get(hung) is None)
    await world.until(lambda: world.fleet.counts().existing == 1)
    assert healthy in [b.name for b in world.pool] or world.pool.available
    assert all(b.name != hung for b in world.pool)


@pytest.mark.parametrize("how", ["hung", "drained by an operator"])
async def test_where_one_must_leave_it_is_the_one_that_gets_no_requests(how: str) -> None:
    """A lowered maximum cannot wait; the oldest and busiest one leaves if it is the sick one."""
    world = await serving(2, rules(low=2))
    away = world.fleet.ready_names()[0]
    leases = [world.pool.lease(), world.pool.lease()]
    if how == "hung":
        world.unprobed.add(away)
    else:
        world.pool.drain(away)
    await world.run(1)
    world.controller.rules = rules(high=1)
    await world.run(2)
    for lease in leases:
        lease.release()
    await world.until(lambda: world.fleet.counts().existing == 1)
    assert away not in world.fleet.ready_names()
    assert len(world.pool.available) == 1


async def test_a_drained_replicas_idle_cpu_does_not_stop_growing() -> None:
    world = await serving(2)
    world.pool.drain(world.fleet.ready_names()[0])
    await world.until(lambda: len(world.pool.available) == 2, at_most_s=30)
    assert counted(world) == (3, 1)
    assert world.reasons("scale.up")[-1] is Reason.CPU_OVERLOAD


async def test_an_overload_that_fails_every_check_still_starts_one_more() -> None:
    """The one replica is so busy that its probes time out: that is no reason to wait for it."""
    world = await serving(1)
    world.unprobed.add(world.fleet.ready_names()[0])
    await world.run(1)
    (domain,) = world.host.ours()
    for _ in range(10):
        domain.use(1.0)
        world.clock.advance(1)
        await world.controller.tick()
        await world.tasks.settle()
    assert world.reasons("scale.up") == [Reason.BELOW_MIN, Reason.CPU_OVERLOAD]


async def test_one_taken_back_that_never_passes_its_checks_again_is_replaced() -> None:
    world = await serving(1)
    (name,) = world.fleet.ready_names()
    world.pool.drain(name)
    await world.run(60)
    assert world.fleet.ready_names() == (name,), "drained by an operator: his, as long as he wants"
    world.unprobed.add(name)
    world.pool.ready(name)
    await world.run(33)
    assert ("vm.failed", Reason.UNHEALTHY) in world.said()


# --- launches that fail


async def test_a_third_that_never_starts_does_not_hold_the_other_two_for_ever() -> None:
    world = await serving(2, rules(high=4))
    world.host.next_create(Fault.REFUSED, times=1000)
    world.demand = 1.6
    await world.run(120)
    assert (world.decision.desired, world.fleet.counts().ready) == (3, 2)
    assert world.decision.reason is Reason.SETTLING
    tries = len(world.host.asked("create"))
    assert tries <= 2 + 7
    world.demand = 0.1
    took = await world.until(lambda: world.fleet.counts().existing == 1)
    assert 75 <= took <= 120, "a minute of low load, and one of them leaves every 15 s"
    assert world.reasons("scale.down") == [Reason.CPU_LOW, Reason.CPU_LOW]
    tries = len(world.host.asked("create"))
    await world.run(300)
    assert len(world.host.asked("create")) == tries, "nobody wants a third any more"
    assert repr(world.fleet) == "<VmFleet web: 1 ready, 0 booting, 0 on standby, 0 leaving>"


async def test_a_third_that_always_hangs_in_boot_does_not_either() -> None:
    world = await serving(2, rules(high=4))
    world.host.next_create(Fault.HANGS_IN_BOOT, times=1000)
    world.demand = 1.6
    await world.run(300)
    assert world.decision.desired == 3
    world.demand = 0.1
    await world.until(lambda: world.fleet.counts().existing == 1, at_most_s=500)
    assert world.host.peak <= 3


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("a bug")])
async def test_whatever_a_creation_raises_its_vm_does_not_stay_for_ever(error: Exception) -> None:
    world = World()
    real, left = world.host.create, [error]

    async def create(spec: VmSpec) -> Identity:
        if left:
            raise left.pop()
        return await real(spec)

    world.host.create = create  # type: ignore[method-assign]
    await world.run(2)
    assert ("vm.failed", Reason.LAUNCH_FAILED) in world.said()
    assert str(error) in next(n.message for n in world.notes if n.kind == "vm.failed")
    await world.until(lambda: world.fleet.counts().ready == 1, at_most_s=30)
    assert world.fleet.counts().existing == 1


async def test_a_creation_that_ended_without_a_word_is_given_up_after_a_boots_time() -> None:
    world = World()
    world.host.hold_creates()
    await world.run(1)
    await world.tasks.cancel()
    world.host.release_creates()
    (status,) = world.fleet.statuses()
    assert status.state is VmState.DEFINED
    await world.run(33)
    assert ("vm.failed", Reason.BOOT_TIMEOUT) in world.said()
    await world.until(lambda: world.fleet.counts().ready == 1, at_most_s=30)
    assert world.fleet.counts().existing == 1


# --- the words for it


@pytest.mark.parametrize("reason", [Reason.CRASHED, Reason.BOOT_TIMEOUT, Reason.UNHEALTHY])
async def test_who_failed_is_gone_for_that_reason(reason: Reason) -> None:
    world = World()
    if reason is Reason.BOOT_TIMEOUT:
        world.host.next_create(Fault.HANGS_IN_BOOT)
    else:
        await world.until(lambda: world.fleet.counts().ready == 1)
        (name,) = world.fleet.ready_names()
        if reason is Reason.CRASHED:
            world.host.crash(name, leaves=False)
        else:
            world.unprobed.add(name)
    await world.until(lambda: world.reasons("vm.gone"))
    assert world.reasons("vm.gone") == [reason]


async def test_a_replica_serves_for_the_reason_it_was_started_for() -> None:
    world = await serving(2)
    assert world.reasons("vm.ready") == [Reason.BELOW_MIN, Reason.CPU_OVERLOAD]
    await world.restart()
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert world.reasons("vm.ready")[2:] == [Reason.ADOPTED, Reason.ADOPTED]


# --- CPU limits


async def test_one_host_without_cgroups_leaves_the_others_their_limits() -> None:
    world = World(rules(low=2), hosts=("a", "b"), vm=shape(cpu_limit=0.4))
    world.hosts["a"].limits = False
    await world.until(lambda: world.fleet.counts().ready == 2)
    await world.run(20)
    assert len(world.hosts["a"].asked("set_cpu_limit")) == 1
    assert [d.limit_cores for d in world.hosts["b"].ours()] == [0.4]
    world.hosts["b"].crash(world.hosts["b"].ours()[0].name)
    await world.run(1)
    await world.until(lambda: world.fleet.counts().ready == 2)
    await world.run(FREE_S + 1)
    assert [d.limit_cores for d in world.hosts["b"].ours()] == [0.4]
    with pytest.raises(LimitUnsupported):
        await world.hosts["a"].set_cpu_limit(world.hosts["a"].ours()[0].name, 0.4)


# --- reload


async def test_a_reloaded_sampling_interval_counts_from_the_next_tick() -> None:
    """Half of it is what two samples must be apart: at 4 s, one a second is too early."""
    world = await serving(1)
    world.controller.interval_s = 4.0
    await world.run(8)
    (status,) = world.fleet.statuses()
    assert status.signal is not None
    assert status.signal.interval_s == 2.0
