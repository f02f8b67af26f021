"""The prober against scripted backends: what counts as ready, and that nobody waits for another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from autoscale.model import EventKind
from lb.balance import policy_named
from lb.config_service import HealthConfig, OutlierConfig, ServiceConfig
from lb.errors import ConnectFailedError
from lb.health import FIRST_S, Prober, pause_s
from lb.pool import Change, Pool
from lb.slate import Rng
from tests.fake_backend import Exchange, FakeBackend, hang
from tests.pools import answers, event
from tests.proxy_harness import until

QUICK = HealthConfig(path="/ready", interval=0.05, interval_down=0.05, timeout=5, fall=2)


@contextlib.asynccontextmanager
async def probing(
    *addresses: str, health: HealthConfig = QUICK, rng: Rng | None = None
) -> AsyncIterator[Pool]:
    before = asyncio.all_tasks()
    pool = Pool("web", policy_named("least_requests"), health)
    for address in addresses:
        pool.add_static(address)
    prober = Prober(pool, rng=rng)
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


async def test_who_joins_ready_is_asked_after_the_request_that_waits_for_it() -> None:
    now = 1000.0
    async with FakeBackend() as backend:
        pool = Pool("web", policy_named("least_requests"), QUICK)
        prober = Prober(pool, clock=lambda: now)
        await prober.start()
        try:
            asked = event(EventKind.JOIN, "web-1", backend.address)
            pool.apply(replace(asked, ready=True))
            await asyncio.sleep(0.05)
            assert backend.seen == []
            now += FIRST_S
            pool.on_configured()
            await until(lambda: backend.seen)
        finally:
            await prober.stop()


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


async def test_one_that_is_down_is_asked_more_often() -> None:
    health = QUICK.model_copy(update={"interval": 3600.0, "fall": 1})
    async with FakeBackend() as backend, probing(backend.address, health=health) as pool:
        await until(lambda: pool.available)
        asked = len(backend.seen)
        await backend.stop()
        with pool.lease() as lease:
            lease.failed(ConnectFailedError("refused"))
        await until(lambda: probe_of(pool) == "refused")
        await backend.start(port=int(backend.address.rpartition(":")[2]))
        await until(lambda: pool.available)
        assert len(backend.seen) == asked + 1


@pytest.mark.parametrize(
    ("well", "dice", "wait_s"),
    [(True, 0.0, 9.0), (True, 0.5, 10.0), (True, 0.75, 10.5), (True, 1.0, 11.0), (False, 0.5, 2.0)],
)
def test_intervals_are_longer_or_shorter_by_the_jitter(
    well: bool, dice: float, wait_s: float
) -> None:
    health = HealthConfig(interval=10.0, interval_down=2.0, jitter=0.1)
    assert pause_s(health, well, dice) == pytest.approx(wait_s)


async def test_every_question_is_planned_by_the_dice() -> None:
    class Dice:
        thrown = 0

        def random(self) -> float:
            self.thrown += 1
            return 0.0

    dice = Dice()
    async with FakeBackend() as backend, probing(backend.address, rng=dice):
        await until(lambda: dice.thrown >= 3)


async def test_new_settings_count_at_once() -> None:
    slow = QUICK.model_copy(update={"interval": 3600.0, "interval_down": 3600.0})
    async with FakeBackend() as backend, probing(backend.address, health=slow) as pool:
        await until(lambda: pool.available)
        pool.configure(
            ServiceConfig(health=QUICK.model_copy(update={"path": "/other", "jitter": 0.0}))
        )
        await until(lambda: len(backend.seen) >= 3)
        assert [seen.target for seen in backend.seen[:2]] == [b"/ready", b"/other"]


async def test_an_ejection_ends_in_time_though_no_request_comes() -> None:
    slow = QUICK.model_copy(update={"interval": 3600.0})
    told: list[Change] = []
    async with (
        FakeBackend() as a,
        FakeBackend() as b,
        probing(a.address, b.address, health=slow) as pool,
    ):
        # Once while starting and, that being planned already, once more soon after.
        await until(lambda: len(a.seen) == len(b.seen) == 2)
        pool.configure(ServiceConfig(health=slow, outlier=OutlierConfig(ejection=0.2)))
        pool.subscribe(told.append)
        answers(pool, b.address, *[500] * 5)
        assert [one.address for one in pool.available] == [a.address]
        await until(lambda: len(pool.available) == 2)
        assert [change.after for change in told] == ["ejected", "reinstated"]
        assert len(b.seen) == 2, "an ejected one is healthy: it is asked no more often"
