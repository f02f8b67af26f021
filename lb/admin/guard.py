"""Who may ask the admin API: the Host a request must carry, the token a change must show. Pure.

A page on the internet can make a browser on this machine send requests to 127.0.0.1, under a name
that it lets resolve there (DNS rebinding). The browser then sends that name as Host: refusing names
that are not ours keeps such a page from reading anything here.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def split_host(value: str) -> tuple[str, int | None]:
    """'Example.org:80' → ('example.org', 80); '[::1]' → ('::1', None). ValueError for garbage."""
    text = value.strip().lower()
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{value!r} is not a host")
        port = rest[1:]
    else:
        name, _, port = text.partition(":")
    if not name or (port and not (port.isascii() and port.isdecimal())):
        raise ValueError(f"{value!r} is not a host")
    return name, int(port) if port else None


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
    same = hmac.compare_digest(shown.strip().encode(), token.encode())
    return same and scheme.lower() == "bearer"
