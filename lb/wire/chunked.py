"""The chunked coding, RFC 9112 §7.1: a strict reader that takes bytes as they come, and a writer.

Nothing of a sender's chunking passes through: what is read is payload, and is framed anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from lb.wire.errors import WireError
from lb.wire.head import END, Fields, field_lines, hopeless

_EXTENSION: Final = rb"[ \t]*;[\t -~\x80-\xff]*"
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(" + _EXTENSION + rb")?\r\n").fullmatch
_SIZE_BEGUN: Final = re.compile(
    rb"[0-9A-Fa-f]{1,15}(?:[ \t]*|" + _EXTENSION + rb")\r?"
).fullmatch  # fmt: skip

# Many tiny chunks cost more to read than they bring. As Go's net/http does: 16 bytes a chunk and
# twice the payload are free, and of whatever else there is, this much is taken in all.
_FREE_BYTES: Final = 16
_MOST_OVERHEAD: Final = 16384

LAST: Final = b"0\r\n\r\n"


class ChunkReader:
    """One body. Feed it until `done`; then `rest` is what follows the body."""

    __slots__ = (
        "_at",
        "_buffer",
        "_extension_bytes",
        "_left",
        "_most_fields",
        "_overhead",
        "_read",
        "_scanned",
        "_trailer_bytes",
        "done",
        "rest",
        "trailers",
    )

    def __init__(self, *, extension_bytes: int, trailer_bytes: int, most_fields: int) -> None:
        self._extension_bytes = extension_bytes
        self._trailer_bytes = trailer_bytes
        self._most_fields = most_fields
        self._buffer = b""
        self._at = 0
        """Up to here the buffer is read. An index, because cutting it at every chunk would copy a
        read of 256 KiB in chunks of one byte 40,000 times."""
        self._left = 0
        """Of the running chunk's payload."""
        self._overhead = 0
        self._scanned = 0
        """Bytes of unfinished trailers that were looked at: not again with every byte that drips
        in."""
        self._read = self._size
        self.done = False
        self.rest = b""
        self.trailers: Fields = []

    def feed(self, data: bytes) -> list[bytes]:
        """The payload in these bytes, in pieces. Raises WireError."""
        self._buffer = self._buffer + data if self._buffer else data
        self._at = 0
        pieces: list[bytes] = []
        while self._read(pieces):
            pass
        left = self._buffer[self._at :]
        self._buffer, self.rest = (b"", left) if self.done else (left, b"")
        return pieces

    def _size(self, pieces: list[bytes]) -> bool:
        at = self._at
        longest = 16 + self._extension_bytes
        end = self._buffer.find(b"\n", at, at + longest + 2)
        if end < 0:
            line = self._buffer[at : at + longest + 1]
            if line and _SIZE_BEGUN(line) is None:
                raise WireError("a chunk's size is malformed")
            if len(line) > longest:
                raise WireError("a chunk's extension is too long")
            return False
        line = self._buffer[at : end + 1]
        match = _SIZE(line)
        if match is None:
            raise WireError("a chunk's size is malformed")
        if len(match[2] or b"") > self._extension_bytes:
            raise WireError("a chunk's extension is too long")
        self._left = int(match[1], 16)
        self._overhead = max(0, self._overhead + len(line) + 2 - _FREE_BYTES - 2 * self._left)
        if self._overhead > _MOST_OVERHEAD:
            raise WireError("more chunk extensions than payload")
        self._at = end + 1
        self._read = self._payload if self._left else self._trailer
        return True

    def _payload(self, pieces: list[bytes]) -> bool:
        at = self._at
        piece = self._buffer[at : at + self._left]
        if not piece:
            return False
        pieces.append(piece)
        self._at = at + len(piece)
        self._left -= len(piece)
        if not self._left:
            self._read = self._end
        return True

    def _end(self, pieces: list[bytes]) -> bool:
        at = self._at
        found = self._buffer[at : at + 2]
        if found == b"\r\n":
            self._at = at + 2
            self._read = self._size
            return True
        if found not in (b"", b"\r"):
            raise WireError("a chunk does not end where it said")
        return False

    def _trailer(self, pieces: list[bytes]) -> bool:
        at = self._at
        if self._buffer.startswith(b"\r\n", at):
            self._at = at + 2
            self._finish()
            return False
        end = self._buffer.find(END, at + max(0, self._scanned - 3))
        section = self._buffer[at:] if end < 0 else self._buffer[at : end + 4]
        if len(section) > self._trailer_bytes:
            raise WireError("the trailers are too long")
        if hopeless(section, max(0, self._scanned - 1)):
            raise WireError("a bare CR or LF among the trailers")
        self._scanned = len(section)
        if end >= 0:
            self.trailers = field_lines(section, self._most_fields)
            self._at = end + 4
            self._finish()
        return False

    def _finish(self) -> None:
        self.done = True
        self._read = _nothing_more


def _nothing_more(pieces: list[bytes]) -> bool:
    return False


def chunk(payload: bytes) -> bytes:
    """One chunk. An empty payload would end the body: the caller sends none."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def last_chunk(trailers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The end of a body, with these trailers."""
    if not trailers:
        return LAST
    return b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in trailers) + b"\r\n"
