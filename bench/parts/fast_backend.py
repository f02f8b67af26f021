"""A backend that costs next to nothing: canned answers by path on uvloop, in one process.

What stands behind a proxy whose own price is asked for. `/42`, `/10k`, `/1m` are answers of that
size; `/head` says which head arrived; `/stream?N` is an answer of N bytes, `/large` one that does
not end; a body is taken in and answered with how long it was. It believes heads, and knows bodies
by their Content-Length only: what its clients send has one.
`python -m bench.parts.fast_backend PORT…` serves until it is ended, and says so with a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from typing import Final, cast

import uvloop

from bench.parts.slow import BEGINNING

SIZES: Final = {"/42": 42, "/10k": 10 * 1024, "/1m": 1024 * 1024, "/readyz": 0}
PIECE: Final = bytes(256 * 1024)
LISTENING: Final = "listening"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def answer(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


CANNED: Final = {path.encode(): answer(b"x" * size) for path, size in SIZES.items()}


class Exchange(asyncio.Protocol):
    """One connection; requests in turn."""

    def __init__(self) -> None:
        self._input = b""
        self._left = 0
        """Bytes of the body that are to come."""
        self._length = 0
        self._streaming: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, _: Exception | None) -> None:
        if self._streaming is not None:
            self._streaming.cancel()

    def data_received(self, data: bytes) -> None:
        whole = data.startswith(b"GET /") and data.find(b"\r\n\r\n") == len(data) - 4
        if whole and not self._input and not self._left:  # nearly always
            canned = CANNED.get(data[4 : data.index(b" ", 4)])
            if canned is not None:
                self._transport.write(canned)
                return
        self._slowly(data)

    def _slowly(self, data: bytes) -> None:
        while data or self._input:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
                if self._left:
                    return
                self._transport.write(answer(b"%d" % self._length))
                continue
            data, self._input = self._input + data, b""
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._input = head
                return
            self._request(head + b"\r\n")

    def _request(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if length := _LENGTH.search(head):
            self._left = self._length = int(length[1])
            if self._left:
                return
        if path == b"/head":
            self._transport.write(answer(head))
        elif path == b"/large":
            self._transport.write(BEGINNING)
        elif path.startswith(b"/stream?"):
            self._streaming = asyncio.get_running_loop().create_task(self._stream(int(path[8:])))
        else:
            self._transport.write(CANNED.get(path) or CANNED[b"/42"])

    async def _stream(self, size: int) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while size > 0:
            await self._writable.wait()
            self._transport.write(PIECE[:size])
            size -= len(PIECE)


async def serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for port in ports:
            server = await loop.create_server(Exchange, "127.0.0.1", port, backlog=4096)
            await stack.enter_async_context(server)
        print(LISTENING, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve([int(word) for word in sys.argv[1:]]))
