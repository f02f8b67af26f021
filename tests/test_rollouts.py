"""Rollouts over a restart: what was saved goes on, garbage does not."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from autoscale.rollout import Phase, Rollout
from lb.rollouts import Rollouts

GOES_ON = Rollout(
    "old", "old", "new", "checksum", 1.7e9, 2, 0.5, Phase.PAUSED, True, False, False, "half"
)
FAILED = replace(GOES_ON, phase=Phase.FAILED, failed=True, pause_at=None)


async def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    held = Rollouts(tmp_path / "rollouts.json")
    assert held.of("web") is None
    held.put("web", GOES_ON)
    held.put("api", FAILED)
    await held.save()
    again = Rollouts(tmp_path / "rollouts.json")
    assert (again.of("web"), again.of("api"), again.of("db")) == (GOES_ON, FAILED, None)
    again.put("web", None)
    again.put("db", None)
    await again.save()
    assert list(json.loads((tmp_path / "rollouts.json").read_text())) == ["api"]


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": "finished"},
        {"phase": None},
        {"image_to": 3},
        {"max_surge": 0},
        {"max_surge": True},
        {"pause_at": 2},
        {"pause_at": "half"},
        {"approved": 1},
        {"started_at": None},
        {"something": "else"},
    ],
)
async def test_garbage_is_ignored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    (tmp_path / "rollouts.json").write_text(
        json.dumps({"web": {**asdict(GOES_ON), **changes}, "api": asdict(FAILED)})
    )
    held = Rollouts(tmp_path / "rollouts.json")
    assert (held.of("web"), held.of("api")) == (None, FAILED)
    assert [record.message.count("'web' is no rollout") for record in caplog.records] == [1]


async def test_what_is_no_object_is_ignored(tmp_path: Path) -> None:
    for content in ("[]", '{"web": []}', "{"):
        (tmp_path / "rollouts.json").write_text(content)
        assert Rollouts(tmp_path / "rollouts.json").of("web") is None
