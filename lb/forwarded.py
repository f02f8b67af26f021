"""Where a request came from, as trusted proxies tell it: X-Forwarded-* and Forwarded (RFC 7239).

Pure. It reads what a trusted peer sent and says what goes on of that; who is trusted is `trust`'s
to know, and which fields pass is `headers`'. A chain is read from the right, because each proxy
appends: what a client made up stands left of what was added on the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lb.trust import canonical

HOPS: Final = 64
"""Entries of a chain that are read. Real ones have up to five; a head of 64 KiB would hold eight
thousand, at 2 µs each."""

_LONGEST_LINE: Final = 8192

# RFC 9110 §5.6: tokens and quoted strings. RFC 7239 §4: pairs between semicolons, without white
# space around those; a pair may be missing. Possessive, so that no line takes quadratic time.
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED: Final = rb'"(?:[\t !\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -\x7e\x80-\xff])*+"'
_PAIR: Final = rb"%b=(?:%b|%b)" % (_TOKEN, _TOKEN, _QUOTED)
_ELEMENT: Final = rb"(?:%b)?(?:;(?:%b)?)*+" % (_PAIR, _PAIR)
_IS_ELEMENT: Final = re.compile(_ELEMENT).fullmatch
_NEXT_ELEMENT: Final = re.compile(rb"[ \t]*+(%b)[ \t]*+(,|\Z)" % _ELEMENT).match
_PAIRS: Final = re.compile(rb"(%b)=(?:(%b)|(%b))" % (_TOKEN, _TOKEN, _QUOTED)).findall
_IS_TOKEN: Final = re.compile(_TOKEN).fullmatch
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)

# RFC 7239 §6: a node with an address, and one without: "unknown", or a made-up name.
_IPV4: Final = rb"[0-9.]+"
_IPV6: Final = rb"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*"
_NODE_PORT: Final = rb"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_NODE: Final = re.compile(rb"(?:(%b)|\[(%b)\])%b" % (_IPV4, _IPV6, _NODE_PORT)).fullmatch
_NOBODY: Final = re.compile(rb"(?:(?i:unknown)|_[A-Za-z0-9._-]+)%b" % _NODE_PORT).fullmatch
# X-Forwarded-For has no standard: some proxies add a port, some put IPv6 in brackets.
_ENTRY: Final = re.compile(
    rb"(%b)(?::[0-9]{1,5})?|\[(%b)\](?::[0-9]{1,5})?|(%b)" % (_IPV4, _IPV6, _IPV6)
).fullmatch

_PROTO: Final = re.compile(rb"(?i:(?:http|ws)s?)").fullmatch
_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?"
).fullmatch
_PORT: Final = re.compile(rb"[0-9]{1,5}").fullmatch
_SCHEMES: Final = {b"http": b"http", b"ws": b"http", b"https": b"https", b"wss": b"https"}
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}

_READ: Final = frozenset(
    {
        b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port",
        b"x-forwarded-proto",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """Who asks and for what, as far as it can be believed."""

    client: bytes
    """The right-most address of the chain that is no trusted proxy's, in its canonical spelling:
    whom logs, fairness and hashing mean. Where all are trusted, the left-most."""
    scheme: bytes
    """What the client speaks: http or https."""
    addresses: bytes = b""
    """The X-Forwarded-For to append to; empty: none."""
    elements: bytes = b""
    """The Forwarded to append to; empty: none."""
    proto: bytes | None = None
    """X-Forwarded-Proto as it came, perhaps a list; None: not told, or malformed."""
    host: bytes | None = None
    """X-Forwarded-Host, likewise."""
    port: bytes | None = None
    """X-Forwarded-Port, likewise; else the one that host or proto imply."""


@dataclass(frozen=True, slots=True)
class _Hop:
    text: bytes
    address: bytes | None
    proto: bytes | None = None
    host: bytes | None = None


def told(
    fields: Iterable[tuple[bytes, bytes]], peer: bytes, scheme: bytes, trust: Container[bytes]
) -> Told:
    """What the trusted `peer`, which speaks `scheme` with us, says; for trusted peers only.

    X-Forwarded-For decides where there is one, else Forwarded. Where the other does not say the
    same, it is made anew: a proxy that knows only one of them passes on what a client put into the
    other. A malformed entry ends a chain: it and what stands left of it are dropped.
    """
    given: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        key = name.lower()
        if key in _READ:
            given.setdefault(key, []).append(value)
    proto = _clean(given.get(b"x-forwarded-proto"), _PROTO)
    host = _clean(given.get(b"x-forwarded-host"), _HOST)
    port = _clean(given.get(b"x-forwarded-port"), _PORT)
    addresses = given.get(b"x-forwarded-for")
    elements = given.get(b"forwarded")
    hops = list(_entries(addresses) if addresses is not None else _elements(elements or ()))
    known = _known(hops, trust)
    client = hops[known - 1] if known else None
    if client is not None:
        proto = proto or client.proto
        host = host or client.host
    entries = [hop.text for hop in hops]
    if addresses is None:
        entries, texts = _addresses(hops), entries
    else:
        others = list(_elements(elements or ()))
        if known and _addresses(hops[:known]) == _addresses(others[:known]):
            texts = [hop.text for hop in others]
        else:
            texts = [_element(hop, proto, host) if hop is client else _element(hop) for hop in hops]
    spoken = scheme if proto is None else _SCHEMES[_first(proto).lower()]
    return Told(
        client=peer if client is None or client.address is None else client.address,
        scheme=spoken,
        addresses=b", ".join(reversed(entries)),
        elements=b", ".join(reversed(texts)),
        proto=proto,
        host=host,
        port=port or _port_of(host) or (None if proto is None else _DEFAULT_PORTS[spoken]),
    )


def node(address: bytes | None) -> bytes:
    """A canonical address as a node (RFC 7239 §6): IPv6 in brackets and quotes. None: unknown."""
    if address is None:
        return b"unknown"
    return b'"[%b]"' % address if b":" in address else address


def quoted(value: bytes) -> bytes:
    """A token as it is, anything else as a quoted string (RFC 9110 §5.6.4)."""
    if _IS_TOKEN(value):
        return value
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _known(hops: Sequence[_Hop], trust: Container[bytes]) -> int:
    """How many hops, from the right, are believed: the proxies, and the client as the last."""
    known = 0
    for hop in hops:
        if hop.address is None:
            break
        known += 1
        if hop.address not in trust:
            break
    return known


def _entries(values: Sequence[bytes]) -> Iterator[_Hop]:
    """The entries of X-Forwarded-For, right-most first, up to a malformed one."""
    for text in _from_the_right(value.rsplit(b",", HOPS) for value in reversed(values)):
        match = _ENTRY(text)
        address = canonical(match[1] or match[2] or match[3]) if match else None
        if address is None:
            return
        yield _Hop(text, address)


def _elements(values: Sequence[bytes]) -> Iterator[_Hop]:
    """The elements of Forwarded, right-most first, up to a malformed one."""
    for text in _from_the_right(_split(value) for value in reversed(values)):
        hop = _read(text)
        if hop is None:
            return
        yield hop


def _from_the_right(lines: Iterable[list[bytes]]) -> Iterator[bytes]:
    """The members of lists, at most HOPS; RFC 9110 §5.6.1: empty ones do not count."""
    left = HOPS
    for parts in lines:
        for part in reversed(parts):
            if text := part.strip(b" \t"):
                if not left:
                    return
                left -= 1
                yield text


def _split(line: bytes) -> list[bytes]:
    """The elements of a Forwarded field.

    A line that is malformed as a whole is cut at its commas: a client's open quote does not hide
    the element that a trusted proxy appended behind it.
    """
    texts: list[bytes] = []
    at = 0
    while len(line) <= _LONGEST_LINE and (match := _NEXT_ELEMENT(line, at)):
        texts.append(match[1])
        at = match.end()
        if not match[2]:
            return texts
    return line.rsplit(b",", HOPS)


def _read(text: bytes) -> _Hop | None:
    """One element; None where it is malformed, or names a thing twice (RFC 7239 §4)."""
    if not _IS_ELEMENT(text):
        return None
    values: dict[bytes, bytes] = {}
    for name, token, string in _PAIRS(text):
        key = name.lower()
        if key in values:
            return None
        values[key] = token or _ESCAPED.sub(rb"\1", string[1:-1])
    whom = values.get(b"for", b"unknown")
    match = _NODE(whom)
    address = canonical(match[1] or match[2]) if match else None
    if address is None and not _NOBODY(whom):
        return None
    proto, host = values.get(b"proto"), values.get(b"host")
    return _Hop(
        text,
        address,
        proto if proto is not None and _PROTO(proto) else None,
        host if host is not None and _HOST(host) else None,
    )


def _addresses(hops: Iterable[_Hop]) -> list[bytes]:
    """Those of the hops, up to one that has none."""
    found = []
    for hop in hops:
        if hop.address is None:
            break
        found.append(hop.address)
    return found


def _element(hop: _Hop, proto: bytes | None = None, host: bytes | None = None) -> bytes:
    """An entry of X-Forwarded-For as an element of Forwarded."""
    parts = [b"for=" + node(hop.address)]
    if host is not None:
        parts.append(b"host=" + quoted(_first(host)))
    if proto is not None:
        parts.append(b"proto=" + _first(proto))
    return b";".join(parts)


def _first(value: bytes) -> bytes:
    return value.partition(b",")[0].strip(b" \t")


def _clean(
    values: Sequence[bytes] | None, valid: Callable[[bytes], re.Match[bytes] | None]
) -> bytes | None:
    """The value of a field that came once, where every member of it is valid."""
    if values is None or len(values) != 1:
        return None
    members = values[0].split(b",", HOPS)
    return values[0] if all(valid(member.strip(b" \t")) for member in members) else None


def _port_of(host: bytes | None) -> bytes | None:
    match = None if host is None else _HOST(_first(host))
    return match[1] if match is not None else None
