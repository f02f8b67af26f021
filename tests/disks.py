"""Disk images for tests, made byte by byte; only their reference counts are not kept."""

from __future__ import annotations

import struct
import zlib

CLUSTER = 1 << 16
MIB = 1 << 20


def boot_sector(code: bytes = b"\xfa\xeb\xfe") -> bytes:
    """A first sector with code and one partition."""
    return code.ljust(446, b"\0") + bytes(64) + b"\x55\xaa"


def raw(size: int = MIB, first: bytes | None = None) -> bytes:
    return (boot_sector() if first is None else first).ljust(size, b"\0")


def qcow2(
    first: bytes | None = None,
    *,
    version: int = 3,
    virtual: int = MIB,
    backing: str = "",
    backing_format: str = "qcow2",
    features: int = 0,
    compressed: bool = False,
    crypt: int = 0,
) -> bytes:
    """Header, refcounts, L1, L2 and one cluster of data that begins with `first`; without it
    nothing is allocated."""
    header_bytes = 112 if version == 3 else 72
    extensions = b""
    if backing and backing_format:
        name = backing_format.encode()
        extensions += struct.pack(">II", 0xE2792ACA, len(name)) + name.ljust(8, b"\0")
    extensions += bytes(8)
    at = header_bytes + len(extensions) if backing else 0
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, at, len(backing.encode()), 16, virtual, crypt,
        1, 3 * CLUSTER, CLUSTER, 1, 0, 0,
    )  # fmt: skip
    if version == 3:
        head += struct.pack(">QQQII", features, 0, 0, 4, header_bytes) + bytes(8)
    head += extensions + backing.encode()
    l1, l2, data = bytes(8), b"", b""
    if first is not None:
        l1 = struct.pack(">Q", 4 * CLUSTER | 1 << 63)
        if compressed:
            packer = zlib.compressobj(9, zlib.DEFLATED, -12)
            data = packer.compress(first.ljust(CLUSTER, b"\0")) + packer.flush()
            l2 = struct.pack(">Q", 5 * CLUSTER | 1 << 62)
        else:
            data = first.ljust(CLUSTER, b"\0")
            l2 = struct.pack(">Q", 5 * CLUSTER | 1 << 63)
    parts = [head, bytes(CLUSTER), bytes(CLUSTER), l1]
    if first is not None:
        parts += [l2, data]
    whole = b"".join(part.ljust(CLUSTER, b"\0") for part in parts[:-1])
    return whole + (parts[-1] if first is not None else l1.ljust(CLUSTER, b"\0"))


def qcow2_over(path: str, format_: str = "qcow2", *, version: int = 3) -> bytes:
    """An empty overlay."""
    return qcow2(version=version, backing=path, backing_format=format_)
