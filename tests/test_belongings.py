"""What is made before a VM starts is gone after it, on either kind of host."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autoscale.belongings import Belongings, Prepared, free_port, left_behind
from autoscale.domain_xml import VmSpec
from tests.test_overlays import SPEC
from tests.test_volumes import INSTANCE, Conn, or_none

SHARED = replace(SPEC, own_disk=False)


@pytest.fixture
def spec(tmp_path: Path) -> VmSpec:
    return replace(SPEC, disk=str(tmp_path / "cloud.qcow2"))


@pytest.fixture
def kept(tmp_path: Path) -> Belongings:
    return Belongings(tmp_path / "home", "box", INSTANCE, time.monotonic, or_none)


def files(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if not path.is_dir()}


def test_the_room_that_is_left_is_that_under_the_home_folder(
    kept: Belongings, tmp_path: Path
) -> None:
    assert kept.free_bytes() is None, "there is no such folder yet"
    (tmp_path / "home").mkdir()
    free = kept.free_bytes()
    assert free is not None
    assert free > 0


def test_here_it_has_files_of_ours(kept: Belongings, tmp_path: Path, spec: VmSpec) -> None:
    made = kept.prepare(None, spec, local=True)
    assert made.own_disk is not None
    assert made.own_disk.transient
    assert made.agent_socket
    Path(made.console_log).touch()
    Path(made.agent_socket).touch()
    assert len(files(tmp_path / "home")) == 4
    kept.remove(None, spec.name)
    assert files(tmp_path / "home") == set()


def test_elsewhere_it_has_volumes_of_the_daemons(
    kept: Belongings, tmp_path: Path, spec: VmSpec
) -> None:
    conn = Conn()
    made = kept.prepare(conn, spec, local=False)
    assert made.own_disk is not None
    assert not made.own_disk.transient
    assert (made.console_log, made.agent_socket) == ("", "")
    kept.remove(conn, spec.name)
    assert conn.pools == []
    assert not (tmp_path / "home").exists()


def test_who_shares_a_disk_has_none_of_its_own(kept: Belongings) -> None:
    assert kept.prepare(None, SHARED, local=False) == Prepared()
    assert kept.prepare(None, SHARED, local=True).own_disk is None


def test_what_a_run_before_left_is_swept_once(
    kept: Belongings, tmp_path: Path, spec: VmSpec
) -> None:
    left = Belongings(tmp_path / "home", "box", INSTANCE, time.monotonic, or_none)
    Path(left.prepare(None, spec, local=True).console_log).touch()
    kept.sweep(None, {"database"}, local=True)
    assert files(tmp_path / "home") == set()
    conn = Conn()
    left.prepare(conn, spec, local=False)
    kept.sweep(conn, {"database"}, local=False)
    assert conn.pools == []


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))


def test_what_a_host_of_another_name_left_is_named_and_stays(tmp_path: Path) -> None:
    assert left_behind(tmp_path, ["box"]) == ()
    for folder in ("disks/box", "disks/old", "saved/old", "saved/empty", "console/old"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("disks/box/web-00000a", "disks/old/web-00000b", "saved/old/guest", "disks/file"):
        (tmp_path / file).touch()
    lines = left_behind(tmp_path, ["box"])
    assert [line.split()[0] for line in lines] == [
        str(tmp_path / "disks" / "old"),
        str(tmp_path / "saved" / "old"),
    ]
    assert "belongs to the hypervisor old, which is not configured any more" in lines[0]
    assert (tmp_path / "disks/old/web-00000b").exists()
