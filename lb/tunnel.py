"""A tunnel: after a 101, bytes pass between client and backend as they are, both ways.

Back-pressure passes through it: who does not take bytes stops the other from being read. Ends when
both sides have closed theirs, when one breaks, or when neither has said a word for too long.
"""

from __future__ import annotations

import asyncio
from typing import Final

from lb.backend_connection import BackendConnection
from lb.client_connection import ClientConnection
from lb.deadline import Deadline, Wheel

# Of a tunnel that one side has closed.
HALF_IDLE_S: Final = 60.0


class Tunnel:
    """`await over()` is its whole life."""

    def __init__(
        self,
        client: ClientConnection,
        backend: BackendConnection,
        idle_s: float,
        wheel: Wheel,
    ) -> None:
        self._client = client
        self._backend = backend
        self._idle_s = idle_s
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deadline = Deadline(wheel, self)
        self._ended = 0
        self.to_client_bytes = 0
        self.to_backend_bytes = 0

    async def over(self) -> None:
        """Join the two, and wait for the end; cancelled, both are cut."""
        self._deadline.after(self._idle_s)
        try:
            self._backend.enter_tunnel(self)
            self._client.enter_tunnel(self)
            await self._done
            self._backend.transport.close()
        except BaseException:
            self._backend.close()
            raise
        finally:
            self._deadline.close()

    def expired(self) -> None:
        """Neither has said a word for too long."""
        self._end()

    def _end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _half_ended(self) -> None:
        self._ended += 1
        if self._ended == 2:
            self._end()
            return
        # Whoever closed one way may have gone altogether, which only silence tells.
        self._idle_s = min(self._idle_s, HALF_IDLE_S) if self._idle_s else HALF_IDLE_S
        self._deadline.after(self._idle_s)

    # ── from the client ──────────────────────────────────────────────────────────────────────

    def from_client(self, data: bytes) -> None:
        self._deadline.after(self._idle_s)
        self.to_backend_bytes += len(data)
        self._backend.write(data)

    def client_ended(self) -> None:
        transport = self._backend.transport
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            self._half_ended()
        else:
            self._end()

    def client_lost(self) -> None:
        self._end()

    def client_full(self, full: bool) -> None:
        self._backend.pause_tunnel(full)

    # ── from the backend ─────────────────────────────────────────────────────────────────────

    def from_backend(self, data: bytes) -> None:
        transport = self._client.transport
        if transport is None or transport.is_closing():
            self._end()
            return
        self._deadline.after(self._idle_s)
        self.to_client_bytes += len(data)
        transport.write(data)

    def backend_ended(self) -> None:
        transport = self._client.transport
        if transport is not None and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            self._half_ended()
        else:
            self._end()

    def backend_lost(self) -> None:
        self._end()

    def backend_full(self, full: bool) -> None:
        self._client.pause_tunnel(full)
