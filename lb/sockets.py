"""Sockets below asyncio: binding listening ones, resetting a connection, what a peer has taken.

Listening ones are bound here so that one can be handed from one server to another. Knows addresses
and sockets only; what is spoken on them is `listener`'s.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from lb.address import cannot_listen, split_address

BACKLOG: Final = 4096
"""Connections that may wait to be accepted, as far as the kernel allows (net.core.somaxconn, 4096
by default): of many clients that come at once none should have to knock again after a second."""

# SO_LINGER on, for no time: closing discards what is unsent, and resets.
_NO_LINGER: Final = struct.pack("ii", 1, 0)

_INT: Final = struct.Struct("i")


def bind(address: str, *, shared: bool = False) -> list[socket.socket]:
    """A listening socket for each address the name stands for. `shared`: others may be put
    `beside` it. Raises ListenError, and then leaves none behind."""
    host, port = split_address(address)
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, where in dict.fromkeys(found):
            one = _bound(family, kind, protocol, where)
            if shared:
                # Two that share a port need not know of each other: the first attempt was alone,
                # so that another program's port is never joined by mistake.
                where = one.getsockname()
                one.close()
                one = _bound(family, kind, protocol, where, shared=True)
            bound.append(one)
            one.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        close(bound)
        raise cannot_listen(address, error, "proxy.listen") from error
    return bound


def beside(ours: Iterable[socket.socket], address: str) -> list[socket.socket]:
    """Another socket for each of these, that listens where it does, if that was bound `shared`: the
    kernel deals new connections out to both. `address` is how it is configured. Raises ListenError,
    and then leaves none behind."""
    bound: list[socket.socket] = []
    try:
        for one in ours:
            other = _bound(one.family, one.type, one.proto, one.getsockname(), shared=True)
            bound.append(other)
            other.listen(BACKLOG)
    except OSError as error:
        close(bound)
        raise cannot_listen(address, error, "proxy.listen") from error
    return bound


def _bound(
    family: int, kind: int, protocol: int, where: Any, *, shared: bool = False
) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # what is accepted from it inherits this, at no call of its own
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # beside a listener for IPv4, not instead of one
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setblocking(False)
        one.bind(where)
    except BaseException:
        one.close()
        raise
    return one


def close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def name_of(one: socket.socket) -> str:
    """`host:port` as bound: the configured port may be 0."""
    host, port = one.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reset(transport: asyncio.WriteTransport) -> None:
    """End a connection so that its peer cannot take it for a clean end."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def unsent(transport: asyncio.WriteTransport) -> int:
    """Bytes written that the peer has not acknowledged: in the transport, and in the kernel."""
    held = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    try:
        # tcp(7) calls it SIOCOUTQ
        told = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
    except OSError:
        return held
    return held + int(_INT.unpack(told)[0])


async def taken(
    transport: asyncio.WriteTransport, drain: Callable[[], Awaitable[None]], silence_s: float
) -> None:
    """Wait for `drain()` while the peer takes anything at all within `silence_s` (0: for ever).

    A full buffer drains only once much of it was taken: the kernel tells of room when a third of up
    to 4 MiB is free. Somebody slow needs minutes for that, and is not silent. Raises TimeoutError.
    """
    left = unsent(transport)
    while True:
        try:
            async with asyncio.timeout(silence_s or None):
                return await drain()
        except TimeoutError:
            before, left = left, unsent(transport)
            if left >= before:
                raise
