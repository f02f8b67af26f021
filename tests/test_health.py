"""The prober against scripted backends: what counts as ready, and that nobody waits for another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from lb.balance import policy_named
from lb.config import HealthConfig
from lb.health import Prober
from lb.pool import Pool
from tests.fake_backend import Exchange, FakeBackend, Script, hang, refused_address, reset_at_once
from tests.fake_backend import send as reply
from tests.proxy_harness import until

QUICK = HealthConfig(path="/ready", interval=0.05, interval_down=0.05, timeout=5, fall=2)


@contextlib.asynccontextmanager
async def probing(*addresses: str, health: HealthConfig = QUICK) -> AsyncIterator[Pool]:
    before = asyncio.all_tasks()
    pool = Pool("web", policy_named("least_requests"), health)
    for address in addresses:
        pool.add_static(address)
    prober = Prober(pool)
    await prober.start()
    try:
        yield pool
    finally:
        await prober.stop()
    left = {
        task
        for task in asyncio.all_tasks() - before
        if "FakeBackend" not in getattr(task.get_coro(), "__qualname__", "")
    }
    assert not left


def probe_of(pool: Pool) -> str:
    (view,) = pool.snapshot()
    return view.probe


async def test_a_booting_backend_turns_ready_and_a_dead_one_unhealthy() -> None:
    up = False

    async def boot(exchange: Exchange) -> None:
        if up:
            await exchange.answer()
        else:
            # As QEMU's forwarded port does before the guest listens: accepted, then reset.
            exchange.reset()

    async with FakeBackend(boot) as backend, probing(backend.address) as pool:
        await until(lambda: len(backend.seen) >= 3)
        assert [view.lifecycle for view in pool.snapshot()] == ["starting"]
        up = True
        await until(lambda: pool.available)
        assert backend.seen[-1].target == b"/ready"
        await backend.stop()
        await until(lambda: not pool.available)
        assert probe_of(pool) == "refused"
        await backend.start(port=int(backend.address.rpartition(":")[2]))
        await until(lambda: pool.available)


@pytest.mark.parametrize(
    ("script", "word"),
    [
        (reply(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), "503"),
        (reply(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"), "302"),
        (reply(b"garbage\r\n\r\n", then="hang"), "bad answer"),
        (reply(b"HTTP/1.1 200 OK\r\nConte", then="close"), "reset"),
        (reset_at_once, "reset"),
        (hang, "timeout"),
    ],
)
async def test_anything_but_2xx_is_not_ready(script: Script, word: str) -> None:
    health = QUICK.model_copy(update={"timeout": 0.2 if word == "timeout" else 5.0})
    async with FakeBackend(script) as backend, probing(backend.address, health=health) as pool:
        await until(lambda: probe_of(pool) == word)
        assert not pool.available


async def test_nobody_listening_is_refused() -> None:
    async with probing(refused_address()) as pool:
        await until(lambda: probe_of(pool) == "refused")


async def test_an_endless_body_does_not_matter() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await exchange.send(bytes(65536))

    async with FakeBackend(endless) as backend, probing(backend.address) as pool:
        await until(lambda: pool.available)


async def test_one_that_hangs_delays_nobody() -> None:
    async with (
        FakeBackend(hang) as stuck,
        FakeBackend() as well,
        probing(stuck.address, well.address) as pool,
    ):
        await until(lambda: len(well.seen) >= 5)
        assert len(stuck.seen) == 1, "one question at a time"
        assert [b.address for b in pool.available] == [well.address]


async def test_one_that_answers_requests_while_its_probe_waits_is_busy_and_stays() -> None:
    answering = True

    async def well_once(exchange: Exchange) -> None:
        await (exchange.answer() if len(backend.seen) == 1 else hang(exchange))

    health = QUICK.model_copy(update={"timeout": 0.3, "fall": 2})
    async with (
        FakeBackend(well_once) as backend,
        probing(backend.address, health=health) as pool,
    ):

        async def requests() -> None:
            while answering:
                with pool.lease() as lease:
                    await asyncio.sleep(0.01)
                    lease.answered(0.01, pool.clock())

        await until(lambda: pool.available)
        running = asyncio.ensure_future(requests())
        await until(lambda: len(backend.seen) >= 5)
        assert probe_of(pool) == "busy"
        assert pool.available
        answering = False
        await running
        await until(lambda: not pool.available)
        assert probe_of(pool) == "timeout"


async def test_a_backend_that_joins_is_asked_at_once() -> None:
    slow = QUICK.model_copy(update={"interval": 3600.0, "interval_down": 3600.0})
    async with FakeBackend() as backend, probing(health=slow) as pool:
        await asyncio.sleep(0.05)
        pool.add_static(backend.address)
        await until(lambda: pool.available)


async def test_a_draining_backend_is_left_in_peace() -> None:
    async with (
        FakeBackend() as leaving,
        FakeBackend() as other,
        probing(leaving.address, other.address) as pool,
    ):
        await until(lambda: len(pool.available) == 2)
        pool.drain(leaving.address)
        await until(lambda: leaving.open == 0)
        asked, mark = len(leaving.seen), len(other.seen)
        await until(lambda: len(other.seen) >= mark + 5)
        assert len(leaving.seen) <= asked + 1


async def test_every_probe_has_a_connection_of_its_own() -> None:
    async with FakeBackend() as backend, probing(backend.address):
        await until(lambda: len(backend.seen) >= 4)
        assert len({seen.connection for seen in backend.seen}) == len(backend.seen)
        assert backend.seen[0].values(b"User-Agent") == [b"lbctl-probe"]
