"""Clients that vanish or stall, bodies of any size: nothing is left behind, nothing piles up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tests.fake_backend import (
    CHUNKED,
    Exchange,
    hang,
)
from tests.proxy_harness import one, reason_of, until

MIB = 1024 * 1024


# ── clients that vanish ───────────────────────────────────────────────────────────────────────────


async def test_a_client_that_hangs_up_cancels_the_upstream_and_blames_nobody() -> None:
    async with one(hang) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/")
        await until(lambda: len(backend.seen) == 1)
        client.abort()
        await proxy.settled(1)
        assert proxy.codes() == {499: 1}
        await until(lambda: backend.open == 0)
        (view,) = proxy.pool.snapshot()
        assert (view.failures_total, view.healthy, view.in_flight) == (0, True, 0)
        assert proxy.counters.upstream_errors == {}


async def test_a_client_that_vanishes_within_its_body_is_499() -> None:
    async def read(exchange: Exchange) -> None:
        await exchange.read_body()

    async with one(read) as (proxy, backend), proxy.client() as client:
        await client.request("POST", "/", "Content-Length: 100", body=b"x" * 10)
        await until(lambda: len(backend.seen) == 1)
        client.abort()
        await proxy.settled(1)
        assert proxy.codes() == {499: 1}
        await until(lambda: backend.open == 0)
        assert proxy.counters.upstream_errors == {}


async def endless(exchange: Exchange) -> None:
    await exchange.send(CHUNKED)
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    while True:
        await exchange.send(piece)


async def test_a_client_that_vanishes_within_the_answer_is_499() -> None:
    async with one(endless) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/")
        await client.reader.readexactly(100_000)
        client.abort()
        await proxy.settled(1)
        assert proxy.codes() == {499: 1}
        await until(lambda: backend.open == 0)
        assert proxy.counters.upstream_errors == {}


async def test_a_malformed_chunk_from_the_client_is_its_own_fault() -> None:
    async def read(exchange: Exchange) -> None:
        await exchange.read_body()

    async with (
        one(read, timeouts={"between_bytes": 1.0}) as (proxy, _),
        proxy.client() as client,
    ):
        await client.request("POST", "/", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n")
        await asyncio.sleep(0.05)
        await client.send(b"ZZ\r\n")
        answer = await client.answer()
        assert answer.status in (400, 408)
        assert proxy.counters.upstream_errors == {}


async def test_a_client_that_stops_sending_is_408() -> None:
    async def read(exchange: Exchange) -> None:
        await exchange.read_body()

    async with (
        one(read, timeouts={"between_bytes": 0.3}) as (proxy, _),
        proxy.client() as client,
    ):
        await client.request("POST", "/", "Content-Length: 100", body=b"x" * 10)
        answer = await client.answer()
        assert (answer.status, reason_of(answer.body)) == (408, "client_timeout")
        assert proxy.counters.upstream_errors == {}


async def test_a_backend_that_stops_reading_is_504() -> None:
    stop = asyncio.Event()

    async def deaf(exchange: Exchange) -> None:
        await stop.wait()

    async with (
        one(deaf, timeouts={"between_bytes": 0.5}) as (proxy, _),
        proxy.client() as client,
    ):
        await client.request("POST", "/", f"Content-Length: {64 * MIB}")
        sender = asyncio.ensure_future(client.send(b"x" * (64 * MIB)))
        answer = await client.answer()
        stop.set()
        sender.cancel()
        assert (answer.status, reason_of(answer.body)) == (504, "send_timeout")


# ── large bodies ──────────────────────────────────────────────────────────────────────────────────


async def test_a_large_body_streams_up_whole() -> None:
    total = 0

    async def sink(exchange: Exchange) -> None:
        nonlocal total
        async for piece in exchange.pieces(keep=False):
            total += len(piece)
        await exchange.answer()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(MIB)

    async with one(sink) as (proxy, _), proxy.client() as client:
        await client.request("POST", "/", f"Content-Length: {64 * MIB}")
        async for piece in pieces():
            await client.send(piece)
        assert (await client.answer()).status == 200
    assert total == 64 * MIB


async def test_a_large_answer_streams_down_whole() -> None:
    async def source(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(64):
            await exchange.send(bytes(MIB))

    async with one(source) as (proxy, _):
        answer = await proxy.get()
    assert len(answer.body) == 64 * MIB


async def test_a_slow_client_holds_the_backend_back() -> None:
    sent = 0

    async def source(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (512 * MIB))
        while True:
            await exchange.send(bytes(MIB))
            sent += MIB

    async with one(source) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/")
        await client.reader.readuntil(b"\r\n\r\n")
        last = -1
        while last != sent:
            last = sent
            await asyncio.sleep(0.3)
        # What the kernel buffers on two loopback connections, and no more: not the body.
        assert sent < 64 * MIB
        client.abort()
        await proxy.settled(1)


async def test_a_slow_backend_holds_the_client_back() -> None:
    stop = asyncio.Event()

    async def deaf(exchange: Exchange) -> None:
        await stop.wait()

    taken = 0
    async with one(deaf) as (proxy, _), proxy.client() as client:
        await client.request("POST", "/", f"Content-Length: {512 * MIB}")

        async def push() -> None:
            nonlocal taken
            while True:
                await client.send(bytes(MIB))
                taken += MIB

        pusher = asyncio.ensure_future(push())
        last = -1
        while last != taken:
            last = taken
            await asyncio.sleep(0.3)
        assert taken < 64 * MIB
        pusher.cancel()
        client.abort()
        stop.set()
        await proxy.settled(1)
