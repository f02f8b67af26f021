"""Addresses as people write them: `host:port` to connect to or listen on, `host` to be asked as.

The one place that says what such a text may be, and what it means that one cannot be listened on:
the configuration, the admin API and the command line ask here. Pure; opens nothing.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re

from lb.errors import ListenError

_HOST_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


def check_address(text: str, lowest_port: int = 1) -> str:
    """The text itself, where it is host:port. Raises ValueError that says what it should be.

    A backend's port begins at 1; 0, which takes any free one, is for listening only.
    """
    match = _HOST_PORT.fullmatch(text)
    fits = match is not None and lowest_port <= int(match["port"]) <= 65535
    if match is None or not fits or not _is_host(match["ipv6"]):
        raise ValueError(
            f"{text!r} is not an address: write host:port, IPv6 in brackets,"
            f" the port from {lowest_port} to 65535"
        )
    return text


def _is_host(ipv6: str | None) -> bool:
    try:
        return ipv6 is None or bool(ipaddress.IPv6Address(ipv6))
    except ValueError:
        return False


def split_address(address: str) -> tuple[str, int]:
    """'127.0.0.1:80' → ('127.0.0.1', 80); '[::1]:80' → ('::1', 80). For what was checked."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


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
    if not name or (port and not (port.isascii() and port.isdecimal() and len(port) <= 5)):
        raise ValueError(f"{value!r} is not a host")
    return name, int(port) if port else None


def cannot_listen(address: str, error: Exception, key: str) -> ListenError:
    """What an operator is told of an address that did not open; `key` is where it is configured."""
    return ListenError(f"cannot listen on {address}: {_why(error)}; set {key}")


def _why(error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return "address in use, perhaps by another lbctl"
    if code == errno.EACCES:
        return "not permitted: ports below 1024 need root or CAP_NET_BIND_SERVICE"
    if code == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if code is not None and code > 0:
        # asyncio rewrites the message with the address, which ours has already
        return os.strerror(code).lower()
    return str(getattr(error, "strerror", None) or error).lower()
