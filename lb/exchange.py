"""One request's journey as plain values: what is refused, what is sent on, what is sent back.

Functions of bytes and numbers, free of sockets and of aiohttp: each lane that carries requests
(the aiohttp handler, and any faster one beside it) calls these, so that a rule exists once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from typing import Final

from lb import headers
from lb.errors import (
    BadAnswerError,
    BadRequestError,
    ConnectRefusedError,
    NoBackendError,
    RequestError,
)
from lb.forwarded import Told
from lb.headers import Connection, Fields, Underscores
from lb.wire.framing import Ends, Framing
from lb.wire.head import AnswerHead, RequestHead

_ABSOLUTE: Final = re.compile(rb"http(s?)://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL).fullmatch
# RFC 3986 §3.2: a name or an address, never a user, and perhaps a port.
_AUTHORITY: Final = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
).fullmatch

# Protocols that would carry whole requests past every rule here: HTTP/2 in the clear, and TLS.
_NOT_TUNNELLED: Final = (b"h2c", b"h2", b"http/", b"tls/")

# RFC 9110 §7.6.2: the methods that Max-Forwards counts for.
_COUNTED: Final = frozenset({"TRACE", "OPTIONS"})

ALLOW: Final = (b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")

# What a trace must not show to whoever reads it (RFC 9110 §9.3.8).
_SECRET: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization"})


# The next two and `Back` are made for each request: compiled, a plain class costs 25 ns, and a
# frozen dataclass 40 times as much.


class Asked:
    """A request as it is understood: what it asks of whom."""

    def __init__(
        self,
        head: RequestHead,
        host: bytes | None,
        target: bytes,
        *,
        keep_alive: bool,
        upgrade: bytes | None,
    ) -> None:
        self.head: Final = head
        self.host: Final = host
        """As it is written; None for HTTP/1.0 without Host."""
        self.target: Final = target
        """In origin form, or `*`."""
        self.keep_alive: Final = keep_alive
        """What its version and Connection field ask for."""
        self.upgrade: Final = upgrade
        """The Upgrade field, where a tunnel may follow."""

    @property
    def method(self) -> str:
        return self.head.method


class Onward:
    """A request as it goes to a backend."""

    def __init__(
        self,
        method: str,
        head: bytes,
        identifier: bytes,
        *,
        chunked: bool = False,
        upgrade: bool = False,
        proxy_header: bytes = b"",
        underscores: Underscores = "drop_confusable",
    ) -> None:
        self.method: Final = method
        self.head: Final = head
        self.identifier: Final = identifier
        self.chunked: Final = chunked
        self.upgrade: Final = upgrade
        self.proxy_header: Final = proxy_header
        """What a new connection begins with, before TLS too."""
        self._underscores: Final[Underscores] = underscores

    def trailers(self, fields: Fields) -> Fields:
        """Which of the body's trailers go on."""
        return headers.trailer_fields(fields, underscores=self._underscores)


class Body(Enum):
    """How the client learns where the answer's body ends."""

    NONE = "none"
    """There is no body, whatever the fields say (HEAD, 204, 304)."""
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"
    """The connection's end is the body's: HTTP/1.0 clients only."""


class Back:
    """An answer's head, ready to be sent, and what it promises."""

    def __init__(self, head: bytes, body: Body, keep_alive: bool) -> None:
        self.head: Final = head
        self.body: Final = body
        self.keep_alive: Final = keep_alive


# ── in ───────────────────────────────────────────────────────────────────────────────────────────


def asked(head: RequestHead) -> Asked:
    """What the request asks for. Raises a ClientFaultError for what is not forwarded."""
    if head.method == "CONNECT":
        raise ConnectRefusedError("CONNECT is not offered: this is not a forward proxy")
    if head.method == "PRI":
        # RFC 9113 §3.4: the beginning of HTTP/2, and some servers take it for that.
        raise BadRequestError("PRI is no method")
    authority, target, port = origin_form(head)
    given = [value for name, value in head.fields if len(name) == 4 and name.lower() == b"host"]
    if len(given) != 1 and (given or head.version >= (1, 1)):
        raise BadRequestError("there must be exactly one Host field")
    host = given[0] if given else None
    if host is not None and not _AUTHORITY(host):
        raise BadRequestError("Host is malformed")
    if authority is not None:
        if host is not None and _place(authority, port) != _place(host, port):
            raise BadRequestError("Host and the request target name different hosts")
        host = authority
    options = headers.tokens(head.fields, b"connection")
    newer = head.version >= (1, 1)
    return Asked(
        head,
        host,
        target,
        keep_alive=b"close" not in options if newer else b"keep-alive" in options,
        upgrade=_upgrade(head.fields) if newer and b"upgrade" in options else None,
    )


def origin_form(head: RequestHead) -> tuple[bytes | None, bytes, bytes]:
    """(authority or None, target in origin form, default port of its scheme). An absolute target's
    authority is the request's (RFC 9112 §3.2.2)."""
    target = head.target
    if target.startswith(b"/"):
        return None, target, b""
    if target == b"*":
        if head.method != "OPTIONS":
            raise BadRequestError("the request target * is for OPTIONS alone")
        return None, target, b""
    match = _ABSOLUTE(target)
    if match is None or not _AUTHORITY(match[2]):
        raise BadRequestError("the request target is neither a path nor an http URL")
    rest = match[3]
    if not rest.startswith(b"/"):
        rest = b"*" if not rest and head.method == "OPTIONS" else b"/" + rest
    return match[2], rest, b":443" if match[1] else b":80"


def _place(authority: bytes, port: bytes) -> bytes:
    """Lower case, without a port that says nothing (RFC 9110 §4.2.3)."""
    return authority.lower().removesuffix(port).removesuffix(b":")


def _upgrade(fields: Fields) -> bytes | None:
    offered = [
        protocol
        for protocol in headers.tokens(fields, b"upgrade")
        if not protocol.startswith(_NOT_TUNNELLED)
    ]
    return b", ".join(offered) or None


# ── onward ───────────────────────────────────────────────────────────────────────────────────────


def onward(
    request: Asked,
    framing: Framing,
    client: Connection,
    *,
    identifier: bytes,
    target: bytes,
    host: bytes,
    told: Told | None = None,
    trace: Callable[[], bytes] | None = None,
    edit: Callable[[Fields], Fields] = lambda fields: fields,
    underscores: Underscores = "drop_confusable",
    proxy_header: bytes = b"",
) -> Onward:
    """The request as the backend gets it: exactly one framing, and every rule of `headers`."""
    head = request.head
    chunked = framing is Ends.CHUNKED
    hops = headers.max_forwards(head.fields) if head.method in _COUNTED else None
    fields = headers.for_backend(
        head.fields,
        client,
        identifier=identifier,
        host=host,
        version=b"%d.%d" % head.version,
        told=told,
        underscores=underscores,
        trace=trace,
        max_forwards=None if hops is None else hops - 1,
        chunked=chunked,
    )
    fields = list(edit(fields))
    if chunked:
        fields.append((b"Transfer-Encoding", b"chunked"))
    else:
        # 007 is a number to us, and might be an octal one to somebody
        fields = [_plainly(pair) for pair in fields]
    if request.upgrade is not None:
        fields += _tunnel_fields(request.upgrade)
    line = b"%b %b HTTP/1.1" % (head.method.encode("ascii"), target)
    return Onward(
        head.method,
        head_bytes(line, fields),
        identifier,
        chunked=chunked,
        upgrade=request.upgrade is not None,
        proxy_header=proxy_header,
        underscores=underscores,
    )


def _plainly(pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    name, value = pair
    if value.startswith(b"0") and name.lower() == b"content-length":
        return name, b"%d" % int(value)
    return pair


def head_bytes(line: bytes, fields: Fields) -> bytes:
    """A head: its first line, its fields, the empty line."""
    return b"\r\n".join([line, *(name + b": " + value for name, value in fields)]) + b"\r\n\r\n"


# ── back ─────────────────────────────────────────────────────────────────────────────────────────


def back(
    request: Asked | None,
    answer: AnswerHead,
    *,
    stay: bool,
    length: int | None,
    date: bytes | None = None,
    edit: Callable[[Fields], Fields] = lambda fields: fields,
    ours: bool = False,
) -> Back:
    """The answer's head as the client gets it.

    `request` is None where none could be read. `stay`: the connection may be kept if the client
    asked for that. `length`: what the body has, None where nobody knows yet. `date`: now, for an
    answer that does not say when it was made (RFC 9110 §6.6.1). `ours`: made here, not by a
    backend.
    """
    status = answer.status
    bodiless = (request is not None and request.method == "HEAD") or status in (204, 304)
    newer = request is None or request.head.version >= (1, 1)
    keep = stay and request is not None and request.keep_alive
    fields = answer.fields
    if not ours:
        chunked = not bodiless and length is None and newer
        fields = headers.for_client(
            fields, version=_dotted(answer), drop_length=status == 204, trailers=chunked
        )
    fields = list(edit(fields))
    if date is not None and headers.value_of(fields, b"date") is None:
        fields.append((b"Date", date))
    if bodiless:
        body = Body.NONE
    elif length is not None:
        body = Body.LENGTH
    elif newer:
        body = Body.CHUNKED
        fields.append((b"Transfer-Encoding", b"chunked"))
    else:
        body = Body.CLOSE
        keep = False
    if not keep:
        fields.append((b"Connection", b"close"))
    elif not newer:
        fields.append((b"Connection", b"keep-alive"))
    return Back(head_bytes(b"HTTP/1.1 %d %b" % (status, answer.reason), fields), body, keep)


def interim(answer: AnswerHead) -> bytes:
    """A 1xx answer as the client gets it; a 101 says what both now speak."""
    fields = headers.for_client(answer.fields, version=_dotted(answer), drop_length=True)
    if answer.status == 101:
        protocol = headers.value_of(answer.fields, b"upgrade")
        if protocol is None:
            raise BadAnswerError("101 without saying to what")
        fields += _tunnel_fields(protocol)
    return head_bytes(b"HTTP/1.1 %d %b" % (answer.status, answer.reason), fields)


def _tunnel_fields(protocol: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"Connection", b"Upgrade"), (b"Upgrade", protocol)]


def _dotted(answer: AnswerHead) -> bytes:
    return b"%d.%d" % answer.version


# ── our own answers ──────────────────────────────────────────────────────────────────────────────


def last_hop(request: Asked, identifier: bytes) -> tuple[AnswerHead, bytes] | None:
    """Our own answer to a TRACE or OPTIONS that may go no further (RFC 9110 §7.6.2)."""
    head = request.head
    if head.method not in _COUNTED or headers.max_forwards(head.fields) != 0:
        return None
    if head.method == "OPTIONS":
        return _ours(200, b"OK", [ALLOW], b"", identifier), b""
    shown = [field for field in head.fields if field[0].lower() not in _SECRET]
    line = b"%b %b HTTP/%d.%d" % (head.method.encode("ascii"), head.target, *head.version)
    body = head_bytes(line, shown)
    return _ours(200, b"OK", [(b"Content-Type", b"message/http")], body, identifier), body


def https_place(request: Asked, local_name: bytes, port: int | None) -> bytes:
    """Where the same is found by https; `port` is where we listen for it, `local_name` whom the
    client connected to, where it does not say whom it wants."""
    host = request.host or local_name
    name = host if host.endswith(b"]") else re.sub(rb":[0-9]*\Z", b"", host)
    where = b"" if port in (None, 443) else b":%d" % port
    return b"https://" + name + where + request.target.lstrip(b"*")


def redirect(status: int, location: bytes, identifier: bytes) -> tuple[AnswerHead, bytes]:
    """Our own answer that sends the client elsewhere."""
    phrase = HTTPStatus(status).phrase.encode()
    return _ours(status, phrase, [(b"Location", location)], b"", identifier), b""


def refusal(
    error: RequestError, identifier: bytes, page: tuple[bytes, bytes] | None = None
) -> tuple[AnswerHead, bytes]:
    """The balancer's own answer to a request that failed: problem+json (RFC 9457), or the
    operator's `page` (content type, body).

    `reason` in it is the word of the metric label; the id finds the request in the log.
    """
    phrase = HTTPStatus(error.status).phrase if error.status != 499 else "Client Gone"
    if page is None:
        kind = b"application/problem+json"
        told = {
            "title": phrase,
            "status": error.status,
            "reason": error.reason,
            "detail": str(error),
            "request_id": identifier.decode("ascii"),
        }
        body = json.dumps(told, ensure_ascii=False).encode() + b"\n"
    else:
        kind, body = page
    fields = [(b"Content-Type", kind), (b"Cache-Control", b"no-store")]
    if isinstance(error, NoBackendError):
        fields.append((b"Retry-After", b"%d" % error.retry_after_s))
    if isinstance(error, ConnectRefusedError):
        fields.append(ALLOW)
    return _ours(error.status, phrase.encode(), fields, body, identifier), body


def _ours(
    status: int, phrase: bytes, fields: list[tuple[bytes, bytes]], body: bytes, identifier: bytes
) -> AnswerHead:
    length = (b"Content-Length", b"%d" % len(body))
    return AnswerHead(status, phrase, (1, 1), [*fields, length, (b"X-Request-Id", identifier)])
