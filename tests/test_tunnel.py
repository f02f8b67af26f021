"""Tunnels after a 101, over real sockets: both ways, their ends, their pressure, their shutdown."""

from __future__ import annotations

import asyncio

import pytest

from tests.fake_backend import Exchange, FakeBackend
from tests.proxy_harness import PATIENCE_S, Client, Proxied, one, proxied, reason_of, until

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
ASK = ("Connection: keep-alive, Upgrade", "Upgrade: echo")
MIB = 1024 * 1024


async def echo(exchange: Exchange) -> None:
    """Say everything back; end when the other side has."""
    await exchange.send(SWITCH)
    while data := await exchange.receive():
        await exchange.send(data)
    exchange.keep = False


async def enter(client: Client, *lines: str) -> None:
    await client.request("GET", "/ws", *ASK, *lines)
    answer = await client.answer()
    assert (answer.status, answer.value("Upgrade"), answer.value("Connection")) == (
        101, "echo", "Upgrade",
    )  # fmt: skip


async def test_bytes_pass_both_ways_and_the_tunnel_is_counted() -> None:
    async with one(echo) as (proxy, backend):
        async with proxy.client() as client:
            await enter(client, "Sec-WebSocket-Key: abc")
            assert proxy.counters.tunnels == 1
            for word in (b"hello", b"\x00\xff" * 1000, b"GET / HTTP/1.1\r\n\r\n"):
                await client.send(word)
                assert await client.reader.readexactly(len(word)) == word
        await proxy.settled(1)
        assert proxy.counters.tunnels == 0
        assert proxy.codes() == {101: 1}
        (seen,) = backend.seen
        assert seen.values(b"Upgrade") == [b"echo"]
        assert seen.values(b"Connection") == [b"Upgrade"]
        assert seen.values(b"Sec-WebSocket-Key") == [b"abc"]
        await until(lambda: backend.open == 0)
        assert proxy.counters.upstream_errors == {}


async def test_what_came_ahead_of_the_101_is_not_lost() -> None:
    async def at_once(exchange: Exchange) -> None:
        await exchange.send(SWITCH + b"ahead")
        assert await exchange.receive() == b"early"
        await exchange.send(b"got it")
        await exchange.client_gone()

    async with one(at_once) as (proxy, _), proxy.client() as client:
        head = "GET /ws HTTP/1.1\r\nHost: a\r\n" + "\r\n".join(ASK) + "\r\n\r\nearly"
        await client.send(head.encode())
        assert (await client.answer()).status == 101
        assert await client.reader.readexactly(11) == b"aheadgot it"


async def test_an_upgrade_that_is_declined_is_an_answer_like_others() -> None:
    async with one() as (proxy, _), proxy.client() as client:
        for _ in range(2):
            await client.request("GET", "/", *ASK)
            answer = await client.answer()
            assert (answer.status, answer.body, answer.value("Upgrade")) == (200, b"ok", None)


async def test_a_101_without_a_protocol_is_502() -> None:
    async def nameless(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 101 Switching\r\n\r\n")
        await exchange.client_gone()

    async with one(nameless) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/", *ASK)
        answer = await client.answer()
        assert (answer.status, reason_of(answer.body)) == (502, "bad_answer")


@pytest.mark.parametrize(
    "protocol", ["h2c", "HTTP/2.0", "TLS/1.0", "h2c, TLS/1.2"], ids=lambda p: p.replace("/", "")
)
async def test_protocols_that_would_carry_requests_past_the_rules_are_not_offered_on(
    protocol: str,
) -> None:
    async with one() as (proxy, backend):
        await proxy.get("/", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}")
        assert backend.seen[0].values(b"Upgrade") == []


async def test_no_tunnel_for_http_1_0_or_without_connection() -> None:
    async with one(echo) as (proxy, backend):
        async with proxy.client() as client:
            await client.request("GET", "/", "Upgrade: echo")
            assert (await client.answer()).status == 502
        async with proxy.client() as client:
            await client.send(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            assert (await client.answer()).status == 502
        assert [seen.values(b"Upgrade") for seen in backend.seen] == [[], []]


async def test_a_client_that_half_closes_still_hears_the_rest() -> None:
    async def count(exchange: Exchange) -> None:
        await exchange.send(SWITCH)
        size = 0
        while data := await exchange.receive():
            size += len(data)
        await exchange.send(b"%d" % size)
        exchange.keep = False

    async with one(count) as (proxy, _), proxy.client() as client:
        await enter(client)
        await client.send(bytes(100_000))
        client.writer.write_eof()
        assert await client.reader.read() == b"100000"
        await proxy.settled(1)


async def test_a_backend_that_half_closes_still_hears_the_rest() -> None:
    heard = bytearray()

    async def listener(exchange: Exchange) -> None:
        await exchange.send(SWITCH + b"bye")
        exchange.half_close()
        while data := await exchange.receive():
            heard.extend(data)
        exchange.keep = False

    async with one(listener) as (proxy, _), proxy.client() as client:
        await enter(client)
        assert await client.reader.read() == b"bye"
        await client.send(b"last words")
        client.writer.write_eof()
        await proxy.settled(1)
        await until(lambda: heard == b"last words")


async def test_a_backend_that_ends_within_the_101s_breath_ends_the_tunnel() -> None:
    async def short(exchange: Exchange) -> None:
        await exchange.send(SWITCH + b"bye")
        exchange.keep = False

    async with one(short) as (proxy, _):
        for _ in range(20):
            async with proxy.client() as client:
                await enter(client)
                assert await client.reader.read() == b"bye"
        await proxy.settled(20)
        await until(lambda: not proxy.server.proxy.connections)


@pytest.mark.parametrize("who", ["client", "backend"])
async def test_one_that_breaks_ends_the_other(who: str) -> None:
    release = asyncio.Event()

    async def breaking(exchange: Exchange) -> None:
        await exchange.send(SWITCH)
        await release.wait()
        exchange.reset()

    async with one(echo if who == "client" else breaking) as (proxy, backend):
        client = proxy.client()
        await client.__aenter__()
        await enter(client)
        if who == "client":
            client.abort()
            await until(lambda: backend.open == 0)
        else:
            release.set()
            assert await client.ended()
            await client.close()
        await proxy.settled(1)
        assert proxy.counters.tunnels == 0


async def test_a_backend_that_does_not_read_holds_the_client_back() -> None:
    release = asyncio.Event()
    heard = 0

    async def deaf(exchange: Exchange) -> None:
        nonlocal heard
        await exchange.send(SWITCH)
        await release.wait()
        while data := await exchange.receive():
            heard += len(data)
        exchange.keep = False

    async with one(deaf) as (proxy, _), proxy.client() as client:
        await enter(client)
        sent = await pushed(client, 64 * MIB)
        assert sent < 64 * MIB
        release.set()
        await client.writer.drain()
        client.writer.write_eof()
        await proxy.settled(1)
        await until(lambda: heard == sent)


async def pushed(client: Client, most: int) -> int:
    """Send until no more is taken; returns how much was."""
    sent = 0
    while sent < most:
        client.writer.write(bytes(MIB))
        sent += MIB
        try:
            async with asyncio.timeout(0.3):
                await client.writer.drain()
        except TimeoutError:
            return sent
    return sent


async def test_a_client_that_does_not_read_holds_the_backend_back() -> None:
    sent = 0

    async def source(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(SWITCH)
        while sent < 64 * MIB:
            await exchange.send(bytes(MIB))
            sent += MIB
        exchange.keep = False

    async with one(source) as (proxy, _), proxy.client() as client:
        await enter(client)
        last = -1
        while last != sent:
            last = sent
            await asyncio.sleep(0.3)
        assert sent < 64 * MIB
        heard = 0
        while data := await client.reader.read(MIB):
            heard += len(data)
        assert heard == 64 * MIB


async def test_a_silent_tunnel_is_ended_and_a_talking_one_is_not() -> None:
    async with one(echo, timeouts={"tunnel_idle": 0.8, "whole": 0.2}) as (proxy, backend):
        async with proxy.client() as client:
            await enter(client)
            loop = asyncio.get_running_loop()
            began = loop.time()
            while loop.time() < began + 1.2:
                await client.send(b"x")
                assert await client.reader.readexactly(1) == b"x"
                await asyncio.sleep(0.05)
            assert await client.ended()
        await proxy.settled(1)
        await until(lambda: backend.open == 0)
        assert proxy.codes() == {101: 1}


async def test_shutdown_waits_for_a_tunnel_and_then_cuts_it() -> None:
    async with FakeBackend(echo) as backend, proxied(backend) as proxy:
        async with proxy.client() as client:
            await enter(client)
            stopping = asyncio.ensure_future(proxy.server.stop(PATIENCE_S))
            await until(lambda: proxy.server.proxy.stopping)
            await client.send(b"still here")
            assert await client.reader.readexactly(10) == b"still here"
            client.writer.write_eof()
            assert await client.ended()
        assert (await stopping).cut == ()
    async with FakeBackend(echo) as backend, proxied(backend) as proxy:
        async with proxy.client() as client:
            await enter(client)
            stopped = await proxy.server.stop(0.1)
            assert stopped.cut == (f"GET /ws → {backend.address}",)
            assert await client.ended()
        await until(lambda: backend.open == 0)
        assert_nothing_runs(proxy)


def assert_nothing_runs(proxy: Proxied) -> None:
    assert proxy.counters.tunnels == 0
    assert proxy.pool.in_flight == 0
