"""The rest of a body of known length, from a backend's connection to a client's as it comes.

Nobody is woken for a piece: a task's turn with its timer costs as much as the kernel takes to move
64 KiB. Who waits here looks only when all is over, or one of the two is slow, silent or gone. Knows
bytes; whose fault an end is, is `backend_exchange`'s to say.
"""

from __future__ import annotations

import asyncio

from lb.backend_connection import BackendConnection
from lb.client_transport import ClientTransport
from lb.errors import BodyTimeoutError, ClientGoneError


class Pour:
    """`left` bytes are still to come. It is the backend connection's lane meanwhile."""

    __slots__ = ("_backend", "_client", "_gone", "_heard_at", "_loop", "_waiter", "left")

    def __init__(
        self,
        backend: BackendConnection,
        client: ClientTransport,
        left: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.left = left
        self._backend = backend
        self._client = client
        self._loop = loop
        self._heard_at = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._gone: ClientGoneError | None = None

    async def run(self, backend_silence_s: float, client_silence_s: float) -> None:
        """Returns at its end, or where the backend's connection ended before. Nothing may come from
        one, or be taken by the other, for so many seconds; 0 is for ever. Raises BodyTimeoutError
        and ClientFaultErrors."""
        backend, client = self._backend, self._client
        backend.lane = self
        self._heard_at = self._loop.time()
        try:
            ahead, backend.buffer = backend.buffer, b""
            if ahead:
                self.from_backend(ahead)
            while self.left:
                if client.writing_paused:
                    await client.drain(client_silence_s)
                    self._heard_at = self._loop.time()  # until now it was not listened to
                if self._gone is not None:
                    raise self._gone
                if backend.ended:
                    return
                backend.read(True)
                await self._news(backend_silence_s)
        finally:
            backend.lane = None
        if self._gone is not None:
            raise self._gone

    async def _news(self, silence_s: float) -> None:
        """May return without any."""
        waiter = self._waiter = self._loop.create_future()
        try:
            async with asyncio.timeout_at(self._heard_at + silence_s if silence_s else None):
                await waiter
        except TimeoutError:
            if self._loop.time() >= self._heard_at + silence_s:
                raise BodyTimeoutError("the answer's body stalled") from None
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ── the backend's connection ─────────────────────────────────────────────────────────────

    def from_backend(self, data: bytes) -> None:
        size = len(data)
        if size > self.left:
            # more than was announced: it stays there, and the connection is used no more
            self._backend.buffer += data[self.left :]
            data = data[: self.left]
            size = self.left
        if self._gone is not None or not size:
            return
        self.left -= size
        self._heard_at = self._loop.time()
        try:
            self._client.write(data)
        except ClientGoneError as error:
            self._gone = error
            self._wake()
            return
        if not self.left:
            self._wake()
        elif self._client.writing_paused:
            self._backend.read(False)
            self._wake()

    def broken(self) -> None:
        self._wake()
