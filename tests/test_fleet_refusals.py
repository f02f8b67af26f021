"""Hosts that refuse to start a VM, addresses that never come, hosts that fall silent, guests that
reboot: what the fleet makes of it. A replica has one core and boots in 10 s; boot timeout 30 s.
"""

from __future__ import annotations

import pytest

from autoscale.host import DiskFull, DomainRefused, ImageLost, NoMemory, NoPort
from autoscale.model import Path, Reason
from autoscale.verdicts import told
from autoscale.vm import BootFiles
from tests.fakes import Fault
from tests.world import FILES, World, rules, shape

FULL = told(NoMemory, "a refuses web-1: cannot set up guest memory: Cannot allocate memory")


def created(world: World, host: str) -> int:
    return len(world.hosts[host].asked("create"))


def notes(world: World, kind: str) -> list[str]:
    return [note.message for note in world.notes if note.kind == kind]


# --- one host of several refuses


async def test_a_host_that_refuses_costs_no_launch_on_another() -> None:
    world = World(rules(low=3, high=3), hosts=("a", "b"))
    world.hosts["a"].refuses = FULL
    await world.until(lambda: world.fleet.counts().ready == 3, at_most_s=20)
    assert {vm.host for vm in world.fleet.statuses()} == {"b"}
    assert world.fleet.gate.failures == 0, "the service has done nothing wrong"


async def test_a_host_that_refuses_is_told_once_and_where_it_stops_and_when_it_takes_one() -> None:
    world = World(rules(low=1, high=1), hosts=("a", "b"))
    world.hosts["a"].refuses = FULL
    world.hosts["b"].refuses = told(DiskFull, "b refuses web-2: No space left on device")
    await world.run(40)
    said = notes(world, "host.backoff")
    assert [words.split(":")[0] for words in said] == [
        "no launch on a for 1 s, and longer each time",
        "no launch on b for 1 s, and longer each time",
        "5 launches in a row failed on a",
    ]
    assert "cannot set up guest memory" in said[0]
    assert [pause.host for pause in world.fleet.pauses()] == [None, "a", "b"]
    assert [pause.is_open for pause in world.fleet.pauses()][:2] == [True, True]
    world.hosts["a"].refuses = world.hosts["b"].refuses = None
    await world.until(lambda: world.fleet.counts().ready == 1, at_most_s=90)
    closed = [note for note in world.notes if note.kind == "breaker.closed"]
    assert [note.subject in world.hosts for note in closed] == [True, False], "host, then service"
    assert {note.reason for note in closed} == {Reason.BREAKER_CLOSED}
    assert None not in [pause.host for pause in world.fleet.pauses()]


async def test_what_every_host_refuses_is_not_tried_more_often_for_their_number() -> None:
    """After a round of all of them, the service's own gate waits."""
    one, three = World(rules(high=1)), World(rules(high=1), hosts=("a", "b", "c"))
    for world in (one, three):
        for host in world.hosts.values():
            host.refuses = DomainRefused("no such machine type")
        await world.run(200)
    tries = sum(created(three, host) for host in three.hosts)
    assert tries <= created(one, "local") + 2 * 2, "each further host: once, and once again"
    assert three.fleet.gate.is_open


async def test_a_broken_image_is_the_services_trouble_on_however_many_hosts() -> None:
    def gone() -> BootFiles:
        return FILES

    world = World(rules(high=1), hosts=("a", "b"), boot_files=gone)
    for host in world.hosts.values():
        host.refuses = told(ImageLost, "could not open '/images/root.img': No such file")
    await world.run(40)
    assert [pause.host for pause in world.fleet.pauses()] == [None]
    assert created(world, "a") + created(world, "b") == 5
    assert set(world.reasons("vm.failed")) == {Reason.IMAGE_GONE}


async def test_a_standby_that_a_host_refuses_goes_elsewhere_and_holds_up_no_replica() -> None:
    world = World(rules(low=2, high=2), hosts=("a", "b"))
    await world.until(lambda: world.fleet.counts().ready == 2)
    world.hosts["a"].refuses = FULL
    world.reload(standby=1)
    await world.until(lambda: world.fleet.counts().standby == 1, at_most_s=30)
    (asleep,) = [vm for vm in world.fleet.statuses() if vm.role == "standby"]
    assert asleep.host == "b"
    assert world.fleet.gate.failures == 0


# --- why, and what to do


@pytest.mark.parametrize(
    ("kind", "reason", "fix"),
    [
        (NoMemory, Reason.NO_MEMORY, "lower memory_mib"),
        (DiskFull, Reason.DISK_FULL, "make room on that host's disk"),
        (NoPort, Reason.NO_PORT, "ss -tln"),
        (ImageLost, Reason.IMAGE_GONE, "lbctl image list"),
        (DomainRefused, Reason.LAUNCH_FAILED, ""),
    ],
)
async def test_each_shortage_has_its_reason_and_its_fix_and_the_others_serve_on(
    kind: type[DomainRefused], reason: Reason, fix: str
) -> None:
    world = World(rules(low=1, high=2))
    await world.until(lambda: world.fleet.counts().ready == 1)
    (serving,) = world.fleet.ready_names()
    world.host.refuses = told(kind, "local refuses it: because")
    world.controller.rules = rules(low=2, high=2)
    await world.run(60)
    failed = [note for note in world.notes if note.kind == "vm.failed"]
    assert {note.reason for note in failed} == {reason}
    assert "could not be started: local refuses it: because" in failed[0].message
    assert fix in failed[0].message
    assert len(failed) == 5, "1, 2, 4, 8 s, then a minute"
    assert [b.name for b in world.pool.available] == [serving]
    (pause, *_) = world.fleet.pauses()
    assert (pause.is_open, pause.failures) == (True, 5)
    assert "because" in pause.why
    world.host.refuses = None
    await world.until(lambda: world.fleet.counts().ready == 2, at_most_s=90)
    assert world.fleet.pauses() == ()


async def test_a_guest_that_cannot_be_saved_for_a_full_disk_says_that_and_serving_goes_on() -> None:
    world = World(rules(low=1, high=2), vm=shape(snapshot=True))

    async def save(domain: str, key: str) -> None:
        raise told(DiskFull, "local: unable to write: No space left on device")

    world.host.save = save  # type: ignore[method-assign]
    await world.until(lambda: notes(world, "snapshot.failed"))
    await world.run(100)
    (failed,) = [note for note in world.notes if note.kind == "snapshot.failed"]
    assert failed.reason is Reason.DISK_FULL
    assert "make room on that host's disk" in failed.message
    assert world.fleet.counts().ready == 1
    world.controller.rules = rules(low=2, high=2)
    await world.until(lambda: world.fleet.counts().ready == 2, at_most_s=30)
    assert world.boots[-1][0] is Path.COLD


async def test_an_address_that_never_comes_is_told_as_that_and_where_to_look() -> None:
    world = World(rules(high=1))
    world.host.addresses = False
    await world.until(lambda: notes(world, "vm.failed"))
    failed = next(note for note in world.notes if note.kind == "vm.failed")
    assert failed.reason is Reason.NO_ADDRESS
    assert "got no address within 30 s: the host never told" in failed.message
    assert "network" in failed.message
    assert failed.data["console"], "its console may say why"
    assert world.fleet.gate.failures == 1


async def test_one_with_an_address_that_never_answers_is_told_as_that() -> None:
    world = World(rules(high=1))
    world.host.next_create(Fault.HANGS_IN_BOOT)
    await world.until(lambda: notes(world, "vm.failed"))
    assert world.reasons("vm.failed") == [Reason.BOOT_TIMEOUT]


# --- a host that says nothing


async def test_a_boot_is_not_judged_while_its_host_says_nothing() -> None:
    """The daemon restarts while a guest boots: the guest gets the time back that nobody saw."""
    world = World(rules(high=1))
    world.host.boot_s = 25.0
    world.host.addresses = False
    await world.run(3)
    assert world.fleet.counts().booting == 1
    world.host.unreachable = True
    await world.run(100)
    assert world.reasons("vm.failed") == []
    world.host.unreachable, world.host.addresses = False, True
    await world.until(lambda: world.fleet.counts().ready == 1, at_most_s=20)
    assert world.reasons("vm.failed") == []
    assert created(world, "local") == 1


async def test_one_that_hangs_is_given_up_after_its_host_is_back() -> None:
    world = World(rules(high=1))
    world.host.next_create(Fault.HANGS_IN_BOOT)
    await world.run(3)
    world.host.unreachable = True
    await world.run(100)
    world.host.unreachable = False
    await world.run(10)
    assert world.reasons("vm.failed") == [], "it has most of its 30 s yet"
    await world.run(30)
    assert world.reasons("vm.failed") == [Reason.BOOT_TIMEOUT]


# --- a guest that reboots by itself


async def test_a_guest_that_reboots_leaves_the_pool_comes_back_and_is_no_crash() -> None:
    world = World(rules(low=2, high=2))
    await world.until(lambda: world.fleet.counts().ready == 2)
    name = world.fleet.ready_names()[0]
    before = world.said()
    domain = world.domain(name)
    assert domain is not None
    domain.serves_from = world.clock.now() + 20  # its QEMU runs on; nothing else is to be seen
    await world.run(2)
    assert name not in [b.name for b in world.pool.available]
    await world.run(25)
    assert sorted(b.name for b in world.pool.available) == sorted(world.fleet.ready_names())
    assert name in world.fleet.ready_names()
    assert world.said() == before, "nothing was started, ended or counted"
    assert world.fleet.gate.failures == 0


async def test_a_guest_that_does_not_come_back_is_replaced_and_counted_once() -> None:
    world = World(rules(low=2, high=2))
    await world.until(lambda: world.fleet.counts().ready == 2)
    name = world.fleet.ready_names()[0]
    domain = world.domain(name)
    assert domain is not None
    domain.serves_from = float("inf")
    await world.run(80)
    assert world.fleet.counts().ready == 2
    assert world.reasons("vm.failed") == [Reason.UNHEALTHY]
    assert world.reasons("vm.launch").count(Reason.REPLACED) == 1
