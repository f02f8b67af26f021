"""The replica's CPU work and pictures: the same everywhere, and readable by others."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import webapp, work


@pytest.mark.parametrize(("units", "digest"), [(1, "1d9840d3b9786067"), (3, "354799ba9eba626b")])
def test_the_digest_is_the_same_on_every_replica_and_release(units: int, digest: str) -> None:
    *_, state = work.work_units(units)
    assert f"{state:016x}" == digest


@given(st.integers(1, 4), st.integers(1, 4))
def test_more_work_goes_on_where_less_work_ended(some: int, more: int) -> None:
    whole = list(work.work_units(some + more))
    assert whole[:some] == list(work.work_units(some))
    assert len(set(whole)) == some + more


@given(st.integers(0, webapp.MAX_SEED), st.integers(1, 12), st.integers(1, 12))
def test_a_picture_turned_by_half_is_itself(seed: int, width: int, height: int) -> None:
    rows = list(work.draw_rows(seed, width, height, limit=12))
    assert [len(row) for row in rows] == [width] * height
    if height % 2 == 0:
        assert rows == [row[::-1] for row in reversed(rows)]


def test_png_is_read_back_pixel_by_pixel() -> None:
    rows = [bytes((1, 2, 3)), bytes((4, 5, 6))]
    data = work.png(rows, (3, 2), work.palette(0))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (3, 2)
    assert len(chunks[b"PLTE"]) == 3 * 256
    assert zlib.decompress(chunks[b"IDAT"]) == b"\0\1\2\3\0\4\5\6"
