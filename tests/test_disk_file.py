"""Whole files and chains of them: what is there, what is cut off, what is not to be read."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guest.own.disk_file import DEEPEST, changed, closed_to_others, inspect
from guest.own.disk_format import DiskError
from tests import disks
from tests.disks import CLUSTER, MIB, boot_sector


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def complaint(path: Path) -> str:
    """What is wrong with it; empty: nothing."""
    try:
        inspect(path)
    except DiskError as error:
        return str(error)
    return ""


def test_a_raw_disk_is_one_layer(tmp_path: Path) -> None:
    path = put(tmp_path, "disk.img", disks.raw(2 * MIB))
    disk = inspect(path)
    assert disk.virtual_bytes == 2 * MIB
    (layer,) = disk.layers
    assert (layer.path, layer.format, layer.size_bytes) == (str(path), "raw", 2 * MIB)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("version", [2, 3])
def test_a_qcow2_disk_is_looked_into(tmp_path: Path, version: int, *, compressed: bool) -> None:
    good = disks.qcow2(boot_sector(), version=version, compressed=compressed, virtual=4 * MIB)
    assert inspect(put(tmp_path, "good", good)).virtual_bytes == 4 * MIB
    empty = disks.qcow2(bytes(512), version=version, compressed=compressed)
    with pytest.raises(DiskError, match="nothing there can boot"):
        inspect(put(tmp_path, "empty", empty))
    with pytest.raises(DiskError, match="nothing there can boot"):
        inspect(put(tmp_path, "unallocated", disks.qcow2(version=version)))


def test_a_chain_is_followed_and_boots_by_what_lies_below(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    put(tmp_path / "below", "base.img", disks.raw())
    put(tmp_path, "middle", disks.qcow2_over("below/base.img", "raw"))
    top = put(tmp_path, "top", disks.qcow2_over(str(tmp_path / "middle")))
    disk = inspect(top)
    assert [(Path(one.path).name, one.format) for one in disk.layers] == [
        ("top", "qcow2"),
        ("middle", "qcow2"),
        ("base.img", "raw"),
    ]


def test_links_are_followed_as_qemu_does(tmp_path: Path) -> None:
    """The name of the file below is seen from where the file itself lies, not its link."""
    (tmp_path / "real").mkdir()
    put(tmp_path / "real", "base.img", disks.raw())
    put(tmp_path / "real", "top", disks.qcow2_over("base.img", "raw"))
    link = tmp_path / "link"
    link.symlink_to("real/top")
    assert [one.path for one in inspect(link).layers] == [
        str(tmp_path / "real" / name) for name in ("top", "base.img")
    ]


def test_a_chain_without_end_or_too_long_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a", disks.qcow2_over("b"))
    with pytest.raises(DiskError, match="based on itself"):
        inspect(put(tmp_path, "b", disks.qcow2_over("a")))
    for number in range(DEEPEST):
        put(tmp_path, str(number), disks.qcow2_over(str(number + 1)))
    put(tmp_path, str(DEEPEST), disks.qcow2(boot_sector()))
    with pytest.raises(DiskError, match=f"more than {DEEPEST - 1} files"):
        inspect(tmp_path / "0")
    assert len(inspect(tmp_path / "1").layers) == DEEPEST


def test_the_file_below_is_named_where_it_is_to_blame(tmp_path: Path) -> None:
    top = put(tmp_path, "top", disks.qcow2_over("gone.img", "raw"))
    gone = tmp_path / "gone.img"
    assert complaint(top) == (
        f"{gone} is not there, and {top} is based on it: bring it there, or say where it is now:"
        f" `qemu-img rebase -u -b FILE -F raw {top}`"
    )
    put(tmp_path, "gone.img", disks.qcow2(boot_sector()))
    assert complaint(top) == (
        f"{gone} is qcow2, and {top}, which is based on it, takes it for raw:"
        f" run `qemu-img rebase -u -b gone.img -F qcow2 {top}`"
    )


def test_half_a_download_is_seen_though_its_header_is_whole(tmp_path: Path) -> None:
    whole = disks.qcow2(boot_sector())
    for length, what in ((5 * CLUSTER, "data"), (4 * CLUSTER + 100, "an L2 table")):
        path = put(tmp_path, what, whole[:length])
        with pytest.raises(DiskError, match="is cut off: download it again"):
            inspect(path)


def test_a_crooked_l1_table_is_refused(tmp_path: Path) -> None:
    whole = bytearray(disks.qcow2(boot_sector()))
    struct.pack_into(">Q", whole, 3 * CLUSTER, 4 * CLUSTER + 512)
    with pytest.raises(DiskError, match="damaged L1"):
        inspect(put(tmp_path, "crooked", bytes(whole)))


def test_what_is_no_file_is_refused_and_nobody_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(DiskError):
            inspect(tmp_path / name)
    with pytest.raises(DiskError, match="is not there"):
        inspect(tmp_path / "missing")
    with pytest.raises(DiskError, match="is empty"):
        inspect(put(tmp_path, "empty", b""))
    with pytest.raises(DiskError, match="no name for a file"):
        inspect(tmp_path / "a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    path = put(tmp_path, "closed", disks.raw())
    path.chmod(0)
    with pytest.raises(DiskError, match="cannot be read by this user"):
        inspect(path)


def test_a_change_is_seen_by_a_look(tmp_path: Path) -> None:
    path = put(tmp_path, "disk.img", disks.raw())
    layers = inspect(path).layers
    assert changed(layers) == ""
    os.utime(path, ns=(1, 1))
    assert changed(layers) == f"{path} has changed since it was added"
    path.unlink()
    assert changed(layers) == f"{path} is not there"


def test_what_keeps_another_users_qemu_out_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir(mode=0o755)
    layers = inspect(put(folder, "disk.img", disks.raw())).layers
    (folder / "disk.img").chmod(0o600)
    assert "chmod o+r" in closed_to_others(layers)
    (folder / "disk.img").chmod(0o644)
    folder.chmod(0o700)
    assert f"chmod o+x {folder}" in closed_to_others(layers)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 3 * CLUSTER, 4 * CLUSTER, 5 * CLUSTER]).flatmap(
                lambda base: st.integers(base, base + 120)
            ),
            st.integers(0, 255),
        ),
        max_size=10,
    ),
    st.integers(0, 6 * CLUSTER),
    st.booleans(),
)
def test_no_damage_raises_anything_but_one_line(
    tmp_path: Path, damage: list[tuple[int, int]], length: int, compressed: bool
) -> None:
    whole = bytearray(disks.qcow2(boot_sector(), compressed=compressed))
    for at, value in damage:
        if at < len(whole):
            whole[at] = value
    path = put(tmp_path, "any", bytes(whole[:length] if length < 5 * CLUSTER else whole))
    said = complaint(path)
    assert not said or said.startswith(str(tmp_path))
    assert "\n" not in said
