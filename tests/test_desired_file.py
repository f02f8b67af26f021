"""How many were wanted, over a restart: a number, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from lb.desired_file import DesiredFile


async def test_what_was_wanted_last_is_known_to_a_successor(tmp_path: Path) -> None:
    file = DesiredFile(tmp_path / "desired", "web")
    assert await file.load() is None
    assert file.put(3)
    assert not file.put(3), "that is known already"
    assert file.put(0)
    await file.save()
    assert await DesiredFile(tmp_path / "desired", "web").load() == 0
    assert await DesiredFile(tmp_path / "desired", "api").load() is None


@pytest.mark.parametrize("content", ["-1", "true", "2.5", "[3]", '"3"', "{"])
async def test_anything_else_is_ignored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "web.json").write_text(content)
    file = DesiredFile(tmp_path, "web")
    assert [await file.load(), await file.load()] == [None, None]
    assert len(caplog.records) == 1
