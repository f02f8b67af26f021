"""One request's journey as plain values: what is refused, what is sent on, what is sent back.

Functions of bytes and numbers, free of sockets and of aiohttp: each lane that carries requests
(the aiohttp handler, and any faster one beside it) calls these, so that a rule exists once.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from itertools import count
from typing import Final

from lb import headers
from lb.errors import (
    BadAnswerError,
    BadRequestError,
    ConnectRefusedError,
    NoBackendError,
    RequestError,
    UpgradeRefusedError,
)
from lb.headers import Connection, Fields

_DIGITS: Final = re.compile(rb"[0-9]{1,19}").fullmatch
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL).fullmatch
_BAD_TARGET: Final = re.compile(rb"[\x00-\x20\x7f#]").search


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head as it came in."""

    method: str
    target: bytes
    version: tuple[int, int]
    fields: Fields
    keep_alive: bool
    """What its version and Connection field ask for."""


@dataclass(frozen=True, slots=True)
class Onward:
    """A request's head as it goes to the backend, the framing of its body left out."""

    method: str
    target: bytes
    fields: list[tuple[bytes, bytes]]
    identifier: bytes
    length: int | None
    """Body bytes to come; None where there is no body or it is chunked."""
    chunked: bool

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)


class Framing(Enum):
    """How the client learns where the answer's body ends."""

    NONE = "none"
    """There is no body, whatever the fields say (HEAD, 204, 304)."""
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"
    """The connection's end is the body's: HTTP/1.0 clients only."""


@dataclass(frozen=True, slots=True)
class Back:
    """An answer's head, ready to be sent, and what it promises."""

    head: bytes
    framing: Framing
    keep_alive: bool


class RequestIds:
    """Makes request ids: a prefix of the process, then a count. Unique, not secret."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode("ascii")
        self._count = count(1)

    def __call__(self) -> bytes:
        return b"%b-%08x" % (self._prefix, next(self._count))


def onward(request: Request, connection: Connection, made_id: bytes) -> Onward:
    """What the backend is to be sent. Raises a ClientFaultError for what is not forwarded."""
    if request.method == "CONNECT":
        raise ConnectRefusedError("CONNECT is not offered: this is not a forward proxy")
    if headers.value_of(request.fields, b"upgrade") is not None and b"websocket" in headers.tokens(
        request.fields, b"upgrade"
    ):
        raise UpgradeRefusedError("WebSocket is not carried")
    authority, target = origin_form(request.target)
    host = authority if authority is not None else headers.value_of(request.fields, b"host")
    length, chunked = body_of(request.fields)
    identifier = headers.request_id(request.fields, made_id)
    fields = headers.for_backend(
        request.fields,
        connection,
        identifier=identifier,
        host=host,
        version=b"%d.%d" % request.version,
    )
    return Onward(request.method, target, fields, identifier, length, chunked)


def origin_form(target: bytes) -> tuple[bytes | None, bytes]:
    """(authority or None, target in origin form). An absolute target's authority overrides Host
    (RFC 9112 §3.2.2)."""
    if _BAD_TARGET(target):
        raise BadRequestError("the request target holds a space, a control character or #")
    if target.startswith(b"/") or target == b"*":
        return None, target
    match = _ABSOLUTE(target)
    if match is None or not match[1] or b"@" in match[1]:
        raise BadRequestError("the request target is neither a path nor an http URL")
    rest = match[2]
    return match[1], rest if rest.startswith(b"/") else b"/" + rest


def body_of(fields: Fields) -> tuple[int | None, bool]:
    """(Content-Length or None, chunked?). Raises BadRequestError where the two disagree."""
    length: bytes | None = None
    coding: bytes | None = None
    for name, value in fields:
        size = len(name)
        if size == 14 and name.lower() == b"content-length":
            if length is not None or not _DIGITS(value):
                raise BadRequestError("Content-Length is repeated or not a number")
            length = value
        elif size == 17 and name.lower() == b"transfer-encoding":
            if coding is not None or value.lower() != b"chunked":
                raise BadRequestError("Transfer-Encoding is not exactly chunked")
            coding = value
    if length is not None and coding is not None:
        raise BadRequestError("both Content-Length and Transfer-Encoding")
    return (None if length is None else int(length)), coding is not None


def back(
    request: Request,
    status: int,
    reason: bytes,
    fields: Fields,
    *,
    stay: bool,
) -> Back:
    """The answer's head as the client gets it. `stay`: the connection may be kept if the client
    asked for that. Raises BadAnswerError where the body's framing is not understood."""
    try:
        length, _chunked = body_of(fields)
    except BadRequestError as error:
        raise BadAnswerError(str(error)) from None
    if status < 200:
        raise BadAnswerError(f"{status} was not asked for")
    bodiless = request.method == "HEAD" or status in (204, 304)
    out = headers.for_client(fields, drop_length=status == 204)
    keep = stay and request.keep_alive
    if bodiless:
        framing = Framing.NONE
    elif length is not None:
        framing = Framing.LENGTH
    elif request.version >= (1, 1):
        framing = Framing.CHUNKED
        out.append((b"Transfer-Encoding", b"chunked"))
    else:
        framing = Framing.CLOSE
        keep = False
    if not keep:
        out.append((b"Connection", b"close"))
    elif request.version < (1, 1):
        out.append((b"Connection", b"keep-alive"))
    return Back(head_bytes(status, reason, out), framing, keep)


def head_bytes(status: int, reason: bytes, fields: Fields) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (status, reason)]
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def refusal(
    request: Request, error: RequestError, identifier: bytes, *, stay: bool
) -> tuple[Back, bytes]:
    """The balancer's own answer to a request that failed: head and body (problem+json, RFC 9457).

    `reason` in it is the word of the metric label; the id finds the request in the log.
    """
    body = json.dumps(
        {
            "title": HTTPStatus(error.status).phrase if error.status != 499 else "Client Gone",
            "status": error.status,
            "reason": error.reason,
            "detail": str(error),
            "request_id": identifier.decode("ascii"),
        },
        ensure_ascii=False,
    ).encode() + b"\n"  # fmt: skip
    fields = [
        (b"Content-Type", b"application/problem+json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"X-Request-Id", identifier),
    ]
    if isinstance(error, NoBackendError):
        fields.append((b"Retry-After", b"%d" % error.retry_after_s))
    if isinstance(error, ConnectRefusedError):
        fields.append((b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
    phrase = HTTPStatus(error.status).phrase.encode() if error.status != 499 else b"Client Gone"
    answer = back(request, error.status, phrase, fields, stay=stay)
    return answer, b"" if answer.framing is Framing.NONE else body
