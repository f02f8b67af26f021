"""What a disk image's first bytes say: its format, size and backing file, or why it cannot boot.

Pure: bytes in, values or `DiskError` out, whatever the bytes are. It must not open files.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

SECTOR: Final = 512
HEAD_BYTES: Final = 36 * 1024
"""So much of a file's beginning is asked for: ISO 9660 says what it is only at 32 KiB."""
SMALLEST_BYTES: Final = 1 << 20
LARGEST_BYTES: Final = 64 << 40
CONVERT: Final = "run `qemu-img convert -O qcow2 FILE NEW.qcow2` and add that"

QCOW2_MAGIC: Final = b"QFI\xfb"
_BACKING_FORMAT: Final = 0xE2792ACA
_LONGEST_BACKING: Final = 1023
_LARGEST_L1_BYTES: Final = 32 << 20
_LARGEST_REFCOUNTS_BYTES: Final = 8 << 20
"""QEMU's own limits."""
_KNOWN_FEATURES: Final = 0b11111
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))

_AT_START: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"KDMV", "a VMDK image", CONVERT),
    (b"# Disk DescriptorFile", "a VMDK image's description", CONVERT),
    (b"<<< ", "a VDI image", CONVERT),
    (b"conectix", "a VHD image", CONVERT),
    (b"vhdxfile", "a VHDX image", CONVERT),
    (b"QED\0", "a QED image", CONVERT),
    (b"LUKS\xba\xbe", "encrypted", "convert it to plain qcow2, since nobody enters a passphrase"),
    (b"\x1f\x8b", "compressed by gzip", "run `gunzip` on it"),
    (b"\xfd7zXZ\0", "compressed by xz", "run `unxz` on it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "run `unzstd` on it"),
    (b"BZh", "compressed by bzip2", "run `bunzip2` on it"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "run `unlz4` on it"),
    (b"PK\x03\x04", "a ZIP archive", "run `unzip` on it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"<!DOCTYPE", "a web page", "download the image again, from where the page says"),
    (b"<html", "a web page", "download the image again, from where the page says"),
)


class DiskError(Exception):
    """A machine cannot boot from it. The message goes on where the file's name stops."""


@dataclass(frozen=True, slots=True)
class Qcow2:
    """The header of a qcow2 image. Offsets and sizes in bytes."""

    virtual_bytes: int
    cluster_bits: int
    l1_entries: int
    l1_offset: int
    backing: str
    """As it is written there; empty where there is none."""
    backing_format: str
    extended_l2: bool
    zlib: bool
    """How compressed clusters are; else zstd."""

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entry_bytes(self) -> int:
        return 16 if self.extended_l2 else 8

    @property
    def l2_entries(self) -> int:
        return self.cluster_bytes // self.l2_entry_bytes


def qcow2(head: bytes, size: int) -> Qcow2 | None:
    """The header in a file's first bytes, of `size` in all; None where it is no qcow2 image.

    Raises DiskError where QEMU would not open it, or should not.
    Format: https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt
    """
    if not head.startswith(QCOW2_MAGIC):
        return None
    if len(head) < 104:
        raise DiskError("is cut off in its header: download it again")
    version, at, length, cluster_bits, virtual, crypt, l1_entries, l1_offset = struct.unpack_from(
        ">IQIIQIIQ", head, 4
    )
    refcounts, refcount_clusters = struct.unpack_from(">QI", head, 48)
    if version not in (2, 3):
        raise DiskError(f"is a qcow image of version {version}, and 2 or 3 is needed: {CONVERT}")
    features, header_bytes = 0, 72
    if version == 3:
        (features,) = struct.unpack_from(">Q", head, 72)
        (header_bytes,) = struct.unpack_from(">I", head, 100)
    _check_features(features)
    if crypt:
        raise DiskError("is encrypted: convert it to plain qcow2, since nobody enters a passphrase")
    if not 9 <= cluster_bits <= 21 or header_bytes % 8 or not 72 <= header_bytes <= 4096:
        raise DiskError(f"has a damaged header: {CONVERT}")
    cluster = 1 << cluster_bits
    _check_size(virtual)
    for what, offset, bytes_there, most in (
        ("L1 table", l1_offset, l1_entries * 8, _LARGEST_L1_BYTES),
        ("refcount table", refcounts, refcount_clusters * cluster, _LARGEST_REFCOUNTS_BYTES),
    ):
        if not offset or offset % cluster or not 0 < bytes_there <= most:
            raise DiskError(f"has a damaged header (its {what}): {CONVERT}")
        if offset + bytes_there > size:
            raise DiskError(f"is cut off: its {what} lies behind its end: download it again")
    extended = bool(features & _EXTENDED_L2)
    entries = cluster // (16 if extended else 8)
    if l1_entries * entries * cluster < virtual:
        raise DiskError(f"has a damaged header (its L1 table is too short): {CONVERT}")
    backing, named = "", ""
    if at:
        backing, named = _backing(head, at, length, header_bytes, cluster)
    compression = head[104] if features & _COMPRESSION and header_bytes > 104 else 0
    return Qcow2(
        virtual, cluster_bits, l1_entries, l1_offset, backing, named, extended, compression == 0
    )


def _check_features(features: int) -> None:
    if features & _CORRUPT:
        raise DiskError("is marked as corrupt: run `qemu-img check -r all FILE`")
    if features & _DIRTY:
        raise DiskError("was not closed properly: run `qemu-img check -r all FILE`")
    if features & _DATA_FILE:
        raise DiskError(f"keeps its data in another file: {CONVERT}")
    if features & ~_KNOWN_FEATURES:
        raise DiskError(f"uses features of a later QEMU: {CONVERT}")


def _check_size(virtual: int) -> None:
    if virtual % SECTOR or not SMALLEST_BYTES <= virtual <= LARGEST_BYTES:
        raise DiskError(f"says that its disk has {virtual} bytes, which no machine boots from")


def _backing(head: bytes, at: int, length: int, header_bytes: int, cluster: int) -> tuple[str, str]:
    """Name and format of the file below."""
    if not 0 < length <= _LONGEST_BACKING or at + length > min(cluster, len(head)):
        raise DiskError(f"has a damaged header (the name of its backing file): {CONVERT}")
    name = head[at : at + length].decode("utf-8", "surrogateescape")
    place = header_bytes
    while place + 8 <= at:
        kind, size = struct.unpack_from(">II", head, place)
        if kind == 0:
            break
        if kind == _BACKING_FORMAT:
            told = head[place + 8 : place + 8 + size].decode("ascii", "replace")
            if told not in ("qcow2", "raw"):
                raise DiskError(f"has a backing file of format {told!r}: {CONVERT}")
            return name, told
        place += 8 + (size + 7) // 8 * 8
    raise DiskError(
        f"does not say of what format its backing file {name!r} is:"
        f" run `qemu-img rebase -u -b '{name}' -F qcow2 FILE`, or -F raw"
    )


def check_backing(name: str) -> None:
    """Raises DiskError where the file below is none of this machine's own."""
    if re.match(r"[\w+.-]+:", name):
        raise DiskError(f"has a backing file that is no file of this machine, {name!r}: {CONVERT}")
    if "\0" in name:
        raise DiskError(f"has a damaged header (the name of its backing file): {CONVERT}")


def check_raw(head: bytes, tail: bytes, size: int) -> None:
    """Raises DiskError where a file without a header of its own is no raw disk; `tail` is its last
    sector."""
    for magic, what, todo in _AT_START:
        if head.startswith(magic):
            raise DiskError(f"is {what}: {todo}")
    if tail.startswith(b"conectix"):
        raise DiskError(f"is a VHD image: {CONVERT}")
    if head[257:262] == b"ustar":
        raise DiskError("is a tar archive: run `tar -xf` on it")
    if head[32769:32774] == b"CD001":
        raise DiskError("is a CD image, which installs: take the distribution's cloud image")
    if size % SECTOR:
        raise DiskError(f"is neither qcow2 nor raw: {size} bytes are no whole sectors")
    _check_size(size)


def check_bootable(first: bytes) -> None:
    """Raises DiskError where a disk that begins with these two sectors boots nothing by BIOS.

    That is how machines start here. A disk for UEFI alone has a partition table, and no code.
    """
    if first[510:512] != b"\x55\xaa":
        raise DiskError("has neither a partition table nor a boot sector: nothing there can boot")
    if not any(first[:440]):
        raise DiskError("has no boot loader for BIOS, only for UEFI: take an image that boots both")
