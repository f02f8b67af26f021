"""Reads recorded bytes as HTTP/1.1, strictly, once they are all there; pure.

A reader of its own, so that a mistake of the proxy's parser cannot hide behind itself. What is
wrong with a message is noted in its `faults`, because other proxies send what ours must not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

Fields = list[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*").fullmatch
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}").fullmatch
_STATUS = re.compile(rb"(HTTP/1\.[01]) ([1-5][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*)").fullmatch


@dataclass
class Message:
    """One request or answer as it was read."""

    start: bytes
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    framing: str = "none"
    """none, length, chunked or close."""
    complete: bool = True
    faults: list[str] = field(default_factory=list)
    connection: int = 0
    """Which of the connections to the backend it came on, from 0."""

    def values(self, name: str) -> list[bytes]:
        return values_of(self.fields, name)

    @property
    def status(self) -> int:
        match = _STATUS(self.start)
        return int(match[2]) if match else 0

    @property
    def reason(self) -> bytes:
        match = _STATUS(self.start)
        return match[3] if match else b""

    @property
    def method(self) -> str:
        return self.start.partition(b" ")[0].decode("latin-1")

    @property
    def target(self) -> bytes:
        return self.start.partition(b" ")[2].rpartition(b" ")[0]


def values_of(fields: Fields, name: str) -> list[bytes]:
    wanted = name.lower().encode("latin-1")
    return [value for key, value in fields if key.lower() == wanted]


class Unfinished(Exception):
    """The bytes end before the message does; carries it as far as it came."""


def read_requests(data: bytes, *, ended: bool) -> tuple[list[Message], bytes]:
    """(requests, bytes of a head that never ended). The last may be incomplete."""
    found: list[Message] = []
    at = 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            break
        message = _head(data[at:end])
        at = _body(message, data, end + 4, ended=ended, answer=False)
        found.append(message)
        if _tunnels(message):
            # What follows is no HTTP, unless the upgrade was declined: nobody here asks for both.
            message.body = data[at:]
            return found, b""
        if not message.complete:
            return found, b""
    return found, data[at:]


def read_answers(
    data: bytes, methods: Sequence[str], *, ended: bool
) -> tuple[list[Message], bytes]:
    """(answers, bytes after them or of a head that never ended). `methods` are the requests' whose
    final answers these are, in order; what comes beyond them is taken for answers to GET."""
    found: list[Message] = []
    ahead = list(methods)
    at = 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            break
        message = _head(data[at:end])
        at = end + 4
        if not _STATUS(message.start):
            message.faults.append(f"status line {message.start!r}")
        if message.status == 101:
            message.body = data[at:]
            return [*found, message], b""
        if message.status >= 200 or not message.status:
            method = ahead.pop(0) if ahead else "GET"
            if method != "HEAD" and message.status not in (204, 304):
                at = _body(message, data, at, ended=ended, answer=True)
        found.append(message)
        if not message.complete:
            return found, b""
    return found, data[at:]


def _tunnels(message: Message) -> bool:
    options = b",".join(message.values("Connection")).lower()
    return b"upgrade" in options and bool(message.values("Upgrade"))


def _head(data: bytes) -> Message:
    start, *lines = data.split(b"\r\n")
    message = Message(start, [])
    if not _VALUE(start):
        message.faults.append(f"control characters in {start!r}")
    message.fields = _fields(lines, message.faults)
    return message


def _fields(lines: Sequence[bytes], faults: list[str]) -> Fields:
    fields: Fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _TOKEN(name) or not _VALUE(value):
            faults.append(f"field line {line!r}")
        fields.append((name, value))
    return fields


def _body(message: Message, data: bytes, at: int, *, ended: bool, answer: bool) -> int:
    """Read the body that begins at `at` by the head's framing; returns where it ends."""
    lengths, codings = message.values("Content-Length"), message.values("Transfer-Encoding")
    if len(lengths) + len(codings) > 1:
        message.faults.append(f"framed twice: {lengths + codings}")
    if codings:
        if codings[0] != b"chunked":
            message.faults.append(f"Transfer-Encoding: {codings[0]!r}")
        message.framing = "chunked"
        return _chunks(message, data, at)
    if lengths:
        message.framing = "length"
        if not lengths[0].isdigit():
            message.faults.append(f"Content-Length: {lengths[0]!r}")
            return at
        size = int(lengths[0])
        message.body = data[at : at + size]
        message.complete = len(message.body) == size
        return min(at + size, len(data))
    if answer:
        message.framing = "close"
        message.body = data[at:]
        message.complete = ended
        return len(data)
    return at


def _chunks(message: Message, data: bytes, at: int) -> int:
    body = bytearray()
    message.complete = False
    try:
        while size := _size(message, _line(data, at)):
            at = data.index(b"\r\n", at) + 2
            body += data[at : at + size]
            at += size
            if len(data) < at + 2:
                return len(data)
            if data[at : at + 2] != b"\r\n":
                message.faults.append(f"after a chunk's data {data[at : at + 2]!r}")
                return len(data)
            at += 2
        at = data.index(b"\r\n", at) + 2
        lines = []
        while line := _line(data, at):
            lines.append(line)
            at += len(line) + 2
        message.trailers = _fields(lines, message.faults)
        message.complete = True
        return at + 2
    except Unfinished:
        return len(data)
    finally:
        message.body = bytes(body)


def _line(data: bytes, at: int) -> bytes:
    end = data.find(b"\r\n", at)
    if end < 0:
        raise Unfinished
    return data[at:end]


def _size(message: Message, line: bytes) -> int:
    if not _SIZE(line):
        message.faults.append(f"chunk line {line!r}")
        raise Unfinished
    return int(line, 16)
