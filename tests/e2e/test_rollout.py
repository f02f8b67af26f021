"""Rollouts on real VMs, under load: a good image takes over, a bad one goes back by itself, and
`lbctl up` may be killed in the middle."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.result import Result
from tests.e2e.images import Images
from tests.e2e.load import loading
from tests.e2e.machine import Machine, qemus, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(480)]

TWO = "[service.web.scale]\nmin = 2\nmax = 2\n"
RATE = 8.0
"""Requests a second: enough for a verdict within seconds, little beside a boot on two cores."""
END_S = 150.0
"""A boot, the trial, and as much again for each of two; other tests may be using the cores."""


@pytest.fixture
def images_of(images: Path, tmp_path: Path) -> Images:
    return Images(images, tmp_path)


def state(up: Machine) -> dict[str, Any]:
    (row,) = up.lbctl("rollout", "status")
    return dict(row)


def ended(up: Machine, phase: str) -> dict[str, Any]:
    until(lambda: state(up)["phase"] not in ("running", "rolling_back"), END_S, "it goes on")
    row = state(up)
    assert row["phase"] == phase, row
    return row


def generations(up: Machine) -> set[str]:
    return {vm["image"] for vm in up.lbctl("vm", "list") if vm["role"] == "replica"}


def stops_clean(up: Machine) -> None:
    up.signal(signal.SIGTERM)
    assert up.wait_ended() == 0
    assert qemus(up.home) == []


def test_a_good_image_takes_over_and_no_request_is_lost(
    machine: Callable[..., Machine], images_of: Images, tmp_path: Path
) -> None:
    up = machine(TWO, images_folder=images_of.folder)
    up.start("--retire-vms")
    up.wait_ready(2)
    before = generations(up)
    with loading(f"{up.proxy}/render?work=1", {"steady": RATE}, tmp_path) as load:
        up.lbctl("rollout", "web", "--image", images_of.add("next"))
        row = ended(up, "done")
        result = load.finish()
    assert (row["new"], row["old"]) == (2, 0)
    assert "put image = next into the configuration" in row["sentence"]
    assert len(up.ready()) == 2
    until(lambda: not before & generations(up), 30, "an old one is left")
    assert result.counts.intended > 100
    assert result.status == {"200": result.counts.intended}, (result.errors, result.dropped)
    assert [e["kind"] for e in up.events("rollout.step")] == ["rollout.step"] * 2
    stops_clean(up)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"boots": "systemd.unit=nothing.target"}, "new ones in a row failed"),
        ({"render": "raise web.HTTPInternalServerError()"}, "requests failed on the new ones"),
        ({"render": "await asyncio.sleep(0.4)"}, "take longer than"),
    ],
    ids=["never ready", "fails", "slow"],
)
def test_a_bad_image_goes_back_by_itself(
    machine: Callable[..., Machine],
    images_of: Images,
    tmp_path: Path,
    fault: dict[str, str],
    why: str,
) -> None:
    """A 500 is an answer, and nobody's to send again: those who get one until the trial is over are
    counted, and are few; whoever sends on a connection that broke gets another replica's answer."""
    up = machine(TWO, 'boot_timeout = 40\nsnapshot = "off"', images_of.folder)
    up.start("--retire-vms")
    up.wait_ready(2)
    before = {backend["name"] for backend in up.ready()}
    with loading(f"{up.proxy}/render?work=1", {"steady": RATE}, tmp_path) as load:
        up.lbctl("rollout", "web", "--image", images_of.add("bad", **fault))
        row = ended(up, "failed")
        result = load.finish()
    assert why in row["sentence"], row
    assert {backend["name"] for backend in up.ready()} == before, "not one old one left"
    assert failures(result) == {} if "render" not in fault else set(failures(result)) <= {"500"}
    assert sum(failures(result).values()) <= 12, "what ejection lets through, and a few on the way"
    stops_clean(up)


def failures(result: Result) -> dict[str, int]:
    assert not result.dropped
    assert set(result.errors) <= {"http_500"}, "each request got an answer"
    return {status: number for status, number in result.status.items() if status != "200"}


def test_killed_in_the_middle_it_goes_on(
    machine: Callable[..., Machine], images_of: Images
) -> None:
    """Once on trial, once after the first has left."""
    up = machine(TWO, 'snapshot = "off"', images_of.folder)
    up.start()
    up.wait_ready(2)
    up.lbctl("rollout", "web", "--image", images_of.add("next"))
    until(lambda: len(up.ready()) == 3, END_S, "no new one came")
    up.kill()
    up.start()
    until(lambda: up.events("rollout.step"), END_S, "nobody left")
    up.kill()
    up.start("--retire-vms")
    row = ended(up, "done")
    assert (row["new"], row["old"]) == (2, 0)
    assert len(up.events("rollout.started")) == 1
    launched = [e for e in up.events("vm.launch") if e["reason"] == "rollout"]
    assert len(launched) == 2, "nothing is started twice"
    stops_clean(up)
