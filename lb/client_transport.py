"""A client's connection below HTTP: who is at the other end, and bytes to it with back-pressure.

Owns the writing half. What is read, and what a request is, is `client_connection`'s.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol, cast

from lb.errors import ClientGoneError, ClientTimeoutError
from lb.proxy_protocol import Parsed
from lb.sockets import reset, taken
from lb.tls import peer_name


class Tunnelled(Protocol):
    """Who gets a connection's bytes once it is a tunnel."""

    def from_client(self, data: bytes) -> None: ...
    def client_ended(self) -> None: ...
    def client_lost(self) -> None: ...
    def client_full(self, full: bool) -> None: ...


@lru_cache(maxsize=256)
def _place(host: str, port: int) -> tuple[str, int]:
    return host, port


def _nothing() -> None:
    return None


class ClientTransport(asyncio.Protocol):
    """`transport` is None once the connection is lost, or closed by us."""

    __slots__ = (
        "_drain_waiter",
        "_loop",
        "_reading",
        "client_cert",
        "introduced",
        "local",
        "on_made",
        "peer",
        "peer_port",
        "scheme",
        "tls_client",
        "tls_version",
        "transport",
        "writing_paused",
        "written",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, scheme: bytes) -> None:
        self._loop = loop
        self._drain_waiter: asyncio.Future[None] | None = None
        self._reading = True
        self.scheme: Final = scheme
        self.transport: asyncio.Transport | None = None
        self.writing_paused = False
        """The client takes less than it is sent."""
        self.written = 0
        """Bytes of the running exchange's final answer."""
        self.on_made: Callable[[], None] = _nothing
        """Called first, once it stands."""
        self.introduced: Parsed | None = None
        """What a PROXY header said of it."""
        self.peer = ""
        self.peer_port = 0
        self.local: tuple[str, int] = ("", 0)
        """What the client connected to."""
        self.client_cert: bytes | None = None
        """The client's certificate, DER, where it proved one."""
        self.tls_version = ""
        self.tls_client = ""
        """The subject of that certificate."""

    # ── who it is ────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.on_made()
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        local = transport.get_extra_info("sockname")
        if self.introduced is not None:
            peer = self.introduced.source or peer
            local = self.introduced.destination or local
        if isinstance(peer, tuple):
            # one for all of its connections, and of ours at most a few hundred
            self.peer, self.peer_port = sys.intern(peer[0]), peer[1]
        if isinstance(local, tuple):
            self.local = _place(local[0], local[1])
        if self.is_tls:
            encrypted = transport.get_extra_info("ssl_object")
            self.client_cert = encrypted.getpeercert(binary_form=True) or None
            self.tls_version = encrypted.version() or ""
            self.tls_client = peer_name(encrypted) or ""

    @property
    def local_name(self) -> bytes:
        """What the client connected to, as a Host field would say it."""
        host, port = self.local
        return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()

    @property
    def is_tls(self) -> bool:
        return self.scheme == b"https"

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None
        self._drained()

    def force_close(self) -> None:
        """Close it once what was written is sent; nothing can be written any more."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.close()

    # ── reading on and off ───────────────────────────────────────────────────────────────────

    def read(self, on: bool) -> None:
        """Take what comes, or leave it to wait on its way."""
        transport = self.transport
        if on == self._reading or transport is None or transport.is_closing():
            return
        self._reading = on
        if on:
            transport.resume_reading()
        else:
            transport.pause_reading()

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._drained()

    def _drained(self) -> None:
        waiter = self._drain_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def write(self, data: bytes) -> None:
        """Bytes of the final answer. Raises ClientGoneError."""
        self._send(data)
        self.written += len(data)

    def write_interim(self, data: bytes) -> None:
        """An interim (1xx) answer. Raises ClientGoneError."""
        self._send(data)

    def _send(self, data: bytes) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ClientGoneError("the client hung up")
        transport.write(data)

    async def drain(self, silence_s: float) -> None:
        """Wait while the client reads more slowly than the backend answers. Raises ClientGoneError,
        or ClientTimeoutError where it takes nothing at all for `silence_s`."""
        transport = self.transport
        if not self.writing_paused or transport is None:
            return
        try:
            await taken(transport, self._until_drained, silence_s)
        except TimeoutError:
            raise ClientTimeoutError("the client does not take its answer") from None
        if self.transport is None:
            raise ClientGoneError("the client hung up")

    async def _until_drained(self) -> None:
        if not self.writing_paused or self.transport is None:
            return
        self._drain_waiter = self._loop.create_future()
        try:
            await self._drain_waiter
        finally:
            self._drain_waiter = None

    def reset(self) -> None:
        """Cut it: whatever was promised does not come. With a reset, because to a body that lasts
        as long as its connection, a plain end would be a good one."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            reset(transport)
