"""A connection to a backend over real sockets: what comes, what is held back, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from lb.backend_connection import HIGH_BYTES, BackendConnection
from lb.sockets import reset
from tests.proxy_harness import until

MIB = 1024 * 1024


@dataclass
class Ends:
    """Both ends of one connection; the backend's is a plain stream."""

    connection: BackendConnection
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@asynccontextmanager
async def connected() -> AsyncIterator[Ends]:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(
        lambda *streams: accepted.put_nowait(streams), "127.0.0.1", 0
    )
    async with server:
        _, connection = await loop.create_connection(
            lambda: BackendConnection(loop), *server.sockets[0].getsockname()
        )
        reader, writer = await accepted.get()
        try:
            yield Ends(connection, reader, writer)
        finally:
            connection.close()
            writer.transport.abort()


async def received(connection: BackendConnection, size: int) -> bytes:
    while len(connection.buffer) < size:
        assert not connection.ended
        await connection.more()
    return connection.take(size)


async def test_bytes_come_in_order_and_are_taken_in_parts() -> None:
    async with connected() as ends:
        ends.writer.write(b"hello world")
        assert await received(ends.connection, 5) == b"hello"
        assert await received(ends.connection, 6) == b" world"
        assert ends.connection.take(100) == b""


async def test_more_than_the_bound_is_not_read_ahead() -> None:
    async with connected() as ends:
        ends.writer.write(bytes(16 * MIB))
        await ends.connection.more()
        held = -1
        while held != len(ends.connection.buffer):
            held = len(ends.connection.buffer)
            await asyncio.sleep(0.05)
        assert HIGH_BYTES < held < HIGH_BYTES + MIB
        total = 0
        while total < 16 * MIB:
            total += len(ends.connection.take(HIGH_BYTES))
            if not ends.connection.buffer and total < 16 * MIB:
                await ends.connection.more()
        assert total == 16 * MIB


async def test_an_end_is_told_after_what_came_before_it() -> None:
    async with connected() as ends:
        ends.writer.write(b"bye")
        ends.writer.close()
        while not ends.connection.ended:
            await ends.connection.more()
        assert ends.connection.take(10) == b"bye"
        await ends.connection.more()
        assert ends.connection.lost is None


async def test_a_reset_is_an_end_with_a_reason() -> None:
    async with connected() as ends:
        reset(ends.writer.transport)
        while not ends.connection.ended:
            await ends.connection.more()
        await until(lambda: ends.connection.lost is not None)


async def test_a_poke_wakes_who_waits() -> None:
    async with connected() as ends:
        waiting = asyncio.ensure_future(ends.connection.more())
        await asyncio.sleep(0)
        ends.connection.poke()
        await waiting


async def test_a_writer_waits_for_a_backend_that_does_not_read() -> None:
    async with connected() as ends:
        await ends.connection.drain()
        ends.connection.transport.write(bytes(16 * MIB))
        draining = asyncio.ensure_future(ends.connection.drain())
        await asyncio.sleep(0.05)
        assert not draining.done()
        assert not ends.connection.clean
        await ends.reader.readexactly(16 * MIB)
        await draining
        assert ends.connection.clean


async def test_a_writer_does_not_wait_for_one_that_is_gone() -> None:
    async with connected() as ends:
        ends.connection.transport.write(bytes(16 * MIB))
        draining = asyncio.ensure_future(ends.connection.drain())
        await asyncio.sleep(0)
        reset(ends.writer.transport)
        async with asyncio.timeout(10):
            await draining


@pytest.mark.parametrize("news", [b"unasked", b""])
async def test_one_at_rest_tells_of_anything_that_happens(news: bytes) -> None:
    told = asyncio.Event()
    async with connected() as ends:
        assert ends.connection.clean
        ends.connection.on_idle_news = told.set
        ends.connection.rest(1.0)
        if news:
            ends.writer.write(news)
        else:
            ends.writer.close()
        async with asyncio.timeout(10):
            await told.wait()
        assert not ends.connection.clean


async def test_one_that_works_again_tells_nobody() -> None:
    told = asyncio.Event()
    async with connected() as ends:
        ends.connection.on_idle_news = told.set
        ends.connection.rest(1.0)
        ends.connection.resting = False
        ends.writer.write(b"answer")
        assert await received(ends.connection, 6) == b"answer"
        assert not told.is_set()


async def test_closing_cuts_it() -> None:
    async with connected() as ends:
        ends.connection.close()
        assert not ends.connection.clean
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ends.reader.readexactly(1)


@dataclass
class Tunnel:
    heard: bytearray = field(default_factory=bytearray)
    events: list[str] = field(default_factory=list)

    def from_backend(self, data: bytes) -> None:
        self.heard += data

    def backend_ended(self) -> None:
        self.events.append("ended")

    def backend_lost(self) -> None:
        self.events.append("lost")

    def backend_full(self, full: bool) -> None:
        self.events.append("full" if full else "free")


async def test_a_tunnel_gets_what_is_here_and_what_comes() -> None:
    tunnel = Tunnel()
    async with connected() as ends:
        ends.writer.write(b"ahead ")
        while not ends.connection.buffer:
            await ends.connection.more()
        ends.connection.enter_tunnel(tunnel)
        ends.writer.write(b"later")
        await until(lambda: tunnel.heard == b"ahead later")
        ends.connection.transport.write(bytes(16 * MIB))
        assert tunnel.events == ["full"]
        await ends.reader.readexactly(16 * MIB)
        await until(lambda: tunnel.events == ["full", "free"])
        ends.writer.write_eof()
        await until(lambda: "ended" in tunnel.events)
        ends.connection.transport.write(b"still open this way")
        assert await ends.reader.readexactly(19) == b"still open this way"
        reset(ends.writer.transport)
        while "lost" not in tunnel.events:
            ends.connection.write(b"x")
            await asyncio.sleep(0.001)


async def test_a_tunnel_whose_backend_was_gone_before_is_over() -> None:
    """Its socket is closed with it: there is no half of it left to write to."""
    tunnel = Tunnel()
    async with connected() as ends:
        ends.writer.write(b"bye")
        ends.writer.close()
        while not ends.connection.ended:
            await ends.connection.more()
        await asyncio.sleep(0.05)
        ends.connection.enter_tunnel(tunnel)
        assert tunnel.heard == b"bye"
        assert tunnel.events[-1] == "lost"
