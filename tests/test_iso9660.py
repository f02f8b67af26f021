"""The seed's file system, read back by a reader that goes by the standard alone."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.iso9660 import SECTOR, image


def volume(data: bytes) -> tuple[str, int]:
    """Label, and the size in sectors that the volume claims."""
    descriptor = data[16 * SECTOR : 17 * SECTOR]
    assert descriptor[:7] == b"\x01CD001\x01"
    assert data[17 * SECTOR : 17 * SECTOR + 7] == b"\xffCD001\x01", "the descriptors end"
    little, big = struct.unpack("<I", descriptor[80:84])[0], struct.unpack(">I", descriptor[84:88])
    assert (little,) == big
    assert struct.unpack("<H", descriptor[128:130]) == (SECTOR,)
    return descriptor[40:72].decode().rstrip(), little


def entries(data: bytes) -> dict[str, bytes]:
    """What the root folder lists, by name, in its order."""
    root = data[16 * SECTOR + 156 : 16 * SECTOR + 190]
    at, size = struct.unpack_from("<I", root, 2)[0] * SECTOR, struct.unpack_from("<I", root, 10)[0]
    found, folder = {}, data[at : at + size]
    while folder and folder[0]:
        record, folder = folder[: folder[0]], folder[folder[0] :]
        start, length = struct.unpack_from("<I", record, 2)[0], struct.unpack_from("<I", record, 10)
        assert struct.unpack_from(">I", record, 6) == (start,)
        assert struct.unpack_from(">I", record, 14) == length
        name = record[33 : 33 + record[32]]
        assert bool(record[25] & 2) == (name in (b"\0", b"\1")), "folders, and nothing else"
        found[name.decode()] = data[start * SECTOR : start * SECTOR + length[0]]
    assert list(found)[:2] == ["\0", "\1"], "itself and its parent come first"
    return {name: content for name, content in found.items() if name > "\1"}


names = st.from_regex(r"[a-z0-9_-]{1,20}(\.[a-z0-9]{1,6})?", fullmatch=True)


@given(st.dictionaries(names, st.binary(max_size=3 * SECTOR), max_size=6))
def test_what_goes_in_comes_out(files: dict[str, bytes]) -> None:
    data = image("cidata", files)
    label, sectors = volume(data)
    assert (label, sectors * SECTOR) == ("cidata", len(data))
    found = entries(data)
    assert list(found) == sorted(found)
    plain = {name.removesuffix(";1").removesuffix(".").lower(): d for name, d in found.items()}
    assert plain == files


def test_the_same_files_give_the_same_bytes() -> None:
    assert image("a", {"b": b"1", "c": b"2"}) == image("a", {"c": b"2", "b": b"1"})


@pytest.mark.parametrize("name", ["", "UPPER", "a.b.c", "grün", "a/b", "x" * 30, "."])
def test_names_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        image("cidata", {name: b""})


def test_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match="more files"):
        image("cidata", {f"file-number-{n}": b"" for n in range(60)})
    for label in ("", "x" * 33, "grün"):
        with pytest.raises(ValueError, match="volume's name"):
            image(label, {})
