"""Listening and stopping: one clear line where a port is taken, no request lost on the way out."""

from __future__ import annotations

import asyncio
import logging

import pytest

from lb.config import ListenConfig, ProxyConfig
from lb.errors import ListenError
from lb.listener import ProxyServer
from lb.metrics import Metrics
from tests.fake_backend import Exchange, FakeBackend, hang
from tests.proxy_harness import PATIENCE_S, one, proxied, until


def listening(*addresses: str) -> ProxyConfig:
    return ProxyConfig(listen=tuple(ListenConfig(address=address) for address in addresses))


async def test_a_taken_port_is_one_clear_line() -> None:
    async with proxied() as proxy:
        address = proxy.server.addresses[0]
        config = listening("127.0.0.1:0", address)
        second = ProxyServer(config, proxy.pool, Metrics().service(proxy.pool))
        with pytest.raises(ListenError) as caught:
            await second.start()
        assert str(caught.value) == (
            f"cannot listen on {address}: address in use, perhaps by another lbctl;"
            " set proxy.listen"
        )
        await second.stop()


async def test_it_listens_on_several_addresses() -> None:
    async with FakeBackend() as backend, proxied(backend) as proxy:
        config = listening("127.0.0.1:0", "[::1]:0")
        server = ProxyServer(config, proxy.pool, proxy.counters)
        await server.start()
        assert [a.rpartition(":")[0] for a in server.addresses] == ["127.0.0.1", "[::1]"]
        await server.stop()


async def test_stopping_lets_running_requests_finish() -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer(b"done")

    async with one(slow) as (proxy, backend), proxy.client() as busy, proxy.client() as idle:
        await busy.request("GET", "/slow")
        await until(lambda: len(backend.seen) == 1)
        stopping = asyncio.ensure_future(proxy.server.stop(PATIENCE_S))
        assert await idle.ended()
        with pytest.raises(ConnectionError):
            await proxy.get()
        assert not stopping.done()
        release.set()
        answer = await busy.answer()
        assert (answer.body, answer.value("Connection")) == (b"done", "close")
        assert await busy.ended()
        stopped = await stopping
        assert (stopped.finished, stopped.cut) == (1, ())


async def test_stopping_says_what_the_deadline_cut(caplog: pytest.LogCaptureFixture) -> None:
    async with one(hang) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/slow")
        await until(lambda: len(backend.seen) == 1)
        with caplog.at_level(logging.WARNING):
            stopped = await proxy.server.stop(0.1)
        assert stopped.cut == (f"GET /slow → {backend.address}",)
        assert "cut at shutdown: GET /slow" in caplog.text
        assert await client.ended()
        assert proxy.codes() == {503: 1}


async def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    config = listening("192.0.2.1:0")
    async with proxied() as proxy:
        server = ProxyServer(config, proxy.pool, proxy.counters)
        with pytest.raises(ListenError, match="this machine has no such address") as caught:
            await server.start()
        assert "\n" not in str(caught.value)
        await server.stop()


async def test_an_idle_client_is_closed_in_time() -> None:
    async with one(timeouts={"idle": 0.2}) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/")
        assert (await client.answer()).status == 200
        assert await client.ended()
