"""Which addresses are those of trusted proxies, and which spellings are the same address.

Pure. It judges addresses; what a trusted proxy said is read in `forwarded`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# An address is at most 45 characters long, and a zone (an interface's name) 16. What is longer is
# none, and must not fill the caches: 4096 × 64 bytes is all that a flood of addresses can take.
_LONGEST: Final = 64
_REMEMBERED: Final = 4096
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


@lru_cache(maxsize=_REMEMBERED)
def _parsed(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _address(address: bytes | str) -> _Address | None:
    if len(address) > _LONGEST:
        return None
    return _parsed(address.decode("latin-1") if isinstance(address, bytes) else address)


def canonical(address: bytes | str) -> bytes | None:
    """The one spelling of an IP address: IPv6 as RFC 5952 has it, without its zone, and an IPv4
    address mapped into IPv6 as IPv4. None for what is no address, such as `unix:`."""
    parsed = _address(address)
    return None if parsed is None else str(parsed).encode("ascii")


def _network(text: str) -> _Network:
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        low = int(network.network_address) & 0xFFFF_FFFF
        return ipaddress.IPv4Network((low, network.prefixlen - 96))
    return network


class Trust:
    """The networks of `proxy.trusted_proxies`; `address in trust` asks it.

    Raises ValueError for a text that is no network; the configuration has checked that.
    """

    __slots__ = ("_judged", "_networks")

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = tuple(_network(text) for text in networks)
        # a judgement takes 2 µs and a remembered one 0.2: the same few proxies ask all the time
        self._judged = lru_cache(maxsize=_REMEMBERED)(self._judge)

    def __contains__(self, address: object) -> bool:
        if not self._networks or not isinstance(address, bytes | str):
            return False
        return len(address) <= _LONGEST and self._judged(address)

    def __bool__(self) -> bool:
        """Is anybody trusted at all?"""
        return bool(self._networks)

    def _judge(self, address: bytes | str) -> bool:
        parsed = _address(address)
        return parsed is not None and any(parsed in network for network in self._networks)
