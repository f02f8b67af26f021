"""A rollout on the scripted hypervisor: who is started, who drains, and how it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscale.model import EventKind, Reason
from tests.fakes import Fault
from tests.rollouts import NEW, OLD, RolloutWorld, fixed
from tests.world import shape


async def test_one_after_the_other_and_never_fewer_than_are_needed() -> None:
    world = RolloutWorld(fixed(3, high=3))
    await world.settled(3)
    world.begin()
    await world.until(lambda: world.phase == "done")
    assert world.generations() == [NEW] * 3
    assert world.least == 3
    assert world.host.peak == 4, "max and the surge of one"
    assert world.reasons("vm.draining") == [Reason.ROLLOUT] * 3
    assert [len(world.words(f"rollout.{kind}")) for kind in ("started", "judged", "step")] == [
        1, 1, 3,
    ]  # fmt: skip
    assert world.words("rollout.done") == [
        "every replica is of new; put image = new into the configuration"
    ]


async def test_nobody_leaves_before_the_first_new_one_was_judged() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    await world.run(20)
    assert world.generations() == [OLD] * 3 + [NEW]
    assert world.told(EventKind.DRAIN) == []
    await world.run(10)
    assert len(world.told(EventKind.DRAIN)) == 1


async def test_who_is_there_in_anothers_place_is_not_one_more() -> None:
    """The planner would else take it for capacity, and keep it."""
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    await world.run(5)
    counts = world.fleet.counts()
    assert (counts.ready, counts.booting, counts.surge) == (3, 1, 1)
    assert (counts.without_surge().ready, counts.without_surge().booting) == (3, 0)
    await world.run(10)
    assert world.fleet.counts().without_surge().active == 3
    await world.until(lambda: world.phase == "done")
    await world.run(5)
    assert world.fleet.counts().surge == 0


async def test_without_requests_the_probes_decide_and_take_longer() -> None:
    world = RolloutWorld()
    world.rate = 0
    await world.settled(3)
    world.begin()
    await world.run(38)
    assert world.told(EventKind.DRAIN) == []
    await world.until(lambda: world.phase == "done")


async def test_an_image_that_fails_requests_goes_back_by_itself() -> None:
    world = RolloutWorld()
    world.bad[NEW] = 1.0
    await world.settled(3)
    world.begin()
    await world.until(lambda: world.phase == "failed")
    assert world.generations() == [OLD] * 3
    assert world.least == 3
    assert "requests failed on the new ones, 0 of" in world.words("rollout.rolling_back")[0]
    assert world.answers[world.told(EventKind.DRAIN)[0]].bad <= 10, "what its users saw of it"
    await world.run(60)
    assert world.generations() == [OLD] * 3, "and it is not tried again"


async def test_an_image_that_is_slower_goes_back_by_itself() -> None:
    world = RolloutWorld()
    world.seconds[NEW] = 0.2
    await world.settled(3)
    world.begin()
    await world.until(lambda: world.phase == "failed")
    assert world.generations() == [OLD] * 3
    assert "take longer than" in world.words("rollout.rolling_back")[0]


async def test_an_image_that_never_gets_ready_goes_back_and_stops_no_other_launch() -> None:
    world = RolloutWorld()
    world.host.broken[NEW] = Fault.HANGS_IN_BOOT
    await world.settled(3)
    world.begin()
    await world.run(35)
    assert not world.fleet.gate.failures, "what is on trial closes no gate"
    world.host.crash(world.pool.available[0].name)
    await world.run(15)
    assert world.generations().count(OLD) == 3, "the lost one came back as it was"
    await world.until(lambda: world.phase == "failed")
    assert world.generations() == [OLD] * 3
    assert "2 new ones in a row failed" in world.words("rollout.rolling_back")[0]


async def test_one_that_turns_bad_halfway_is_taken_back_one_by_one() -> None:
    world = RolloutWorld(fixed(4))
    await world.settled(4)
    world.begin()
    await world.until(lambda: world.generations().count(NEW) >= 3)
    world.bad[NEW] = 0.5
    await world.until(lambda: world.phase == "failed")
    assert world.generations() == [OLD] * 4
    assert world.least == 4
    assert world.host.peak <= 5


async def test_it_pauses_where_it_was_told_to_and_goes_on() -> None:
    world = RolloutWorld(fixed(4))
    await world.settled(4)
    world.begin(pause_at=0.5)
    await world.until(lambda: world.phase == "paused")
    assert world.generations() == [OLD] * 2 + [NEW] * 2
    await world.run(60)
    assert world.generations() == [OLD] * 2 + [NEW] * 2
    world.fleet.turnover.resume()
    await world.until(lambda: world.phase == "done")
    assert world.generations() == [NEW] * 4


async def test_paused_by_hand_it_keeps_what_is_there() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    await world.run(13)
    world.fleet.turnover.pause()
    await world.run(90)
    assert world.generations() == [OLD] * 3 + [NEW], "it was judged meanwhile, and nobody left"
    world.fleet.turnover.undo()
    await world.until(lambda: world.phase == "undone")
    assert world.generations() == [OLD] * 3


async def test_undone_after_it_was_done() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    await world.until(lambda: world.phase == "done")
    world.fleet.turnover.undo()
    await world.until(lambda: world.phase == "undone")
    assert world.generations() == [OLD] * 3
    assert world.least == 3


async def test_more_at_once_with_a_larger_surge() -> None:
    world = RolloutWorld(fixed(3, high=5), vm=shape(image="old"))
    await world.settled(3)
    world.begin(max_surge=2)
    await world.run(12)
    assert world.generations() == [OLD] * 3 + [NEW] * 2
    await world.until(lambda: world.phase == "done")
    assert world.host.peak <= 6
    assert world.least == 3


async def test_load_that_comes_meanwhile_is_answered_first() -> None:
    world = RolloutWorld(fixed(2))
    await world.settled(2)
    world.begin()
    await world.run(2)
    world.rules = fixed(4)
    world.controller.rules = world.rules
    await world.run(12)
    assert world.generations() == [OLD] * 4 + [NEW], "with what is known to be good"
    await world.until(lambda: world.phase == "done")
    world.rules = fixed(1)
    world.controller.rules = world.rules
    await world.run(5)
    world.rules = fixed(3)
    world.controller.rules = world.rules
    await world.run(15)
    assert world.generations() == [NEW] * 3, "the image holds although the configuration is old"


async def test_fewer_meanwhile_and_the_old_ones_leave_first() -> None:
    world = RolloutWorld(fixed(4))
    await world.settled(4)
    world.begin()
    await world.until(lambda: world.generations().count(NEW) == 2)
    world.controller.rules = world.rules = fixed(2)
    await world.run(3)
    assert OLD not in world.generations() or world.generations().count(NEW) == 2
    await world.until(lambda: world.phase == "done")
    assert world.generations() == [NEW] * 2


async def test_a_restart_goes_on_where_it_was() -> None:
    world = RolloutWorld(fixed(3, high=3))
    await world.settled(3)
    world.begin()
    await world.until(lambda: world.generations().count(NEW) == 2)
    drained = len(world.told(EventKind.DRAIN))
    await world.restart()
    world.unprobed = {domain.name for domain in world.domains()}
    await world.run(3)
    assert len(world.told(EventKind.DRAIN)) == drained, "who is found again is not taken for lost"
    world.unprobed.clear()
    await world.until(lambda: world.phase == "done")
    assert world.generations() == [NEW] * 3
    assert world.host.peak == 4


async def test_a_restart_during_the_trial_judges_again() -> None:
    world = RolloutWorld(fixed(3, high=3))
    await world.settled(3)
    world.begin()
    await world.run(15)
    await world.restart()
    await world.run(10)
    assert world.generations() == [OLD] * 3 + [NEW]
    await world.until(lambda: world.phase == "done")
    assert world.host.peak == 4


async def test_a_service_at_zero_tries_one() -> None:
    world = RolloutWorld(fixed(0))
    await world.run(2)
    world.begin()
    await world.until(lambda: world.phase == "done")
    assert len(world.reasons("vm.ready")) == 1
    await world.run(5)
    assert world.generations() == []


async def test_an_image_built_anew_meanwhile_is_another_one() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    await world.run(5)
    world.rebuild("new", "generation-3")
    await world.until(lambda: world.phase == "failed")
    assert world.generations() == [OLD] * 3


async def test_the_configured_image_built_anew_under_its_name() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.rebuild("old", NEW)
    await world.run(30)
    assert world.generations() == [OLD] * 3, "by itself nothing is replaced"
    world.begin("old")
    await world.until(lambda: world.phase == "done")
    assert world.generations() == [NEW] * 3
    assert world.least == 3


async def test_there_is_no_way_back_to_files_that_are_gone() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.rebuild("old", NEW)
    world.bad[NEW] = 1.0
    world.begin("old")
    await world.until(lambda: world.phase == "failed")
    await world.run(10)
    assert world.generations() == [OLD] * 3
    assert "the files before are gone" in world.words("rollout.rolling_back")[0]


async def test_a_protected_one_is_left_and_said_so() -> None:
    world = RolloutWorld()
    await world.settled(3)
    spared = world.pool.available[0].name
    world.fleet.protect(spared, True)
    world.begin()
    await world.until(lambda: world.words("rollout.waits"))
    assert world.words("rollout.waits") == [f"2 of 3 done; protected: {spared}"]
    await world.run(30)
    assert world.generations() == [OLD, NEW, NEW]
    await world.restart()
    await world.run(10)
    assert world.generations() == [OLD, NEW, NEW], "its metadata remembers"
    world.fleet.protect(spared, False)
    await world.until(lambda: world.phase == "done")


async def test_the_way_back_waits_for_a_protected_one_too() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    await world.until(lambda: world.phase == "done")
    spared = world.pool.available[0].name
    world.fleet.protect(spared, True)
    world.fleet.turnover.undo()
    await world.until(lambda: world.words("rollout.waits"))
    await world.run(40)
    assert world.generations() == [OLD] * 3 + [NEW], "it is not counted on"
    assert world.phase == "rolling_back"
    world.fleet.protect(spared, False)
    await world.until(lambda: world.phase == "undone")
    assert world.generations() == [OLD] * 3


async def test_protected_ones_survive_a_scale_in() -> None:
    world = RolloutWorld(fixed(3))
    await world.settled(3)
    first, second, _ = (backend.name for backend in world.pool.available)
    world.fleet.protect(first, True)
    world.fleet.protect(second, True)
    world.controller.rules = world.rules = fixed(1)
    await world.run(30)
    assert {backend.name for backend in world.pool.available} == {first, second}
    assert world.words("scale.spared") == [
        f"nobody leaves, though 1 could: {first}, {second} protected"
    ]
    world.host.crash(first)
    await world.run(30)
    assert {backend.name for backend in world.pool.available} == {second}


async def test_standbys_of_another_image_are_replaced_in_calm() -> None:
    world = RolloutWorld(fixed(1), vm=shape(image="old", standby=2))
    await world.until(lambda: world.fleet.counts().standby == 2)
    world.rebuild("old", NEW)
    world.least = 99
    fewest = 9
    for _ in range(60):
        await world.run(1)
        fewest = min(fewest, world.fleet.counts().standby)
    found = (world.fleet.get(s.name) for s in world.fleet.statuses())
    assert [vm.generation for vm in found if vm and vm.in_reserve] == [NEW] * 2
    assert fewest == 1, "one at a time"
    assert world.reasons("vm.draining") == [Reason.STALE] * 2


async def test_standbys_of_another_shape_are_replaced_too() -> None:
    world = RolloutWorld(fixed(1), vm=shape(image="old", standby=1))
    await world.until(lambda: world.fleet.counts().standby == 1)
    world.shape = replace(world.shape, memory_mib=512)
    world.fleet.shape = world.shape
    await world.run(60)
    found = (world.fleet.get(s.name) for s in world.fleet.statuses())
    assert [vm.identity.cut for vm in found if vm and vm.in_reserve] == ["1x512-8080"]


async def test_a_stale_standby_serves_rather_than_nobody() -> None:
    world = RolloutWorld(fixed(1), vm=shape(image="old", standby=1))
    await world.until(lambda: world.fleet.counts().standby == 1)
    world.rebuild("old", NEW)
    world.controller.rules = world.rules = fixed(2)
    await world.run(1)
    assert len(world.pool.available) == 2


async def test_a_stale_standby_stays_where_fresh_ones_do_not_boot() -> None:
    world = RolloutWorld(fixed(1), vm=shape(image="old", standby=2))
    await world.until(lambda: world.fleet.counts().standby == 2)
    world.host.broken[NEW] = Fault.HANGS_IN_BOOT
    world.rebuild("old", NEW)
    await world.run(300)
    assert world.fleet.counts().standby == 1


async def test_vms_past_their_lifetime_are_replaced_one_at_a_time() -> None:
    world = RolloutWorld(fixed(3, high=3), vm=shape(image="old", max_lifetime_s=300.0))
    await world.settled(3)
    before = {backend.name for backend in world.pool.available}
    await world.run(255)
    assert world.told(EventKind.DRAIN) == []
    await world.run(120)
    assert not before & {backend.name for backend in world.pool.available}
    assert world.least == 3
    assert world.host.peak == 4
    assert set(world.reasons("vm.draining")) == {Reason.MAX_LIFETIME}


async def test_another_image_in_the_configuration_has_the_last_word() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    await world.until(lambda: world.phase == "done")
    world.fleet.turnover.configured("old")
    assert world.phase == "done"
    world.fleet.turnover.configured("new")
    assert world.phase == ""
    assert world.rollout is None
    assert "image = new now" in world.words("rollout.dropped")[0]


async def test_retiring_all_halfway_is_no_end_of_the_rollout() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    await world.until(lambda: world.generations().count(NEW) == 2)
    world.controller.retire()
    await world.run(40)
    assert (world.domains(), world.phase) == ([], "running")
    world.controller.keep()
    await world.until(lambda: world.phase == "done")


async def test_retiring_all_starts_nobody_on_trial() -> None:
    world = RolloutWorld()
    await world.settled(3)
    world.begin()
    world.controller.retire()
    await world.run(40)
    assert world.domains() == []


@pytest.mark.parametrize("high", [3, 4])
async def test_a_standby_of_the_rejected_image_is_never_woken(high: int) -> None:
    world = RolloutWorld(fixed(2, high=high), vm=shape(image="old", standby=1))
    await world.settled(2)
    world.begin()
    await world.until(lambda: (world.generations().count(NEW) == 2 and world.phase == "running")
                      or world.phase == "done")  # fmt: skip
    await world.until(lambda: world.fleet.counts().standby == 1)
    await world.run(40)
    world.fleet.turnover.undo()
    world.controller.rules = world.rules = fixed(3, high=high)
    await world.until(lambda: world.phase == "undone")
    assert NEW not in world.generations()
