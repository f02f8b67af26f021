"""What is out of date, how many more are started for it, and who leaves: at one instant each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscale.domain_xml import Identity
from autoscale.model import BackendLoad, PoolLoad, Reason, VmState
from autoscale.rollout import ImpossibleStep, Phase, Rollout
from autoscale.scene import Gap, Scene
from autoscale.turnover import SETTLED_S, STUCK_S, Turnover
from autoscale.vm import Vm
from tests.fakes import OURS

NOW, WALL = 1000.0, 1.7e9
ROLLOUT = Rollout("old", "old", "new", "g2", WALL)


def vm(
    name: str, generation: str = "g1", *, age_s: float = 60.0, state: VmState = VmState.READY,
    protected: bool = False,
) -> Vm:  # fmt: skip
    identity = Identity(OURS, "web", generation, 8080, 1.0, WALL - age_s)
    made = Vm(name, "local", identity, NOW - age_s, NOW - age_s, state=state, protected=protected)
    made.joined = True
    return made


def scene(*vms: Vm, desired: int = 2, out: tuple[str, ...] = (), now: float = NOW) -> Scene:
    """All that are ready serve, but those `out`."""
    loads = tuple(
        BackendLoad(v.name, "ready", v.name not in out, 0) for v in vms if v.state is VmState.READY
    )
    return Scene(vms, PoolLoad("web", loads), desired, now, WALL)


def turnover(rollout: Rollout | None = None) -> Turnover:
    made = Turnover(lambda *_: None, lambda _: None, {"old": "g1", "new": "g2"}.get)
    made.remember(rollout)
    return made


def test_without_anything_out_of_date_it_is_the_load_alone() -> None:
    assert turnover().gap(scene(vm("a"))) == Gap(1, 1, 0, 0)
    assert turnover().gap(scene(vm("a"), vm("b"), vm("c"))) == Gap(-1, -1, 1, 0)
    assert turnover().leaving(scene(vm("a"), vm("b"), vm("c"))) == []


def test_on_trial_new_ones_are_not_counted_on() -> None:
    trial = turnover(ROLLOUT)
    assert trial.gap(scene(vm("a"), vm("b"))) == Gap(0, 1, 0, 1)
    assert trial.gap(scene(vm("a"), vm("n", "g2"))) == Gap(1, 0, 0, 1), "an old one is missing"
    assert trial.gap(scene(vm("a"), vm("b"), vm("c"), vm("n", "g2"))) == Gap(-1, 0, 1, 1)
    assert trial.on_trial(scene(vm("a"), vm("n", "g2")).vms) == 1
    assert trial.leaving(scene(vm("a"), vm("b"), vm("n", "g2"))) == []


def test_judged_good_one_leaves_for_each_that_serves_for_a_while() -> None:
    good = turnover(ROLLOUT.approve())
    old = (vm("a"), vm("b"))
    assert good.gap(scene(*old, vm("n", "g2"))) == Gap(-1, 0, 0, 1)
    assert good.leaving(scene(*old, vm("n", "g2", age_s=SETTLED_S - 1))) == []
    (leaves,) = good.leaving(scene(*old, vm("n", "g2")))
    assert (leaves[0].name, leaves[1]) == ("a", Reason.ROLLOUT)
    assert good.leaving(scene(*old, vm("n", "g2"), out=("n",))) == []
    (leaves,) = good.leaving(scene(*old, vm("n", "g2"), out=("b",)))
    assert leaves[0].name == "b", "it serves nobody anyway"
    assert good.leaving(scene(*old, vm("n", "g2", age_s=0.0), out=("b",))) == []


def test_who_is_just_found_again_after_a_restart_is_not_taken_for_lost() -> None:
    found = [vm(name, "g1", age_s=0.0, state=VmState.BOOTING) for name in "ab"]
    fresh = vm("n", "g2", age_s=0.0, state=VmState.BOOTING)
    assert turnover(ROLLOUT.approve()).leaving(scene(*found, fresh)) == []


def test_two_at_once_where_two_more_may_be() -> None:
    good = turnover(replace(ROLLOUT, max_surge=2).approve())
    there = scene(vm("a"), vm("b"), vm("n", "g2"), vm("m", "g2"))
    assert good.gap(there) == Gap(-2, 0, 0, 2)
    assert len(good.leaving(there)) == 2


def test_a_bad_one_that_serves_nobody_leaves_at_once() -> None:
    back = turnover(ROLLOUT.go_back("worse", failed=True))
    there = scene(vm("a"), vm("b"), vm("n", "g2", state=VmState.BOOTING))
    ((leaves, reason),) = back.leaving(there)
    assert (leaves.name, reason) == ("n", Reason.ROLLBACK)
    assert back.rejected(leaves)
    assert not back.rejected(vm("a"))


def test_the_way_back_keeps_as_many_as_are_needed() -> None:
    back = turnover(ROLLOUT.approve().go_back("worse", failed=True))
    there = scene(vm("m", "g2"), vm("n", "g2"))
    assert back.gap(there) == Gap(0, 1, 0, 1)
    assert back.leaving(there) == []


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.ROLLING_BACK])
def test_protected_ones_are_spared(phase: Phase) -> None:
    spares = turnover(replace(ROLLOUT.approve(), phase=phase))
    there = scene(vm("a", protected=True), vm("n", "g2", protected=True), vm("m", "g1"), desired=1)
    assert [v.name for v, _ in spares.leaving(there)] == (["m"] if phase is Phase.RUNNING else [])


def test_who_is_not_known_yet_is_not_out_of_date() -> None:
    trial = turnover(ROLLOUT)
    assert trial.outdated(vm("a", ""), scene()) is None
    assert trial.outdated(vm("a"), scene()) is Reason.ROLLOUT


def test_it_holds_extra_ones_only_until_it_pauses() -> None:
    half = turnover(replace(ROLLOUT.approve(), pause_at=0.5))
    four = scene(vm("a"), vm("b"), vm("c"), vm("m", "g2"), vm("n", "g2"), desired=4)
    assert half.gap(four).turn == 0
    assert len(half.leaving(four)) == 1
    four = scene(vm("b"), vm("c"), vm("m", "g2"), vm("n", "g2"), desired=4)
    half.look(four, lambda _: None)
    assert half.rollout is not None
    assert (half.rollout.phase, half.gap(four)) == (Phase.PAUSED, Gap(0, 0, 0, 0))


def test_more_at_once_do_not_pass_the_pause() -> None:
    most = turnover(replace(ROLLOUT.approve(), pause_at=0.75, max_surge=2))
    there = scene(vm("a"), vm("b"), vm("m", "g2"), vm("n", "g2"), desired=4)
    assert most.gap(there) == Gap(0, 1, 0, 1)


def test_nothing_new_for_ten_minutes_is_given_up_or_waits() -> None:
    trial, good = turnover(ROLLOUT), turnover(ROLLOUT.approve())
    for one in (trial, good):
        one.look(scene(vm("a"), vm("b")), lambda _: None)
        one.look(scene(vm("a"), vm("b"), now=NOW + STUCK_S + 1), lambda _: None)
    assert trial.rollout is not None
    assert good.rollout is not None
    assert trial.rollout.phase is Phase.ROLLING_BACK
    assert (good.rollout.phase, good.rollout.why) == (Phase.PAUSED, "no step in 600 s")


def test_one_that_comes_and_goes_is_not_good() -> None:
    trial = turnover(ROLLOUT)
    for second in range(200):
        out = ("n",) if second % 10 == 0 else ()
        there = scene(vm("a"), vm("b"), vm("n", "g2"), out=out, now=NOW + second)
        trial.look(there, lambda _: None)
    assert trial.rollout is not None
    assert trial.rollout.phase is Phase.ROLLING_BACK
    assert "stayed in service" in trial.rollout.why


def test_two_failures_in_a_row_are_the_images_and_an_old_ones_are_not() -> None:
    trial = turnover(ROLLOUT)
    assert not trial.failed(vm("a"), "it crashed", NOW)
    assert trial.failed(vm("n", "g2"), "never ready", NOW)
    assert not trial.gate.allows(NOW), "the next one waits a moment"
    trial.look(scene(vm("a"), vm("b")), lambda _: None)
    assert trial.rollout == ROLLOUT
    trial.failed(vm("m", "g2"), "never ready", NOW + 1)
    trial.look(scene(vm("a"), vm("b")), lambda _: None)
    assert trial.rollout is not None
    assert trial.rollout.phase is Phase.ROLLING_BACK


def test_what_cannot_be_done_now_is_refused() -> None:
    with pytest.raises(ImpossibleStep, match="there is no rollout"):
        turnover().undo()
    with pytest.raises(ImpossibleStep, match="goes on already"):
        turnover(ROLLOUT).resume()


def test_an_old_age_waits_for_a_rollout_to_end() -> None:
    there = replace(scene(vm("a", "g2", age_s=5000.0)), max_lifetime_s=1000.0)
    (old,) = there.vms
    assert turnover().outdated(old, there) is Reason.MAX_LIFETIME
    assert turnover(ROLLOUT).outdated(old, there) is None
