"""A backend that misbehaves from the first byte on: each connection is in a script's hands, raw.

`fake_backend` reads a request before its script begins; here not even that happens by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from tests.fake_backend import FakeBackend, parse_head

RawScript = Callable[["Wire"], Awaitable[None]]


@dataclass
class Wire:
    """One connection from the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    go: asyncio.Event
    """Set by the test once its client has seen what was sent so far."""
    seen: list[bytes] = field(default_factory=list)

    async def head(self) -> None:
        """Read a request's head; answer the prober's by itself."""
        while True:
            data = await self.reader.readuntil(b"\r\n\r\n")
            if parse_head(data).target != b"/readyz":
                self.seen.append(data)
                return
            await self.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        reset(self.writer)

    async def gone(self) -> None:
        """Wait until the proxy has closed, whatever it sends before."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a TCP reset, at once."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class RawBackend(FakeBackend):
    """Runs `raw` for every connection, and closes it after that."""

    def __init__(self, raw: RawScript) -> None:
        super().__init__()
        self.raw = raw
        self.go = asyncio.Event()
        self.heads: list[bytes] = []

    async def _exchanges(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await self.raw(Wire(reader, writer, self.go, self.heads))


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address whose connections are neither accepted nor refused: its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        place = listener.getsockname()
        # One connection fills a backlog of 0; the kernel drops the first packet of every other.
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(place)
        yield f"{place[0]}:{place[1]}"
