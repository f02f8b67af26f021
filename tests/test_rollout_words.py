"""What is said of a rollout: how far it is, and whose image holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscale.rollout import Phase, Rollout
from lb.rollout_words import gone, holds_against, sentence

TRIAL = Rollout("webapp", "webapp", "next", "checksum", 1.7e9)
LATER = Rollout("webapp", "other", "next", "checksum", 1.7e9)
HOLDS = "image other holds against webapp of the configuration: "


@pytest.mark.parametrize(
    ("new", "old", "booting", "words"),
    [
        (0, 1, 1, "0 of 1 replica in service are of next, 1 boots, on trial"),
        (1, 0, 0, "1 of 1 replica in service is of next, on trial"),
        (2, 1, 2, "2 of 3 replicas in service are of next, 2 boot, on trial"),
        (0, 0, 1, "no replica is in service, 1 boots, on trial"),
    ],
)
def test_how_many_serve_and_how_many_boot(new: int, old: int, booting: int, words: str) -> None:
    assert sentence("web", TRIAL, new, old, booting) == words


def test_what_it_waits_for() -> None:
    words = sentence("web", TRIAL, 0, 2, 1, ahead=("given up without another step in", 540.4))
    assert words.endswith("on trial; given up without another step in 540 s")
    same = replace(TRIAL, configured="next", approved=True)
    words = sentence("web", same, 1, 1, 0, ["web-1", "web-2"])
    assert words == "1 of 2 replicas in service is of next; protected: web-1, web-2"
    assert sentence("web", same.pause("told"), 1, 1, 0).endswith("is of next: told")


@pytest.mark.parametrize("phase", list(Phase))
def test_in_every_phase_the_image_that_holds_is_said(phase: Phase) -> None:
    rollout = replace(LATER, phase=phase, approved=phase is Phase.DONE)
    words = holds_against("web", rollout, "webapp")
    assert words.startswith(f"image {rollout.image} holds against webapp of the configuration: ")
    assert "put image = " in words
    assert ", or go back with `lbctl rollout " in words
    assert sentence("web", rollout, 1, 1, 0).endswith(words)


def test_what_to_do_about_it_fits_the_phase() -> None:
    assert holds_against("web", LATER, "webapp") == (
        f"{HOLDS}put image = next into the configuration once this is done, or go back with"
        " `lbctl rollout undo web`"
    )
    assert "go back" not in holds_against("web", replace(LATER, stranded=True), "webapp")
    failed = replace(LATER, phase=Phase.FAILED)
    assert holds_against("web", failed, "webapp") == (
        f"{HOLDS}put image = other into the configuration, or go back with"
        " `lbctl rollout web --image webapp`"
    )
    assert holds_against("web", replace(LATER, phase=Phase.DONE), "webapp").endswith(
        "`lbctl rollout web --image webapp`"
    )
    done = replace(TRIAL, phase=Phase.DONE)
    assert holds_against("web", done, "webapp").endswith("`lbctl rollout undo web`")


def test_nothing_is_said_where_both_are_the_same_or_the_configuration_is_newer() -> None:
    assert holds_against("web", None, "webapp") == ""
    assert holds_against("web", TRIAL, "webapp") == ""
    assert holds_against("web", replace(LATER, phase=Phase.FAILED), "third") == ""


def test_what_is_gone_says_who_gave_it_and_the_way_out() -> None:
    way_out = ": `lbctl rollout web --image webapp`, or build it again"
    assert gone("web", "other", "webapp") == (
        f"image 'other', which a rollout gave `web`, is gone{way_out}"
    )
    assert gone("web", "other", "webapp", "its file has changed").endswith(
        f"cannot be started from (its file has changed){way_out}"
    )
