"""A disk image and the files that it is based on, read as far as it takes to know that they boot.

Owns the reading, bounded whatever the files say. It must not write, nor run `qemu-img`.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import shlex
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from guest.own import disk_format
from guest.own.disk_format import HEAD_BYTES, SECTOR, DiskError, Qcow2

DEEPEST: Final = 8
"""Files in one chain."""
_MISSING: Final = (errno.ENOENT, errno.ENOTDIR)
_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED, _ZERO = 1 << 62, 1


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a chain, as it was when it was looked at."""

    path: str
    """Absolute, links followed."""
    format: str
    """qcow2 or raw."""
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Disk:
    """What a machine would boot from: the file itself, and those below it."""

    layers: tuple[Layer, ...]
    virtual_bytes: int


def inspect(path: Path, progress: Callable[[float], None] = lambda _done: None) -> Disk:
    """Look at it whole. Raises DiskError, whose message begins with the file's name."""
    found = _chain(path)
    for number, (layer, header) in enumerate(found):
        if header is not None:
            with _named(layer.path), _opened(layer.path) as file:
                _check_whole(file, header, layer.size_bytes)
        progress((number + 1) / len(found))
    _check_first_sectors(found)
    top, header = found[0]
    virtual = top.size_bytes if header is None else header.virtual_bytes
    return Disk(tuple(layer for layer, _ in found), virtual)


def changed(layers: tuple[Layer, ...]) -> str:
    """Which of them is not what it was, and how; empty: none. Costs a `stat` each."""
    for layer in layers:
        try:
            told = Path(layer.path).stat()
        except OSError as error:
            return f"{layer.path} {_why(error)}"
        if (told.st_size, told.st_mtime_ns) != (layer.size_bytes, layer.mtime_ns):
            return f"{layer.path} has changed since it was added"
        if not os.access(layer.path, os.R_OK):
            return f"{layer.path} cannot be read by this user"
    return ""


def missing(layers: tuple[Layer, ...]) -> str:
    """Which of them is not there any more; empty: none. Costs a `stat` each."""
    return next((layer.path for layer in layers if not Path(layer.path).exists()), "")


def closed_to_others(layers: tuple[Layer, ...]) -> str:
    """What keeps a QEMU that runs as another user from reading them; empty: nothing does."""
    for layer in layers:
        path = Path(layer.path)
        try:
            if not path.stat().st_mode & stat.S_IROTH:
                return f"{path} is not readable for others: chmod o+r {path}"
            for folder in path.parents:
                if not folder.stat().st_mode & stat.S_IXOTH:
                    return f"{folder} is closed to others: chmod o+x {folder}"
        except OSError as error:
            return f"{path} {_why(error)}"
    return ""


# --- the chain


def _chain(path: Path) -> list[tuple[Layer, Qcow2 | None]]:
    found: list[tuple[Layer, Qcow2 | None]] = []
    place = path
    above: tuple[str, Qcow2] | None = None
    while True:
        with _named(str(place)):
            layer, header = _layer(place, above)
        if layer.path in {seen.path for seen, _ in found}:
            raise DiskError(f"{path} is based on itself, through {layer.path}")
        found.append((layer, header))
        if header is None or not header.backing:
            return found
        if len(found) == DEEPEST:
            raise DiskError(
                f"{path} is based on more than {DEEPEST - 1} files: {disk_format.CONVERT}"
            )
        with _named(layer.path):
            disk_format.check_backing(header.backing)
        # as QEMU does: seen from the folder of the file that names it
        place, above = Path(layer.path).parent / header.backing, (layer.path, header)


def _layer(path: Path, above: tuple[str, Qcow2] | None) -> tuple[Layer, Qcow2 | None]:
    """`above`: the file that is based on it, and what it says; None: none is."""
    with _opened_for(path, above) as file:
        told = os.fstat(file.fileno())
        if stat.S_ISBLK(told.st_mode) or not stat.S_ISREG(told.st_mode):
            raise DiskError("is no plain file: add a qcow2 or raw image")
        size = told.st_size
        if not size:
            raise DiskError("is empty: download it again")
        head = _read(file, 0, HEAD_BYTES)
        header = disk_format.qcow2(head, size)
        format_ = "raw" if header is None else "qcow2"
        if above is not None and above[1].backing_format != format_:
            todo = _rebase(above[0], above[1].backing, format_)
            raise DiskError(
                f"is {format_}, and {above[0]}, which is based on it, takes it for"
                f" {above[1].backing_format}: run `{todo}`"
            )
        if header is None:
            tail = _read(file, max(0, size - SECTOR), SECTOR)
            disk_format.check_raw(head, tail, size)
        real = os.path.realpath(path)
    return Layer(real, format_, size, told.st_mtime_ns), header


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except DiskError as error:
        raise DiskError(f"{path} {error}") from None
    except (OSError, ValueError) as error:
        raise DiskError(f"{path} {_why(error)}") from None


def _opened_for(path: Path, above: tuple[str, Qcow2] | None) -> BinaryIO:
    try:
        return _opened(path)
    except OSError as error:
        if above is None or error.errno not in _MISSING:
            raise
        todo = _rebase(above[0], "FILE", above[1].backing_format)
        raise DiskError(
            f"is not there, and {above[0]} is based on it: bring it there, or say where it is now:"
            f" `{todo}`"
        ) from None


def _rebase(child: str, below: str, format_: str) -> str:
    """What writes another name or format of the file below into the one based on it."""
    return f"qemu-img rebase -u -b {shlex.quote(below)} -F {format_} {shlex.quote(child)}"


def _opened(path: str | Path) -> BinaryIO:
    return open(path, "rb", buffering=0, opener=_without_waiting)


def _without_waiting(path: str, flags: int) -> int:
    """A FIFO would keep us until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _why(error: OSError | ValueError) -> str:
    match getattr(error, "errno", None):
        case found if found in _MISSING:
            return "is not there"
        case errno.EACCES | errno.EPERM:
            return "cannot be read by this user: chmod it, or run as its owner"
        case None:
            return "is no name for a file"
    return f"cannot be read: {getattr(error, 'strerror', error)}"


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    data = b""
    file.seek(at)
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


# --- what the tables of a qcow2 file point to


def _check_whole(file: BinaryIO, header: Qcow2, size: int) -> None:
    """Raises DiskError where something that it points to lies behind its end: half a download has
    a good header. Reads the tables alone, an eight-thousandth of the data."""
    read: set[int] = set()
    for entry in _table(file, header.l1_offset, header.l1_entries):
        offset = entry & _OFFSET
        if not offset or offset in read:
            continue
        read.add(offset)  # each once and none over another: never more than the file in all
        if offset % header.cluster_bytes:
            raise DiskError(f"has a damaged L1 table: {disk_format.CONVERT}")
        if offset + header.cluster_bytes > size:
            raise DiskError("is cut off: download it again")
        step = header.l2_entry_bytes // 8
        entries = _table(file, offset, header.cluster_bytes // 8)[::step]
        if any(_place(found, header) >= size for found in entries):
            raise DiskError("is cut off: download it again")


def _table(file: BinaryIO, offset: int, entries: int) -> array.array[int]:
    data = _read(file, offset, entries * 8)
    table = array.array("Q", data[: len(data) // 8 * 8])
    if sys.byteorder == "little":
        table.byteswap()
    return table


def _place(entry: int, header: Qcow2) -> int:
    """Where in the file a cluster's data begins; 0 where it has none."""
    if entry & _COMPRESSED:
        return entry & ((1 << (62 - (header.cluster_bits - 8))) - 1)
    if entry & _ZERO and not header.extended_l2:
        return 0
    return entry & _OFFSET


def _check_first_sectors(found: list[tuple[Layer, Qcow2 | None]]) -> None:
    """Whether what the machine's firmware reads first can boot; not judged where it is compressed
    by other means than ours."""
    top, _ = found[0]
    for layer, header in found:
        with _named(top.path), _opened(layer.path) as file:
            first = _read(file, 0, 2 * SECTOR) if header is None else _guest_start(file, header)
            if first is None:
                continue  # not here: the file below has it
            if first:
                disk_format.check_bootable(first)
            return
    with _named(top.path):
        disk_format.check_bootable(bytes(2 * SECTOR))


def _guest_start(file: BinaryIO, header: Qcow2) -> bytes | None:
    """The disk's first bytes; None where this file has none, empty where they cannot be told."""
    l1 = _table(file, header.l1_offset, 1)
    l2_offset = l1[0] & _OFFSET if l1 else 0
    l2 = _table(file, l2_offset, 1) if l2_offset else l1[:0]
    if not l2 or not l2[0]:
        return None
    if not l2[0] & _COMPRESSED:
        if header.extended_l2:
            return b""
        at = _place(l2[0], header)
        return _read(file, at, 2 * SECTOR) if at else bytes(2 * SECTOR)
    if not header.zlib:
        return b""
    packed = _read(file, _place(l2[0], header), header.cluster_bytes)
    try:
        return zlib.decompressobj(-12).decompress(packed, 2 * SECTOR)
    except zlib.error:
        return b""
