"""A strict HTTP/1.1 client: sends once, repeats nothing, and calls every oddity a failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self

PATIENCE_S = 60.0


class FailedError(Exception):
    """An answer that is not what was asked for, or none; the message says what came."""


class Connection:
    """One connection. A request that fails leaves it unusable: make another."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self.closing = False
        """The proxy said that this was the last answer here."""

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        chunked: bool = False,
        pause_s: float = 0.0,
    ) -> bytes:
        """One request and its whole answer's body. `pause_s`: between two pieces, both ways.
        An answer that begins before the request's end may be the connection's last. Raises
        FailedError where it is not a 200, whole."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                sending = asyncio.create_task(self._send(method, target, body, chunked, pause_s))
                try:
                    answer = await self._answer(method, pause_s, bool(body))
                    await sending
                finally:
                    sending.cancel()
                return answer
        except (ConnectionError, EOFError, ValueError, TimeoutError) as error:
            raise FailedError(f"{method} {target}: {type(error).__name__} {error}") from error

    async def _send(
        self, method: str, target: str, body: bytes, chunked: bool, pause_s: float
    ) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: soak.example"]
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        elif body:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        for begin in range(0, len(body), 16384):
            piece = body[begin : begin + 16384]
            self.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await self.writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)
        if chunked:
            self.writer.write(b"0\r\n\r\n")

    async def _answer(self, method: str, pause_s: float, sending: bool) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        status = first.split(" ", 2)[1]
        fields = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
        body = bytearray()
        if method != "HEAD":
            async for piece in self._pieces(fields):
                body += piece
                if pause_s:
                    await asyncio.sleep(pause_s)
        if status != "200":
            raise ValueError(f"{status} {bytes(body[:300])!r}")
        self.closing = fields.get("connection", "").lower() == "close"
        if self.closing and not sending:
            raise ValueError("the proxy closed a kept connection for nothing")
        return bytes(body)

    async def _pieces(self, fields: dict[str, str]) -> AsyncIterator[bytes]:
        if "content-length" in fields:
            left = int(fields["content-length"])
            while left:
                piece = await self.reader.read(min(left, 16384))
                if not piece:
                    raise EOFError("cut within the body")
                left -= len(piece)
                yield piece
        elif fields.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                yield await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        else:
            raise ValueError("an answer without framing")
