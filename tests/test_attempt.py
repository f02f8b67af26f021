"""One attempt: whatever becomes of it, its lease is released once and its connection settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lb.attempt import Attempt
from lb.config import TimeoutsConfig
from lb.errors import RequestError
from lb.exchange import Onward
from lb.wire.head import AnswerHead
from tests.fake_backend import FakeBackend, Script, answer_ok, hang, refused_address, reset_at_once
from tests.proxy_harness import Proxied, proxied, until

ONWARD = Onward("GET", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"id")


def silent(_: AnswerHead) -> None:
    pass


@asynccontextmanager
async def attempted(script: Script) -> AsyncIterator[tuple[Attempt, Proxied, FakeBackend]]:
    async with FakeBackend(script) as backend, proxied(backend) as proxy:
        attempt = Attempt(proxy.site, proxy.pool.lease())
        assert proxy.pool.in_flight == 1
        yield attempt, proxy, backend


async def send(attempt: Attempt) -> None:
    await attempt.send(ONWARD, None, silent, TimeoutsConfig(first_byte=0.2))


async def test_an_answer_is_counted_and_its_connection_kept() -> None:
    async with attempted(answer_ok) as (attempt, proxy, backend):
        with attempt:
            await send(attempt)
            assert attempt.head.status == 200
            assert attempt.exchange.all() == b"ok"
            assert attempt.answered() >= 0.0
        attempt.end()
        assert proxy.pool.in_flight == 0
        (view,) = proxy.pool.snapshot()
        assert (view.requests_total, view.failures_total) == (1, 0)
        assert backend.open == 1


async def test_an_answer_left_unread_closes_its_connection_and_counts_for_nothing() -> None:
    async with attempted(answer_ok) as (attempt, proxy, backend):
        with attempt:
            await send(attempt)
        await until(lambda: backend.open == 0)
        (view,) = proxy.pool.snapshot()
        assert (proxy.pool.in_flight, view.failures_total) == (0, 0)


@pytest.mark.parametrize(
    ("script", "reason"), [(reset_at_once, "reset"), (hang, "first_byte_timeout")]
)
async def test_a_failure_is_counted_against_the_backend_once(script: Script, reason: str) -> None:
    async with attempted(script) as (attempt, proxy, backend):
        with attempt:
            with pytest.raises(RequestError) as caught:
                await send(attempt)
            assert caught.value.reason == reason
        assert proxy.pool.in_flight == 0
        assert proxy.counters.upstream_errors == {reason: 1}
        assert proxy.pool.snapshot()[0].failures_total == 1
        await until(lambda: backend.open == 0)


async def test_nobody_there() -> None:
    async with proxied(refused_address()) as proxy:
        with Attempt(proxy.site, proxy.pool.lease()) as attempt, pytest.raises(RequestError):
            await send(attempt)
        assert proxy.pool.in_flight == 0
        assert proxy.counters.upstream_errors == {"connect_failed": 1}


async def test_cancelled_it_leaves_nothing_and_blames_nobody() -> None:
    async with attempted(hang) as (attempt, proxy, backend):

        async def run() -> None:
            with attempt:
                await attempt.send(ONWARD, None, silent, TimeoutsConfig())

        running = asyncio.ensure_future(run())
        await until(lambda: backend.seen)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: backend.open == 0)
        assert proxy.pool.in_flight == 0
        assert proxy.counters.upstream_errors == {}
        assert proxy.pool.snapshot()[0].failures_total == 0
