"""Replicas that are copies of a saved guest: how that guest comes to be, how a copy comes into
service, and what may go wrong with either.

A boot takes 10 s, a copy answers after 1 s. The fake's applications remember the name they last
heard: a copy's believes in that of the guest that was saved.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoscale.host import ImageUnavailable, PowerState
from autoscale.model import EventKind, Path, Reason, ScaleEvent, VmState
from autoscale.reserve import LOW_WEIGHT
from autoscale.snapshots import ASK_AGAIN_S, RETRY_S, key_of
from autoscale.vm import BootFiles, Role, Vm
from tests.fakes import FakeHypervisor, Fault, Odd
from tests.world import FILES, World, rules, shape

JOIN = EventKind.JOIN
KEY = key_of("web", FILES, shape(snapshot=True))


def want(world: World, replicas: int) -> None:
    world.controller.rules = rules(replicas, replicas)


def all_of(world: World, role: Role) -> list[Vm]:
    found = (world.fleet.get(status.name) for status in world.fleet.statuses())
    return [vm for vm in found if vm is not None and vm.role is role]


def copying(replicas: int = 1, **settings: Any) -> World:
    return World(rules(replicas), vm=shape(snapshot=True, **settings))


async def with_saved(replicas: int = 1, **settings: Any) -> World:
    """So many serve, and a guest is saved."""
    world = copying(replicas, **settings)
    await world.until(lambda: KEY in world.host.guests, at_most_s=120)
    await world.run(2)
    return world


def last_join(world: World) -> ScaleEvent:
    return [event for event in world.events if event.kind is JOIN][-1]


def strangers(world: World) -> list[str]:
    """Those that may get a request and believe that they are somebody else."""
    names = [backend.name for backend in world.pool.available]
    return [d.name for d in world.domains() if d.name in names and d.called != d.name]


# --- the saved guest


async def test_one_is_made_when_calm_saved_and_gone() -> None:
    world = copying()
    most = 0
    while KEY not in world.host.guests:
        await world.run(1)
        most = max(most, len(world.domains()))
        assert world.fleet.counts().active <= 1, "it is never counted as a replica"
        for vm in all_of(world, Role.TEMPLATE):
            assert vm.name not in world.pool
    assert most == 2
    assert world.host.asked("create")[1:] == world.host.asked("save")
    await world.run(30)
    assert [d.name for d in world.domains()] == list(world.fleet.ready_names())
    assert len(world.host.asked("save")) == 1, "one will do"
    assert world.reasons("snapshot.made") == [Reason.RESERVED]
    assert world.boots == [(Path.COLD, 10.0)]
    assert world.reasons("vm.gone") == [], "that it is gone is what it was for"


async def test_a_listing_without_it_before_the_answer_is_no_crash() -> None:
    world = copying()
    world.host.hold_calls("save's answer")
    await world.until(lambda: world.host.asked("save"))
    await world.run(5)
    assert ("vm.gone", Reason.CRASHED) not in world.said()
    world.host.release_calls("save's answer")
    await world.run(1)
    assert world.reasons("snapshot.made") == [Reason.RESERVED]
    assert len(all_of(world, Role.TEMPLATE)) == 0


async def test_it_boots_with_a_low_weight() -> None:
    world = copying()
    await world.until(lambda: all_of(world, Role.TEMPLATE))
    await world.run(1)
    (template,) = all_of(world, Role.TEMPLATE)
    assert {d.name: d.weight for d in world.domains()}[template.name] == LOW_WEIGHT


async def test_none_is_made_where_none_is_wanted() -> None:
    world = World()
    await world.run(60)
    assert (world.host.asked("saved"), world.host.asked("save")) == ([], [])


async def test_standbys_come_first_then_the_saved_guest() -> None:
    world = World(vm=shape(standby=1, snapshot=True))
    await world.until(lambda: KEY in world.host.guests, at_most_s=120)
    saved = world.host.asked("save")[0]
    assert world.host.asked("create").index(saved) == 2


async def test_each_host_gets_one() -> None:
    world = World(hosts=("a", "b"), vm=shape(snapshot=True))
    await world.until(lambda: all(KEY in host.guests for host in world.hosts.values()))
    await world.run(5)
    assert len(world.domains()) == 1


async def test_the_next_one_goes_where_a_copy_can_be_started_and_no_host_gets_them_all() -> None:
    world = World(hosts=("a", "b"), vm=shape(snapshot=True))
    world.hosts["a"].copies = "its libvirt is not known"
    world.host.guests = {}
    await world.until(lambda: KEY in world.hosts["b"].guests)
    (first,) = world.domains()
    assert first.name in world.hosts["a"].domains
    want(world, 2)
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert [path for path, _ in world.boots] == [Path.COLD, Path.SNAPSHOT], (
        "b has fewer, and copies"
    )
    await world.run(20)
    ways = world.fleet.counts().ways
    assert [way.path for way in ways] == [Path.SNAPSHOT, Path.COLD]
    want(world, 3)
    await world.until(lambda: world.fleet.counts().ready == 3)
    assert len(world.hosts["b"].ours()) == 2, "of two as full as each other, the quicker one"
    assert [way.path for way in world.fleet.counts().ways] == [Path.COLD], "it is a's turn"
    want(world, 4)
    await world.until(lambda: world.fleet.counts().ready == 4)
    assert len(world.hosts["a"].ours()) == 2, "and the one that boots gets its share"


async def test_a_host_that_starts_no_copies_is_said_once_and_boots() -> None:
    world = copying()
    world.host.copies = "its libvirt writes a file that is not known here"
    await world.run(60)
    want(world, 2)
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert world.reasons("host.no_copies") == [Reason.NO_SNAPSHOTS]
    assert world.host.asked("save") == []
    assert {path for path, _ in world.boots} == {Path.COLD}


@pytest.mark.parametrize("odd", list(Odd))
async def test_one_that_could_not_be_saved_is_tried_again_much_later(odd: Odd) -> None:
    world = copying()
    world.host.next_call("save", odd)
    await world.until(lambda: world.reasons("snapshot.failed"))
    await world.run(60)
    assert len(world.domains()) == 1, "and nothing of it is left"
    assert len(world.host.asked("save")) == 1
    want(world, 2)
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert {path for path, _ in world.boots} == {Path.COLD}
    await world.run(RETRY_S)
    assert set(world.host.guests) == {KEY}


async def test_one_that_was_saved_forgets_the_tries_before_it() -> None:
    world = copying()
    await world.run(5)
    world.host.next_create(Fault.REFUSED, times=4)
    await world.until(lambda: KEY in world.host.guests)
    world.host.next_create(Fault.REFUSED)
    world.reload(standby=1)
    await world.run(3)
    assert len(all_of(world, Role.STANDBY)) == 1, "tried again a second later, not a minute"


async def test_what_the_next_step_should_not_wait_for_is_news() -> None:
    world = copying()
    news: list[float] = []
    world.fleet.on_news = lambda: news.append(world.clock.now())
    await world.run(2)
    assert news == [1001.0], "what is saved there"
    await world.until(lambda: KEY in world.host.guests)
    world.host.unusable = True
    want(world, 2)
    await world.run(1)
    assert news[1:] == [world.clock.now()], "that a copy will not do"


async def test_one_that_somebody_deleted_is_missed_one_day() -> None:
    world = await with_saved()
    world.host.guests.clear()
    await world.run(ASK_AGAIN_S + 60)
    assert set(world.host.guests) == {KEY}
    assert world.reasons("vm.no_copy") == [], "nobody had to need it first"


async def test_another_image_makes_another_one() -> None:
    world = await with_saved()
    newer = replace(FILES, generation="generation-2")
    world.boot_files = lambda: newer
    key = key_of("web", newer, world.shape)
    assert key != KEY
    want(world, 2)
    await world.run(2)
    assert world.host.asked("restore") == [], "a copy would have the old image"
    await world.until(lambda: set(world.host.guests) == {key}, at_most_s=120)


async def test_an_image_that_changes_while_one_boots_is_not_saved_under_the_new_ones_key() -> None:
    world = copying()
    await world.until(lambda: all_of(world, Role.TEMPLATE))
    (old,) = all_of(world, Role.TEMPLATE)
    newer = replace(FILES, generation="generation-2")
    world.boot_files = lambda: newer
    await world.until(lambda: world.host.guests, at_most_s=120)
    assert set(world.host.guests) == {key_of("web", newer, world.shape)}
    assert old.name not in world.host.asked("save")


async def test_without_its_image_there_is_none_to_make_and_serving_goes_on() -> None:
    world = copying()
    await world.until(lambda: all_of(world, Role.TEMPLATE))

    def missing() -> BootFiles:
        raise ImageUnavailable("no image 'webapp': run `lbctl image build`")

    world.boot_files = missing
    await world.run(60)
    assert [d.name for d in world.domains()] == list(world.fleet.ready_names())
    assert world.host.guests == {}


# --- copies


async def test_a_copy_is_told_who_it_is_before_it_joins() -> None:
    world = await with_saved()
    want(world, 2)
    await world.run(1)
    (name,) = world.host.asked("restore")
    copy = world.domain(name)
    assert copy is not None
    assert copy.called != name, "it still believes in the name of what was saved"
    assert name not in world.pool
    assert copy.identity is not None
    assert copy.identity.phase == "copied", "a successor would know that, too"
    await world.run(1)
    assert copy.called == name
    assert last_join(world).ready, "it was ready when it was saved"
    assert name in [backend.name for backend in world.pool.available]
    await world.run(3)
    assert copy.identity.phase == "serving"
    assert [path for path, _ in world.boots] == [Path.COLD, Path.SNAPSHOT]
    assert world.boots[-1][1] <= 3
    assert "(snapshot)" in next(n.message for n in reversed(world.notes) if n.kind == "vm.ready")


async def test_copies_are_a_way_that_the_planner_hears_of() -> None:
    world = await with_saved()
    assert [way.path for way in world.fleet.counts().ways] == [Path.SNAPSHOT, Path.COLD]


async def test_a_new_fleet_asks_what_is_saved_before_it_boots() -> None:
    """Started again with nothing running: the guest saved by its predecessor is there."""
    world = await with_saved()
    world.controller.retire()
    await world.until(lambda: not world.fleet.counts().existing)
    await world.restart()
    await world.until(lambda: world.fleet.counts().ready == 1)
    assert [path for path, _ in world.boots] == [Path.COLD, Path.SNAPSHOT]


async def test_a_host_that_does_not_say_what_is_saved_holds_nobody_up() -> None:
    world = copying()
    world.host.hold_calls("saved")
    await world.run(4)
    assert len(world.host.asked("create")) == 1
    world.host.release_calls("saved")


async def test_a_host_that_cannot_say_what_is_saved_gets_one() -> None:
    world = copying()
    world.host.next_call("saved", Odd.FAILS)
    await world.until(lambda: KEY in world.host.guests)


async def test_a_copy_is_sooner_there_than_a_standby_that_boots() -> None:
    world = await with_saved()
    world.host.unusable = False
    world.host.boot_s = 25.0
    world.host.guests, guests = {}, world.host.guests
    world.reload(standby=1)
    # the fleet believes in the saved guest, and the host finds that it is gone: so it boots one
    await world.until(lambda: any(vm.starting for vm in all_of(world, Role.STANDBY)))
    await world.run(1)
    assert world.reasons("vm.no_copy") != []
    world.host.guests = guests
    await world.restart()
    await world.run(2)
    want(world, 2)
    await world.run(3)
    assert world.boots[-1][0] is Path.SNAPSHOT
    assert [vm.state for vm in all_of(world, Role.STANDBY)] == [VmState.BOOTING]


async def test_a_standby_may_be_a_copy() -> None:
    world = await with_saved()
    world.reload(standby=1)
    await world.run(6)
    (vm,) = all_of(world, Role.STANDBY)
    assert (vm.state, vm.path) == (VmState.STANDBY, Path.SNAPSHOT)
    want(world, 2)
    await world.run(2)
    assert vm.name in world.fleet.ready_names()
    assert strangers(world) == []


# --- what goes wrong with a copy


async def test_a_saved_guest_that_is_no_good_is_said_and_the_other_way_taken() -> None:
    world = await with_saved()
    world.host.unusable = True
    want(world, 2)
    await world.run(2)
    assert world.reasons("vm.no_copy") == [Reason.NO_SNAPSHOTS]
    assert world.reasons("vm.failed") == [], "no launch failed"
    assert (world.fleet.gate.failures, len(world.host.asked("restore"))) == (0, 1)
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert world.boots[-1][0] is Path.COLD
    world.host.forget_faults()
    await world.run(RETRY_S + 30)
    assert set(world.host.guests) == {KEY}, "much later, another one is made"


@pytest.mark.parametrize("how", ["hangs", "crashes", "deaf"])
async def test_a_copy_that_never_answers_speaks_against_what_it_is_a_copy_of(how: str) -> None:
    """Else one bad file would stop a service from growing, copy after copy, as long as a boot."""
    world = await with_saved(boot_timeout_s=120.0)
    if how == "hangs":
        world.host.next_create(Fault.HANGS_IN_BOOT)
    world.deaf = how == "deaf"
    want(world, 2)
    await world.run(1)
    (name,) = world.host.asked("restore")
    if how == "crashes":
        world.host.crash(name)
    await world.run(15)
    world.deaf = False
    assert name not in world.told(JOIN)
    if how != "crashes":
        assert world.reasons("vm.failed") == [Reason.BOOT_TIMEOUT], "its address is not to blame"
    assert len(world.host.asked("restore")) == 1
    await world.until(lambda: world.fleet.counts().ready == 2, at_most_s=30)
    assert world.boots[-1][0] is Path.COLD
    assert world.domain(name) is None


async def test_a_copy_that_timed_out_may_exist_and_goes() -> None:
    world = await with_saved()
    world.host.next_create(Fault.TIMED_OUT)
    want(world, 2)
    await world.run(1)
    (lost,) = world.host.asked("restore")
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert lost not in world.told(JOIN)
    assert world.domain(lost) is None
    assert world.boots[-1][0] is Path.SNAPSHOT, "that says nothing of the saved guest"


async def test_one_refused_for_want_of_memory_says_nothing_of_the_saved_guest() -> None:
    world = await with_saved()
    world.host.next_create(Fault.REFUSED)
    want(world, 2)
    await world.run(1)
    assert world.fleet.gate.failures == 1
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert world.boots[-1][0] is Path.SNAPSHOT


# --- starting again


async def test_killed_before_a_copy_was_introduced_its_successor_does_that() -> None:
    world = await with_saved()
    world.deaf = True
    want(world, 2)
    await world.run(3)
    (name,) = world.host.asked("restore")
    world.deaf = False
    world.rules = rules(2, 2)
    await world.restart()
    await world.tick()
    found = world.fleet.get(name)
    assert found is not None
    assert found.path is Path.SNAPSHOT, "it stands in its metadata from the beginning"
    for _ in range(4):
        await world.run(1)
        assert strangers(world) == []
    assert name in world.fleet.ready_names()
    assert len(world.host.asked("restore")) == 1


async def test_a_successor_knows_a_copy_for_one() -> None:
    """One that serves, and one on standby."""
    world = await with_saved()
    want(world, 2)
    await world.run(6)
    world.reload(standby=1)
    await world.until(lambda: any(v.state is VmState.STANDBY for v in all_of(world, Role.STANDBY)))
    before = {status.name: status.path for status in world.fleet.statuses()}
    assert sorted(before.values()) == [Path.COLD, Path.SNAPSHOT, Path.SNAPSHOT]
    world.rules = rules(2, 2)
    world.notes.clear()
    await world.restart()
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert {status.name: status.path for status in world.fleet.statuses()} == before
    told = {note.subject: note for note in world.notes if note.kind == "vm.ready"}
    assert {name: note.data["path"] for name, note in told.items()} == {
        name: before[name].value for name in world.fleet.ready_names()
    }
    assert len(world.boots) == 2, "an adoption is no activation, by whichever path"


async def test_a_copy_that_is_found_suspended_is_given_up() -> None:
    """Nobody knows how far its copying came."""
    world = await with_saved()
    world.deaf = True
    want(world, 2)
    await world.run(2)
    (name,) = world.host.asked("restore")
    world.host.domains[name].power = PowerState.PAUSED
    world.deaf = False
    world.rules = rules(2, 2)
    await world.restart()
    await world.until(lambda: world.fleet.counts().ready == 2)
    assert world.domain(name) is None


async def killed_at_the_template(world: World, when: str, host: FakeHypervisor) -> str:
    if when == "being saved":
        host.hold_calls("save")
        await world.until(lambda: host.asked("save"))
    else:
        await world.until(lambda: all_of(world, Role.TEMPLATE))
        if when == "booting":
            await world.run(3)
    (template,) = all_of(world, Role.TEMPLATE)
    await world.restart()
    host.forget_faults()
    return template.name


@pytest.mark.parametrize("when", ["just started", "booting", "being saved"])
async def test_killed_with_a_template_half_done_it_goes_and_another_is_made(when: str) -> None:
    world = copying()
    name = await killed_at_the_template(world, when, world.host)
    await world.run(12)
    assert world.domain(name) is None
    assert name not in world.pool
    await world.until(lambda: KEY in world.host.guests)
    await world.run(5)
    assert len(world.domains()) == 1
    assert name not in world.host.asked("save")[1:]


async def test_retiring_ends_a_template_too_and_makes_no_other() -> None:
    world = copying()
    await world.until(lambda: all_of(world, Role.TEMPLATE))
    world.controller.retire()
    await world.until(lambda: not world.fleet.counts().existing, at_most_s=60)
    assert (world.domains(), world.host.asked("save")) == ([], [])
