"""One connection to a backend: bytes in order, with back-pressure both ways and an end.

Pulled by coroutines: `more` waits until there is more to read, `drain` until more may be written.
Reads at most HIGH_BYTES ahead. Knows no HTTP; which connection is used again is `upstream`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from lb.fastlane import Known

HIGH_BYTES: Final = 65536


class TunnelEnd(Protocol):
    """Who gets a connection's bytes once it is a tunnel."""

    def from_backend(self, data: bytes) -> None: ...
    def backend_ended(self) -> None: ...
    def backend_lost(self) -> None: ...
    def backend_full(self, full: bool) -> None: ...


class Lane(Protocol):
    """Who gets an answer's bytes as they come."""

    def from_backend(self, data: bytes) -> None: ...
    def broken(self) -> None:
        """The connection has ended."""


class BackendConnection(asyncio.Protocol):
    """`buffer` is what came and was not taken yet."""

    __slots__ = (
        "_loop",
        "_reading",
        "_tunnel",
        "_waiter",
        "_writable",
        "buffer",
        "ended",
        "idle_since",
        "known",
        "lane",
        "lost",
        "on_idle_news",
        "resting",
        "rules",
        "transport",
        "used",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._reading = True
        self._tunnel: TunnelEnd | None = None
        self.resting = False
        """It is kept, and nothing runs on it."""
        self.transport: asyncio.Transport
        self.buffer = b""
        self.ended = False
        """The backend closed its side, or all of it; the buffer may hold more."""
        self.lost: Exception | None = None
        """Why it broke, where it did not end cleanly."""
        self.used = 0
        """Exchanges begun on it."""
        self.idle_since = 0.0
        self.on_idle_news: Callable[[], None]
        """Called should anything happen on it while nothing runs there."""
        self.lane: Lane | None = None
        self.known: Known | None = None
        """What the fast lane remembers of the answer before."""
        self.rules: object = None
        """What it was opened by: `upstream` may not use it again by others."""

    # ── asyncio's side ───────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.lane is not None:
            self.lane.from_backend(data)
            return
        if self._tunnel is not None:
            self._tunnel.from_backend(data)
            return
        self.buffer = self.buffer + data if self.buffer else data
        if len(self.buffer) > HIGH_BYTES:
            self.read(False)
        self._news()

    def eof_received(self) -> bool | None:
        if self._tunnel is not None:
            self._tunnel.backend_ended()
            return self.transport.get_extra_info("ssl_object") is None
        self.ended = True
        if self.lane is not None:
            self.lane.broken()
        self._news()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.lost or exc
        if self._tunnel is not None:
            self._tunnel.backend_lost()
        self.ended = True
        if self.lane is not None:
            self.lane.broken()
        self._news()
        self.resume_writing()

    def pause_writing(self) -> None:
        if self._tunnel is not None:
            self._tunnel.backend_full(True)
        elif self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._tunnel is not None:
            self._tunnel.backend_full(False)
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def _news(self) -> None:
        if self.resting:
            # Bytes nobody asked for, or its end: either way it is of no more use.
            self.resting = False
            self.on_idle_news()
        else:
            self.poke()

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    async def more(self) -> None:
        """Wait for more bytes in the buffer, or for the end. One waiter at a time."""
        if self.ended:
            return
        self.read(True)
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def poke(self) -> None:
        """Let `more` return, though nothing came: something else is to be looked at."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self, most: int) -> bytes:
        """Up to so many of the bytes that are here."""
        buffer = self.buffer
        if len(buffer) <= most:
            self.buffer = b""
            return buffer
        self.buffer = buffer[most:]
        return buffer[:most]

    def read(self, wanted: bool) -> None:
        """Take what comes, or leave it to wait on its way."""
        if wanted != self._reading and not self.transport.is_closing():
            self._reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def write(self, data: bytes) -> None:
        """Into the void where it is closed already: reading tells why."""
        if not self.transport.is_closing():
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the backend has taken most of what was written."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    # ── between exchanges ────────────────────────────────────────────────────────────────────

    @property
    def clean(self) -> bool:
        """Nothing unread, and open: it may be used again."""
        return not (self.buffer or self.ended or self._writable or self.transport.is_closing())

    def rest(self, now: float) -> None:
        """Nothing runs on it; `on_idle_news` is called should anything happen all the same."""
        self.idle_since = now
        self.resting = True
        if not self._reading:
            self.read(True)

    def enter_tunnel(self, tunnel: TunnelEnd) -> None:
        """From now on bytes go there, those that are here first."""
        self._tunnel = tunnel
        ahead, self.buffer = self.buffer, b""
        self.read(True)
        if self._writable is not None:
            tunnel.backend_full(True)
        if ahead:
            tunnel.from_backend(ahead)
        if self.ended:
            # outside of a tunnel its end is the connection's
            tunnel.backend_lost()

    def pause_tunnel(self, full: bool) -> None:
        """The client's side takes no more, or takes more again."""
        self.read(not full)

    def close(self) -> None:
        """Cut it: with a request half sent, the backend must not take it for a whole one."""
        self.resting = False
        self.transport.abort()
