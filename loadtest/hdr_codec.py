"""HdrHistogram's interchange text, version 2, from and to plain counts by index. Pure.

Format as in HdrHistogram's `encodeIntoCompressedByteBuffer`: base64 of a cookie, a length, and
zlib of a header and the counts, each as a ZigZag LEB128 number; a negative one is a run of zeros.
The library of that name makes an array of 23,000 counts for every histogram, 10 ms a piece; here
it is what was counted and no more (500 buckets: 0.2 ms), so that each second can have its own.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

# The low digit of both: 0x10, counts are LEB128 numbers.
_COOKIE = 0x1C849303 | 0x10
_COMPRESSED = 0x1C849304 | 0x10
_OUTER = struct.Struct(">ii")
# cookie, bytes of counts, index offset, digits, lowest and highest value, factor of doubles
_HEADER = struct.Struct(">iiiiqqd")


@dataclass(frozen=True, slots=True)
class Shape:
    """What the indexes of a histogram mean: values from `lowest` to `highest`, `digits` kept."""

    digits: int
    lowest: int
    highest: int


def encode(counts: Mapping[int, int], shape: Shape) -> str:
    """The text. Counts of 0 are as good as none."""
    payload = bytearray()
    next_index = 0
    for index in sorted(counts):
        count = counts[index]
        if not count:
            continue
        gap = index - next_index
        if gap:
            _append(payload, (gap << 1) - 1)  # in ZigZag, minus the gap
        if count < 64:
            payload.append(count << 1)
        else:
            _append(payload, count << 1)
        next_index = index + 1
    header = _HEADER.pack(_COOKIE, len(payload), 0, shape.digits, shape.lowest, shape.highest, 1.0)
    inner = zlib.compress(header + payload)
    return base64.b64encode(_OUTER.pack(_COMPRESSED, len(inner)) + inner).decode("ascii")


def decode(text: str) -> tuple[Shape, dict[int, int]]:
    """The inverse. Raises ValueError where it is not such a text."""
    try:
        return _decode(text)
    except (ValueError, struct.error, zlib.error, IndexError) as wrong:
        raise ValueError(f"not an HdrHistogram: {wrong}") from wrong


def _decode(text: str) -> tuple[Shape, dict[int, int]]:
    outer = base64.b64decode(text, validate=True)
    cookie, length = _OUTER.unpack_from(outer)
    if cookie != _COMPRESSED:
        raise ValueError(f"cookie {cookie:#x}")
    inner = zlib.decompress(outer[_OUTER.size : _OUTER.size + length])
    cookie, length, offset, digits, lowest, highest, factor = _HEADER.unpack_from(inner)
    if cookie != _COOKIE or offset or factor != 1.0:
        raise ValueError(f"cookie {cookie:#x}, offset {offset}, factor {factor}")
    payload = inner[_HEADER.size : _HEADER.size + length]
    if len(payload) != length:
        raise ValueError("it is cut short")
    return Shape(digits, lowest, highest), _counts(payload)


def _append(payload: bytearray, number: int) -> None:
    # Seven bits a byte, the ninth byte whole.
    for _ in range(8):
        if number < 0x80:
            payload.append(number)
            return
        payload.append(number & 0x7F | 0x80)
        number >>= 7
    payload.append(number & 0xFF)


def _counts(payload: bytes) -> dict[int, int]:
    counts: dict[int, int] = {}
    at = index = 0
    end = len(payload)
    while at < end:
        byte = payload[at]
        at += 1
        number = byte & 0x7F
        shift = 7
        while byte & 0x80:
            byte = payload[at]
            at += 1
            if shift == 56:
                number |= byte << shift
                break
            number |= (byte & 0x7F) << shift
            shift += 7
        if number & 1:
            index += (number + 1) >> 1
        else:
            if number:
                counts[index] = number >> 1
            index += 1
    return counts
