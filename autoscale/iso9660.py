"""A few small files as an ISO 9660 image, which every guest can read. Pure: bytes out.

Owns the format (ECMA-119, third edition, numbers in parentheses are its clauses): one folder, plain
names, no extension. No library: this is all that a seed needs, and the same files give the same
bytes. Linux, the BSDs and Windows show the names in lower case or find them in any.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

SECTOR = 2048
_SYSTEM_AREA = 16
"""Sectors before the first descriptor; empty."""
_PATHS_LITTLE, _PATHS_BIG, _ROOT, _FIRST_FILE = 18, 19, 20, 21
_WHEN = bytes((70, 1, 1, 0, 0, 0, 0))
"""The first day of 1970 (9.1.5): the day must not change the bytes."""
_NO_DATE = b"0" * 16 + b"\0"
LONGEST_NAME = 30
"""Of a file, with its dot (7.5.1)."""


def image(label: str, files: Mapping[str, bytes]) -> bytes:
    """The image. Raises ValueError for names, labels or a number of files that do not fit."""
    if not 0 < len(label) <= 32 or not label.isascii():
        raise ValueError(f"{label!r} is no volume's name")
    identifiers = sorted((_identifier(name), data) for name, data in files.items())
    if len({identifier for identifier, _ in identifiers}) < len(files):
        raise ValueError("two files of one name")
    here, above = (_record(name, _ROOT, SECTOR, folder=True) for name in (b"\0", b"\1"))
    folder, content = here + above, b""
    for identifier, data in identifiers:
        folder += _record(identifier, _FIRST_FILE + len(content) // SECTOR, len(data))
        content += _padded(data)
    if len(folder) > SECTOR:
        raise ValueError("more files than one sector describes")
    paths = [struct.pack(f"{order}BBIH", 1, 0, _ROOT, 1) + b"\0\0" for order in "<>"]  # (9.4)
    return b"".join(
        (
            bytes(_SYSTEM_AREA * SECTOR),
            _volume(label, here, _FIRST_FILE + len(content) // SECTOR),
            _padded(b"\xffCD001\x01"),  # (8.3)
            *map(_padded, paths),
            _padded(folder),
            content,
        )
    )


def _volume(label: str, root: bytes, sectors: int) -> bytes:
    """The primary volume descriptor (8.4)."""
    text = label.encode("ascii").ljust(32)
    told = b"".join(
        (
            b"\x01CD001\x01\0",
            *(b" " * 32, text, bytes(8), _both("I", sectors), bytes(32)),
            *(_both("H", 1), _both("H", 1), _both("H", SECTOR), _both("I", 10)),
            struct.pack("<II", _PATHS_LITTLE, 0),
            struct.pack(">II", _PATHS_BIG, 0),
            root,
            *(b" " * (4 * 128), b" " * (3 * 37), 4 * _NO_DATE),
            b"\x01",
        )
    )
    return _padded(told)


def _record(identifier: bytes, sector: int, size: int, *, folder: bool = False) -> bytes:
    """What a folder says of one entry (9.1)."""
    length = 33 + len(identifier) + (1 - len(identifier) % 2)
    told = b"".join(
        (
            bytes((length, 0)),
            *(_both("I", sector), _both("I", size), _WHEN),
            bytes((2 if folder else 0, 0, 0)),
            _both("H", 1),
            bytes((len(identifier),)),
            identifier,
        )
    )
    return told.ljust(length, b"\0")


def _identifier(name: str) -> bytes:
    """`meta-data` → `META-DATA.;1` (7.5); a hyphen is more than the standard grants, and read."""
    whole = name if "." in name else f"{name}."
    known = name.isascii() and all(c.islower() or c.isdigit() or c in "-_." for c in name)
    if not known or name.count(".") > 1 or not 1 < len(whole) <= LONGEST_NAME:
        raise ValueError(f"{name!r} is no name for a file there")
    return f"{whole.upper()};1".encode("ascii")


def _both(kind: str, number: int) -> bytes:
    """A number in either byte order, as most are told (7.2.3, 7.3.3)."""
    return struct.pack(f"<{kind}", number) + struct.pack(f">{kind}", number)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % SECTOR)
