"""What a disk image's first bytes say, and every way in which they say that it cannot boot."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.own.disk_format import (
    HEAD_BYTES,
    DiskError,
    check_backing,
    check_bootable,
    check_raw,
    qcow2,
)
from tests import disks
from tests.disks import CLUSTER, MIB, boot_sector


def test_a_qcow2_header_is_read() -> None:
    whole = disks.qcow2(boot_sector(), virtual=5 * MIB)
    found = qcow2(whole[:HEAD_BYTES], len(whole))
    assert found is not None
    assert (found.virtual_bytes, found.cluster_bytes) == (5 * MIB, CLUSTER)
    assert (found.l1_entries, found.l1_offset) == (1, 3 * CLUSTER)
    assert (found.backing, found.backing_format) == ("", "")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_the_file_below_is_named_with_its_format(version: int, format_: str) -> None:
    whole = disks.qcow2_over("base/größe.img", format_, version=version)
    found = qcow2(whole[:HEAD_BYTES], len(whole))
    assert found is not None
    assert (found.backing, found.backing_format) == ("base/größe.img", format_)


def patched(at: int, form: str, value: int) -> bytes:
    whole = bytearray(disks.qcow2(boot_sector()))
    struct.pack_into(form, whole, at, value)
    return bytes(whole)


def moved(at: int) -> bytes:
    """The name of the file below is said to be elsewhere."""
    whole = bytearray(disks.qcow2_over("base.img"))
    struct.pack_into(">Q", whole, 8, at)
    return bytes(whole)


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        pytest.param(patched(4, ">I", 1), "version 1", id="qcow of old"),
        pytest.param(patched(4, ">I", 4), "version 4", id="a version to come"),
        pytest.param(patched(20, ">I", 8), "damaged header", id="clusters too small"),
        pytest.param(patched(20, ">I", 40), "damaged header", id="clusters too large"),
        pytest.param(patched(24, ">Q", 512), "512 bytes", id="a disk of one sector"),
        pytest.param(patched(24, ">Q", 1 << 62), "bytes, which no machine", id="an endless disk"),
        pytest.param(patched(24, ">Q", MIB + 1), "bytes, which no machine", id="half a sector"),
        pytest.param(patched(24, ">Q", 1 << 40), "L1 table is too short", id="a short L1"),
        pytest.param(patched(36, ">I", 0), "L1 table", id="no L1"),
        pytest.param(patched(36, ">I", 1 << 30), "L1 table", id="a vast L1"),
        pytest.param(patched(40, ">Q", 12345), "L1 table", id="a crooked L1"),
        pytest.param(patched(40, ">Q", CLUSTER << 20), "cut off", id="an L1 behind the end"),
        pytest.param(patched(48, ">Q", CLUSTER << 20), "cut off", id="refcounts behind the end"),
        pytest.param(patched(100, ">I", 4), "damaged header", id="a short header"),
        pytest.param(disks.qcow2(crypt=1), "encrypted", id="AES"),
        pytest.param(disks.qcow2(crypt=2), "encrypted", id="LUKS"),
        pytest.param(disks.qcow2(features=1), "not closed properly", id="dirty"),
        pytest.param(disks.qcow2(features=2), "corrupt", id="corrupt"),
        pytest.param(disks.qcow2(features=4), "in another file", id="external data"),
        pytest.param(disks.qcow2(features=1 << 40), "later QEMU", id="unknown feature"),
        pytest.param(disks.qcow2()[:90], "cut off in its header", id="90 bytes"),
        pytest.param(disks.qcow2_over("b.img", ""), "does not say of what format", id="format"),
        pytest.param(disks.qcow2_over("b.img", "vmdk"), "'vmdk'", id="a VMDK below"),
        pytest.param(patched(8, ">Q", 1 << 50), "its backing file", id="a name without length"),
        pytest.param(moved(40_000), "the name of its backing file", id="a name far away"),
        pytest.param(moved(1 << 50), "the name of its backing file", id="a name nowhere"),
    ],
)
def test_what_qemu_would_not_open_is_refused_with_a_way_out(whole: bytes, said: str) -> None:
    with pytest.raises(DiskError, match=said) as caught:
        qcow2(whole[:HEAD_BYTES], len(whole))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("features", [0b1000, 0b10000, 0b11000])
def test_features_that_qemu_has_are_fine(features: int) -> None:
    """Another compression, extended L2 entries."""
    whole = disks.qcow2(boot_sector(), features=features)
    found = qcow2(whole[:HEAD_BYTES], len(whole))
    assert found is not None
    assert found.extended_l2 == bool(features & 0b10000)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"KDMV\1", "VMDK.*qemu-img convert -O qcow2"),
        (b"# Disk DescriptorFile\n", "VMDK"),
        (b"<<< Oracle VM VirtualBox Disk Image >>>\n", "VDI"),
        (b"conectix", "VHD"),
        (b"vhdxfile", "VHDX"),
        (b"QED\0", "QED"),
        (b"LUKS\xba\xbe\0\1", "encrypted"),
        (b"\x1f\x8b\x08", "gunzip"),
        (b"\xfd7zXZ\0", "unxz"),
        (b"\x28\xb5\x2f\xfd", "unzstd"),
        (b"BZh9", "bunzip2"),
        (b"PK\x03\x04", "unzip"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"x" * 257 + b"ustar\0", "tar -xf"),
        (b"x" * 32769 + b"CD001", "CD image"),
    ],
)
def test_other_formats_are_known_by_name(head: bytes, said: str) -> None:
    with pytest.raises(DiskError, match=said):
        check_raw(head.ljust(HEAD_BYTES, b"\0"), bytes(512), MIB)


def test_a_raw_disk_has_whole_sectors_and_no_footer() -> None:
    head = disks.raw()[:HEAD_BYTES]
    check_raw(head, bytes(512), MIB)
    with pytest.raises(DiskError, match="no whole sectors"):
        check_raw(head, bytes(512), MIB + 7)
    with pytest.raises(DiskError, match="no machine boots"):
        check_raw(head, bytes(512), 1024)
    with pytest.raises(DiskError, match="VHD"):
        check_raw(head, b"conectix".ljust(512, b"\0"), MIB)


def test_what_boots_has_a_signature_and_code() -> None:
    check_bootable(boot_sector())
    with pytest.raises(DiskError, match="nothing there can boot"):
        check_bootable(bytes(512))
    with pytest.raises(DiskError, match="only for UEFI"):
        check_bootable(boot_sector(code=b""))


@pytest.mark.parametrize("name", ["nbd://host/disk", "json:{}", "fat:/etc", "a\0b"])
def test_only_files_of_this_machine_lie_below(name: str) -> None:
    with pytest.raises(DiskError):
        check_backing(name)


@pytest.mark.parametrize("name", ["base.img", "/var/images/a:b.img", "../base.img"])
def test_paths_are_taken_as_they_are(name: str) -> None:
    check_backing(name)


@given(st.binary(max_size=400), st.integers(0, 1 << 63))
def test_no_bytes_raise_anything_else(data: bytes, size: int) -> None:
    for head in (data, b"QFI\xfb" + data, b"QFI\xfb\0\0\0\3" + data):
        with contextlib.suppress(DiskError):
            qcow2(head, size)
            check_raw(head, head[-512:], size)
            check_bootable(head)


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=12),
    st.sampled_from([2, 3]),
)
def test_no_damage_to_a_good_header_raises_anything_else(
    damage: list[tuple[int, int]], version: int
) -> None:
    whole = bytearray(disks.qcow2_over("base.img", "raw", version=version))
    for at, value in damage:
        whole[at] = value
    try:
        found = qcow2(bytes(whole[:HEAD_BYTES]), len(whole))
    except DiskError:
        return
    assert found is None or found.l1_offset + 8 * found.l1_entries <= len(whole)
