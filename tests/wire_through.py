"""A client's bytes sent through a real proxy to a backend that records what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

import h11

from lb import exchange
from lb.errors import RequestError
from lb.wire.head import RequestHead
from tests.proxy_harness import PATIENCE_S, Proxied, proxied
from tests.wire_reading import Read, Taken, same_boundaries, take_requests


class Recorder:
    """A backend read by h11; `seen` is every request that came whole, `garbage` what is none."""

    def __init__(self) -> None:
        self.seen: list[Read] = []
        self.garbage: list[str] = []
        self.address = ""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Recorder]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Recording(self), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        try:
            yield self
        finally:
            server.close()


class _Recording(asyncio.Protocol):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._read = Read()
        self._transport: asyncio.Transport
        self._parser = h11.Connection(h11.SERVER)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.receive_data(data)
        try:
            while self._next(self._parser.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self._recorder.garbage.append(f"{error!r} in {data!r}")
            self._transport.abort()

    def _next(self, event: object) -> bool:
        if isinstance(event, h11.Request):
            self._read = Read(event.method, event.target)
        elif isinstance(event, h11.Data):
            self._read.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            self._recorder.seen.append(self._read)
            self._send(h11.Response(status_code=200, headers=[("Content-Length", "2")]))
            if self._read.start != b"HEAD":
                self._send(h11.Data(data=b"ok"))
            self._send(h11.EndOfMessage())
            self._parser.start_next_cycle()
        else:
            return False
        return True

    def _send(self, event: h11.Event) -> None:
        if data := self._parser.send(event):
            self._transport.write(data)


@contextlib.asynccontextmanager
async def recorded(**settings: Any) -> AsyncIterator[tuple[Proxied, Recorder]]:
    async with Recorder().listening() as recorder, proxied(recorder.address, **settings) as proxy:
        yield proxy, recorder


async def through(port: int, pieces: Iterable[bytes]) -> bytes:
    """Send the pieces, close our side, and read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    came = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write_eof()
                while piece := await reader.read(65536):
                    came += piece
            except ConnectionError:
                pass
    finally:
        writer.transport.abort()
    return came


def expected(data: bytes) -> tuple[Taken, list[tuple[bytes, bytes, bytes]]]:
    """What a backend must see of these bytes: each request we read, but those answered by us."""
    taken = take_requests(data)
    wanted = []
    for read in taken.read:
        head = RequestHead(read.start.decode(), read.target, (1, 1), read.fields)
        asked = exchange.Asked(head, None, b"", keep_alive=True, upgrade=None)
        if exchange.last_hop(asked, b"") is None:
            target = _origin(head)
            wanted.append((read.start, target, read.body))
    return taken, wanted


def _origin(head: RequestHead) -> bytes:
    try:
        return exchange.origin_form(head)[1]
    except RequestError:
        return head.target


async def check_through(
    proxy: Proxied, recorder: Recorder, data: bytes, pieces: Iterable[bytes]
) -> int:
    """The number of requests the backend saw, after asserting that they are those of the bytes."""
    recorder.seen.clear()
    await through(proxy.port, pieces)
    taken, wanted = expected(data)
    seen = [read.meaning for read in recorder.seen]
    assert not recorder.garbage, (data, recorder.garbage)
    assert seen == wanted, (data, seen)
    same_boundaries(data, taken)
    return len(seen)
