"""The main job, end to end: overload one replica, get a second, relief, back to one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from lb.demo_story import LITTLE_LOAD, OVERLOAD
from tests.e2e.leftovers import assert_nothing_left
from tests.e2e.machine import BIN, qemus, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]


def test_the_demo_tells_its_story_and_leaves_nothing(images: Path, tmp_path: Path) -> None:
    home = images.parent
    out = tmp_path / "report"
    done = subprocess.run(
        [BIN / "lbctl", "demo", "--fast", "--out", out],
        env={**os.environ, "LBCTL_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "✗" not in done.stdout

    story = json.loads((out / "story.json").read_text(encoding="utf-8"))
    scaled = [m for m in story["moments"] if m["kind"] in ("scale.up", "scale.down")]
    sizes = [m["message"].partition(":")[0] for m in scaled]
    assert sizes[:4] == ["0 → 1", "1 → 2", "2 → 1", "1 → 2"]
    assert sizes[-1] == "2 → 1"
    killed = next(m["t"] for m in story["moments"] if m["kind"] == "demo.kill")
    assert any(m["kind"] == "vm.ready" and m["t"] > killed for m in story["moments"])
    scaled = scaled[1:]  # the first replica came because there has to be one
    assert scaled[0]["reason"] in OVERLOAD
    assert scaled[1]["reason"] in LITTLE_LOAD
    counts = story["result"]["counts"]
    assert counts["errors"] == counts["dropped"] == counts["unfinished"] == 0
    phases = {phase["name"]: phase for phase in story["result"]["phases"]}
    assert phases["after"]["latency_s"]["p99"] < 0.25 * phases["high"]["latency_s"]["p99"]
    assert [p["ready"] for p in story["points"]][-1] == 1

    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="https?:', page), "the page needs nothing but itself"
    for plot in ("overview", "cpu", "replicas", "rate", "latency", "errors"):
        assert (out / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
    assert_nothing_left(home / "demo")


def test_ctrl_c_ends_it_with_the_story_so_far_and_without_a_machine(
    images: Path, tmp_path: Path
) -> None:
    """Interrupted while the first replica boots, and again while it is being retired."""
    home, out = images.parent, tmp_path / "report"
    with (tmp_path / "log").open("wb") as log:
        demo = subprocess.Popen(
            [BIN / "lbctl", "demo", "--fast", "--out", out],
            env={**os.environ, "LBCTL_HOME": str(home)},
            stdout=log,
            stderr=log,
        )
        try:
            until(lambda: qemus(home / "demo"), 60, "no machine was started")
            demo.send_signal(signal.SIGINT)
            until(lambda: b"retiring" in (tmp_path / "log").read_bytes(), 10, "it goes on")
            demo.send_signal(signal.SIGINT)
            assert demo.wait(120) == 1
        finally:
            demo.kill()
            demo.wait(10)
            for guest in (left := qemus(home / "demo")):
                os.kill(guest, signal.SIGKILL)
    assert left == []
    assert_nothing_left(home / "demo")
    told = (tmp_path / "log").read_text(encoding="utf-8")
    assert "✗ the story was told to its end: interrupted" in told
    assert "Traceback" not in told
    assert "interrupted" in (out / "report.html").read_text(encoding="utf-8")


def test_where_no_machine_can_run_it_says_why_at_once(images: Path, tmp_path: Path) -> None:
    """A home so deep that libvirt's sockets do not fit below it."""
    home = tmp_path / ("deep" * 20)
    home.mkdir()
    (home / "images").symlink_to(images)
    done = subprocess.run(
        [BIN / "lbctl", "demo", "--fast", "--out", tmp_path / "report"],
        env={**os.environ, "LBCTL_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "set LBCTL_HOME to a shorter folder" in done.stdout.replace("\n", " ")
    assert "Traceback" not in done.stderr
