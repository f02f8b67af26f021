"""What the planner is told of clients: each request once, and what waits, runs and was answered."""

from __future__ import annotations

import pytest

from autoscale.model import Demand
from lb.config import QueueConfig, RouteConfig
from tests.fake_backend import FakeBackend, hang, in_turn, reset_at_once
from tests.proxy_harness import one, proxied, until
from tests.test_proxy_queue import Gate, ask


async def test_before_the_first_request_there_is_nothing() -> None:
    async with proxied() as proxy:
        demand = proxy.site.demand()
        assert demand == Demand(at=demand.at)
        assert 0 <= demand.at <= proxy.pool.clock()


async def test_every_request_that_is_led_there_arrives_once() -> None:
    """Refused ones too, and one that is sent twice no more often; what has no route is nobody's."""
    routes = (RouteConfig(path="/app", service="web"),)
    async with (
        FakeBackend(in_turn([reset_at_once])) as flaky,
        proxied(flaky, routes=routes) as proxy,
    ):
        assert (await proxy.get("/app")).status == 200
        assert len(flaky.seen) == 2
        assert proxy.site.demand().arrived_total == 1
        proxy.pool.drain(flaky.address)
        assert (await proxy.get("/app")).status == 503
        assert proxy.site.demand().arrived_total == 2
        assert (await proxy.get("/elsewhere")).status == 404
        assert proxy.site.demand().arrived_total == 2


async def test_who_waits_who_runs_and_who_was_answered() -> None:
    gate = Gate()
    async with one(gate, max_in_flight=1) as (proxy, backend):
        name = backend.address
        running = await ask(proxy.port, "/")
        await until(lambda: len(backend.seen) == 1)
        waiting = await ask(proxy.port, "/")
        await until(lambda: len(proxy.site.line) == 1)
        demand = proxy.site.demand()
        assert (demand.arrived_total, demand.queued) == (2, 1)
        assert (demand.in_flight, demand.served_total) == ({name: 1}, {name: 0})
        assert demand.latency_p50_s is None
        later = proxy.site.demand()
        assert later.waiting_s - demand.waiting_s == pytest.approx(later.at - demand.at, abs=0.01)
        assert later.waiting_s > 0
        gate.open(2)
        for client in (running, waiting):
            assert (await client.answer()).status == 200
            await client.close()
        await proxy.settled(2)
        demand = proxy.site.demand()
        assert (demand.arrived_total, demand.queued, demand.waiting_s) == (2, 0, 0.0)
        assert (demand.in_flight, demand.served_total) == ({name: 0}, {name: 2})


async def test_latency_is_what_clients_saw() -> None:
    """The one that waited in vain took longest, and no backend ever knew of it."""
    queue = QueueConfig(max_wait=0.2)
    async with one(hang, max_in_flight=1, queue=queue) as (proxy, backend):
        stuck = await ask(proxy.port, "/")
        await until(lambda: len(backend.seen) == 1)
        assert (await proxy.get()).status == 503
        demand = proxy.site.demand()
        assert demand.latency_p50_s is not None
        assert demand.latency_p99_s is not None
        assert 0.1 < demand.latency_p50_s <= demand.latency_p99_s
        stuck.abort()
        await until(lambda: not proxy.pool.in_flight)
        await stuck.close()


async def test_a_backend_that_left_drops_out() -> None:
    async with FakeBackend() as old, FakeBackend() as new, proxied(old, new) as proxy:
        for _ in range(4):
            await proxy.get()
        served = proxy.site.demand().served_total
        assert set(served) == {old.address, new.address}
        assert sum(served.values()) == 4
        proxy.pool.remove(old.address)
        demand = proxy.site.demand()
        assert demand.served_total == {new.address: served[new.address]}
        assert set(demand.in_flight) == {new.address}
        assert demand.arrived_total == 4
