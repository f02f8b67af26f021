"""Requests that wait in the proxy for a busy backend, over real sockets."""

from __future__ import annotations

import asyncio

import pytest

from lb.config import QueueConfig
from lb.pool import Report
from tests.fake_backend import Exchange, FakeBackend, in_turn, reset_at_once
from tests.proxy_harness import Client, Proxied, one, proxied, reason_of, until


class Gate:
    """A backend's script that answers one request for each `open`, and counts who is inside."""

    def __init__(self) -> None:
        self._open = asyncio.Semaphore(0)
        self.inside = 0
        self.most = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self._open.acquire()
        finally:
            self.inside -= 1
        await exchange.answer(exchange.seen.target)

    def open(self, times: int = 1) -> None:
        for _ in range(times):
            self._open.release()


async def ask(port: int, target: str, *lines: str) -> Client:
    client = Client(port)
    await client.__aenter__()
    await client.request("GET", target, *lines)
    return client


async def test_one_at_a_time_and_the_backend_never_sees_two() -> None:
    gate = Gate()
    async with one(gate, max_in_flight=1) as (proxy, backend):
        clients = []
        for number in range(3):
            clients.append(await ask(proxy.port, f"/{number}"))
            # so that their order is certain
            await until(lambda: proxy.counters.in_flight == len(clients))
        await until(lambda: len(backend.seen) == 1)
        assert proxy.pool.in_flight == 1
        for number, client in enumerate(clients):
            gate.open()
            assert (await client.answer()).body == b"/%d" % number
            await client.close()
        assert [seen.target for seen in backend.seen] == [b"/0", b"/1", b"/2"]
        assert gate.most == 1
        assert backend.connections == 1
        await proxy.settled(3)
        assert proxy.counters.queue_wait.count + proxy.counters.unqueued == 3
        assert proxy.counters.queue_wait.sum_s > 0


async def test_a_client_that_vanishes_in_line_never_reaches_the_backend() -> None:
    gate = Gate()
    async with one(gate, max_in_flight=1) as (proxy, backend):
        first = await ask(proxy.port, "/first")
        await until(lambda: len(backend.seen) == 1)
        leaving = await ask(proxy.port, "/leaving")
        await until(lambda: proxy.counters.in_flight == 2)
        leaving.abort()
        await until(lambda: proxy.codes() == {499: 1})
        last = await ask(proxy.port, "/last")
        gate.open(2)
        for client in (first, last):
            assert (await client.answer()).status == 200
            await client.close()
        assert [seen.target for seen in backend.seen] == [b"/first", b"/last"]
        (view,) = proxy.pool.snapshot()
        assert (view.failures_total, view.requests_total) == (0, 2)
        assert proxy.counters.queue_wait.count + proxy.counters.unqueued == 3, (
            "the one that left waited too"
        )


async def test_clients_take_turns_and_the_greedy_one_makes_room() -> None:
    gate = Gate()
    async with one(
        gate, max_in_flight=1, queue=QueueConfig(length=3), trusted_proxies=("127.0.0.1",)
    ) as (proxy, backend):
        greedy, modest = "X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 203.0.113.2"
        clients = {}
        for target in ("/g0", "/g1", "/g2", "/g3", "/m"):
            who = modest if target == "/m" else greedy
            clients[target] = await ask(proxy.port, target, who)
            await until(
                lambda: proxy.counters.in_flight + proxy.counters.requests_total == len(clients)
            )
        displaced = clients.pop("/g3")
        refused = await displaced.answer()
        await displaced.close()
        assert (refused.status, reason_of(refused.body)) == (503, "queue_full")
        gate.open(4)
        for client in clients.values():
            assert (await client.answer()).status == 200
            await client.close()
        assert [seen.target for seen in backend.seen] == [b"/g0", b"/g1", b"/m", b"/g2"]


@pytest.mark.parametrize(
    ("queue", "reason"),
    [
        (QueueConfig(length=0), "queue_full"),
        (QueueConfig(max_wait=0.05), "queue_timeout"),
    ],
)
async def test_past_its_bounds_the_answer_is_503_and_when_to_come_back(
    queue: QueueConfig, reason: str
) -> None:
    gate = Gate()
    async with one(gate, max_in_flight=1, queue=queue) as (proxy, backend):
        first = await ask(proxy.port, "/")
        await until(lambda: len(backend.seen) == 1)
        answer = await proxy.get()
        assert (answer.status, reason_of(answer.body)) == (503, reason)
        assert int(answer.value("Retry-After") or 0) >= 1
        gate.open()
        assert (await first.answer()).status == 200
        await first.close()
        assert len(backend.seen) == 1
        assert proxy.counters.upstream_errors == {}


async def test_a_backend_that_joins_takes_over_those_who_wait_for_the_busy_one() -> None:
    gate = Gate()
    async with (
        FakeBackend() as fresh,
        FakeBackend(gate) as busy,
        proxied(busy, max_in_flight=1) as proxy,
    ):
        stuck = await ask(proxy.port, "/stuck")
        await until(lambda: len(busy.seen) == 1)
        clients = [await ask(proxy.port, "/") for _ in range(3)]
        await until(lambda: proxy.counters.in_flight == 4)
        proxy.pool.add_static(fresh.address)
        proxy.pool.observe(Report(fresh.address, fresh.address, ok=True))
        for client in clients:
            assert (await client.answer()).status == 200
            await client.close()
        assert len(fresh.seen) == 3
        gate.open()
        assert (await stuck.answer()).status == 200
        await stuck.close()


async def test_the_wait_is_told_to_prometheus() -> None:
    async with one(max_in_flight=1) as (proxy, _):
        for _ in range(2):
            await proxy.get()
        text = proxy.metrics.render()[0].decode()
    assert 'lb_queue_wait_seconds_count{service="web"} 2.0' in text


# ── another attempt waits as well ─────────────────────────────────────────────────────────────────


async def test_a_retry_waits_for_the_other_backend() -> None:
    gate = Gate()
    async with (
        FakeBackend(gate) as busy,
        FakeBackend(reset_at_once) as broken,
        proxied(busy, max_in_flight=1) as proxy,
    ):
        first = await ask(proxy.port, "/first")
        await until(lambda: len(busy.seen) == 1)
        proxy.pool.add_static(broken.address)
        proxy.pool.observe(Report(broken.address, broken.address, ok=True))
        second = await ask(proxy.port, "/second")
        await until(lambda: len(broken.seen) == 1 and proxy.pool.in_flight == 1)
        assert len(busy.seen) == 1
        gate.open(2)
        for client in (first, second):
            assert (await client.answer()).status == 200
            await client.close()
        assert [seen.target for seen in busy.seen] == [b"/first", b"/second"]
        assert gate.most == 1
        assert len(broken.seen) == 1


async def test_a_retry_that_cannot_wait_is_answered_with_the_failure_it_had() -> None:
    gate = Gate()
    async with (
        FakeBackend(gate) as busy,
        FakeBackend(reset_at_once) as broken,
        proxied(busy, max_in_flight=1, queue=QueueConfig(max_wait=0.05)) as proxy,
    ):
        first = await ask(proxy.port, "/first")
        await until(lambda: len(busy.seen) == 1)
        proxy.pool.add_static(broken.address)
        proxy.pool.observe(Report(broken.address, broken.address, ok=True))
        answer = await proxy.get()
        assert (answer.status, reason_of(answer.body)) == (502, "reset")
        assert len(broken.seen) == 1, "not asked again: the other one was only busy"
        gate.open()
        assert (await first.answer()).status == 200
        await first.close()


async def test_a_retry_whose_other_backend_goes_asks_the_same_one_again_at_once() -> None:
    gate = Gate()
    async with (
        FakeBackend(gate) as busy,
        FakeBackend(in_turn([reset_at_once])) as flaky,
        proxied(busy, max_in_flight=1) as proxy,
    ):
        first = await ask(proxy.port, "/first")
        await until(lambda: len(busy.seen) == 1)
        proxy.pool.add_static(flaky.address)
        proxy.pool.observe(Report(flaky.address, flaky.address, ok=True))
        second = await ask(proxy.port, "/second")
        await until(lambda: len(flaky.seen) == 1 and proxy.pool.in_flight == 1)
        proxy.pool.drain(busy.address)
        assert (await second.answer()).status == 200
        await second.close()
        assert len(flaky.seen) == 2
        gate.open()
        assert (await first.answer()).status == 200
        await first.close()


async def test_the_line_is_a_metric_of_its_own() -> None:
    gate = Gate()
    async with one(gate, max_in_flight=1) as (proxy, _):
        clients = [await ask(proxy.port, "/") for _ in range(3)]
        await until(lambda: 'lb_queued_requests{service="web"} 2.0' in exposed(proxy))
        gate.open(3)
        for client in clients:
            await client.answer()
            await client.close()
        assert 'lb_queued_requests{service="web"} 0.0' in exposed(proxy)


def exposed(proxy: Proxied) -> str:
    return proxy.metrics.render()[0].decode()
