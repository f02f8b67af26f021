"""A value in a file: all of it or nothing, and no fault of it is anybody else's."""

from __future__ import annotations

import math
import stat
from pathlib import Path

import pytest

from lb.state_file import StateFile


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_what_was_written_is_read_and_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    file = StateFile(path, "things")
    assert file.read() is None
    for value in ({"ä": [1, None]}, {}):
        file.write(value)
        assert StateFile(path, "things").read() == value
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert [found.name for found in path.parent.iterdir()] == ["x.json"], "no draft is left"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_garbage_is_nothing_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    file = StateFile(path, "things")
    assert file.read() is None
    assert file.read() is None
    (said,) = warnings(caplog)
    assert said.startswith(f"things in {path}: cannot be read and is ignored: ")


def test_a_failed_write_is_said_once_and_leaves_what_was_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.json"
    file = StateFile(path, "things")
    file.write([1])
    for _ in range(2):
        file.write([math.nan])
    assert file.read() == [1]
    assert len(warnings(caplog)) == 1
    file.write([2])
    file.write([math.inf])
    assert len(warnings(caplog)) == 2, "it had been well in between"
    assert [found.name for found in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_that_cannot_be_made_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    file = StateFile(tmp_path / "file" / "x.json", "things")
    file.write([1])
    assert file.read() is None
    (said,) = warnings(caplog)
    assert "cannot be written" in said


def test_what_a_killed_writer_left_is_gone_once_it_is_read(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "orders.json", "orders")
    file.write({"web": 1})
    draft, others = tmp_path / ".orders.json-0123456789abcdef", tmp_path / ".orders.json-mine"
    for path in (draft, others):
        path.write_text("half", encoding="utf-8")
    assert file.read() == {"web": 1}
    assert not draft.exists()
    assert others.exists(), "no name of ours"
