"""Backends that answer late, half, garbage or not at all: what the client sees, who is blamed."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.fake_backend import (
    CHUNKED,
    OK,
    Exchange,
    FakeBackend,
    Script,
    hang,
    refused_address,
    reset_at_once,
    send,
)
from tests.proxy_harness import PATIENCE_S, one, proxied, reason_of, until

MIB = 1024 * 1024


# ── the backend's faults ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (send(b"hello there\r\n\r\n", then="hang"), "bad_answer"),
        (send(b"\x16\x03\x01\x00\x00", then="close"), "bad_answer"),
        (send(b"HTTP/1.1 200 OK\r\nContent-Le", then="close"), "bad_answer"),
        (send(b"HTT", then="close"), "bad_answer"),
        (send(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", then="hang"), "bad_answer"),
        (
            send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            "bad_answer",
        ),
        (send(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", then="hang"), "bad_answer"),
        (reset_at_once, "reset"),
        (send(then="close"), "reset"),
    ],
)
async def test_an_answer_that_is_none_gives_502_with_its_reason(
    script: Script, reason: str
) -> None:
    async with one(script) as (proxy, _):
        answer = await proxy.get("/", "Content-Length: 0", method="POST")
        assert (answer.status, reason_of(answer.body)) == (502, reason)
        assert answer.value("Content-Type") == "application/problem+json"
        assert proxy.counters.upstream_errors == {reason: 1}
        (view,) = proxy.pool.snapshot()
        assert view.failures_total == 1


async def test_both_length_and_chunked_in_an_answer_are_502() -> None:
    script = send(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    async with one(script) as (proxy, _):
        assert (await proxy.get()).status == 502


async def test_a_backend_that_never_answers_gives_504() -> None:
    async with one(hang, timeouts={"first_byte": 0.2}) as (proxy, backend):
        answer = await proxy.get()
        assert (answer.status, reason_of(answer.body)) == (504, "first_byte_timeout")
        assert len(backend.seen) == 1, "a request that may still be running is not sent again"
        await until(lambda: backend.open == 0)


LENGTH_10 = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (send(LENGTH_10, b"12345", then="close"), "body_cut"),
        (send(LENGTH_10, b"12345", then="reset"), "body_cut"),
        (send(CHUNKED, b"5\r\n12345\r\n", then="close"), "body_cut"),
        (send(CHUNKED, b"5\r\n12345\r\n", then="reset"), "body_cut"),
        (send(CHUNKED, b"5\r\n12345\r\nXX\r\n", then="hang"), "body_cut"),
        (send(b"HTTP/1.1 200 OK\r\n\r\n", b"12345", then="reset"), "body_cut"),
        (send(LENGTH_10, b"12345", then="hang"), "body_timeout"),
    ],
)
async def test_a_body_cut_short_never_ends_cleanly(script: Script, reason: str) -> None:
    between = 0.3 if reason == "body_timeout" else PATIENCE_S
    async with (
        one(script, timeouts={"between_bytes": between}) as (proxy, _),
        proxy.client() as client,
    ):
        await client.request("GET", "/")
        answer = await client.answer()
        # A busy machine may hand us head and fault in one read: then it is a plain 502.
        assert answer.status == 502 or not answer.whole
        if answer.status != 502:
            assert await client.ended()
            assert proxy.counters.upstream_errors == {reason: 1}


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_small_answer_that_breaks_off_after_its_head_is_asked_of_another(then: str) -> None:
    """As where a machine dies between the two."""
    dying = send(LENGTH_10, b"12345", then=then)
    async with FakeBackend() as alive, FakeBackend(dying) as dead, proxied(dead, alive) as proxy:
        for _ in range(4):
            assert (await proxy.get()).status == 200
        assert proxy.codes() == {200: 4}
        assert proxy.counters.retries["body_cut"] >= 1


async def test_with_nobody_else_to_ask_it_is_a_plain_502() -> None:
    dying = send(LENGTH_10, b"12345", then="close")
    async with one(dying) as (proxy, backend):
        answer = await proxy.get()
        assert (answer.status, reason_of(answer.body)) == (502, "body_cut")
        assert len(backend.seen) == 2, "the only one is asked once more"


async def test_a_post_whose_answer_breaks_off_is_not_sent_again() -> None:
    async with one(send(LENGTH_10, b"12345", then="close")) as (proxy, backend):
        async with proxy.client() as client:
            await client.request("POST", "/", "Content-Length: 3", body=b"abc")
            assert (await client.answer()).status == 502
        assert len(backend.seen) == 1


async def test_a_refused_connection_is_tried_on_another_backend() -> None:
    async with FakeBackend() as alive, proxied(refused_address(), alive) as proxy:
        for _ in range(6):
            async with proxy.client() as client:
                await client.request("POST", "/", "Content-Length: 3", body=b"abc")
                assert (await client.answer()).status == 200
        assert proxy.codes() == {200: 6}
        assert proxy.counters.retries["connect_failed"] >= 1
        dead, _ = proxy.pool
        assert dead.healthy is (dead.connect_failures < 3)
    assert [seen.body for seen in alive.seen] == [b"abc"] * 6


async def test_a_dead_backend_leaves_after_three_refusals() -> None:
    async with FakeBackend() as alive, proxied(refused_address(), alive) as proxy:
        for _ in range(10):
            await proxy.get()
        dead, _ = proxy.pool
        assert not dead.available
        assert dead.failures == {"connect_failed": 3}
        assert proxy.counters.upstream_errors == {"connect_failed": 3}


async def test_with_nobody_else_a_refused_connection_is_502() -> None:
    async with proxied(refused_address()) as proxy:
        answer = await proxy.get()
    assert (answer.status, reason_of(answer.body)) == (502, "connect_failed")


async def test_a_reset_get_is_repeated_elsewhere_and_a_post_is_not() -> None:
    async with (
        FakeBackend(reset_at_once) as bad,
        FakeBackend() as good,
        proxied(bad, good, policy="round_robin") as proxy,
    ):
        for _ in range(4):
            assert (await proxy.get()).status == 200
        codes = [(await proxy.get("/", method="POST")).status for _ in range(2)]
        assert sorted(codes) == [200, 502]


async def test_a_request_is_sent_at_most_three_times() -> None:
    async with contextlib.AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(FakeBackend(reset_at_once)) for _ in range(5)]
        proxy = await stack.enter_async_context(proxied(*backends))
        assert (await proxy.get()).status == 502
        assert sum(len(backend.seen) for backend in backends) == 3


async def test_the_only_backend_is_asked_once_more_after_a_reset() -> None:
    async with one(reset_at_once) as (proxy, backend):
        assert (await proxy.get()).status == 502
        assert len(backend.seen) == 2


async def test_a_stale_connection_never_shows() -> None:
    closing = send(OK, then="close")
    async with one(closing) as (proxy, backend), proxy.client() as client:
        for _ in range(20):
            await client.request("GET", "/")
            assert (await client.answer()).status == 200
    assert len(backend.seen) >= 20


async def test_an_answer_nobody_asked_for_poisons_nobody() -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

    async def twice(exchange: Exchange) -> None:
        await exchange.answer(exchange.seen.target)
        await asyncio.sleep(0.05)
        await exchange.send(poison)

    async with one(twice) as (proxy, _):
        for number in range(4):
            answer = await proxy.get(f"/{number}")
            assert answer.body == b"/%d" % number
            await asyncio.sleep(0.15)


@pytest.mark.parametrize(("method", "size"), [("POST", 3), ("PUT", 100_000)])
async def test_what_cannot_be_sent_again_is_not(method: str, size: int) -> None:
    async def take_and_reset(exchange: Exchange) -> None:
        await exchange.read_body()
        exchange.reset()

    async with one(take_and_reset) as (proxy, backend), proxy.client() as client:
        await client.request(method, "/", f"Content-Length: {size}", body=b"x" * size)
        assert (await client.answer()).status == 502
        assert len(backend.seen) == 1


async def test_a_small_body_is_sent_again_to_another_backend() -> None:
    async def take_and_reset(exchange: Exchange) -> None:
        await exchange.read_body()
        exchange.reset()

    async with (
        FakeBackend(take_and_reset) as bad,
        FakeBackend() as good,
        proxied(bad, good) as proxy,
        proxy.client() as client,
    ):
        for _ in range(4):
            await client.request("PUT", "/", "Content-Length: 3", body=b"abc")
            assert (await client.answer()).status == 200
        assert {bytes(seen.body) for seen in good.seen} == {b"abc"}
        assert len(good.seen) == 4


async def test_an_answer_before_the_body_is_complete_passes_and_closes() -> None:
    async def too_large(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await exchange.client_gone()

    async with one(too_large) as (proxy, backend), proxy.client() as client:
        await client.request("POST", "/", "Content-Length: 1000000", body=b"x" * 1000)
        answer = await client.answer()
        assert (answer.status, answer.body) == (413, b"big")
        assert answer.value("Connection") == "close"
        await until(lambda: backend.open == 0)
