"""A rollout's phases: every edge of the table, and no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autoscale.rollout import PHASES, ImpossibleStep, Phase, Rollout

NEW = Rollout("old", "old", "new", "checksum", 1.7e9)
STEPS: list[tuple[Callable[[Rollout], Rollout], set[Phase]]] = [
    (lambda r: r.pause("told"), {Phase.RUNNING}),
    (lambda r: r.resume(), {Phase.PAUSED}),
    (lambda r: r.go_back("told", failed=False), {Phase.RUNNING, Phase.PAUSED, Phase.DONE}),
    (lambda r: r.end(), {Phase.RUNNING, Phase.ROLLING_BACK}),
]


WHY_NOT = {
    Phase.RUNNING: "the rollout to new goes on already",
    Phase.PAUSED: "the rollout to new is paused( already|: it cannot be told to end now)",
    Phase.ROLLING_BACK: "goes back( already|: it cannot be told to (pause|resume) now)",
    Phase.DONE: "the rollout to new is done( already|: there is nothing to (pause|resume))",
    Phase.UNDONE: "was taken back: there is nothing to (pause|resume|take back|end)",
    Phase.FAILED: "failed: there is nothing to (pause|resume|take back|end)",
}


def at(phase: Phase) -> Rollout:
    return Rollout("old", "old", "new", "checksum", 1.7e9, phase=phase)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(("step", "possible"), STEPS)
def test_each_step_is_taken_where_it_makes_sense(
    phase: Phase, step: Callable[[Rollout], Rollout], possible: set[Phase]
) -> None:
    if phase in possible:
        assert step(at(phase)).phase in PHASES[phase]
    else:
        with pytest.raises(ImpossibleStep, match=WHY_NOT[phase]):
            step(at(phase))


def test_which_image_is_started_for_what() -> None:
    assert (NEW.image, NEW.next_image) == ("old", "new"), "on trial"
    approved = NEW.approve()
    assert (approved.image, approved.next_image) == ("new", "new")
    assert approved.pause("").image == "new"
    back = approved.go_back("worse", failed=True)
    assert (back.image, back.next_image) == ("old", "old")
    assert back.end().image == "old"
    assert approved.end().image == "new"


def test_how_it_ends() -> None:
    assert NEW.approve().end().phase is Phase.DONE
    assert NEW.go_back("told", failed=False).end().phase is Phase.UNDONE
    failed = NEW.go_back("worse", failed=True).end()
    assert (failed.phase, failed.why) == (Phase.FAILED, "worse")


def test_going_on_it_does_not_pause_at_the_same_share_again() -> None:
    resumed = Rollout("a", "a", "b", "c", 0.0, pause_at=0.5).pause("half").resume()
    assert (resumed.pause_at, resumed.why, resumed.goes_on) == (None, "", True)


def test_with_nothing_to_go_back_to_it_stops_where_it_is() -> None:
    same = Rollout("web", "web", "web", "checksum", 0.0)
    assert not same.can_go_back
    assert same.go_back("worse", failed=True).phase is Phase.FAILED
