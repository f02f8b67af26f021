"""The fast lane when clients leave or take nothing, and when the proxy stops, or changes."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lb.config import AccessLogConfig, ProxyConfig, RouteConfig
from lb.config_service import StickyConfig
from lb.error_pages import ErrorPages
from lb.routes import Routes
from tests.fake_backend import (
    Exchange,
    hang,
)
from tests.proxy_harness import Client, Proxied, until
from tests.warm import Gate, lane_of, running, warm

# ── clients leave ─────────────────────────────────────────────────────────────────────────────────


def reset(client: Client) -> None:
    """End it so that the proxy need not ask whether it waits for its answer."""
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.abort()


@pytest.mark.parametrize("leave", [Client.abort, reset])
async def test_a_client_that_leaves_is_499_and_its_backend_connection_is_cut(
    leave: Callable[[Client], None], tmp_path: Path
) -> None:
    log = AccessLogConfig(format="json", path=str(tmp_path / "log"))
    gone = asyncio.Event()
    reached = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        reached.set()
        await exchange.client_gone()
        gone.set()

    async with warm(script, access_log=log) as (proxy, backend):
        client = proxy.client()
        await client.__aenter__()
        await client.request("GET", "/left")
        await reached.wait()
        loop, began = asyncio.get_running_loop(), lane_of(proxy).began
        await until(lambda: loop.time() >= began + 0.002)
        leave(client)
        await gone.wait()
        await proxy.settled(2)
        assert proxy.codes() == {200: 1, 499: 1}
        assert running(proxy) == 0
        assert (await proxy.get()).status == 200
        assert backend.connections == 2
    line = json.loads((tmp_path / "log").read_text().splitlines()[1])
    assert (line["status"], line["error_reason"], line["attempts"]) == (499, "client_gone", 1)
    assert line["upstream_s"] == 0, "as of every answer that never came"


async def test_a_client_that_leaves_just_as_it_is_handed_over_is_counted_once() -> None:
    for turns in range(6):
        async with warm(hang) as (proxy, backend):
            client = proxy.client()
            await client.__aenter__()
            await client.request("GET", "/left")
            await until(lambda: len(backend.seen) == 2)
            lane_of(proxy).hand_over()
            for _ in range(turns):
                await asyncio.sleep(0)
            reset(client)
            await proxy.settled(2)
            assert proxy.codes() == {200: 1, 499: 1}
            assert len(backend.seen) == 2


async def test_a_half_closed_client_gets_its_answer() -> None:
    gate = Gate()
    async with warm(gate) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/")
        client.writer.write_eof()
        await gate.reached.wait()
        gate.open.set()
        answer = await client.answer()
        while answer.status == 100:  # it was asked whether it is still there
            answer = await client.answer()
        assert answer.body == b"ok"
        assert await client.ended()
        assert proxy.codes() == {200: 2}


async def test_a_client_that_takes_nothing_holds_a_bounded_buffer() -> None:
    body = b"x" * 60_000

    async def big(exchange: Exchange) -> None:
        await exchange.answer(body)

    async with warm(then=big) as (proxy, backend), proxy.client() as client:
        sock = client.writer.get_extra_info("socket")
        assert sock is not None
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        number = 300
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * number)
        (connection,) = proxy.server.proxy.connections
        await until(lambda: connection.writing_paused)
        await until(lambda: proxy.server.proxy.running)
        transport = connection.transport
        assert transport is not None
        assert transport.get_write_buffer_size() < 3 * 65536
        assert len(backend.seen) < number
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(number):
            assert len((await client.answer()).body) == len(body)


# ── the proxy stops, or changes ───────────────────────────────────────────────────────────────────


async def test_what_runs_when_it_stops_ends_within_the_grace() -> None:
    gate = Gate()
    async with warm(gate) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/last")
        await gate.reached.wait()
        lane_of(proxy)
        stopping = asyncio.create_task(proxy.server.stop(10))
        await until(lambda: proxy.server.proxy.running)
        gate.open.set()
        answer = await client.answer()
        assert (answer.status, answer.value("Connection")) == (200, "close")
        stopped = await stopping
        assert (stopped.finished, stopped.cut) == (1, ())


async def test_what_does_not_end_within_the_grace_is_cut() -> None:
    reached = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        reached.set()
        await exchange.client_gone()

    async with warm(script) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/last")
        await reached.wait()
        stopped = await proxy.server.stop(0)
        assert stopped.cut == ("GET /last → " + next(iter(proxy.pool)).name,)
        assert await client.ended()
        assert proxy.codes() == {200: 1, 503: 1}


async def reconfigured(proxy: Proxied, *routes: RouteConfig, **changed: Any) -> None:
    config = proxy.server.proxy.config.model_copy(
        update={name: getattr(ProxyConfig.model_validate(changed), name) for name in changed}
    )
    await proxy.server.reconfigure(config, {"web": proxy.site}, Routes(routes, "web"))


async def test_new_routes_hold_for_the_next_request_of_a_connection() -> None:
    async with warm() as (proxy, backend), proxy.client() as client:
        for edges in ("1", "2", None):
            if edges is not None:
                edits = {"set": {"X-Edge": edges}}
                route = {"service": "web", "request": edits, "response": edits}
                await reconfigured(proxy, RouteConfig.model_validate(route))
            else:
                await reconfigured(proxy)
            for _ in range(2):
                await client.request("GET", "/")
                assert (await client.answer()).value("X-Edge") == edges
                wanted = [] if edges is None else [edges.encode()]
                assert backend.seen[-1].values(b"X-Edge") == wanted
        assert proxy.counters.fast == 6


async def test_switched_off_it_leaves_the_connections_that_it_has() -> None:
    async with warm() as (proxy, _), proxy.client() as client:
        for fast_lane, carried in ((True, 1), (False, 1), (True, 2)):
            await reconfigured(proxy, fast_lane=fast_lane)
            await client.request("GET", "/")
            assert (await client.answer()).status == 200
            assert proxy.counters.fast == carried


async def test_a_services_new_settings_hold_for_the_next_request() -> None:
    """Settings of services are taken over after those of the proxy, and requests come between."""
    async with warm() as (proxy, _), proxy.client() as client:
        for sticky in (StickyConfig(), None):
            await client.request("GET", "/")
            await client.answer()
            config = proxy.site.config.model_copy(update={"sticky": sticky})
            proxy.site.configure(config, proxy.server.proxy.config, ErrorPages())
            await client.request("GET", "/")
            answer = await client.answer()
            assert (answer.value("Set-Cookie") is not None) is (sticky is not None)
