"""Small scripted HTTP servers on loopback for the load tester's tests.

A script gets one connection; it reads requests with `request()` and writes what it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """One accepted connection. `number` counts from 0 in order of acceptance."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The next request's head; IncompleteReadError when the client is gone."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self, *pieces: bytes) -> None:
        """Writes the pieces as separate segments as far as the kernel lets us."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    def reset(self) -> None:
        """Closes with RST."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


async def always_ok(peer: Peer) -> None:
    """Answers 200 for as long as it is asked."""
    while True:
        await peer.request()
        await peer.answer(OK)


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[str]:
    """The URL of a server that plays the script on each connection."""
    playing: set[asyncio.Task[None]] = set()
    accepted = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        task = asyncio.current_task()
        assert task is not None
        playing.add(task)
        peer = Peer(accepted, reader, writer)
        accepted += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await script(peer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            playing.discard(task)

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in list(playing):
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)
        await server.wait_closed()


def refusing_url() -> str:
    """A loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"
