"""Bodies far larger than memory pass through a proxy of its own process: its memory stays flat."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from bench.parts.up import Up, lbctl_up
from tests.fake_backend import CHUNKED, Exchange, FakeBackend, Script
from tests.proxy_harness import PATIENCE_S, Client, until

MIB = 1024 * 1024
TEN_GIB = 10 * 1024 * MIB
PASSED = 256 * MIB
"""So much of it passes before the client leaves: enough to show whether any of it stays."""
MOST_GROWTH = 24 * MIB
AT_ONCE = 4

CONFIG = """
hypervisor = []
[proxy]
listen = "127.0.0.1:{port}"
[admin]
listen = "127.0.0.1:0"
[service.web]
backends = ["BACKEND"]
"""
PIECE = bytes(MIB)


async def pour(exchange: Exchange) -> None:
    """A body of 10 GiB, by length or chunked, as the path says."""
    if exchange.path == b"/small":
        return await exchange.answer()
    chunked = exchange.path == b"/chunked"
    head = CHUNKED if chunked else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % TEN_GIB
    await exchange.send(head)
    for _ in range(TEN_GIB // MIB):
        await exchange.send(b"%x\r\n%b\r\n" % (MIB, PIECE) if chunked else PIECE)
    return None


class Sink:
    """Takes bodies of 10 GiB, and counts."""

    def __init__(self) -> None:
        self.taken = 0
        self.reading = asyncio.Event()
        self.reading.set()

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.path == b"/small":
            return await exchange.answer()
        await self.reading.wait()
        async for piece in exchange.pieces(keep=False):
            self.taken += len(piece)
            await self.reading.wait()
        return None


@contextlib.asynccontextmanager
async def ground(script: Script) -> AsyncIterator[Up]:
    """A proxy that has served before, so that what it needs at all is there."""
    async with (
        FakeBackend(script) as backend,
        lbctl_up(CONFIG.replace("BACKEND", backend.address)) as up,
    ):
        await up.all_ready()
        for _ in range(50):
            await _small(up)
        before, files = up.rss_bytes(), up.files()
        yield up
        await _small(up)
        await until(lambda: up.files() <= files)
        assert up.rss_bytes() - before < MOST_GROWTH


async def _small(up: Up) -> None:
    async with Client(up.port) as client:
        await client.request("GET", "/small")
        assert (await client.answer()).body == b"ok"


@contextlib.asynccontextmanager
async def clients(up: Up) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Client(up.port)) for _ in range(AT_ONCE)]


@pytest.mark.parametrize("target", ["/length", "/chunked"])
async def test_ten_gib_down(target: str) -> None:
    async with ground(pour) as up, clients(up) as leaving:
        before, most = up.rss_bytes(), 0

        async def take(client: Client) -> None:
            nonlocal most
            await client.request("GET", target)
            taken = 0
            async with asyncio.timeout(PATIENCE_S * 3):
                while taken < PASSED // AT_ONCE:
                    taken += len(await client.reader.read(MIB))
                    most = max(most, up.rss_bytes())
            client.abort()

        await asyncio.gather(*(take(client) for client in leaving))
        assert most - before < MOST_GROWTH


@pytest.mark.parametrize("target", ["/length", "/chunked"])
async def test_ten_gib_down_to_who_does_not_read(target: str) -> None:
    async with ground(pour) as up, clients(up) as leaving:
        before = up.rss_bytes()
        for client in leaving:
            await client.request("GET", target)
            await client.reader.readuntil(b"\r\n\r\n")
        for _ in range(5):
            await _small(up)
            await asyncio.sleep(0.1)
        assert up.rss_bytes() - before < MOST_GROWTH
        for client in leaving:
            client.abort()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("reads", [True, False], ids=["a reader", "nobody"])
async def test_ten_gib_up(chunked: bool, reads: bool) -> None:
    sink = Sink()
    if not reads:
        sink.reading.clear()
    async with ground(sink) as up, clients(up) as leaving:
        before, most = up.rss_bytes(), 0

        async def give(client: Client) -> None:
            nonlocal most
            framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {TEN_GIB}"
            await client.request("POST", "/sink", framing)
            for _ in range(TEN_GIB // MIB):
                await client.send(b"%x\r\n%b\r\n" % (MIB, PIECE) if chunked else PIECE)
                most = max(most, up.rss_bytes())

        giving = [asyncio.create_task(give(client)) for client in leaving]
        if reads:
            await until(lambda: sink.taken >= PASSED, PATIENCE_S * 3)
        else:
            for _ in range(5):
                await _small(up)
                await asyncio.sleep(0.1)
        for task, client in zip(giving, leaving, strict=True):
            task.cancel()
            client.abort()
        assert max(most, up.rss_bytes()) - before < MOST_GROWTH
        sink.reading.set()
