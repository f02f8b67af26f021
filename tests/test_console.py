"""The guests' console files."""

from __future__ import annotations

from pathlib import Path

from autoscale.console import Consoles


def test_the_end_of_a_console(tmp_path: Path) -> None:
    consoles = Consoles(tmp_path / "console", "local")
    path = Path(consoles.prepare("web-1"))
    assert consoles.tail("web-1", 5) == ""
    path.write_text("one\r\ntwo\nthree\n")
    assert consoles.tail("web-1", 2) == "two\nthree"
    consoles.remove("web-1")
    consoles.remove("web-1")
    assert list((tmp_path / "console").iterdir()) == []


def test_files_of_machines_that_ended_while_nobody_ran_are_swept_and_no_others(
    tmp_path: Path,
) -> None:
    before = Consoles(tmp_path, "a")
    for vm in ("web-gone", "web-there"):
        Path(before.prepare(vm)).write_text("x")
    other = Path(Consoles(tmp_path, "b").prepare("web-elsewhere"))
    other.write_text("x")
    mine = tmp_path / "notes.log"
    mine.write_text("x")
    consoles = Consoles(tmp_path, "a")
    started = Path(consoles.prepare("web-started"))
    started.write_text("x")
    consoles.sweep({"web-there"})
    assert {path.name for path in tmp_path.iterdir()} == {
        "a@web-there.log",
        "a@web-started.log",
        "b@web-elsewhere.log",
        "notes.log",
    }


def test_nothing_to_sweep_where_no_machine_ever_ran(tmp_path: Path) -> None:
    Consoles(tmp_path / "never", "a").sweep(())


def test_libvirts_own_log_of_a_machine_goes_with_its_console_and_no_other(tmp_path: Path) -> None:
    logs = tmp_path / "log"
    logs.mkdir()
    for vm in ("web-1", "web-2", "database"):
        (logs / f"{vm}.log").write_text("x")
    before = Consoles(tmp_path / "console", "a", logs)
    for vm in ("web-1", "web-2"):
        Path(before.prepare(vm)).write_text("x")
    before.remove("web-1")
    assert {path.stem for path in logs.iterdir()} == {"web-2", "database"}
    Consoles(tmp_path / "console", "a", logs).sweep(())
    assert {path.stem for path in logs.iterdir()} == {"database"}


def test_logs_that_an_earlier_release_let_lie_go_and_nobody_elses(tmp_path: Path) -> None:
    logs = tmp_path / "log"
    logs.mkdir()
    for vm in ("web-0a1b2c", "web-3d4e5f", "database", "web-backup"):
        (logs / f"{vm}.log").write_text("x")
    Consoles(tmp_path / "console", "a", logs).sweep({"web-3d4e5f"})
    assert {path.stem for path in logs.iterdir()} == {"web-3d4e5f", "database", "web-backup"}
