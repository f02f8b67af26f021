"""The main job, end to end: overload one replica, get a second, relief, back to one."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.machine import BIN, qemus

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
    grew = [m for m in story["moments"] if m["kind"] == "scale.up"]
    assert [m["reason"] for m in grew] == ["cpu_overload"]
    counts = story["result"]["counts"]
    assert counts["errors"] == counts["dropped"] == counts["unfinished"] == 0
    phases = {phase["name"]: phase for phase in story["result"]["phases"]}
    assert phases["after"]["latency_s"]["p99"] < 0.25 * phases["high"]["latency_s"]["p99"]
    assert [p["ready"] for p in story["points"]][-1] == 1

    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="https?:', page), "the page needs nothing but itself"
    for plot in ("overview", "cpu", "replicas", "rate", "latency", "errors"):
        assert (out / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
    assert qemus(home / "demo") == []
