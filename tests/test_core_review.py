"""What a line-by-line reading of the proxy's core found: each of these was wrong once."""

from __future__ import annotations

import asyncio
import socket

import pytest

import lb.client_connection
from lb.backend_connection import BackendConnection
from lb.config import ServiceConfig
from lb.config_service import RetryConfig
from lb.wire.chunked import ChunkReader
from tests.fake_backend import OK, Exchange, FakeBackend
from tests.proxy_harness import one, proxied, until

KIB = 1024
MIB = 1024 * KIB
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def wait(exchange: Exchange) -> None:
    """Never answer."""
    await exchange.client_gone()


# ── bodies ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_body_that_nobody_read_does_not_stop_the_next_request() -> None:
    hold = asyncio.Event()

    async def early(exchange: Exchange) -> None:
        await hold.wait()  # until the whole body came, and fills the window
        await exchange.send(OK)
        await exchange.client_gone()

    async with one(early) as (proxy, backend), proxy.client() as client:
        body = bytes(12 * MIB)
        await client.request("POST", "/", f"Content-Length: {len(body)}")
        sending = asyncio.ensure_future(client.send(body))
        await until(lambda: backend.seen)
        (connection,) = proxy.server.proxy.connections
        await until(lambda: connection._body_full)
        # as if its last byte had come in the read that filled the window
        connection._left = 0
        connection._request_is_here([])
        hold.set()
        assert (await client.answer()).status == 200
        assert not connection._body_full
        sending.cancel()


async def test_many_tiny_chunks_are_kept_as_one_piece() -> None:
    async with one(wait, max_in_flight=1) as (proxy, backend), proxy.client() as first:
        await first.request("GET", "/")
        await until(lambda: backend.seen)
        async with proxy.client() as client:
            chunks = b"2\r\nab\r\n" * 1000
            await client.request("POST", "/", "Transfer-Encoding: chunked", body=chunks)
            await until(lambda: len(proxy.site.line) == 1)
            (waiting,) = [c for c in proxy.server.proxy.connections if c.head.method == "POST"]
            await until(lambda: waiting.body.received == 2000)
            assert len(waiting.body._pieces) <= 3
            client.abort()
            first.abort()
            await proxy.settled(2)


# ── work that grew with the square of what dripped in ─────────────────────────────────────────────


def looked_at(monkeypatch: pytest.MonkeyPatch, module: str) -> list[int]:
    """How many bytes each look at an unfinished section took."""
    looks: list[int] = []

    def hopeless(data: bytes, at: int = 0) -> bool:
        looks.append(len(data) - at)
        return False

    monkeypatch.setattr(f"{module}.hopeless", hopeless)
    return looks


def test_trailers_that_drip_in_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = looked_at(monkeypatch, "lb.wire.chunked")
    reader = ChunkReader(extension_bytes=256, trailer_bytes=65536, most_fields=128)
    reader.feed(b"0\r\nX: ")
    for _ in range(1000):
        reader.feed(b"a")
    assert max(looks) <= 4
    assert len(looks) == 1001
    reader.feed(b"\r\n\r")
    reader.feed(b"\n")
    assert reader.trailers == [(b"X", b"a" * 1000)]


async def test_an_answer_head_that_drips_in_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = looked_at(monkeypatch, "lb.backend_exchange")

    async def drip(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: ")
        for _ in range(300):
            await exchange.send(b"a")
            await asyncio.sleep(0)
        await exchange.send(b"\r\n\r\n")

    async with one(drip) as (proxy, _):
        assert (await proxy.get()).value("X") == "a" * 300
    assert len(looks) > 10
    assert sum(looks) < 600 + len(looks)


# ── half-closed, and gone ─────────────────────────────────────────────────────────────────────────


async def test_a_malformed_body_is_answered_though_its_client_closed_its_side() -> None:
    async with one(wait) as (proxy, backend), proxy.client() as client:
        await client.request("POST", "/", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n")
        await until(lambda: backend.seen)
        await client.send(b"ZZ\r\n")
        client.writer.write_eof()
        assert (await client.answer()).status == 400


@pytest.mark.parametrize(
    "sent",
    [
        b"HEAD / HTTP/1.1\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nbad field\r\n\r\n",
    ],
    ids=["no host", "bad chunk", "bad field"],
)
async def test_a_bad_head_request_is_answered_without_a_body(sent: bytes) -> None:
    async with one() as (proxy, _), proxy.client() as client:
        await client.send(sent)
        answer = await client.reader.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"\r\n\r\n")


async def test_who_takes_nothing_is_not_waited_for_without_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lb.client_connection, "FLUSH_S", 0.2)

    async def answer(exchange: Exchange) -> None:
        await exchange.answer(bytes(60_000))

    async with one(answer, timeouts={"idle": 0.2}) as (proxy, _):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", proxy.port))
            await until(lambda: proxy.server.proxy.connections)
            (connection,) = proxy.server.proxy.connections
            assert connection.transport is not None
            transport = connection.transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: proxy.codes() == {200: 1})
            assert transport.get_write_buffer_size()
            await until(lambda: not proxy.server.proxy.connections)


async def test_a_slow_reader_is_not_a_silent_one() -> None:
    async def large(exchange: Exchange) -> None:
        await exchange.answer(bytes(16 * MIB))

    async with one(large, timeouts={"between_bytes": 0.3}) as (proxy, _):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", proxy.port))
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            end = loop.time() + 1.5
            while loop.time() < end:
                assert await loop.sock_recv(client, 8192)
                await asyncio.sleep(0.02)
            assert proxy.codes() == {}
        await proxy.settled(1)


# ── connections to backends ───────────────────────────────────────────────────────────────────────


async def test_writing_to_a_connection_that_is_gone_is_no_fault_of_ours() -> None:
    async with FakeBackend() as backend:
        host, port = backend.address.split(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: BackendConnection(loop), host, int(port)
        )
        connection.close()
        await until(lambda: connection.ended)
        await asyncio.sleep(0)
        connection.write(b"GET / HTTP/1.1\r\n\r\n")


async def test_a_204_that_announces_a_body_ends_its_connection() -> None:
    async def lie(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n")

    async with one(lie) as (proxy, backend):
        await proxy.get()
        await proxy.get()
        assert [seen.connection for seen in backend.seen] == [0, 1]


async def test_a_connection_of_older_rules_is_not_used_again() -> None:
    answer = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        await answer.wait()
        await exchange.answer()

    async with one(hold) as (proxy, backend):
        running = asyncio.ensure_future(proxy.get())
        await until(lambda: backend.seen)
        upstream = proxy.site.upstream
        for mode in ("v1", "off"):
            service = ServiceConfig.model_validate({"send_proxy_protocol": mode})
            upstream.configure(upstream.limits, service)
        answer.set()
        await running
        await proxy.get()
        assert [seen.connection for seen in backend.seen] == [0, 1]


# ── tunnels ───────────────────────────────────────────────────────────────────────────────────────


async def test_101_before_the_end_of_the_request_is_502() -> None:
    async def switch(exchange: Exchange) -> None:
        await exchange.send(SWITCH)
        await exchange.client_gone()

    async with one(switch) as (proxy, _), proxy.client() as client:
        await client.request("POST", "/", *WEBSOCKET, "Content-Length: 10", body=b"abc")
        assert (await client.answer()).status == 502


class Tap(asyncio.Transport):
    """Only on and off."""

    reading = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class FullAtOnce:
    """A tunnel whose client takes no more after the first bytes."""

    def __init__(self, connection: BackendConnection) -> None:
        self._connection = connection

    def from_backend(self, data: bytes) -> None:
        self._connection.pause_tunnel(True)

    def backend_ended(self) -> None: ...
    def backend_lost(self) -> None: ...
    def backend_full(self, full: bool) -> None: ...


async def test_a_burst_with_the_101_is_held_back_too() -> None:
    connection = BackendConnection(asyncio.get_running_loop())
    tap = Tap()
    connection.connection_made(tap)
    connection.data_received(bytes(300 * KIB))
    connection.enter_tunnel(FullAtOnce(connection))
    assert not tap.reading


async def test_a_tunnel_is_never_hedged() -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.2)
        await exchange.send(SWITCH)
        await exchange.client_gone()

    hedging = {"retry": RetryConfig(hedge_after=0.02)}
    async with (
        FakeBackend(slow) as a,
        FakeBackend(slow) as b,
        proxied(a, b, service=hedging) as proxy,
        proxy.client() as client,
    ):
        await client.request("GET", "/", *WEBSOCKET)
        await client.reader.readuntil(b"\r\n\r\n")
        assert len(a.seen) + len(b.seen) == 1
        client.abort()
        await proxy.settled(1)


# ── stopping ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_that_came_in_the_moment_of_the_stop_is_finished() -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.05)
        await exchange.answer()

    async with one(slow) as (proxy, _), proxy.client() as client:
        await until(lambda: proxy.server.proxy.connections)
        (connection,) = proxy.server.proxy.connections
        connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        stopped = await proxy.server.stop(20)
        assert (stopped.finished, stopped.cut) == (1, ())
        assert (await client.answer()).status == 200
