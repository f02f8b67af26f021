"""Answers on their way to the client: whole, in order, with pressure, compressed where wanted."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Sequence
from typing import Any

import pytest

from tests.fake_backend import CHUNKED, Exchange, Script, send
from tests.proxy_harness import Answer, one, until

TEXT = b"all work and no play makes a dull proxy. " * 200
GZIP = {"compression": {"enabled": True}}
ACCEPT = "Accept-Encoding: gzip"


def answering(body: bytes, *lines: str, chunked: bool = False) -> Script:
    head = ["HTTP/1.1 200 OK", "Content-Type: text/plain; charset=utf-8", *lines]
    if chunked:
        head.append("Transfer-Encoding: chunked")
        pieces: Sequence[bytes] = [body[n : n + 500] for n in range(0, len(body), 500)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        body += b"0\r\nX-Sum: 9\r\n\r\n"
    else:
        head.append(f"Content-Length: {len(body)}")
    return send("\r\n".join(head).encode() + b"\r\n\r\n" + body)


async def asked(script: Script, *lines: str, **settings: Any) -> Answer:
    async with one(script, **{"service": GZIP, **settings}) as (proxy, _):
        return await proxy.get("/", *lines)


@pytest.mark.parametrize("chunked", [False, True])
async def test_text_is_compressed_for_who_takes_it(chunked: bool) -> None:
    script = answering(TEXT, 'ETag: "v1"', "Accept-Ranges: bytes", chunked=chunked)
    async with one(script, service=GZIP) as (proxy, _), proxy.client() as client:
        for _ in range(2):
            await client.request("GET", "/", ACCEPT)
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b"\r\nContent-Encoding: gzip\r\n" in head
            assert b"\r\nVary: Accept-Encoding\r\n" in head
            assert b'\r\nETag: W/"v1"\r\n' in head
            assert b"Content-Length" not in head
            assert b"Accept-Ranges" not in head
            body = bytearray()
            while size := int(await client.reader.readline(), 16):
                body += await client.reader.readexactly(size)
                assert await client.reader.readexactly(2) == b"\r\n"
            trailers = await client.reader.readuntil(b"\r\n")
            if chunked:
                assert trailers == b"X-Sum: 9\r\n"
                assert await client.reader.readline() == b"\r\n"
            assert gzip.decompress(body) == TEXT
            assert len(body) < len(TEXT) / 10


async def test_an_http_1_0_client_gets_it_compressed_until_the_end() -> None:
    async with one(answering(TEXT), service=GZIP) as (proxy, _), proxy.client() as client:
        await client.send(b"GET / HTTP/1.0\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        answer = await client.answer()
        assert answer.value("Transfer-Encoding") is None
        assert gzip.decompress(answer.body) == TEXT


@pytest.mark.parametrize(
    ("script", "line"),
    [
        (answering(TEXT), "Accept-Encoding: br"),
        (answering(TEXT), "Accept-Encoding: gzip;q=0"),
        (answering(TEXT), "X: y"),
        (answering(b"short"), ACCEPT),
        (answering(TEXT, "Cache-Control: no-transform"), ACCEPT),
        (answering(TEXT, "Content-Encoding: br"), ACCEPT),
    ],
)
async def test_whatever_else_passes_as_it_is(script: Script, line: str) -> None:
    answer = await asked(script, line)
    assert answer.body in (TEXT, b"short")
    assert answer.value("Content-Encoding") in (None, "br")
    assert answer.value("Content-Length") == str(len(answer.body))


async def test_caches_are_told_that_another_client_gets_it_otherwise() -> None:
    answer = await asked(answering(TEXT), "Accept-Encoding: br")
    assert answer.value("Vary") == "Accept-Encoding"
    off = await asked(answering(TEXT), ACCEPT, service={})
    assert (off.value("Vary"), off.body) == (None, TEXT)


async def test_a_compressed_stream_is_not_held_back() -> None:
    release = asyncio.Event()

    async def events(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n"
        )
        await release.wait()
        await exchange.send(b"7\r\ndata: 2\r\n0\r\n\r\n")

    async with one(events, service=GZIP) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/", ACCEPT)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"Content-Encoding: gzip" in head
        unzip = zlib.decompressobj(31)
        text = b""
        while text != b"data: 1":
            size = int(await client.reader.readline(), 16)
            text += unzip.decompress(await client.reader.readexactly(size))
            await client.reader.readexactly(2)
        release.set()
        while size := int(await client.reader.readline(), 16):
            text += unzip.decompress(await client.reader.readexactly(size))
            await client.reader.readexactly(2)
        assert text + unzip.flush() == b"data: 1data: 2"


async def test_a_compressed_body_cut_short_never_ends_cleanly() -> None:
    script = send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 99999\r\n\r\n", TEXT,
        then="close",
    )  # fmt: skip
    async with one(script, service=GZIP) as (proxy, _):
        answer = await proxy.get("/", ACCEPT)
        assert not answer.whole or answer.status == 502


async def test_pieces_reach_the_client_as_they_come() -> None:
    release = asyncio.Event()

    async def in_pieces(exchange: Exchange) -> None:
        await exchange.send(CHUNKED + b"5\r\nfirst\r\n")
        await release.wait()
        await exchange.send(b"6\r\nsecond\r\n0\r\nX-Sum: 1\r\n\r\n")

    async with one(in_pieces) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/")
        await client.reader.readuntil(b"\r\n\r\n5\r\nfirst\r\n")
        release.set()
        assert await client.reader.readuntil(b"\r\n\r\n") == b"6\r\nsecond\r\n0\r\nX-Sum: 1\r\n\r\n"


async def test_an_answer_whose_end_is_the_connections_is_framed_for_the_client() -> None:
    script = send(b"HTTP/1.1 200 OK\r\n\r\n", b"one", b"two", then="close")
    async with one(script) as (proxy, backend), proxy.client() as client:
        for _ in range(2):
            await client.request("GET", "/")
            answer = await client.answer()
            assert (answer.body, answer.values("Transfer-Encoding")) == (b"onetwo", ["chunked"])
            assert answer.value("Connection") is None
        assert backend.connections == 2


async def test_one_byte_a_second_is_slow_and_not_wrong() -> None:
    async def dripping(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
        for _ in range(30):
            await exchange.send(b"x")
            await asyncio.sleep(0.01)

    async with one(dripping, timeouts={"between_bytes": 5.0}) as (proxy, _):
        assert (await proxy.get()).body == b"x" * 30


async def test_a_slow_reader_gets_all_of_a_large_answer() -> None:
    size = 16 * 1024 * 1024

    async def source(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for n in range(16):
            await exchange.send(bytes([n]) * 1024 * 1024)

    async with one(source) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/")
        await client.reader.readuntil(b"\r\n\r\n")
        got = bytearray()
        while len(got) < size:
            got += await client.reader.read(300_000)
            await asyncio.sleep(0)
        assert got == b"".join(bytes([n]) * 1024 * 1024 for n in range(16))
        await until(lambda: proxy.pool.in_flight == 0)
        assert backend.connections == 1
