"""Which header fields pass, which stay, which are added; pure, on lists of (name, value) bytes.

Order, spelling, repetition and bytes of whatever passes are kept. What a client says of its own
address, scheme or host is replaced, so an application may believe every X-Forwarded-* field it
sees; only what a trusted proxy says, as `forwarded` reads it, is appended to. What each name means
stands in `field_names`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Final, Literal

from lb import forwarded
from lb.field_names import (
    CERT,
    CONFUSABLE,
    CONNECTION,
    DROP,
    EXPECT,
    FATES,
    FORWARDED_PREFIX,
    HOP_BY_HOP,
    NEVER_TRAILING,
    PARENT,
    PROTECTED,
    STATE,
    TE,
    TOLD,
    TRAILER,
    UNDERSCORED,
    fate_of,
    folded,
)
from lb.forwarded import Told, quoted
from lb.trace import valid as is_parent
from lb.trust import canonical

Fields = Sequence[tuple[bytes, bytes]]
Underscores = Literal["drop", "drop_confusable", "pass"]

VIA: Final = b"lbctl"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}").fullmatch
_DIGITS: Final = re.compile(rb"[0-9]{1,19}").fullmatch
_TRACE: Final = (b"traceparent", b"tracestate")
_STAYING: Final = HOP_BY_HOP | {b"trailer", b"content-length"}

# What nearly every Connection field says: it names no field, and is not taken apart.
_NAMES_NOTHING: Final = frozenset(
    {b"keep-alive", b"Keep-Alive", b"close", b"Upgrade", b"upgrade", b"keep-alive, Upgrade"}
)


@dataclass(frozen=True, slots=True)
class Connection:
    """What is the same for every request of one client connection."""

    peer: bytes
    """The client's address, without the port: the one that a PROXY header told, where there was
    one. Kept in its canonical spelling; what is no address becomes `unknown`."""
    port: bytes
    """The port it connected to."""
    scheme: bytes = b"http"
    trusted: bool = False
    """Is the peer a trusted proxy?"""
    client_cert: bytes | None = None
    """The certificate that the client proved to own, DER; it goes on as Client-Cert (RFC 9440)."""
    told: Told = attribute(init=False, repr=False, compare=False)
    """Who asks, where nobody is trusted to tell more."""
    own: tuple[tuple[bytes, bytes], ...] = attribute(init=False, repr=False, compare=False)
    """The fields that each of its requests gets, made once."""
    cert: tuple[tuple[bytes, bytes], ...] = attribute(init=False, repr=False, compare=False)
    element: tuple[bytes, bytes, bytes] = attribute(init=False, repr=False, compare=False)
    """Forwarded: up to the host, what follows it, and the whole without one."""

    def __post_init__(self) -> None:
        address = canonical(self.peer)
        peer = address or b"unknown"
        own = (
            (b"X-Forwarded-For", peer),
            (b"X-Forwarded-Proto", self.scheme),
            (b"X-Forwarded-Port", self.port),
        )
        cert = self.client_cert
        put = object.__setattr__  # frozen for everybody else
        put(self, "peer", peer)
        put(self, "told", Told(client=peer, scheme=self.scheme))
        put(self, "own", own)
        put(self, "cert", () if cert is None else ((b"Client-Cert", b":%b:" % b64encode(cert)),))
        whom, how = b"for=" + forwarded.node(address), b";proto=" + self.scheme
        put(self, "element", (whom + b";host=", how, whom + how))


def told(fields: Fields, connection: Connection, trust: Container[bytes]) -> Told:
    """Who asks: the peer, or whom it tells of where it is a trusted proxy."""
    if not connection.trusted:
        return connection.told
    return forwarded.told(fields, connection.peer, connection.scheme, trust)


def value_of(fields: Fields, name: bytes) -> bytes | None:
    """The first field of this name (given in lower case), or None."""
    size = len(name)
    for field, value in fields:
        if len(field) == size and field.lower() == name:
            return value
    return None


def tokens(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The comma-separated members of all fields of this name, lower case."""
    return [token for field, value in fields if field.lower() == name for token in _members(value)]


def _members(value: bytes) -> list[bytes]:
    return [token for part in value.lower().split(b",") if (token := part.strip(b" \t"))]


def request_id(fields: Fields, made: bytes) -> bytes:
    """The client's X-Request-Id where it is one, of 1 to 128 harmless bytes; else `made`."""
    given = value_of(fields, b"x-request-id")
    return given if given is not None and _REQUEST_ID(given) else made


def max_forwards(fields: Fields) -> int | None:
    """How many more proxies may pass a TRACE or OPTIONS on (RFC 9110 §7.6.2); at 0 it ends here.
    None: no limit is set, or it is malformed and thus ignored."""
    values = [value for name, value in fields if name.lower() == b"max-forwards"]
    return int(values[0]) if len(values) == 1 and _DIGITS(values[0]) else None


# ── onward ───────────────────────────────────────────────────────────────────────────────────────


def for_backend(
    fields: Fields,
    connection: Connection,
    *,
    identifier: bytes,
    host: bytes | None,
    version: bytes = b"1.1",
    told: Told | None = None,
    underscores: Underscores = "drop_confusable",
    trace: Callable[[], bytes] | None = None,
    max_forwards: int | None = None,
    chunked: bool = False,
) -> list[tuple[bytes, bytes]]:
    """The request's fields as the backend gets them.

    `host` is what the client asked for (Host, or the authority of an absolute target); it passes
    unchanged and comes first. Transfer-Encoding and Upgrade are left to whoever frames the body
    and opens the tunnel.

    `version`: the request's. `told`: what a trusted peer says; without it nothing that it sent of
    the kind passes. `trace` makes the traceparent that is missing. `max_forwards`: what is to
    stand there, where it counts. `chunked`: trailers may follow, so Trailer means something.
    """
    if not connection.trusted:
        told = None
    out: list[tuple[bytes, bytes]] = [] if host is None else [(b"Host", host)]
    keep = out.append
    options: list[bytes] = []
    parents: list[bytes] = []
    te = state = odd = False
    look_up = FATES.get
    for pair in fields:
        fate = look_up(pair[0])
        if fate is None:
            fate = fate_of(pair[0])
        if not fate:  # PASS, as most do
            keep(pair)
        elif fate == DROP:
            continue
        elif fate == CONNECTION:
            options.append(pair[1])
        elif fate == TE:
            te = te or b"trailers" in _members(pair[1])
        elif fate == PARENT:
            parents.append(pair[1])
            keep(pair)
        elif fate == STATE:
            state = True
            keep(pair)
        elif fate == UNDERSCORED:
            odd = True
            keep(pair)
        elif (
            (fate == EXPECT and version != b"1.0")  # RFC 9110 §10.1.1
            or (fate == TRAILER and chunked)
            or (fate == TOLD and told is not None)
            or (fate == CERT and told is not None and not connection.cert)
            or (fate == CONFUSABLE and underscores == "pass")
        ):
            keep(pair)
    if options and (named := _named(options)):
        out = [pair for pair in out if pair[0].lower() not in named]
    if odd and underscores != "pass":
        out = _without_underscores(out, every=underscores == "drop")
    if (parents or state) and not is_parent(parents):
        out = [pair for pair in out if pair[0].lower() not in _TRACE]
        parents.clear()
    if not parents and trace is not None:
        out.append((b"traceparent", trace()))
    if max_forwards is not None:
        out = [
            (name, b"%d" % max_forwards if name.lower() == b"max-forwards" else value)
            for name, value in out
        ]
    if te and version != b"1.0":
        out += ((b"TE", b"trailers"), (b"Connection", b"TE"))
    _add_ours(out, connection, identifier, host, version, told)
    return out


def _named(options: Iterable[bytes]) -> set[bytes]:
    """The fields that Connection takes away, beside those that go anyway."""
    named: set[bytes] = set()
    for value in options:
        if value not in _NAMES_NOTHING:
            named.update(_members(value))
    return {name for name in named - PROTECTED if not name.startswith(FORWARDED_PREFIX)}


def _without_underscores(fields: Fields, every: bool) -> list[tuple[bytes, bytes]]:
    """Without the names with `_`: every one, or those whose twin with `-` is there too."""
    twins = {name.lower() for name, _ in fields if b"_" not in name}
    return [
        pair
        for pair in fields
        if b"_" not in pair[0] or not (every or pair[0].lower().replace(b"_", b"-") in twins)
    ]


def _add_ours(
    out: list[tuple[bytes, bytes]],
    connection: Connection,
    identifier: bytes,
    host: bytes | None,
    version: bytes,
    told: Told | None,
) -> None:
    """What the balancer says itself."""
    before_host, after_host, element = connection.element
    if host is not None:
        element = before_host + quoted(host) + after_host
    if told is None:
        out += connection.own
    else:
        chain = connection.peer
        if told.addresses:
            chain = told.addresses + b", " + chain
        if told.elements:
            element = told.elements + b", " + element
        out += (
            (b"X-Forwarded-For", chain),
            (b"X-Forwarded-Proto", told.proto or connection.scheme),
            (b"X-Forwarded-Port", told.port or connection.port),
        )
    if connection.cert:
        out += connection.cert
    out += (
        (b"Forwarded", element),
        (b"X-Request-Id", identifier),
        (b"Via", version + b" " + VIA),
    )
    asked = host if told is None or told.host is None else told.host
    if asked is not None:
        out.append((b"X-Forwarded-Host", asked))


# ── back ─────────────────────────────────────────────────────────────────────────────────────────


def for_client(
    fields: Fields,
    *,
    version: bytes = b"1.1",
    drop_length: bool = False,
    trailers: bool = False,
) -> list[tuple[bytes, bytes]]:
    """The answer's fields as the client gets them; framing and Connection are left to the caller.

    `version`: the answer's. `drop_length`: it must not carry a Content-Length (RFC 9110 §8.6: a
    1xx, a 204). `trailers`: some may follow, so Trailer means something.
    """
    out: list[tuple[bytes, bytes]] = []
    options: list[bytes] = []
    for pair in fields:
        name = pair[0].lower()
        if name not in _STAYING:
            out.append(pair)
        elif name == b"content-length":
            if not drop_length:
                out.append(pair)
        elif name == b"connection":
            options.append(pair[1])
        elif name == b"trailer" and trailers:
            out.append(pair)
    if options and (named := _named(options)):
        out = [pair for pair in out if pair[0].lower() not in named]
    out.append((b"Via", version + b" " + VIA))
    return out


def trailer_fields(
    fields: Fields, underscores: Underscores = "drop_confusable"
) -> list[tuple[bytes, bytes]]:
    """The trailers that pass, of a request or an answer."""
    out = []
    for pair in fields:
        name = pair[0].lower()
        meant = name if underscores == "pass" else folded(name)
        if meant in NEVER_TRAILING or meant.startswith(FORWARDED_PREFIX):
            continue
        if underscores != "drop" or b"_" not in name:
            out.append(pair)
    return out
