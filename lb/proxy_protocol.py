"""The PROXY protocol's header, versions 1 and 2: bytes ↔ who connected to whom; pure.

Owns the format alone (haproxy.org/download/2.9/doc/proxy-protocol.txt), read as strictly as its
text allows. Whether a peer may send a header at all is the listener's to know: it is believed.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

Endpoint = tuple[str, int]
"""An IP address in its shortest form, and a port."""

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V1: Final = b"PROXY "

MAX_V1: Final = 107
"""§2.1: the longest line, its CRLF included."""
MAX_V2: Final = 4096
"""Addresses take at most 232 bytes; the rest is for TLVs, which are skipped. nginx's bound too."""

_FIXED: Final = 16
"""Bytes of a v2 header before its addresses."""
# The addresses' size by family and transport. What is not here is refused: values that do not
# exist must be (§2.2), and half of UNSPEC, which nobody sends, may be.
_SIZES: Final = {0x00: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}").fullmatch


class MalformedProxyHeader(ValueError):
    """What came is no PROXY header: the connection must be closed, and nothing on it be read."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A whole header."""

    source: Endpoint | None
    """The client's. None where it was not said (UNKNOWN, UNSPEC, LOCAL) or is no TCP over IP (unix
    sockets, UDP): the connection's own endpoints count."""
    destination: Endpoint | None
    """What the client connected to."""
    local: bool
    """Opened by the proxy for itself, such as for a health check."""
    consumed: int
    """Bytes of the header; what follows is the connection's."""


def parse(data: bytes) -> Parsed | None:
    """The header that `data` begins with; None where more bytes are needed to tell.

    Never looks beyond the header. Raises MalformedProxyHeader.
    """
    if data.startswith(_V1):
        return _parse_v1(data)
    if data.startswith(SIGNATURE):
        return _parse_v2(data)
    if _V1.startswith(data) or SIGNATURE.startswith(data):
        return None
    raise MalformedProxyHeader("neither version's signature")


def _parse_v1(data: bytes) -> Parsed | None:
    # The line is not looked into before its end is there (§2.1), which is at most 107 bytes away.
    line = data[:MAX_V1]
    end = line.find(b"\r")
    if b"\n" in (line[:end] if end >= 0 else line):
        raise MalformedProxyHeader("the line ends in a bare LF")
    if end >= 0 and line[end + 1 : end + 2] not in (b"", b"\n"):
        raise MalformedProxyHeader("a bare CR in the line")
    if end < 0 or end + 1 == len(line):
        if len(line) == MAX_V1:
            raise MalformedProxyHeader(f"the line is longer than {MAX_V1} bytes")
        return None
    words = line[len(_V1) : end].split(b" ")
    if words[0] == b"UNKNOWN":
        return Parsed(None, None, False, end + 2)
    if words[0] not in (b"TCP4", b"TCP6") or len(words) != 5:
        raise MalformedProxyHeader("not TCP4, TCP6 or UNKNOWN with two addresses and two ports")
    source, destination = (_address(word, words[0] == b"TCP6") for word in words[1:3])
    source_port, destination_port = (_port(word) for word in words[3:])
    return Parsed((source, source_port), (destination, destination_port), False, end + 2)


def _address(word: bytes, version_6: bool) -> str:
    try:
        text = word.decode("ascii")
        if not version_6:
            return str(ipaddress.IPv4Address(text))
        # Python also takes a scope (fe80::1%eth0), which means nothing on another machine.
        if "%" not in text:
            return str(ipaddress.IPv6Address(text))
    except ValueError:
        pass
    raise MalformedProxyHeader("an address is not one of its family")


def _port(word: bytes) -> int:
    if not _PORT(word) or int(word) > 65535:
        raise MalformedProxyHeader("a port is not a number from 0 to 65535")
    return int(word)


def _parse_v2(data: bytes) -> Parsed | None:
    # Each byte is judged as soon as it is there.
    command = data[12] if len(data) > 12 else _PROXY
    if command not in (_LOCAL, _PROXY):
        raise MalformedProxyHeader("neither LOCAL nor PROXY of version 2")
    kind = data[13] if len(data) > 13 else 0
    # §2.2: a LOCAL connection's family and addresses are ignored, whatever they are.
    if command == _PROXY and kind not in _SIZES:
        raise MalformedProxyHeader("an address family or transport that does not exist")
    if len(data) < _FIXED:
        return None
    length = int.from_bytes(data[14:_FIXED], "big")
    end = _FIXED + length
    if end > MAX_V2:
        raise MalformedProxyHeader(f"the header is longer than {MAX_V2} bytes")
    if command == _PROXY and length < _SIZES[kind]:
        raise MalformedProxyHeader("too short for its addresses")
    if len(data) < end:
        return None
    if command == _LOCAL:
        return Parsed(None, None, True, end)
    if kind not in (_TCP4, _TCP6):
        return Parsed(None, None, False, end)
    size = 4 if kind == _TCP4 else 16
    ports = _FIXED + 2 * size
    return Parsed(
        (_unpacked(data[_FIXED : _FIXED + size]), int.from_bytes(data[ports : ports + 2], "big")),
        (
            _unpacked(data[_FIXED + size : ports]),
            int.from_bytes(data[ports + 2 : ports + 4], "big"),
        ),
        False,
        end,
    )


def _unpacked(data: bytes) -> str:
    return str(ipaddress.ip_address(data))


def encode(version: Literal[1, 2], source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """A header for a connection to a backend, without TLVs.

    None for a connection that nobody is behind, such as a health check: LOCAL in version 2. In
    version 1 it is UNKNOWN, which some servers refuse (§2.1): give the connection's own ends there.
    Where the families differ, the IPv4 address is written in its IPv6-mapped form, as haproxy does
    in version 2: the client's address is not lost. Raises ValueError for what is no address.
    """
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n" if version == 1 else SIGNATURE + bytes((_LOCAL, 0, 0, 0))
    ends = [_plain(source[0]), _plain(destination[0])]
    version_4 = all(end.version == 4 for end in ends)
    if not version_4:
        ends = [_mapped(end) for end in ends]
    if version == 1:
        family = "TCP4" if version_4 else "TCP6"
        line = f"PROXY {family} {ends[0]} {ends[1]} {source[1]} {destination[1]}\r\n"
        return line.encode("ascii")
    addresses = ends[0].packed + ends[1].packed
    ports = source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")
    return b"".join(
        (
            SIGNATURE,
            bytes((_PROXY, _TCP4 if version_4 else _TCP6)),
            len(addresses + ports).to_bytes(2, "big"),
            addresses,
            ports,
        )
    )


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _plain(text: str) -> _Address:
    """Without a scope, which a socket's own name has for link-local addresses."""
    return ipaddress.ip_address(text.partition("%")[0])


def _mapped(address: _Address) -> ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv6Address):
        return address
    return ipaddress.IPv6Address(bytes(10) + b"\xff\xff" + address.packed)
