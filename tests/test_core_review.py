"""What a line-by-line reading of the proxy's core found: each was wrong once."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from lb.wire.chunked import ChunkReader
from tests.fake_backend import CHUNKED, OK, Exchange, answer_ok
from tests.proxy_harness import PATIENCE_S, one, proxied, until

KIB = 1024


# ── a body that nobody reads ──────────────────────────────────────────────────────────────────────


async def test_a_body_that_nobody_read_does_not_stop_the_next_request() -> None:
    async with one() as (proxy, _), proxy.client() as client:
        await client.request("TRACE", "/", "Max-Forwards: 0", f"Content-Length: {200 * KIB}", body=bytes(200 * KIB))
        await client.answer()
        await client.request("GET", "/")
        assert (await client.answer()).status == 200


async def test_one_that_the_backend_did_not_want_neither() -> None:
    async def early(exchange: Exchange) -> None:
        await exchange.send(OK)
        await exchange.client_gone()

    async with one(early) as (proxy, backend), proxy.client() as client:
        for _ in range(2):
            await client.request("POST", "/", f"Content-Length: {200 * KIB}", body=bytes(200 * KIB))
            answer = await client.answer()
            assert answer.status == 200
            if answer.value("Connection") == "close":
                return


# ── work that grows with the square ───────────────────────────────────────────────────────────────

def test_trailers_that_drip_in_are_looked_at_once() -> None:
    reader = ChunkReader(extension_bytes=256, trailer_bytes=65536, most_fields=128)
    reader.feed(b"0\r\n")
    began = time.process_time()
    for _ in range(60_000):
        reader.feed(b"a:\r\n"[:1])
    print("TRAILER", time.process_time() - began)


async def test_an_answer_head_that_drips_in() -> None:
    async def drip(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nX: ")
        for i in range(50000):
            exchange._writer.write(b"a")
            if i % 1 == 0: await asyncio.sleep(0)
        await exchange.send(b"\r\nContent-Length: 0\r\n\r\n")

    async with one(drip) as (proxy, _):
        t = time.process_time()
        await proxy.get()
        print("HEADDRIP", time.process_time() - t)


# ── half closed ───────────────────────────────────────────────────────────────────────────────────

async def test_bad_chunks_and_half_close_gets_its_400() -> None:
    async with one() as (proxy, _), proxy.client() as client:
        await client.request("POST", "/", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n")
        await asyncio.sleep(0.1)
        await client.send(b"ZZ\r\n")
        client.writer.write_eof()
        assert (await client.answer()).status == 400


async def test_half_closed_within_a_pipelined_body() -> None:
    async with one() as (proxy, _), proxy.client() as client:
        await client.request("GET", "/")
        await client.request("POST", "/", "Content-Length: 10", body=b"abc")
        client.writer.write_eof()
        assert (await client.answer()).status == 200
        async with asyncio.timeout(5):
            assert await client.ended()


async def test_a_half_closed_client_that_left_is_found_out_in_a_later_request_too() -> None:
    entered = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.path == b"/slow":
            entered.set()
            await exchange.client_gone()
        else:
            await asyncio.sleep(.1)
            await exchange.answer()

    async with one(script) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/")
        await client.request("GET", "/slow")
        client.writer.write_eof()
        assert (await client.answer()).status == 200
        await entered.wait()
        client.writer.transport.abort()
        async with asyncio.timeout(5):
            await proxy.settled(2)
        assert proxy.codes() == {200: 1, 499: 1}


async def test_head_with_bad_things() -> None:
    async with one() as (proxy, _), proxy.client() as client:
        await client.send(b"HEAD / HTTP/1.1\r\n\r\n")
        t = await client.reader.read()
        assert t.endswith(b"\r\n\r\n"), t
    async with one() as (proxy, _), proxy.client() as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n")
        t = await client.reader.read()
        assert t.endswith(b"\r\n\r\n"), t

# ── early answers ────

async def test_early_413_and_close_reaches_the_client() -> None:
    async def no(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
        exchange.keep = False
        exchange._writer.close()

    got = []
    async with one(no, timeouts={"between_bytes": 5}) as (proxy, _):
        for _ in range(30):
            async with proxy.client() as client:
                await client.request("POST", "/", f"Content-Length: {50 << 20}")
                async def push():
                    try:
                        for _ in range(50):
                            await client.send(bytes(1 << 20))
                    except ConnectionError: pass
                task = asyncio.ensure_future(push())
                try:
                    a = await client.answer(); got.append(a.status)
                except Exception as e: got.append(repr(e))
                task.cancel()
    print("EARLY", got)

# ── flush ────

async def test_a_client_that_reads_nothing_is_let_go() -> None:
    async def big(exchange: Exchange) -> None:
        await exchange.answer(bytes(5<<20))
    async with one(big, timeouts={"idle": .5, "between_bytes": .5}) as (proxy, _):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", proxy.port))
        await loop.sock_sendall(raw, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        # read until the rest is little
        await asyncio.sleep(.2)
        conn = next(iter(proxy.server.proxy.connections))
        n=0
        while conn._running:
            n+=len(await loop.sock_recv(raw, 4096)); await asyncio.sleep(0)
        print("PENDING", conn.transport.get_write_buffer_size(), n)
        try:
            await until(lambda: not proxy.server.proxy.connections, 4)
        finally:
            raw.close()


async def test_a_slow_reader_is_not_a_silent_one() -> None:
    async def big(exchange: Exchange) -> None:
        await exchange.answer(bytes(20<<20))
    async with one(big, timeouts={"between_bytes": .5}) as (proxy, _):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", proxy.port))
        await loop.sock_sendall(raw, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        n=0
        t=time.time()
        while time.time()-t<4:
            n+=len(await loop.sock_recv(raw, 16384)); await asyncio.sleep(0.05)
        print("SLOW", n, proxy.codes())
        raw.close()
        await proxy.settled(1)
