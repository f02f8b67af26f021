"""The life of VMs, step by step: what is asked of the hypervisor, what the pool is told, and when.

One fake host unless a story needs two. A boot takes 10 s, powering off 2 s; boot timeout 30 s,
drain timeout 20 s, shutdown timeout 8 s.
"""

from __future__ import annotations

import pytest

from autoscale.domain_xml import Identity
from autoscale.host import ImageUnavailable, PowerState
from autoscale.limits import FREE_S
from autoscale.model import EventKind, Path, Reason, VmState
from autoscale.vm import BootFiles
from lb.config_service import OutlierConfig
from tests.fakes import NEVER, OURS, Fault
from tests.world import World, rules, shape

JOIN, DRAIN, LEAVE = EventKind.JOIN, EventKind.DRAIN, EventKind.LEAVE


def identity(service: str = "web", instance: str = OURS, phase: str = "serving") -> Identity:
    return Identity(instance, service, "generation-1", 8080, 1.0, 1.7e9, 45000, phase)


async def one_serving(world: World) -> str:
    """Until the first replica serves; its name."""
    await world.until(lambda: world.fleet.counts().ready == 1)
    return world.fleet.ready_names()[0]


# --- growing


async def test_from_nothing_to_one_that_serves() -> None:
    world = World()
    await world.run(1)
    assert repr(world.fleet) == "<VmFleet web: 0 ready, 1 booting, 0 on standby, 0 leaving>"
    (event,) = world.events
    assert (event.kind, event.reason, event.host) == (JOIN, Reason.BELOW_MIN, "local")
    assert event.address == "127.0.0.1:40001"
    await world.run(10)
    assert repr(world.fleet) == "<VmFleet web: 1 ready, 0 booting, 0 on standby, 0 leaving>"
    assert world.said() == [
        ("scale.up", Reason.BELOW_MIN),
        ("vm.launch", Reason.BELOW_MIN),
        ("vm.booting", Reason.BELOW_MIN),
        ("vm.ready", Reason.BELOW_MIN),
    ]
    assert world.boots == [(Path.COLD, 10.0)]


async def test_a_size_that_is_taken_back_at_once_costs_nobody_who_serves() -> None:
    """Two more are being created when one is enough again: they go once they can be told, not the
    one that serves in their place."""
    world = World(rules(high=3))
    await world.until(lambda: world.fleet.counts().ready == 1)
    (serves,) = world.fleet.ready_names()
    world.host.hold_creates()
    world.controller.rules = rules(low=3, high=3)
    await world.run(1)
    world.controller.rules = rules(high=1)
    await world.run(3)
    world.host.release_creates()
    await world.until(lambda: world.fleet.counts().existing == 1)
    assert world.fleet.ready_names() == (serves,)
    assert serves not in world.told(EventKind.DRAIN)


async def test_a_replica_joins_before_it_is_ready_and_serves_only_once_it_answers() -> None:
    world = World()
    await world.run(5)
    assert repr(world.pool) == "<Pool web: 1 starting; 0 in flight>"
    await world.run(6)
    assert repr(world.pool) == "<Pool web: 1 ready; 0 in flight>"


async def test_the_cpu_limit_comes_when_it_has_served_for_a_while_not_while_it_boots() -> None:
    world = World(vm=shape(cpu_limit=0.4))
    await world.run(9)
    await one_serving(world)
    await world.run(FREE_S - 1)
    assert world.host.asked("set_cpu_limit") == []
    await world.run(3)
    assert len(world.host.asked("set_cpu_limit")) == 1
    assert world.host.ours()[0].limit_cores == 0.4


async def test_a_host_without_cgroups_is_asked_once_and_said_once() -> None:
    world = World(vm=shape(cpu_limit=0.4))
    world.host.limits = False
    await world.run(40)
    assert len(world.host.asked("set_cpu_limit")) == 1
    assert world.reasons("host.no_limits") == [Reason.NO_CPU_LIMITS]
    assert world.fleet.counts().ready == 1


async def test_an_address_that_comes_late_is_asked_for_each_tick() -> None:
    """On a libvirt network the lease comes with the guest's first packet. It joins for the reason
    it was started for."""
    world = World()
    world.host.addresses = False
    await world.run(8)
    assert world.events == []
    world.host.addresses = True
    await world.run(8)
    assert [(e.kind, e.reason) for e in world.events] == [(JOIN, Reason.BELOW_MIN)]
    assert world.fleet.counts().ready == 1


# --- launches that fail


async def test_a_refused_launch_is_said_counted_and_tried_again() -> None:
    world = World()
    world.host.next_create(Fault.REFUSED)
    await world.run(1)
    assert world.fleet.counts().existing == 0
    assert world.said()[-1] == ("vm.failed", Reason.LAUNCH_FAILED)
    assert "no more memory" in world.notes[-1].message
    await one_serving(world)
    assert world.fleet.gate.failures == 0


async def test_launch_failures_back_off_and_open_the_breaker() -> None:
    """Tries at now, + 1, + 2, + 4, + 8 s; then the breaker: none for a minute, then one."""
    world = World()
    world.host.next_create(Fault.REFUSED, times=6)
    began, tries = world.clock.now(), []
    for _ in range(90):
        before = len(world.host.asked("create"))
        await world.run(1)
        if len(world.host.asked("create")) > before:
            tries.append(world.clock.now() - began - 1)
    assert tries == [0, 1, 3, 7, 15, 75]
    assert world.reasons("breaker.open") == [Reason.BREAKER_OPEN], "said once, not each second"
    assert world.host.peak == 0


async def test_an_open_breaker_lets_one_machine_through_not_a_fleet() -> None:
    """min = 4 with an image that never boots: while one try is under way, no other begins."""
    world = World(rules(low=4))
    world.host.next_create(Fault.HANGS_IN_BOOT, times=50)
    await world.run(60)
    world.host.calls.clear()
    most = 0
    for _ in range(900):
        await world.run(1)
        most = max(most, world.fleet.counts().booting)
    assert most == 1
    assert world.fleet.gate.is_open
    # one try takes the boot's 30 s, and a minute passes before the next
    assert len(world.host.asked("create")) <= 1 + 900 / 90


async def test_a_missing_image_is_one_clear_line_and_no_domain() -> None:
    def missing() -> BootFiles:
        raise ImageUnavailable("no image 'webapp': run `lbctl image build`")

    world = World(boot_files=missing)
    await world.run(3)
    assert world.notes[-1].message.endswith("no image 'webapp': run `lbctl image build`")
    assert world.host.asked("create") == []
    assert world.fleet.counts().existing == 0
    # built meanwhile: the next try finds it
    world.boot_files = World().boot_files
    await one_serving(world)


async def test_a_creation_that_timed_out_may_exist_and_counts_until_it_is_gone() -> None:
    world = World(rules(high=1))
    world.host.next_create(Fault.TIMED_OUT)
    await world.run(1)
    lost = world.host.ours()[0].name
    assert world.fleet.counts().existing == 1
    assert len(world.host.asked("create")) == 1
    await one_serving(world)
    assert lost in world.host.asked("destroy")
    assert world.host.peak == 1, "never two, with max = 1"
    assert world.told(JOIN).count(lost) == 0


async def test_a_creation_that_timed_out_without_a_domain_is_forgotten_by_the_next_listing() -> (
    None
):
    world = World(rules(high=1))
    world.host.next_create(Fault.LOST)
    await world.run(3)
    await one_serving(world)
    assert len(world.host.ours()) == 1


async def test_a_creation_without_an_answer_counts_and_is_not_repeated() -> None:
    world = World(rules(low=2, high=2))
    world.host.hold_creates()
    await world.run(60)
    assert world.fleet.counts().existing == 2
    assert len(world.host.asked("create")) == 2
    world.host.release_creates()
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert len(world.host.ours()) == 2


async def test_a_boot_that_hangs_is_ended_with_its_consoles_last_line() -> None:
    world = World()
    world.host.next_create(Fault.HANGS_IN_BOOT)
    await world.run(31)
    stuck = world.host.ours()[0].name
    assert world.fleet.counts().booting == 1
    await world.run(2)
    failed = next(note for note in world.notes if note.kind == "vm.failed")
    assert failed.reason is Reason.BOOT_TIMEOUT
    assert failed.message.endswith("within 30 s; its console ends: Kernel panic - not syncing: VFS")
    await one_serving(world)
    assert stuck not in [d.name for d in world.host.ours()]
    assert (world.told(JOIN).count(stuck), world.told(LEAVE).count(stuck)) == (1, 1)


async def test_a_domain_seen_dead_while_its_creation_is_still_unanswered() -> None:
    """The listing is faster than the call: dead at birth, then the call times out as well."""
    world = World()
    world.host.hold_creates()
    await world.run(1)
    name = world.host.asked("create")[0]
    dead = world.host.add_foreign(name, identity())
    dead.power = PowerState.CRASHED
    world.host.next_create(Fault.LOST)
    await world.run(1)
    world.host.release_creates()
    await world.tasks.settle()
    assert world.tasks.errors == []
    await one_serving(world)
    assert [d.power for d in world.host.ours()] == [PowerState.RUNNING]


# --- replicas that fail


@pytest.mark.parametrize("leaves", [True, False], ids=["gone from the listing", "seen crashed"])
async def test_a_replica_that_dies_while_serving_is_replaced(leaves: bool) -> None:
    world = World()
    first = await one_serving(world)
    world.host.crash(first, leaves=leaves)
    await world.run(1)
    assert world.told(LEAVE) == [first], "the pool hears it in the same tick"
    assert Reason.CRASHED in {note.reason for note in world.notes}
    second = await one_serving(world)
    assert second != first
    assert world.reasons("vm.launch") == [Reason.BELOW_MIN, Reason.REPLACED]
    assert world.fleet.gate.failures == 0, "a crash while serving is no launch failure"
    assert len(world.host.ours()) == 1


async def test_a_replica_that_stays_unhealthy_is_replaced_after_a_boots_patience() -> None:
    """An overloaded one must not be killed for it: as long as a whole boot may take (30 s)."""
    world = World()
    first = await one_serving(world)
    world.unprobed.add(first)
    await world.run(31)
    assert world.fleet.ready_names() == (first,)
    await world.run(2)
    assert ("vm.failed", Reason.UNHEALTHY) in world.said()
    assert await one_serving(world) != first


async def test_a_replica_that_recovers_in_time_is_kept() -> None:
    world = World()
    first = await one_serving(world)
    for _ in range(5):
        world.unprobed = {first}
        await world.run(25)
        world.unprobed = set()
        await world.run(1)
    assert world.fleet.ready_names() == (first,)
    assert world.told(LEAVE) == []


async def test_a_replica_that_is_ejected_is_kept_however_long_that_lasts() -> None:
    """It is up and passes its checks; what requests told of it, a new one might not do better."""
    world = World(rules(low=2))
    await world.until(lambda: world.fleet.counts().ready == 2)
    world.pool.outlier = OutlierConfig(ejection=200.0)
    bad = world.fleet.ready_names()[0]
    for _ in range(5):
        with world.pool.lease(prefer=bad) as lease:
            lease.answered(0.1, world.clock.now(), 500)
    assert [b.name for b in world.pool if b.ejected] == [bad]
    await world.run(100)
    assert world.told(LEAVE) == []
    assert world.fleet.counts().unavailable == 1, "it is no capacity meanwhile"
    await world.run(101)
    world.pool.tick(world.clock.now())
    await world.run(1)
    assert world.fleet.counts().unavailable == 0


# --- shrinking


async def shrunk(world: World) -> str:
    """Two replicas, then max = 1: the one that leaves."""
    await world.until(lambda: world.fleet.counts().ready == 2)
    world.controller.rules = rules(high=1)
    await world.run(1)
    return world.told(DRAIN)[-1]


async def test_a_drain_waits_for_the_last_request_then_powers_off() -> None:
    world = World(rules(low=2))
    await world.until(lambda: world.fleet.counts().ready == 2)
    leases = [world.pool.lease(), world.pool.lease()]
    leaving = await shrunk(world)
    lease = next(lease for lease in leases if lease.backend.name == leaving)
    await world.run(5)
    assert world.fleet.get(leaving).state is VmState.DRAINING  # type: ignore[union-attr]
    assert world.host.asked("shutdown") == []
    assert world.domain(leaving).identity.phase == "draining"  # type: ignore[union-attr]
    lease.release()
    await world.run(1)
    assert world.host.asked("shutdown") == [leaving]
    assert world.told(LEAVE) == [leaving]
    await world.run(4)
    assert [d.name for d in world.host.ours()] == list(world.fleet.ready_names())
    assert world.said()[-2:] == [("vm.drained", Reason.DRAINED), ("vm.gone", Reason.DRAINED)]
    for left in leases:
        left.release()


async def test_a_request_that_never_ends_is_cut_at_the_drain_timeout() -> None:
    world = World(rules(low=2))
    await world.until(lambda: world.fleet.counts().ready == 2)
    leases = [world.pool.lease(), world.pool.lease()]
    leaving = await shrunk(world)
    await world.run(20)
    assert world.host.asked("shutdown") == []
    await world.run(2)
    assert world.host.asked("shutdown") == [leaving]
    assert world.reasons("vm.drained") == [Reason.DRAIN_TIMEOUT]
    for lease in leases:
        lease.release()


async def test_a_guest_that_ignores_its_power_button_is_destroyed() -> None:
    world = World(rules(low=2))
    await world.until(lambda: world.fleet.counts().ready == 2)
    for domain in world.host.ours():
        domain.ignores_power_button = True
    leaving = await shrunk(world)
    await world.run(9)
    assert world.host.asked("destroy") == []
    await world.run(3)
    assert leaving in world.host.asked("destroy")
    assert len(world.host.ours()) == 1


async def test_retiring_ends_every_vm_those_still_booting_too() -> None:
    world = World(rules(low=3))
    await world.run(2)
    world.controller.retire()
    await world.until(lambda: not world.fleet.counts().existing, at_most_s=60)
    assert world.host.ours() == []
    assert {event.reason for event in world.events if event.kind is DRAIN} == {Reason.SHUTDOWN}


async def test_retiring_while_a_creation_is_under_way_leaves_nothing() -> None:
    world = World()
    world.host.hold_creates()
    await world.run(2)
    world.controller.retire()
    await world.run(3)
    assert world.fleet.counts().existing == 1, "it may still come to be"
    world.host.release_creates()
    await world.until(lambda: not world.fleet.counts().existing, at_most_s=60)
    assert world.host.ours() == []


# --- starting again


async def test_a_successor_takes_over_what_its_predecessor_left() -> None:
    world = World(rules(low=2))
    await world.until(lambda: world.fleet.counts().ready == 2)
    names = set(world.fleet.ready_names())
    world.notes.clear()
    world.events.clear()
    await world.restart()
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert set(world.fleet.ready_names()) == names
    assert len(world.host.asked("create")) == 2, "nothing new was started"
    assert {event.reason for event in world.events} == {Reason.ADOPTED}
    assert world.boots == [(Path.COLD, 10.0)] * 2, "an adoption is no boot"


async def test_what_is_told_of_an_adopted_one_is_what_its_metadata_knows() -> None:
    world = World(rules(high=1))
    await world.until(lambda: world.fleet.counts().ready == 1)
    (name,) = world.fleet.ready_names()
    born = world.clock.now() - world.fleet.statuses()[0].age_s
    await world.run(300)
    world.notes.clear()
    await world.restart()
    await world.until(lambda: world.fleet.counts().ready == 1)
    age = world.clock.now() - born
    (ready,) = [note for note in world.notes if note.kind == "vm.ready"]
    assert ready.message.startswith(f"adopted: {name} serves at 127.0.0.1:")
    assert ready.message.endswith(f", {age:.0f} s old (cold)")
    assert "seconds" not in ready.data, "how long it took, its predecessor knew"
    (status,) = world.fleet.statuses()
    assert status.age_s == pytest.approx(age, abs=0.01)
    assert status.age_s > 300


async def test_a_successor_does_not_bring_back_who_was_leaving() -> None:
    world = World(rules(low=2))
    await world.until(lambda: world.fleet.counts().ready == 2)
    leases = [world.pool.lease(), world.pool.lease()]
    leaving = await shrunk(world)
    await world.run(3)
    world.rules = rules(high=1)
    world.events.clear()
    await world.restart()
    await world.run(10)
    assert world.told(JOIN) != []
    assert leaving not in world.told(JOIN)
    assert [d.name for d in world.host.ours()] == list(world.fleet.ready_names())
    for lease in leases:
        lease.release()


async def test_killed_within_a_creation_the_machine_is_adopted_not_doubled() -> None:
    world = World(rules(high=1))
    world.host.next_create(Fault.TIMED_OUT)
    await world.run(1)
    await world.restart()
    await world.until(lambda: world.fleet.counts().ready == 1)
    assert world.host.peak == 1


async def test_too_many_found_are_reduced_to_max() -> None:
    world = World(rules(low=4))
    await world.until(lambda: world.fleet.counts().ready == 4)
    world.rules = rules(high=2)
    await world.restart()
    await world.until(lambda: world.fleet.counts().existing == 2)
    assert len(world.host.ours()) == 2


# --- not ours


async def test_machines_that_are_not_ours_are_never_touched() -> None:
    """Without metadata, of another installation, of another service: even beyond max."""
    world = World(rules(high=1))
    world.host.add_foreign("database")
    world.host.add_foreign("web-000001", identity(instance="theirs"))
    world.host.add_foreign("api-000001", identity(service="api"))
    name = await one_serving(world)
    world.host.crash(name)
    await world.run(60)
    world.controller.retire()
    await world.until(lambda: not world.fleet.counts().existing)
    assert set(world.host.domains) == {"database", "web-000001", "api-000001"}
    asked = {name for _, name in world.host.calls}
    assert asked.isdisjoint(world.host.domains)
    assert {event.backend for event in world.events}.isdisjoint(world.host.domains)


# --- hosts that do not answer


async def test_an_unreachable_host_keeps_its_replicas_and_nothing_is_started() -> None:
    """Nothing is known of its domains: they count, they serve, and nobody is replaced."""
    world = World(rules(low=2, high=2))
    await world.until(lambda: world.fleet.counts().ready == 2)
    names = world.fleet.ready_names()
    world.host.unreachable = True
    await world.run(120)
    assert world.fleet.ready_names() == names
    assert len(world.pool.available) == 2
    world.host.unreachable = False
    await world.run(5)
    assert world.fleet.ready_names() == names
    assert len(world.host.asked("create")) == 2


async def test_with_one_host_away_the_other_may_grow_but_nothing_shrinks() -> None:
    world = World(rules(low=2), hosts=("a", "b"))
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert {vm.host for vm in world.fleet.statuses()} == {"a", "b"}
    world.hosts["b"].unreachable = True
    world.controller.rules = rules(low=1, high=1)
    await world.run(30)
    assert world.told(DRAIN) == []
    world.controller.rules = rules(low=3)
    await world.until(lambda: world.fleet.counts().ready == 3)
    assert [len(h.ours()) for h in world.hosts.values()] == [2, 1]


async def test_before_every_host_was_seen_nothing_is_started() -> None:
    """The one that does not answer may hold as many machines as max allows."""
    world = World(rules(low=2), hosts=("a", "b"))
    world.hosts["b"].unreachable = True
    await world.run(60)
    assert world.hosts["a"].asked("create") == []
    world.hosts["b"].unreachable = False
    await world.until(lambda: world.fleet.counts().ready == 2)


async def test_after_a_restart_with_one_host_away_the_others_replicas_serve() -> None:
    world = World(rules(low=2, high=2), hosts=("a", "b"))
    await world.until(lambda: world.fleet.counts().ready == 2)
    await world.restart()
    world.hosts["b"].unreachable = True
    await world.run(10)
    assert len(world.pool.available) == 1
    assert len(world.hosts["a"].ours()) == 1, "and nothing was started for the one not seen"
    world.hosts["b"].unreachable = False
    await world.until(lambda: len(world.pool.available) == 2)
    assert sum(len(h.asked("create")) for h in world.hosts.values()) == 2


async def test_a_fake_boot_that_never_ends_is_what_it_says() -> None:
    world = World()
    world.host.next_create(Fault.HANGS_IN_BOOT)
    await world.run(1)
    assert world.host.ours()[0].serves_from == NEVER


async def test_a_machine_that_cannot_be_ended_counts_towards_max_until_it_is_gone() -> None:
    """Its QEMU hangs in the kernel. With max = 1 nothing takes its place, however long it stays."""
    world = World(rules(high=1))
    first = await one_serving(world)
    world.host.domains[first].will_not_die = True
    world.unprobed.add(first)
    await world.run(300)
    assert [d.name for d in world.host.ours()] == [first]
    assert len(world.host.asked("destroy")) > 100, "tried again each tick"
    assert len(world.pool) == 0
    world.host.forget_faults()
    assert await one_serving(world) != first
    assert world.host.peak == 1
