"""Which header fields pass, which stay, which are added; pure, on lists of (name, value) bytes.

Order, spelling, repetition and bytes of whatever passes are kept. There is no trusted proxy in
front of this one yet: what a client says of its own address, scheme or host is replaced, not
appended to, so an application may believe every X-Forwarded-* field it sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Fields = Sequence[tuple[bytes, bytes]]

# RFC 9110 §7.6.1, and the two Proxy-* fields of RFC 2616 §13.5.1. `Trailer` goes with the trailers,
# which are not forwarded.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip

_FORWARDED: Final = frozenset(
    {
        b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port",
        b"x-forwarded-proto",
    }
)  # fmt: skip

# End-to-end fields that `Connection: …` may not take away: a client could otherwise make the proxy
# drop the credentials, the length or the address that the application decides by.
PROTECTED: Final = _FORWARDED | {
    b"age", b"authorization", b"cache-control", b"content-encoding", b"content-length",
    b"content-range", b"content-type", b"cookie", b"date", b"etag", b"expect", b"expires", b"host",
    b"last-modified", b"location", b"max-forwards", b"origin", b"range", b"referer", b"set-cookie",
    b"vary", b"via", b"www-authenticate", b"x-request-id",
}  # fmt: skip

# Fields the balancer writes itself, or that must come from it alone.
_REPLACED: Final = HOP_BY_HOP | _FORWARDED | {b"x-request-id", b"expect"}

# Applications that turn header names into variables (CGI, WSGI) read X_Forwarded_For and
# X-Forwarded-For as one: a name with `_` whose twin with `-` means something here is dropped.
_CONFUSABLE: Final = PROTECTED | HOP_BY_HOP

VIA: Final = b"lbctl"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}").fullmatch


@dataclass(frozen=True, slots=True)
class Connection:
    """What is the same for every request of one client connection."""

    peer: bytes
    """The client's address, without the port."""
    port: bytes
    """The port it connected to."""
    scheme: bytes = b"http"


def value_of(fields: Fields, name: bytes) -> bytes | None:
    """The first field of this name (given in lower case), or None."""
    size = len(name)
    for field, value in fields:
        if len(field) == size and field.lower() == name:
            return value
    return None


def tokens(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The comma-separated members of all fields of this name, lower case."""
    return [
        token
        for field, value in fields
        if field.lower() == name
        for part in value.split(b",")
        if (token := part.strip(b" \t").lower())
    ]


def request_id(fields: Fields, made: bytes) -> bytes:
    """The client's X-Request-Id where it is one, of 1 to 128 harmless bytes; else `made`."""
    given = value_of(fields, b"x-request-id")
    return given if given is not None and _REQUEST_ID(given) else made


def _named_by_connection(fields: Fields) -> frozenset[bytes]:
    return frozenset(tokens(fields, b"connection")) - PROTECTED


def for_backend(
    fields: Fields,
    connection: Connection,
    *,
    identifier: bytes,
    host: bytes | None,
    version: bytes = b"1.1",
) -> list[tuple[bytes, bytes]]:
    """The request's fields as the backend gets them.

    `host` is what the client asked for (Host, or the authority of an absolute target); it passes
    unchanged and comes first. Transfer-Encoding is left to whoever frames the body.
    """
    drop = _REPLACED
    trailers = False
    out: list[tuple[bytes, bytes]] = [(b"Host", host)] if host is not None else []
    if value_of(fields, b"connection") is not None:
        drop = drop | _named_by_connection(fields)
    for field in fields:
        name = field[0].lower()
        if name == b"host":
            continue
        if name in drop:
            trailers = trailers or (name == b"te" and b"trailers" in tokens([field], b"te"))
            continue
        if b"_" in name and name.replace(b"_", b"-") in _CONFUSABLE:
            continue
        out.append(field)
    if trailers:
        out += ((b"TE", b"trailers"), (b"Connection", b"TE"))
    out += (
        (b"X-Forwarded-For", connection.peer),
        (b"X-Forwarded-Proto", connection.scheme),
        (b"X-Forwarded-Port", connection.port),
        (b"X-Request-Id", identifier),
        (b"Via", version + b" " + VIA),
    )
    if host is not None:
        out.append((b"X-Forwarded-Host", host))
    return out


def for_client(fields: Fields, *, drop_length: bool = False) -> list[tuple[bytes, bytes]]:
    """The answer's fields as the client gets them; framing and Connection are left to the caller.

    `drop_length`: the answer must not carry a Content-Length (RFC 9110 §8.6: a 204).
    """
    drop = HOP_BY_HOP
    if value_of(fields, b"connection") is not None:
        drop = drop | _named_by_connection(fields)
    if drop_length:
        drop = drop | {b"content-length"}
    return [field for field in fields if field[0].lower() not in drop]
