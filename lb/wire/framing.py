"""Where does a body end? RFC 9112 §6, the strict reading: whatever is ambiguous is refused."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from lb.wire.errors import WireError
from lb.wire.head import AnswerHead, Fields, RequestHead, Version

# 18 digits: an exabyte, and far from what any integer type of a backend would wrap around at.
_DIGITS: Final = re.compile(rb"[0-9]{1,18}").fullmatch


class Ends(Enum):
    """What ends a body that has no Content-Length."""

    CHUNKED = "chunked"
    CLOSE = "close"
    """The connection's end is the body's: answers only."""


Framing = int | Ends
"""Bytes to come (0: no body), or what ends it instead."""


def request_framing(head: RequestHead) -> Framing:
    """Raises WireError."""
    length, chunked = _lengths(head.fields, head.version)
    if chunked:
        return Ends.CHUNKED
    return length or 0


def answer_framing(head: AnswerHead, method: str) -> Framing:
    """The framing of an answer to a request of this method. Raises WireError."""
    length, chunked = _lengths(head.fields, head.version)
    if method == "HEAD" or head.status < 200 or head.status in (204, 304):
        return 0
    if chunked:
        return Ends.CHUNKED
    return Ends.CLOSE if length is None else length


def _lengths(fields: Fields, version: Version) -> tuple[int | None, bool]:
    length: bytes | None = None
    coding: bytes | None = None
    for name, value in fields:
        size = len(name)
        if size == 14 and name.lower() == b"content-length":
            if length is not None:
                raise WireError("Content-Length is repeated")
            if not _DIGITS(value):
                raise WireError("Content-Length is not a plain number")
            length = value
        elif size == 17 and name.lower() == b"transfer-encoding":
            # Codings are case-insensitive (RFC 9112 §7), and every sender writes `chunked`: another
            # spelling is there to be read by one of two servers only.
            if coding is not None or value != b"chunked":
                raise WireError("Transfer-Encoding is not exactly chunked")
            coding = value
    if coding is not None:
        if length is not None:
            raise WireError("both Content-Length and Transfer-Encoding")
        if version < (1, 1):
            raise WireError("Transfer-Encoding in HTTP/1.0")
    return (None if length is None else int(length)), coding is not None
