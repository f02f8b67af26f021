"""Reads the head of a request or an answer, strictly: one regular expression says what is allowed.

Whatever RFC 9112 lets a recipient mend (bare LF, obs-fold, spaces before the colon, two lengths) is
refused instead: the backend might mend it otherwise, and a request hidden from one of the two is
how smuggling works. Knows bytes only; what a field means is `framing`'s and `exchange`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from lb.wire.errors import WireError

Fields = list[tuple[bytes, bytes]]
Version = tuple[int, int]

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Visible ASCII but `#`: a fragment is never sent. Other bytes must be percent-encoded (RFC 3986).
_REQUEST_LINE: Final = re.compile(
    rb"(" + _TOKEN + rb") ([!-\"$-~]+) HTTP/([0-9])\.([0-9])"
).fullmatch
_STATUS_LINE: Final = re.compile(
    rb"HTTP/([0-9])\.([0-9]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?"
).fullmatch
_FIELD: Final = _TOKEN + rb":[\t -~\x80-\xff]*\r\n"
_FIELDS: Final = re.compile(rb"(?:" + _FIELD + rb")*").fullmatch
_ONE_FIELD: Final = re.compile(_FIELD).fullmatch
# A CR as the very last byte may still get its LF.
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\x00").search

_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})

END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class RequestHead:
    method: str
    target: bytes
    version: Version
    fields: Fields


@dataclass(frozen=True, slots=True)
class AnswerHead:
    status: int
    reason: bytes
    version: Version
    fields: Fields


def request_head(data: bytes, *, target_bytes: int, most_fields: int) -> RequestHead:
    """A whole request head, up to and with its empty line. Raises WireError."""
    line, _, rest = data.partition(b"\r\n")
    match = _REQUEST_LINE(line)
    if match is None:
        if len(line) > target_bytes and line.count(b" ") == 2 and _BARE(line) is None:
            raise WireError(f"the request line is longer than {target_bytes} bytes", 414)
        raise WireError("the request line is not `method target HTTP/1.1`")
    version = (int(match[3]), int(match[4]))
    if version not in ((1, 1), (1, 0)):
        raise WireError(f"HTTP/{version[0]}.{version[1]} is not spoken here", 505)
    if len(match[2]) > target_bytes:
        raise WireError(f"the request target is longer than {target_bytes} bytes", 414)
    return RequestHead(match[1].decode("ascii"), match[2], version, _fields(rest, most_fields, 431))


def answer_head(data: bytes, *, most_fields: int) -> AnswerHead:
    """A whole answer head, up to and with its empty line. Raises WireError."""
    line, _, rest = data.partition(b"\r\n")
    match = _STATUS_LINE(line)
    if match is None:
        raise WireError("the status line is not `HTTP/1.1 status reason`")
    version = (int(match[1]), int(match[2]))
    if version not in ((1, 1), (1, 0)):
        raise WireError(f"the answer is HTTP/{version[0]}.{version[1]}")
    return AnswerHead(int(match[3]), match[4] or b"", version, _fields(rest, most_fields, 400))


def field_lines(data: bytes, most_fields: int) -> Fields:
    """The fields of a trailer section that ends in an empty line. Raises WireError."""
    return _fields(data, most_fields, 400)


def _fields(block: bytes, most: int, status: int) -> Fields:
    lines = block[:-2]
    if _FIELDS(lines) is None:
        raise WireError(_fault(lines))
    if lines.count(b"\n") > most:
        raise WireError(f"more than {most} header fields", status)
    fields = []
    for line in lines.split(b"\r\n")[:-1]:
        name, _, raw = line.partition(b":")
        value = raw.strip(b" \t")
        if raw != value and raw != b" " + value and name.lower() in _LENGTHS:
            # Allowed, and for other fields harmless; here some servers read another length then.
            raise WireError(f"odd spaces around {name.decode('ascii')}")
        fields.append((name, value))
    return fields


def _fault(lines: bytes) -> str:
    for line in lines.split(b"\r\n"):
        if line and _ONE_FIELD(line + b"\r\n") is None:
            if line[:1] in (b" ", b"\t"):
                return "a header field is folded over several lines"
            name, colon, _ = line.partition(b":")
            if not colon or not name:
                return "a header line has no name before a colon"
            if name != name.strip(b" \t"):
                return "a header name has space before its colon"
            return "a header field holds characters that none may hold"
    return "the head is malformed"


def hopeless(data: bytes, at: int = 0) -> bool:
    """Can this beginning of a head, looked at from `at`, never become one? So that a bare LF is
    refused at once, not when its sender has been waited for in vain."""
    return _BARE(data, at) is not None
