"""One end of a TCP connection that keeps every byte that came and knows how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from enum import Enum
from typing import cast


class Ended(Enum):
    FIN = "fin"
    RESET = "reset"


class Wire(asyncio.Protocol):
    """Records; sends what it is told. Stays writable after the other side's end."""

    def __init__(self, changed: Callable[[Wire], None] = lambda wire: None) -> None:
        self.received = bytearray()
        self.ended: Ended | None = None
        self.transport: asyncio.Transport
        self._changed = changed
        self._pulse = asyncio.Event()
        self._lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by class
        self._tell()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._tell()

    def eof_received(self) -> bool:
        self.ended = self.ended or Ended.FIN
        self._tell()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = self.ended or (Ended.RESET if error is not None else Ended.FIN)
        self._lost.set()
        self._tell()

    def _tell(self) -> None:
        self._pulse.set()
        self._changed(self)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until this holds; looked at whenever something changes here. Ends with the
        connection, too."""
        while not condition() and self.ended is None:
            self._pulse.clear()
            await self._pulse.wait()

    def pulse(self) -> None:
        """Something elsewhere changed that somebody here may wait for."""
        self._pulse.set()

    async def send(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def half_close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.transport.write_eof()

    def close(self) -> None:
        self.transport.close()

    async def drop(self) -> None:
        """Close, whatever is still to be sent, and wait until that is done."""
        self.transport.abort()
        await self._lost.wait()

    def reset(self) -> None:
        sock: socket.socket | None = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
