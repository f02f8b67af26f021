"""A backend that does as it is told, over raw sockets: late, half, garbage, reset, never ending.

A script is an async function of one `Exchange`; it reads what it wants and sends what bytes it
wants. What arrived is kept in `seen`, byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

Script = Callable[["Exchange"], Awaitable[None]]

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(slots=True)
class Seen:
    """One request as it arrived; the body as far as the script read it, unchunked."""

    head: bytes
    method: str
    target: bytes
    fields: list[tuple[bytes, bytes]]
    connection: int
    """Number of the connection it came on, from 0."""
    body: bytearray = field(default_factory=bytearray)

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name.lower()]


class Exchange:
    """One request on one connection, in a script's hands."""

    def __init__(
        self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.seen = seen
        self._reader = reader
        self._writer = writer
        self._body_read = False
        self.keep = True
        """Set False to close the connection after this exchange."""

    @property
    def path(self) -> bytes:
        return self.seen.target.partition(b"?")[0]

    @property
    def port(self) -> int:
        """Where the backend listens."""
        return int(self._writer.get_extra_info("sockname")[1])

    async def read_body(self) -> bytes:
        """All of the body, by its framing."""
        async for _ in self.pieces():
            pass
        return bytes(self.seen.body)

    async def pieces(self, *, keep: bool = True) -> AsyncIterator[bytes]:
        """The body piece by piece; `keep=False` forgets them (for bodies larger than memory)."""
        if self._body_read:
            return
        self._body_read = True
        length = self.seen.values(b"Content-Length")
        if self.seen.values(b"Transfer-Encoding"):
            while size := int(await self._reader.readline(), 16):
                piece = await self._reader.readexactly(size)
                await self._reader.readexactly(2)
                if keep:
                    self.seen.body += piece
                yield piece
            await self._reader.readline()
        elif length:
            left = int(length[0])
            while left:
                piece = await self._reader.read(min(left, 65536))
                if not piece:
                    raise ConnectionResetError
                left -= len(piece)
                if keep:
                    self.seen.body += piece
                yield piece

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self, most: int = 65536) -> bytes:
        """Whatever comes next, empty at the end."""
        return await self._reader.read(most)

    def half_close(self) -> None:
        """Send no more; go on reading."""
        self._writer.write_eof()

    async def answer(
        self, body: bytes = b"ok", status: bytes = b"200 OK", *fields: tuple[bytes, bytes]
    ) -> None:
        """Read the body, then answer with a Content-Length."""
        await self.read_body()
        lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body)]
        lines += [name + b": " + value for name, value in fields]
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def reset(self) -> None:
        """End the connection with a TCP reset, at once."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        self.keep = False

    async def client_gone(self) -> None:
        """Wait until the other side has closed."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65536):
                pass
        self.keep = False


class FakeBackend:
    """Listens on a loopback port and runs `script` for every request.

    `GET /readyz` is answered by itself, with `ready`'s status, so that probes need no script.
    """

    def __init__(self, script: Script | None = None, *, ready: int = 200) -> None:
        self.script: Script = script if script is not None else answer_ok
        self.ready = ready
        self.seen: list[Seen] = []
        self.probes = 0
        self.connections = 0
        """Connections accepted so far."""
        self.open = 0
        self.address = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        host, bound = self._server.sockets[0].getsockname()
        self.address = f"{host}:{bound}"
        return self

    async def stop(self) -> None:
        """Stop listening and reset whatever is open, as a killed VM does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in tuple(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number = self.connections
        self.connections += 1
        self.open += 1
        try:
            await self._exchanges(number, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.transport.abort() if writer.transport.is_closing() else writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchanges(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            seen = parse_head(head, number)
            exchange = Exchange(seen, reader, writer)
            if seen.target == b"/readyz":
                self.probes += 1
                await exchange.answer(b"", b"%d Probed" % self.ready)
                continue
            self.seen.append(seen)
            await self.script(exchange)
            if not exchange.keep:
                return


def parse_head(head: bytes, connection: int = 0) -> Seen:
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, _version = first.split(b" ")
    fields = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    return Seen(head, method.decode(), target, fields, connection)


# ── scripts ──────────────────────────────────────────────────────────────────────────────────────


async def answer_ok(exchange: Exchange) -> None:
    await exchange.answer()


def send(*pieces: bytes, then: str = "keep") -> Script:
    """Read the request, send these bytes as they are, then `keep`, `close`, `reset` or `hang`.

    Pieces leave 20 ms apart, so that they mostly arrive apart.
    """

    async def script(exchange: Exchange) -> None:
        await exchange.read_body()
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(0.02)
            await exchange.send(piece)
        if then == "reset":
            # Let the bytes arrive first: a reset overtakes what the other side has not yet read.
            await asyncio.sleep(0.05)
            exchange.reset()
        elif then == "hang":
            await exchange.client_gone()
        exchange.keep = then == "keep"

    return script


async def reset_at_once(exchange: Exchange) -> None:
    exchange.reset()


async def hang(exchange: Exchange) -> None:
    """Read everything, answer nothing."""
    await exchange.client_gone()


def in_turn(scripts: Iterable[Script]) -> Script:
    """The first request gets the first script, the second the second; then `ok`."""
    left = iter(scripts)

    async def script(exchange: Exchange) -> None:
        await next(left, answer_ok)(exchange)

    return script


def refused_address() -> str:
    """A loopback address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
