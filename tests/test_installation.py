"""LBCTL_HOME as one installation: its identity stays, and one process acts in it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lb.installation import HomeInUse, HomeUnusable, Installation


def test_the_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    with Installation(tmp_path / "home") as first:
        known = first.instance
    assert len(known) == 16
    with Installation(tmp_path / "home") as again:
        assert again.instance == known
    with Installation(tmp_path / "other") as other:
        assert other.instance != known


def test_the_folder_is_the_owners_alone(tmp_path: Path) -> None:
    with Installation(tmp_path / "home"):
        assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_an_identity_cut_short_by_a_power_failure_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "instance").write_text("")
    with Installation(tmp_path) as installation:
        assert installation.instance


def test_a_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    with (
        Installation(tmp_path),
        pytest.raises(HomeInUse, match=rf"process {os.getpid()} already serves with {tmp_path}"),
        Installation(tmp_path),
    ):
        pass
    with Installation(tmp_path):
        pass  # the first has let go, and the refused one left no lock behind


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from lb.installation import Installation\n"
        "with Installation(Path(sys.argv[1])) as i: print(i.instance, flush=True); os._exit(9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    with Installation(tmp_path) as installation:
        assert installation.instance == done.stdout.strip()


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(HomeUnusable, match="set LBCTL_HOME to a folder you can write"),
        Installation(tmp_path / "file" / "home"),
    ):
        pass
