"""One request as one line of the access log: Apache's common and combined formats, and JSON; pure.

Owns what a line looks like, and that nothing a client sends can end it, forge a second one or
confuse its columns. When and where lines are written is `access_log`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import lru_cache, partial
from typing import Final, Literal

_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
# Apache has letters for some of these (\n, \"); with one form for all, a line never holds a quote
# that is not a column's end, and the simplest of readers cannot be led astray.
_QUOTED: Final = re.compile(rb"[^ !#-\[\]-~]").search
_BARE: Final = re.compile(rb"[^!#-\[\]-~]").search
_ESCAPES: Final = {byte: f"\\x{byte:02x}" for byte in range(256) if _QUOTED(bytes((byte,)))}


@dataclass(frozen=True, slots=True)
class Entry:
    """What is remembered of a request that ended. Text from the network is bytes as they came; an
    empty text was not there, or means nothing here."""

    time: float
    """When its head was there, Unix seconds."""
    client: str
    """Its address: the peer's, or what a trusted proxy says."""
    method: str
    """Empty where what came was no request."""
    target: bytes
    version: tuple[int, int]
    status: int
    """As the client saw it; 499: it hung up first."""
    bytes_sent: int
    """Of the answer's body."""
    bytes_received: int
    """Of the request's body."""
    duration_s: float
    """Until the last byte of the answer, waiting and retries included."""
    client_port: int = 0
    user: bytes | None = None
    """Who it says it is, by whatever asked for that."""
    host: bytes | None = None
    referer: bytes | None = None
    user_agent: bytes | None = None
    service: str = ""
    backend: str = ""
    """The last one asked."""
    attempts: int = 0
    """How often it was sent to a backend."""
    queue_s: float = 0.0
    upstream_s: float = 0.0
    """From sent to a backend to the last byte of its answer; the last attempt's."""
    retry_reason: str = ""
    error_reason: str = ""
    """Why the answer is ours."""
    request_id: bytes = b""
    tls_version: str = ""
    tls_client: str = ""
    """The subject of the client's certificate."""
    connection_requests: int = 1
    """Which request of its connection it was, from 1."""

    @property
    def text_bytes(self) -> int:
        """Bytes of what may be long: what an entry that waits costs."""
        return (
            len(self.target)
            + len(self.host or b"")
            + len(self.referer or b"")
            + len(self.user_agent or b"")
        )


Format = Callable[[Entry], bytes]


def line_format(name: Literal["common", "combined", "json"], zone: tzinfo | None = None) -> Format:
    """Entry → its line, newline included. `zone` is where Apache's times are told; None: here."""
    if name == "json":
        return as_json
    return partial(common if name == "common" else combined, zone=zone)


def common(entry: Entry, zone: tzinfo | None = None) -> bytes:
    """`%h %l %u %t "%r" %>s %b`"""
    return _common(entry, zone) + b"\n"


def combined(entry: Entry, zone: tzinfo | None = None) -> bytes:
    """Common, then `"%{Referer}i" "%{User-agent}i"`."""
    return b'%b "%b" "%b"\n' % (
        _common(entry, zone),
        _quoted(entry.referer),
        _quoted(entry.user_agent),
    )


def _common(entry: Entry, zone: tzinfo | None) -> bytes:
    user = b"-" if entry.user is None else _bare(entry.user) or b'""'
    line = b"-"
    if entry.method:
        version = b"HTTP/%d.%d" % entry.version
        line = _quoted(b"%b %b %b" % (_raw(entry.method), entry.target, version))
    size = b"%d" % entry.bytes_sent if entry.bytes_sent else b"-"
    return b'%b - %b [%b] "%b" %d %b' % (
        _bare(_raw(entry.client)),
        user,
        _apache_time(int(entry.time), zone),
        line,
        entry.status,
        size,
    )


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _quoted(text: bytes | None) -> bytes:
    if text is None:
        return b"-"
    return _escaped(text) if _QUOTED(text) else text


def _bare(text: bytes) -> bytes:
    """For a column without quotes, which a space would end."""
    return _escaped(text).replace(b" ", b"\\x20") if _BARE(text) else text


def _escaped(text: bytes) -> bytes:
    return text.decode("latin-1").translate(_ESCAPES).encode("ascii")


@lru_cache(maxsize=64)
def _apache_time(second: int, zone: tzinfo | None) -> bytes:
    """10/Oct/2000:13:55:36 -0700. Made once a second, and without the locale's month names."""
    when = datetime.fromtimestamp(second, UTC).astimezone(zone)
    return f"{when:%d}/{_MONTHS[when.month - 1]}/{when:%Y:%H:%M:%S %z}".encode()


def as_json(entry: Entry) -> bytes:
    """An object with every field, pure ASCII. null where there is none; bytes that are not UTF-8
    are written \\xNN. `time` is RFC 3339 in UTC; what ends in `_s` is seconds."""
    when = datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds")
    line = json.dumps(
        {
            "time": when.removesuffix("+00:00") + "Z",
            "client": entry.client,
            "client_port": entry.client_port,
            "user": _text(entry.user),
            "method": entry.method or None,
            "target": _text(entry.target),
            "version": "HTTP/{}.{}".format(*entry.version) if entry.method else None,
            "status": entry.status,
            "bytes_sent": entry.bytes_sent,
            "bytes_received": entry.bytes_received,
            "duration_s": round(entry.duration_s, 6),
            "host": _text(entry.host),
            "referer": _text(entry.referer),
            "user_agent": _text(entry.user_agent),
            "service": entry.service or None,
            "backend": entry.backend or None,
            "attempts": entry.attempts,
            "queue_s": round(entry.queue_s, 6),
            "upstream_s": round(entry.upstream_s, 6),
            "retry_reason": entry.retry_reason or None,
            "error_reason": entry.error_reason or None,
            "request_id": _text(entry.request_id) or None,
            "tls_version": entry.tls_version or None,
            "tls_client": entry.tls_client or None,
            "connection_requests": entry.connection_requests,
        },
        separators=(",", ":"),
    )
    return line.encode("ascii") + b"\n"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")
