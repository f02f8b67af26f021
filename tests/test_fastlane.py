"""The fast lane over real sockets: what it carries, and how it hands over, at every stage.

That both lanes make the same of the same bytes, test_lanes_agree.py says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from lb import overdue
from lb.config import AccessLogConfig, ProxyConfig, RouteConfig, ServiceConfig
from lb.config_service import RetryConfig
from lb.error_pages import ErrorPages
from lb.fastlane import FastLane
from lb.pool import Report
from lb.routes import Routes
from tests.fake_backend import (
    CHUNKED,
    Exchange,
    FakeBackend,
    Script,
    answer_ok,
    hang,
    reset_at_once,
    send,
)
from tests.proxy_harness import Client, Proxied, one, reason_of, until


@contextlib.asynccontextmanager
async def warm(
    *scripts: Script, then: Script = answer_ok, **settings: Any
) -> AsyncIterator[tuple[Proxied, FakeBackend]]:
    """A proxy that keeps a connection to its backend; the scripts are for the requests to come,
    `then` for those after them."""
    left = iter([answer_ok, *scripts])

    async def script(exchange: Exchange) -> None:
        await next(left, then)(exchange)

    async with one(script, **settings) as (proxy, backend):
        assert (await proxy.get("/warm", "Connection: close")).status == 200
        assert proxy.counters.fast == 0
        yield proxy, backend


class Gate:
    """A script that answers once it may."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.read_body()
        self.reached.set()
        await self.open.wait()
        await exchange.answer()


def lane_of(proxy: Proxied) -> FastLane:
    """The one that runs."""
    (lane,) = proxy.server.proxy.overdue.all()
    assert isinstance(lane, FastLane)
    return lane


def running(proxy: Proxied) -> int:
    return len(proxy.server.proxy.overdue)


# ── carried ───────────────────────────────────────────────────────────────────────────────────────


async def test_it_carries_what_is_common_from_end_to_end() -> None:
    async with warm() as (proxy, backend), proxy.client() as client:
        for number in range(3):
            await client.request("GET", f"/{number}")
            assert (await client.answer()).body == b"ok"
        await client.request("POST", "/p", "Content-Length: 3", body=b"abc")
        assert (await client.answer()).body == b"ok"
        assert proxy.counters.fast == 4
        assert [seen.target for seen in backend.seen[1:]] == [b"/0", b"/1", b"/2", b"/p"]
        assert backend.seen[-1].body == b"abc"
        assert backend.connections == 1
        assert running(proxy) == 0


async def test_the_metric_tells_of_it() -> None:
    async with warm() as (proxy, _):
        await proxy.get()
        told = proxy.metrics.render()[0].decode()
        assert 'lb_fast_lane_requests_total{service="web"} 1.0' in told


async def test_every_request_has_an_id_and_a_trace_of_its_own() -> None:
    async with warm() as (proxy, backend), proxy.client() as client:
        for _ in range(3):
            await client.request("GET", "/")
            await client.answer()
        assert proxy.counters.fast == 3
        for name in (b"X-Request-Id", b"traceparent"):
            assert len({seen.values(name)[0] for seen in backend.seen}) == 4


async def test_a_pipeline_is_answered_in_order() -> None:
    async def echo(exchange: Exchange) -> None:
        await exchange.answer(exchange.seen.target)

    async with warm(then=echo) as (proxy, _), proxy.client() as client:
        asked = [f"/{number}" for number in range(50)]
        await client.send(
            b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in asked)
        )
        assert [(await client.answer()).body.decode() for _ in asked] == asked
        assert proxy.counters.fast == 50


async def test_switched_off_it_carries_nothing() -> None:
    async with warm(fast_lane=False) as (proxy, _):
        await proxy.get()
        assert proxy.counters.fast == 0


async def test_a_connection_serves_so_many_requests_and_no_more() -> None:
    limits = {"requests_per_connection": 2}
    async with warm(limits=limits) as (proxy, backend), proxy.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        assert (await client.answer()).value("Connection") is None
        assert (await client.answer()).value("Connection") == "close"
        assert await client.ended()
        assert proxy.counters.fast == 2
        assert len(backend.seen) == 3


async def test_sticky_clients_get_their_cookie_and_come_back() -> None:
    async with warm(service={"sticky": {}}) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/")
        cookie = (await client.answer()).value("Set-Cookie")
        assert cookie is not None
        for _ in range(2):
            await client.request("GET", "/", f"Cookie: {cookie.partition(';')[0]}")
            assert (await client.answer()).value("Set-Cookie") is None
        assert proxy.counters.fast == 3


# ── handed over ───────────────────────────────────────────────────────────────────────────────────


async def test_without_a_kept_connection_a_journey_opens_one() -> None:
    async with one() as (proxy, backend):
        assert (await proxy.get()).status == 200
        assert proxy.counters.fast == 0
        assert proxy.codes() == {200: 1}
        assert len(backend.seen) == 1


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n"


@pytest.mark.parametrize(
    ("script", "status", "body"),
    [
        pytest.param(send(b"no http at all\r\n\r\n"), 502, None, id="malformed"),
        pytest.param(send(b"HTTP/1.1 200 OK\nX: 1\n\n", then="hang"), 502, None, id="bare LF"),
        pytest.param(send(HEAD + b"\r\nabcdef"), 200, b"abcd", id="more than the answer"),
        pytest.param(send(CHUNKED + b"2\r\nab\r\n", b"0\r\n\r\n"), 200, b"ab", id="chunks"),
        pytest.param(send(HEAD + b"Connection: close\r\n\r\nabcd"), 200, b"abcd", id="last one"),
        pytest.param(
            send(b"HTTP/1.1 200 OK\r\n\r\nabcd", then="close"), 200, b"abcd", id="until the end"
        ),
        pytest.param(
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000),
            200, b"x" * 70000, id="long",
        ),
    ],
)  # fmt: skip
async def test_an_answer_that_is_not_common(script: Script, status: int, body: bytes) -> None:
    async with warm(script) as (proxy, backend):
        answer = await proxy.get()
        assert answer.status == status
        assert body is None or answer.body == body
        assert proxy.counters.fast == 0
        assert proxy.codes() == ({200: 2} if status == 200 else {200: 1, status: 1})
        assert len(backend.seen) == 2, "nothing is done twice"


async def test_an_answer_in_pieces_is_still_carried() -> None:
    async with warm(send(HEAD[:20], HEAD[20:] + b"\r\n", b"ab", b"cd")) as (proxy, _):
        assert (await proxy.get()).body == b"abcd"


async def test_one_whose_rest_is_late_is_passed_on_as_it_comes() -> None:
    rest = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD + b"\r\nab")
        await rest.wait()
        await exchange.send(b"cd")

    async with warm(script) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/")
        head = await client.reader.readuntil(b"ab")
        assert head.startswith(b"HTTP/1.1 200 OK")
        rest.set()
        assert await client.reader.readexactly(2) == b"cd"
        await proxy.settled(2)
        assert proxy.counters.fast == 0
        assert len(backend.seen) == 2


async def test_a_late_answer_is_waited_for_by_a_journey() -> None:
    gate = Gate()
    async with warm(gate) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/late")
        await until(lambda: proxy.server.proxy.running)
        assert running(proxy) == 0
        gate.open.set()
        assert (await client.answer()).status == 200
        await client.request("GET", "/next")
        assert (await client.answer()).status == 200
        assert proxy.counters.fast == 1, "the connection is good for the lane again"
        assert [seen.target for seen in backend.seen] == [b"/warm", b"/late", b"/next"]


async def test_an_answer_that_never_comes_has_the_journeys_timeout() -> None:
    timeouts = {"first_byte": 2.0}
    async with warm(hang, timeouts=timeouts, service={"retry": {"attempts": 1}}) as (proxy, _):
        answer = await proxy.get()
        assert (answer.status, reason_of(answer.body)) == (504, "first_byte_timeout")
        assert proxy.counters.upstream_errors == {"first_byte_timeout": 1}


@pytest.mark.parametrize(
    "script",
    [reset_at_once, send(HEAD + b"\r\nab", then="reset")],
    ids=["before", "within the body"],
)
async def test_a_backend_that_breaks_off_is_retried_and_nothing_done_twice(script: Script) -> None:
    async with warm(script) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/again")
        assert (await client.answer()).body == b"ok"
        assert proxy.counters.fast == 0
        assert sum(proxy.counters.retries.values()) == 1
        assert [seen.target for seen in backend.seen] == [b"/warm", b"/again", b"/again"]
        assert proxy.codes() == {200: 2}


async def test_a_post_is_never_sent_twice() -> None:
    async with warm(reset_at_once) as (proxy, backend), proxy.client() as client:
        await client.request("POST", "/once", "Content-Length: 3", body=b"abc")
        assert (await client.answer()).status == 502
        assert [seen.target for seen in backend.seen] == [b"/warm", b"/once"]


async def test_a_retried_body_is_the_same_body() -> None:
    async def half_heard(exchange: Exchange) -> None:
        await exchange.read_body()
        exchange.reset()

    async with warm(half_heard) as (proxy, backend), proxy.client() as client:
        await client.request("PUT", "/", "Content-Length: 3", body=b"abc")
        assert (await client.answer()).status == 200
        assert [bytes(seen.body) for seen in backend.seen[1:]] == [b"abc", b"abc"]


async def test_a_head_that_is_too_long_is_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the time that the rest of an answer is waited for, it could be a hundred megabytes."""
    monkeypatch.setattr(overdue, "TOGETHER_S", 1000.0)
    monkeypatch.setattr(overdue, "LONGEST_S", 1000.0)
    async with warm(send(b"x" * 2000, then="hang"), limits={"head_bytes": 1024}) as (proxy, _):
        answer = await proxy.get()
        assert (answer.status, reason_of(answer.body)) == (502, "bad_answer")


async def test_hedging_switched_on_meanwhile_asks_the_second_backend_on_its_own_connection() -> (
    None
):
    gate = Gate()
    async with FakeBackend() as second, warm(gate) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/slow")
        await gate.reached.wait()
        lane = lane_of(proxy)
        retry = RetryConfig(hedge_after=0.01)
        proxy.site.config = proxy.site.config.model_copy(update={"retry": retry})
        proxy.pool.add_static(second.address)
        proxy.pool.observe(Report(second.address, second.address, ok=True, detail="200"))
        lane.hand_over()
        assert (await client.answer()).status == 200
        assert [seen.target for seen in second.seen] == [b"/slow"]
        gate.open.set()
        await proxy.settled(2)
        assert proxy.codes() == {200: 2}


async def test_a_service_that_leaves_ends_what_was_just_handed_over_and_nothing_begins_anew() -> (
    None
):
    for turns in range(6):
        async with warm(hang) as (proxy, backend), proxy.client() as client:
            await client.request("GET", "/left")
            await until(lambda b=backend: len(b.seen) == 2)
            lane_of(proxy).hand_over()
            for _ in range(turns):
                await asyncio.sleep(0)
            proxy.server.cut(proxy.site)
            assert await client.ended()
            await proxy.settled(2)
            assert proxy.codes() == {200: 1, 499: 1}, f"cut {turns} turns later"
            assert proxy.counters.arrived == 2
            assert len(backend.seen) == 2


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
            await until(lambda b=backend: len(b.seen) == 2)
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


def settings_of(proxy: Proxied, **changed: Any) -> ServiceConfig:
    return proxy.site.config.model_copy(
        update=ServiceConfig.model_validate(changed).model_dump(include=changed.keys())
        | {name: getattr(ServiceConfig.model_validate(changed), name) for name in changed}
    )


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
        for sticky in ({}, None):
            await client.request("GET", "/")
            await client.answer()
            config = settings_of(proxy, sticky=sticky)
            proxy.site.configure(config, proxy.server.proxy.config, ErrorPages())
            for backend in proxy.pool.available:
                assert backend.healthy
            await client.request("GET", "/")
            answer = await client.answer()
            assert (answer.value("Set-Cookie") is not None) is (sticky is not None)
