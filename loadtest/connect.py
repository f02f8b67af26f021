"""Finds out where to connect before the first request: name → one address, TLS or not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass

from loadtest.errors import InputError
from loadtest.mix import Mix, Origin

_PROBE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """A numeric host and port. `server_name` is the certificate's, None for plain HTTP."""

    host: str
    port: int
    server_name: str | None = None


async def resolve_all(mix: Mix) -> tuple[Address, ...]:
    """An address for each of the mix's origins. Raises InputError saying where it is asked for."""
    found = []
    for origin, where in zip(mix.origins, mix.where, strict=True):
        try:
            found.append(await resolve(origin))
        except InputError as wrong:
            raise InputError(f"{where}: {wrong}" if where else str(wrong)) from None
    return tuple(found)


async def resolve(target: Origin) -> Address:
    """One address for the whole test, so that the name server is no part of any latency.

    Where a name has several (localhost: ::1 and 127.0.0.1), the first that takes a connection;
    if none does, the first, and the test counts what happens. Raises InputError for a name that
    does not resolve.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as wrong:
        reason = wrong.strerror if isinstance(wrong, socket.gaierror) else str(wrong)
        raise InputError(f"host {target.host!r} does not resolve: {reason}") from None
    hosts = list(dict.fromkeys(str(info[4][0]) for info in found))
    host = hosts[0]
    if len(hosts) > 1:
        for candidate in hosts:
            if await _accepts(candidate, target.port):
                host = candidate
                break
    if target.scheme == "https":
        return Address(host, target.port, target.host)
    return Address(host, target.port)


async def _accepts(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return True
    return False
