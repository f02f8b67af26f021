"""A rollout that meets trouble: restarts, refusals, images that are gone, silent hosts, load."""

from __future__ import annotations

import pytest

from autoscale.host import NoMemory
from autoscale.model import Reason, VmState
from autoscale.rollout import ImpossibleStep
from autoscale.vm import Vm
from tests.fakes import Fault
from tests.rollouts import NEW, OLD, RolloutWorld, fixed
from tests.world import World, rules, shape


def vms(world: World) -> list[Vm]:
    found = (world.fleet.get(status.name) for status in world.fleet.statuses())
    return [vm for vm in found if vm is not None]


def new_ones(world: RolloutWorld) -> list[Vm]:
    return [vm for vm in vms(world) if vm.generation == NEW and vm.serves_or_will]


def replaceable(world: RolloutWorld) -> bool:
    return world.fleet.turnover.replaceable


async def needs_three(vm_shape: str, lifetime_s: float | None = None) -> RolloutWorld:
    """The planner's own decision, which no operator's order holds."""
    wanted = shape(image=vm_shape, max_lifetime_s=lifetime_s)
    world = RolloutWorld(rules(1, 8), vm=wanted)
    world.demand = 1.5
    await world.until(lambda: len(world.pool.available) == 3)
    return world


# --- killed and started again


async def test_no_restart_takes_the_one_in_anothers_place_for_one_more() -> None:
    world = await needs_three("old")
    await world.run(100)
    world.begin()
    await world.until(lambda: world.fleet.turnover.rollout.approved)  # type: ignore[union-attr]
    await world.run(3)
    assert len(world.domains()) == 4
    for _ in range(5):
        await world.restart()
        await world.run(2)
        assert world.decision.desired == 3
        assert len(world.domains()) <= 5, "one of them is leaving"
    await world.until(lambda: world.phase == "done")
    assert world.generations() == [NEW] * 3


async def test_nor_the_one_that_is_there_for_a_lifetime() -> None:
    world = await needs_three("old", 600.0)
    await world.until(lambda: len(world.domains()) == 4)
    for _ in range(5):
        await world.restart()
        await world.run(2)
        assert world.decision.desired == 3


async def test_a_restart_gives_no_replica_away_that_stands_in_nobodys_place() -> None:
    world = await needs_three("old")
    await world.run(100)
    world.begin()
    await world.run(5)
    await world.restart()
    await world.run(2)
    assert (world.decision.desired, world.generations().count(OLD)) == (3, 3)


# --- what cannot be started


@pytest.mark.parametrize("hosts", [("a",), ("a", "b")])
async def test_an_image_that_every_host_refuses_stops_no_other_launch(
    hosts: tuple[str, ...],
) -> None:
    world = RolloutWorld(hosts=hosts)
    await world.settled(3)
    for host in world.hosts.values():
        host.broken[NEW] = Fault.REFUSED
    world.begin()
    await world.run(2)
    assert world.fleet.pauses() == ()
    name = world.pool.available[0].name
    next(host for host in world.hosts.values() if name in host.domains).crash(name)
    await world.until(lambda: len(world.pool.available) == 3, 15)
    await world.until(lambda: world.phase == "failed", 30)
    assert "2 new ones in a row failed" in world.words("rollout.rolling_back")[0]


async def test_a_host_without_memory_for_one_more_is_not_the_images_fault() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.host.refuses = NoMemory("not enough memory")
    world.begin()
    await world.run(60)
    assert world.phase == "running"
    assert not world.fleet.gate.failures
    world.host.refuses = None
    world.host.crash(world.pool.available[0].name)
    await world.until(lambda: world.generations().count(OLD) == 3, 15)
    await world.until(lambda: world.phase == "done")


async def test_an_image_that_is_removed_on_trial_is_not_tried_any_more() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.gone.add("new")
    world.begin()
    await world.until(lambda: world.phase == "failed", 10)
    assert "image new cannot be loaded" in world.words("rollout.rolling_back")[0]
    assert not world.fleet.gate.failures


# --- no way back


async def test_nobody_goes_back_by_order_to_an_image_that_is_gone() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    await world.until(lambda: world.phase == "done")
    world.gone.add("old")
    with pytest.raises(ImpossibleStep, match="image old cannot be loaded, so nothing could take"):
        world.fleet.turnover.undo()
    assert world.phase == "done"
    world.host.crash(world.pool.available[0].name)
    await world.until(lambda: len(world.pool.available) == 3, 15)


@pytest.mark.parametrize("removed", ["before", "meanwhile"])
async def test_what_serves_goes_on_where_the_image_before_is_gone(removed: str) -> None:
    world = RolloutWorld(fixed(4))
    await world.settled(4)
    world.begin()
    await world.until(lambda: world.generations().count(NEW) >= 3)
    if removed == "before":
        world.gone.add("old")
    world.bad[NEW] = 0.5
    await world.until(lambda: world.phase in ("failed", "rolling_back"))
    world.gone.add("old")
    await world.until(lambda: world.phase == "failed", 5)
    assert "image old cannot be loaded; roll out a good one" in world.rollout.why  # type: ignore[union-attr]
    world.host.crash(world.pool.available[0].name)
    await world.until(lambda: len(world.pool.available) == 4, 15)
    assert replaceable(world)


async def test_another_rollout_takes_the_place_of_one_on_its_way_back() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    assert not replaceable(world)
    await world.until(lambda: world.generations().count(NEW) == 2)
    world.fleet.turnover.undo()
    assert replaceable(world)
    world.begin()
    await world.until(lambda: world.phase == "done")
    assert world.generations() == [NEW] * 3


async def test_one_that_rests_with_no_way_back_can_be_replaced() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    world.fleet.turnover.pause()
    assert not replaceable(world)
    world.gone.add("old")
    assert replaceable(world)


# --- a service that may have none


async def test_the_only_one_that_serves_is_not_drained_under_load() -> None:
    world = RolloutWorld(rules(0, 4), vm=shape(image="old"))
    world.rate = 0
    await world.run(5)
    world.begin()
    await world.until(lambda: len(world.pool.available) == 1)
    world.arrivals, world.demand, world.rate, world.least = 20, 0.3, 20.0, 99
    await world.until(lambda: world.phase == "done")
    await world.run(20)
    assert world.least >= 1
    assert Reason.FROM_ZERO in [decision.reason for decision in world.decisions]


async def test_nor_when_an_operator_takes_it_back() -> None:
    world = RolloutWorld(rules(0, 4), vm=shape(image="old"))
    world.rate = 0
    await world.run(5)
    world.begin()
    await world.until(lambda: len(world.pool.available) == 1)
    world.arrivals, world.demand, world.rate, world.least = 20, 0.3, 20.0, 99
    await world.run(2)
    world.fleet.turnover.undo()
    await world.until(lambda: world.phase == "undone")
    assert world.least >= 1


@pytest.mark.parametrize("approved", [False, True])
async def test_paused_with_nobody_wanted_it_keeps_nobody(approved: bool) -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    if approved:
        await world.until(lambda: world.generations().count(NEW) == 2)
    else:
        await world.until(lambda: len(world.pool.available) == 4)
    world.fleet.turnover.pause()
    world.controller.rules = world.rules = fixed(0)
    await world.run(40)
    assert (world.phase, world.domains()) == ("paused", [])


# --- hosts that do not answer


async def test_the_way_back_waits_for_no_other_host() -> None:
    world = RolloutWorld(hosts=("a", "b"))
    await world.settled(3)
    world.begin()
    await world.until(lambda: len(world.pool.available) == 4)
    (new,) = new_ones(world)
    next(host for name, host in world.hosts.items() if name != new.host).unreachable = True
    world.bad[NEW] = 1.0
    await world.until(lambda: world.phase == "failed", 60)
    assert world.least == 3


async def test_nobody_leaves_on_a_host_that_does_not_answer() -> None:
    world = RolloutWorld(hosts=("a", "b"))
    await world.settled(3)
    world.begin()
    await world.until(lambda: len(world.pool.available) == 4)
    (new,) = new_ones(world)
    world.hosts[new.host].unreachable = True
    world.bad[NEW] = 1.0
    await world.run(30)
    assert [vm.name for vm in new_ones(world)] == [new.name]
    world.hosts[new.host].unreachable = False
    await world.until(lambda: world.phase == "failed", 60)


# --- room


@pytest.mark.parametrize("broken", [False, True])
async def test_those_on_trial_leave_the_load_its_room(broken: bool) -> None:
    world = RolloutWorld(fixed(1, high=4))
    await world.settled(1)
    if broken:
        world.host.broken[NEW] = Fault.HANGS_IN_BOOT
    world.begin(max_surge=100)
    await world.run(2)
    world.controller.rules = world.rules = fixed(4)
    await world.until(lambda: world.generations().count(OLD) == 4, 12 if broken else 45)
    assert world.host.peak <= 5


async def test_those_on_trial_leave_the_reserve_its_room() -> None:
    world = RolloutWorld(fixed(2, high=3), vm=shape(image="old", standby=1))
    await world.until(lambda: world.fleet.counts().standby == 1)
    world.begin(max_surge=100)
    await world.run(2)
    assert world.generations() == [OLD] * 2 + [NEW] * 2
    assert world.fleet.counts().standby == 1


# --- what stays of the old image


async def test_it_is_not_done_while_a_standby_would_bring_the_old_image_back() -> None:
    world = RolloutWorld(fixed(2, high=6), vm=shape(image="old", standby=3))
    await world.until(lambda: world.fleet.counts().standby == 3)
    world.begin()
    await world.until(lambda: world.phase == "done" or world.generations() == [NEW] * 2)
    world.controller.rules = world.rules = fixed(5, high=6)
    await world.run(1)
    assert OLD in world.generations(), "sooner than a boot"
    await world.until(lambda: world.phase == "done")
    await world.run(30)
    assert {vm.generation for vm in vms(world)} == {NEW}


# --- failures in a row


async def test_two_that_die_hours_apart_are_not_the_images() -> None:
    world = RolloutWorld(fixed(4))
    await world.settled(4)
    world.begin(pause_at=0.5)
    await world.until(lambda: world.phase == "paused")
    for _ in range(2):
        await world.run(600)
        world.host.crash(next(vm.name for vm in new_ones(world) if vm.state is VmState.READY))
    await world.run(30)
    assert world.phase == "paused"


async def test_a_host_that_dies_with_two_new_ones_is_one_loss() -> None:
    world = RolloutWorld(fixed(4, high=6), hosts=("a", "b"))
    await world.settled(4)
    world.begin(max_surge=2)
    await world.until(lambda: world.generations().count(NEW) >= 3)
    by_host = {host: [vm.name for vm in new_ones(world) if vm.host == host] for host in "ab"}
    dies = max(by_host, key=lambda host: len(by_host[host]))
    assert len(by_host[dies]) == 2
    for domain in world.hosts[dies].ours():
        world.hosts[dies].crash(domain.name)
    await world.until(lambda: world.phase in ("done", "failed"))
    assert world.phase == "done"


async def test_one_image_that_boots_and_dies_again_and_again_is_no_good() -> None:
    world = RolloutWorld(fixed(4))
    await world.settled(4)
    world.begin()
    await world.until(lambda: world.generations().count(NEW) == 2)
    for _ in range(2):
        await world.until(lambda: any(vm.state is VmState.READY for vm in new_ones(world)))
        world.host.crash(next(vm.name for vm in new_ones(world) if vm.state is VmState.READY))
        await world.run(20)
    assert world.phase in ("rolling_back", "failed")


# --- protection


async def test_on_the_way_back_no_good_one_leaves_for_a_protected_one() -> None:
    world = RolloutWorld(fixed(2))
    await world.settled(2)
    before = {backend.name for backend in world.pool.available}
    world.begin()
    await world.until(lambda: len(world.pool.available) == 3)
    (new,) = new_ones(world)
    world.fleet.protect(new.name, True)
    world.bad[NEW] = 1.0
    await world.run(100)
    assert world.phase == "rolling_back"
    assert {backend.name for backend in world.pool.available} == {*before, new.name}
    await world.restart()
    await world.run(3)
    assert world.decision.desired == 2
