"""Large answers of known length, from one connection to the other: whole, bounded, given up."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from tests.fake_backend import Exchange, send
from tests.proxy_harness import one, until

MIB = 1 << 20
LARGE = bytes(range(256)) * (3 * MIB // 256)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def head(size: int) -> bytes:
    return HEAD % size


async def in_odd_pieces(exchange: Exchange) -> None:
    await exchange.send(head(len(LARGE)))
    at, size = 0, 1
    while at < len(LARGE):
        await exchange.send(LARGE[at : at + size])
        at += size
        size = size * 3 % 99_991
        if size % 5 == 0:
            await asyncio.sleep(0)


async def test_it_comes_whole_whatever_its_pieces_and_the_connection_stays() -> None:
    async with one(in_odd_pieces) as (proxy, backend), proxy.client() as client:
        for _ in range(3):
            await client.request("GET", "/")
            assert (await client.answer()).body == LARGE
        assert [seen.connection for seen in backend.seen] == [0, 0, 0]


async def test_a_slow_trickle_goes_on_and_silence_is_cut() -> None:
    async def trickle(exchange: Exchange) -> None:
        await exchange.send(head(100_000) + bytes(99_000))
        for _ in range(6):
            await asyncio.sleep(0.15)
            await exchange.send(b"x")
        await asyncio.sleep(30)

    settings = {"between_bytes": 0.4}
    async with one(trickle, timeouts=settings) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/")
        await client.reader.readuntil(b"\r\n\r\n")
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := await client.reader.read(65536):
                got += len(piece)
        assert got == 99_006
        await until(lambda: proxy.counters.upstream_errors == {"body_timeout": 1})


async def test_a_backend_that_breaks_off_is_passed_on_as_that() -> None:
    async def short(exchange: Exchange) -> None:
        await exchange.send(head(200_000) + bytes(150_000))
        await asyncio.sleep(0.05)
        exchange.reset()

    async with one(short) as (proxy, _):
        answer = await proxy.get()
        assert not answer.whole
        await until(lambda: proxy.counters.upstream_errors == {"body_cut": 1})


async def test_what_exceeds_the_announced_length_reaches_nobody() -> None:
    async def more(exchange: Exchange) -> None:
        await exchange.send(head(100_000) + bytes(99_999))
        await asyncio.sleep(0.02)
        await exchange.send(b"xHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with one(more) as (proxy, backend), proxy.client() as client:
        for _ in range(2):
            await client.request("GET", "/")
            assert (await client.answer()).body == bytes(99_999) + b"x"
        assert [seen.connection for seen in backend.seen] == [0, 1]


async def test_a_client_that_reads_nothing_holds_its_backend_up_not_our_memory() -> None:
    sent = 0

    async def endless(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(head(64 * MIB))
        for _ in range(64 * 16):
            await exchange.send(bytes(MIB // 16))
            sent += MIB // 16

    async with one(endless) as (proxy, _):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", proxy.port))
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.3)
            (connection,) = proxy.server.proxy.connections
            assert connection.transport is not None
            assert connection.transport.get_write_buffer_size() < MIB
            assert sent < 32 * MIB
            got = 0
            while got < 64 * MIB:
                piece = await loop.sock_recv(client, MIB)
                assert piece
                got += len(piece)
        await until(lambda: proxy.codes() == {200: 1})


async def test_a_client_that_leaves_ends_it_at_the_backend() -> None:
    left = asyncio.Event()

    async def endless(exchange: Exchange) -> None:
        await exchange.send(head(1 << 40))
        try:
            while True:
                await exchange.send(bytes(MIB))
        except ConnectionError:
            left.set()

    async with one(endless) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/")
        await client.reader.readexactly(2 * MIB)
        client.abort()
        async with asyncio.timeout(10):
            await left.wait()
        await until(lambda: proxy.codes() == {499: 1})


async def test_a_small_first_part_does_not_hold_up_the_rest() -> None:
    script = send(head(70_000), b"a" * 10, b"b" * 69_990)
    async with one(script) as (proxy, _):
        assert (await proxy.get()).body == b"a" * 10 + b"b" * 69_990
