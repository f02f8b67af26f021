"""A request's body on its way in: pushed by the client's connection, pulled by whoever sends it on.

Holds at most about HIGH_BYTES and one read of the socket: beyond that the connection stops reading.
Owns the limits of a body (its size, its pace); knows no framing, which `client_connection` reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from lb.config import LimitsConfig
from lb.errors import BodyTooLargeError, ClientTimeoutError, RequestError
from lb.wire.head import Fields

HIGH_BYTES: Final = 65536
LOW_BYTES: Final = 16384

# A sender's pace is judged from here on: a connection's first seconds are slow by nature.
PACE_GRACE_S: Final = 5.0


class ClientBody:
    """One body. `flow(True)` is called when more may come, `flow(False)` when it has to wait."""

    __slots__ = (
        "_flow",
        "_limits",
        "_loop",
        "_paused",
        "_pieces",
        "_size",
        "_waited_s",
        "_waiter",
        "complete",
        "error",
        "received",
        "trailers",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: LimitsConfig,
        flow: Callable[[bool], None],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._flow = flow
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._waited_s = 0.0
        self.received = 0
        """Bytes that came in, read or not."""
        self.complete = False
        self.error: RequestError | None = None
        self.trailers: Fields = []

    # ── the connection's side ────────────────────────────────────────────────────────────────

    def announce(self, length: int) -> None:
        """So many bytes are to come: where that is too many, it has failed already."""
        if self._is_too_long(length):
            self.fail(self._too_long())

    def feed(self, piece: bytes) -> None:
        """Payload that came. Raises BodyTooLargeError."""
        self.received += len(piece)
        if self._is_too_long(self.received):
            raise self._too_long()
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > HIGH_BYTES and not self._paused:
            self._paused = True
            self._flow(False)
        self._wake()

    def _is_too_long(self, length: int) -> bool:
        return 0 < self._limits.body_bytes < length

    def _too_long(self) -> BodyTooLargeError:
        most = self._limits.body_bytes
        return BodyTooLargeError(f"the request's body is longer than {most} bytes")

    def finish(self, trailers: Fields) -> None:
        self.complete = True
        self.trailers = trailers
        self._wake()

    def fail(self, error: RequestError) -> None:
        """It will never be complete; whoever reads it is told why."""
        if not self.complete and self.error is None:
            self.error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ── the reader's side ────────────────────────────────────────────────────────────────────

    async def read(self, silence_s: float) -> bytes:
        """What is here; else the next piece, empty at the end. Cancelled, it loses nothing.

        Raises the RequestError the body failed with, ClientTimeoutError after `silence_s` without
        a byte, or where the client is slower than limits.body_rate.
        """
        while not self._pieces:
            if self.error is not None:
                raise self.error
            if self.complete:
                return b""
            await self._more(silence_s)
        if len(self._pieces) == 1:
            piece = self._pieces.popleft()
        else:
            piece = b"".join(self._pieces)
            self._pieces.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._flow(True)
        return piece

    async def _more(self, silence_s: float) -> None:
        began = self._loop.time()
        limit_s, why = self._patience(silence_s)
        self._waiter = self._loop.create_future()
        try:
            async with asyncio.timeout(limit_s):
                await self._waiter
        except TimeoutError:
            raise ClientTimeoutError(why) from None
        finally:
            self._waiter = None
            self._waited_s += self._loop.time() - began

    def _patience(self, silence_s: float) -> tuple[float | None, str]:
        """How long to wait for the next piece, and what to say after that. Only time spent waiting
        for the client counts: while a backend is slow to take it, the client cannot send."""
        rate = self._limits.body_rate
        silence = silence_s or None
        stalled = "the request's body stalled"
        if not rate:
            return silence, stalled
        left_s = max(PACE_GRACE_S, self.received / rate) - self._waited_s
        if silence is not None and silence < left_s:
            return silence, stalled
        return max(left_s, 0.0), f"the request's body comes at less than {rate} bytes a second"
