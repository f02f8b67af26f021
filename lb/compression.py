"""Compressing answers with gzip: which ones, what that does to their fields, and the bytes; pure.

Owns the rules (RFC 9110 §8.4, §12.5.3) and the stream. What comes compressed stays as it is, and
nothing is ever decompressed.
"""

from __future__ import annotations

import re
import zlib
from fnmatch import fnmatchcase
from typing import Final

from lb.config_service import CompressionConfig
from lb.headers import Fields, tokens

# 205 and 206: no content, and a piece of it that must stay a piece. 101 is no answer at all.
_NEVER: Final = frozenset({101, 204, 205, 206, 304})
# Length and digests of other bytes (RFC 9530), and ranges that could not be served again.
_DROPPED: Final = frozenset(
    {
        b"content-length", b"accept-ranges", b"content-md5", b"digest", b"content-digest",
        b"repr-digest",
    }
)  # fmt: skip
_LENGTH: Final = re.compile(rb"[0-9]{1,19}").fullmatch
_WEIGHT: Final = re.compile(rb"[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*", re.I).fullmatch


def eligible(
    method: str,
    request_fields: Fields,
    status: int,
    response_fields: Fields,
    config: CompressionConfig,
) -> bool:
    """Whether this answer is to be compressed for a client that takes gzip; `vary` tells caches
    so."""
    if not config.enabled or method in ("HEAD", "CONNECT") or status < 200 or status in _NEVER:
        return False
    length: bytes | None = None
    media_type = b""
    for field, value in response_fields:
        name = field.lower()
        if name in (b"content-encoding", b"content-range"):
            return False
        if name == b"content-length":
            length = value
        elif name == b"content-type":
            media_type = value.partition(b";")[0].strip(b" \t").lower()
    if length is not None and not (
        _LENGTH(length) and int(length) and int(length) >= config.min_bytes
    ):
        return False
    # RFC 9110 §7.7 forbids it, and so may either side (RFC 9111 §5.2.1.6, §5.2.2.6).
    for fields in (request_fields, response_fields):
        if b"no-transform" in tokens(fields, b"cache-control"):
            return False
    kind = media_type.decode("latin-1")
    return any(fnmatchcase(kind, pattern.lower()) for pattern in config.types)


def takes_gzip(request_fields: Fields) -> bool:
    """Whether Accept-Encoding allows gzip, and does not rather have the plain bytes.

    Without the field anything would be acceptable, but who does not ask may not be able to.
    """
    weights: dict[bytes, float] = {}
    for member in tokens(request_fields, b"accept-encoding"):
        coding, semicolon, parameter = member.partition(b";")
        weight = _WEIGHT(parameter) if semicolon else None
        if semicolon and weight is None:
            continue
        coding = coding.strip(b" \t")
        if coding == b"x-gzip":  # §8.4.1.3: the same thing
            coding = b"gzip"
        weights[coding] = float(weight[1]) if weight else 1.0
    gzip = weights.get(b"gzip", weights.get(b"*", 0.0))
    return gzip > 0 and gzip >= weights.get(b"identity", 0.0)


def streamed(response_fields: Fields) -> bool:
    """Whether the backend sends it as it comes about: such an answer must not be held back."""
    return not any(name.lower() == b"content-length" for name, _ in response_fields)


def edit(fields: Fields) -> list[tuple[bytes, bytes]]:
    """The fields of an answer that is compressed; how its body is framed is the caller's."""
    out = []
    for field in fields:
        name = field[0].lower()
        if name in _DROPPED:
            continue
        if name == b"etag" and not field[1].startswith(b"W/"):
            # §8.8.3.3: the bytes are others, what they mean is the same.
            field = (field[0], b"W/" + field[1])
        out.append(field)
    return [*vary(out), (b"Content-Encoding", b"gzip")]


def vary(fields: Fields) -> list[tuple[bytes, bytes]]:
    """With `Vary: Accept-Encoding`: also for an answer that another client would get compressed."""
    out = list(fields)
    known = tokens(fields, b"vary")
    if b"*" in known or b"accept-encoding" in known:
        return out
    for index, (name, value) in enumerate(out):
        if name.lower() == b"vary" and value.strip(b" \t"):
            out[index] = (name, value + b", Accept-Encoding")
            return out
    return [*out, (b"Vary", b"Accept-Encoding")]


class Gzip:
    """One answer's body. `level` is 1 (fast) to 9 (small); `length` is its size, where known.

    Takes 256 KiB while it lasts, and less where `length` is small. Some 70 MB/s at level 4 on one
    core of a small server, so a piece of 64 KiB costs a millisecond: do not feed it more at once.
    """

    __slots__ = ("_deflate",)

    def __init__(self, level: int, length: int | None = None) -> None:
        window, memory = 15, 8
        if length is not None:
            # As nginx does: a window larger than the text finds nothing more in it.
            while window > 9 and length < (1 << (window - 1)) - 262:
                window, memory = window - 1, memory - 1
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, window + 16, memory)

    def feed(self, data: bytes) -> bytes:
        """What there is to send, often nothing: it compresses best what it may hold back."""
        return self._deflate.compress(data)

    def feed_now(self, data: bytes) -> bytes:
        """All of `data` can be read from what was sent with this. For answers that are `streamed`:
        an event must not wait for the next one. Costs about five bytes each time."""
        return self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        """The end. Nothing can be fed any more."""
        return self._deflate.flush()
