"""The fast lane over real sockets: what it carries, and how it hands over, at every stage.

That both lanes make the same of the same bytes, test_lanes_agree.py says; what becomes of it when
clients leave, or the proxy stops or changes, test_fastlane_ends.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from pathlib import Path

import pytest

from lb import overdue
from lb.config import ListenConfig
from lb.config_service import RetryConfig
from lb.pool import Report
from tests.fake_backend import (
    CHUNKED,
    Exchange,
    FakeBackend,
    Script,
    hang,
    reset_at_once,
    send,
)
from tests.proxy_harness import one, proxied, reason_of, until
from tests.warm import Gate, lane_of, running, warm

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


async def test_each_method_is_counted_as_itself() -> None:
    """Equal answers are remembered, whatever was asked: not by which method."""
    async with warm() as (proxy, _), proxy.client() as client:
        for method in ("POST", "GET", "BREW", "POST"):
            await client.request(method, "/", "Content-Length: 1", body=b"x")
            await client.answer()
        assert proxy.counters.fast == 4
        counted = {("POST", 200): 2, ("GET", 200): 2, ("other", 200): 1}
        assert proxy.counters.requests == counted


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


async def test_over_tls(tmp_path: Path) -> None:
    listen = (ListenConfig(address="127.0.0.1:0", tls="on"),)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    async with (
        FakeBackend() as backend,
        proxied(backend, listen=listen, tls={"self_signed": True}, home=tmp_path) as proxy,
    ):
        for carried in (0, 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=trusting)
            for _ in range(2):
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")
            assert backend.seen[-1].values(b"X-Forwarded-Proto") == [b"https"]
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            assert proxy.counters.fast == carried + 1


async def test_clients_that_take_turns_on_one_connection_are_each_told_by_their_own() -> None:
    async def echo(exchange: Exchange) -> None:
        await exchange.answer(b",".join(exchange.seen.values(b"X-Who")) or b"nobody")

    async with warm(then=echo) as (proxy, backend), proxy.client() as one_, proxy.client() as two:
        for _ in range(5):
            for client, who in ((one_, "one"), (two, "other")):
                await client.request("GET", "/", f"X-Who: {who}")
                assert (await client.answer()).body.decode() == who
        assert proxy.counters.fast == 10
        assert backend.connections == 1


async def test_a_full_backend_is_waited_for_and_no_place_is_lost() -> None:
    gate = Gate()
    async with warm(gate, max_in_flight=1) as (proxy, _), proxy.client() as client:
        await client.request("GET", "/first")
        await gate.reached.wait()
        waiting = asyncio.create_task(proxy.get("/second"))
        await until(lambda: len(proxy.site.line))
        gate.open.set()
        assert (await client.answer()).status == (await waiting).status == 200
        assert proxy.pool.in_flight == 0


async def test_the_breaker_hears_of_what_the_lane_carries() -> None:
    breaker = {"enabled": True, "min_requests": 3, "failures": 0.6, "open": 60.0}

    async def fails(exchange: Exchange) -> None:
        await exchange.answer(b"", b"500 Oops")

    async with warm(then=fails, service={"breaker": breaker}) as (proxy, _):
        for status in (500, 500, 503):
            assert (await proxy.get()).status == status
        assert proxy.counters.fast == 2, "the third was not sent"


async def test_the_limit_that_finds_itself_hears_of_it_too() -> None:
    async with warm(service={"adaptive": {"enabled": True}}) as (proxy, _):
        learnt: list[bool] = []
        finished = proxy.site.adaptive.finished

        def heard(latency_s: float, in_flight: int, dropped: bool, now: float) -> None:
            assert in_flight == 1, "while it holds its place"
            learnt.append(dropped)
            finished(latency_s, in_flight, dropped, now)

        proxy.site.adaptive.finished = heard  # type: ignore[method-assign]
        await proxy.get()
        assert (proxy.counters.fast, learnt) == (1, [False])


async def test_ten_thousand_requests_leave_nothing() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        async with proxied(f"{host}:{port}") as proxy, proxy.client() as client:
            await client.request("GET", "/")
            await client.answer()
            at_first = 0
            for number in range(101):
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
                for _ in range(100):
                    await client.reader.readuntil(b"\r\n\r\nok")
                if number in (0, 100):
                    gc.collect()
                    held = len(gc.get_objects())
                    at_first = at_first or held
            assert proxy.counters.fast == 10_100
            assert running(proxy) == 0
            assert held - at_first < 500
    finally:
        server.close()


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


async def test_a_status_that_is_asked_of_another_backend_is_not_passed_back() -> None:
    async def busy(exchange: Exchange) -> None:
        await exchange.answer(b"", b"503 Busy")

    retry = {"retry": {"on_status": (503,)}}
    async with FakeBackend() as other, warm(busy, service=retry) as (proxy, _):
        proxy.pool.add_static(other.address)
        proxy.pool.observe(Report(other.address, other.address, ok=True, detail="200"))
        answers = [await proxy.get() for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert proxy.counters.retries == {"status_503": 1}


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
            await until(lambda: len(backend.seen) == 2)
            lane_of(proxy).hand_over()
            for _ in range(turns):
                await asyncio.sleep(0)
            proxy.server.cut(proxy.site)
            assert await client.ended()
            await proxy.settled(2)
            assert proxy.codes() == {200: 1, 499: 1}, f"cut {turns} turns later"
            assert proxy.counters.arrived == 2
            assert len(backend.seen) == 2
