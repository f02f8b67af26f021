"""Who may ask the admin API: the Host a request must carry, the token a change must show. Pure.

A page on the internet can make a browser on this machine send requests to 127.0.0.1, under a name
that it lets resolve there (DNS rebinding). The browser then sends that name as Host: refusing names
that are not ours keeps such a page from reading anything here.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass

from lb.address import split_host

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class HostRule:
    """The Hosts that are ours. `listen` as configured, `port` as bound, `names` as configured:
    a name without a port is accepted with any."""

    listen: str
    port: int
    names: tuple[str, ...] = ()

    def allows(self, header: str | None, arrived_at: str | None) -> bool:
        """`arrived_at` is the local IP address of the connection: what 0.0.0.0 stood for."""
        try:
            name, port = split_host(header or "")
        except ValueError:
            return False
        for known in self.names:
            known_name, known_port = split_host(known)
            if name == known_name and known_port in (None, port):
                return True
        if (port or 80) != self.port:
            return False
        own = {self.listen, arrived_at}
        if is_loopback(self.listen) or (arrived_at is not None and is_loopback(arrived_at)):
            own |= {"localhost", "127.0.0.1", "::1"}
        return name in own


def bearer_matches(header: str | None, token: str) -> bool:
    """Is it `Bearer TOKEN`? Takes the same time wherever the two differ."""
    scheme, _, shown = (header or "").partition(" ")
    # aiohttp gives bytes that are not UTF-8 as surrogates
    same = hmac.compare_digest(shown.strip().encode("utf-8", "surrogateescape"), token.encode())
    return same and scheme.lower() == "bearer"
