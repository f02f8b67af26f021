"""Retries and hedges end to end: what is tried again, on whom, and what the client sees of it."""

from __future__ import annotations

import asyncio

import pytest

from lb.config import LimitsConfig
from lb.pool import Report
from tests.fake_backend import Exchange, FakeBackend, Script, hang, reset_at_once
from tests.proxy_harness import one, proxied, reason_of, until


def refusing(status: int) -> Script:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(b"no", b"%d No" % status)

    return refuse


async def take_and_reset(exchange: Exchange) -> None:
    await exchange.read_body()
    exchange.reset()


# ── statuses ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_of_a_listed_status_is_tried_elsewhere() -> None:
    async with (
        FakeBackend(refusing(503)) as bad,
        FakeBackend() as good,
        proxied(bad, good, policy="round_robin", service={"retry": {"on_status": (503,)}}) as proxy,
    ):
        for _ in range(4):
            assert (await proxy.get()).status == 200
        posts = sorted([(await proxy.get("/", method="POST")).status for _ in range(2)])
        assert posts == [200, 503], "a POST may be done twice by that"
        assert proxy.counters.retries == {"status_503": len(bad.seen) - 1}


async def test_with_nobody_else_the_answer_of_a_listed_status_passes() -> None:
    service = {"retry": {"on_status": (503,)}}
    async with one(refusing(503), service=service) as (proxy, backend), proxy.client() as client:
        for _ in range(2):
            await client.request("GET", "/")
            answer = await client.answer()
            assert (answer.status, answer.body) == (503, b"no")
        assert len(backend.seen) == 2
        assert proxy.counters.retries == {}


async def test_statuses_that_are_not_listed_pass() -> None:
    async with FakeBackend(refusing(503)) as bad, proxied(bad) as proxy:
        assert (await proxy.get()).body == b"no"
        assert len(bad.seen) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_stale_connection_never_shows(method: str) -> None:
    """The backend takes the second request of each connection, and closes without a word. A POST
    is not sent again: over so fresh a connection, nobody knows that it was stale."""

    async def once(exchange: Exchange) -> None:
        if any(seen.connection == exchange.seen.connection for seen in backend.seen[:-1]):
            exchange.keep = False
            return
        await exchange.answer()

    async with one(once) as (proxy, backend), proxy.client() as client:
        statuses = []
        for _ in range(6):
            await client.request(method, "/", *(["Content-Length: 0"] if method == "POST" else []))
            statuses.append((await client.answer()).status)
        if method == "GET":
            assert statuses == [200] * 6
            assert set(proxy.counters.retries) == {"stale_connection"}
        else:
            assert statuses == [200, 502] * 3
        (view,) = proxy.pool.snapshot()
        assert view.failures_total == 0, "nobody's fault"


async def test_a_post_rides_only_on_a_connection_in_use_a_moment_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lb.upstream.IDLE_UNSAFE_S", 0.0)
    async with one() as (proxy, backend), proxy.client() as client:
        for method in ("GET", "GET", "POST", "GET"):
            await client.request(method, "/", "Content-Length: 0")
            assert (await client.answer()).status == 200
        assert [seen.connection for seen in backend.seen] == [0, 0, 1, 1]


async def test_a_body_that_was_kept_is_sent_again_whole() -> None:
    async with (
        FakeBackend(take_and_reset) as bad,
        FakeBackend() as good,
        proxied(bad, good, policy="round_robin", service={"retry": {"body_bytes": 1000}}) as proxy,
        proxy.client() as client,
    ):
        chunks = b"".join(b"64\r\n" + bytes([n]) * 100 + b"\r\n" for n in range(5)) + b"0\r\n\r\n"
        for _ in range(4):
            await client.request("PUT", "/", "Transfer-Encoding: chunked", body=chunks)
            assert (await client.answer()).status == 200
        assert {bytes(seen.body) for seen in good.seen} == {
            b"".join(bytes([n]) * 100 for n in range(5))
        }
        assert bad.seen


async def test_a_body_larger_than_is_kept_is_not_sent_again() -> None:
    service = {"retry": {"body_bytes": 10}}
    async with (
        FakeBackend(take_and_reset) as first,
        FakeBackend(take_and_reset) as second,
        proxied(first, second, service=service) as proxy,
        proxy.client() as client,
    ):
        await client.request("PUT", "/", "Content-Length: 11", body=b"x" * 11)
        assert (await client.answer()).status == 502
        assert len(first.seen) + len(second.seen) == 1


async def test_no_more_retries_than_the_budget_allows() -> None:
    service = {"retry": {"budget": 0.0, "min_per_second": 0.1}}
    async with (
        FakeBackend(reset_at_once) as first,
        FakeBackend(reset_at_once) as second,
        proxied(first, second, service=service) as proxy,
    ):
        for _ in range(5):
            assert (await proxy.get()).status == 502
        assert sum(proxy.counters.retries.values()) == 1


async def test_an_open_breaker_asks_nobody() -> None:
    service = {"breaker": {"enabled": True, "min_requests": 3, "open": 60.0}}
    async with one(refusing(500), service=service) as (proxy, backend):
        statuses = [(await proxy.get()).status for _ in range(6)]
        assert statuses == [500] * 3 + [503] * 3
        answer = await proxy.get()
        assert reason_of(answer.body) == "breaker_open"
        assert int(answer.value("Retry-After") or 0) >= 1
        assert len(backend.seen) == 3
        assert b'lb_breaker_open{service="web"} 1.0' in proxy.metrics.render()[0]


async def test_what_clients_do_wrong_does_not_open_the_breaker() -> None:
    async def read(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.answer(b"ok")

    breaker = {"enabled": True, "failures": 0.1, "min_requests": 3, "trials": 1}
    limits = LimitsConfig(body_bytes=10)
    async with one(read, service={"breaker": breaker}, limits=limits) as (proxy, _):
        for _ in range(6):
            async with proxy.client() as client:
                await client.request(
                    "POST", "/", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"
                )
                await until(lambda: proxy.pool.in_flight)
                await client.send(b"b\r\nhello world\r\n0\r\n\r\n")
                assert (await client.answer()).status == 413
        assert (await proxy.get()).status == 200
        assert b'lb_breaker_open{service="web"} 0.0' in proxy.metrics.render()[0]


# ── hedges ────────────────────────────────────────────────────────────────────────────────────────

HEDGED = {"retry": {"hedge_after": 0.1}}


async def test_a_second_backend_answers_for_one_that_hangs() -> None:
    async with (
        FakeBackend(hang) as slow,
        FakeBackend() as quick,
        proxied(slow, policy="round_robin", service=HEDGED) as proxy,
        proxy.client() as client,
    ):
        await client.request("GET", "/")
        await until(lambda: slow.seen)
        proxy.pool.add_static(quick.address)
        proxy.pool.observe(Report(quick.address, quick.address, ok=True))
        assert (await client.answer()).status == 200
        await until(lambda: slow.open == 0)
        assert proxy.counters.retries == {"hedge": 1}
        assert proxy.counters.upstream_errors == {}
        assert {view.failures_total for view in proxy.pool.snapshot()} == {0}
        await client.request("GET", "/")
        assert (await client.answer()).status == 200, "one answer came, not two"
        assert proxy.pool.in_flight == 0


async def test_the_first_may_still_win() -> None:
    release = asyncio.Event()

    async def first_slow(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer(b"first")

    async with (
        FakeBackend(first_slow) as first,
        FakeBackend(hang) as second,
        proxied(first, service=HEDGED) as proxy,
        proxy.client() as client,
    ):
        await client.request("GET", "/")
        await until(lambda: first.seen)
        proxy.pool.add_static(second.address)
        proxy.pool.observe(Report(second.address, second.address, ok=True))
        await until(lambda: second.seen)
        release.set()
        assert (await client.answer()).body == b"first"
        await until(lambda: second.open == 0)


async def test_a_quick_answer_is_never_hedged() -> None:
    service = {"retry": {"hedge_after": 10.0}}
    async with FakeBackend() as a, FakeBackend() as b, proxied(a, b, service=service) as proxy:
        for _ in range(6):
            assert (await proxy.get()).status == 200
        assert len(a.seen) + len(b.seen) == 6
        assert proxy.counters.retries == {}


@pytest.mark.parametrize(("method", "body"), [("POST", b""), ("PUT", b""), ("GET", b"abc")])
async def test_only_a_get_without_a_body_is_hedged(method: str, body: bytes) -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer()

    async with (
        FakeBackend(slow) as a,
        FakeBackend(slow) as b,
        proxied(a, b, service={"retry": {"hedge_after": 0.05}}) as proxy,
        proxy.client() as client,
    ):
        await client.request(method, "/", f"Content-Length: {len(body)}", body=body)
        await until(lambda: a.seen or b.seen)
        await asyncio.sleep(0.2)
        assert len(a.seen) + len(b.seen) == 1
        release.set()
        assert (await client.answer()).status == 200


async def test_a_client_that_leaves_cancels_both() -> None:
    async with (
        FakeBackend(hang) as a,
        FakeBackend(hang) as b,
        proxied(a, b, service={"retry": {"hedge_after": 0.05}}) as proxy,
        proxy.client() as client,
    ):
        await client.request("GET", "/")
        await until(lambda: a.seen and b.seen)
        client.abort()
        await proxy.settled(1)
        assert proxy.codes() == {499: 1}
        await until(lambda: not a.open and not b.open)


async def test_where_both_fail_it_is_one_failure() -> None:
    release = asyncio.Event()

    async def slowly_reset(exchange: Exchange) -> None:
        await release.wait()
        exchange.reset()

    service = {"retry": {"hedge_after": 0.05, "attempts": 1}}
    async with (
        FakeBackend(slowly_reset) as a,
        FakeBackend(slowly_reset) as b,
        proxied(a, b, service=service) as proxy,
        proxy.client() as client,
    ):
        await client.request("GET", "/")
        await until(lambda: a.seen and b.seen)
        release.set()
        answer = await client.answer()
        assert (answer.status, reason_of(answer.body)) == (502, "reset")
        assert proxy.counters.upstream_errors == {"reset": 2}
