"""Requests that find no backend ready, where one will come: they wait for it, within all bounds."""

from __future__ import annotations

import asyncio

import pytest

from autoscale.model import EventKind, Reason, ScaleEvent
from lb.config import QueueConfig
from lb.errors import (
    AllTriedError,
    AllUnhealthyError,
    NoBackendError,
    NoneReadyError,
    PoolEmptyError,
    QueueFullError,
    QueueTimeoutError,
    UpstreamResetError,
)
from lb.pool import LOST_S, Pool, Report
from lb.waiting import WaitingLine
from tests.fake_backend import Exchange, FakeBackend
from tests.proxy_harness import PATIENCE_S, Proxied, proxied, reason_of, until
from tests.test_proxy_queue import Gate, ask
from tests.waiters import PATIENT, Requests, backend, join, make, probe, settle


def at_zero(
    *, queue: QueueConfig = PATIENT, limit: int = 9, awaited: float = PATIENCE_S
) -> tuple[Pool, WaitingLine, list[str]]:
    """A line before no backend at all; the list has a word for each call of `on_wait`."""
    pool, line = make(queue=queue, limit=limit)
    calls: list[str] = []
    line.awaited = lambda: awaited
    line.on_wait = lambda: calls.append("wake")
    return pool, line, calls


# ── who waits ─────────────────────────────────────────────────────────────────────────────────────


async def test_they_wait_for_the_first_backend_in_order_and_it_is_asked_for_once() -> None:
    pool, line, calls = at_zero(limit=2)
    requests = Requests(line)
    await requests.come("1", "2", "3")
    assert (requests.served, len(line), calls) == ([], 3, ["wake"])
    join(pool, "a")
    await settle()
    assert (requests.served, len(line)) == (["1", "2"], 1)
    await requests.end("1", "2", "3")
    assert (pool.in_flight, len(line), calls) == (0, 0, ["wake"])


async def test_a_backend_that_starts_or_drains_is_none_that_is_ready() -> None:
    pool, line, calls = at_zero()
    pool.add_static("a:80", name="a")
    requests = Requests(line)
    await requests.come("1")
    probe(pool, "a")
    await requests.end("1")
    pool.drain("a")
    await requests.come("2")
    assert (requests.served, len(line)) == (["1"], 1)
    pool.ready("a")
    probe(pool, "a")
    await requests.end("2")
    assert calls == ["wake", "wake"]


async def test_a_backend_that_is_there_at_once_serves_whoever_asked_for_it() -> None:
    pool, line, _ = at_zero()
    line.on_wait = lambda: join(pool, "a")
    requests = Requests(line)
    await requests.come("1")
    assert requests.on == {"1": "a"}
    await requests.end("1")
    assert (pool.in_flight, len(line)) == (0, 0)


async def test_one_whose_backend_was_the_last_waits_for_another() -> None:
    pool, line, _ = at_zero()
    join(pool, "a")
    failed = backend(pool, "a")
    pool.remove("a")
    requests = Requests(line)
    await requests.come("again", exclude=[failed])
    assert len(line) == 1
    join(pool, "b")
    await settle()
    assert requests.on == {"again": "b"}
    await requests.end("again")


async def test_while_none_will_come_it_is_an_answer_as_ever() -> None:
    pool, line, calls = at_zero(awaited=0.0)
    with pytest.raises(PoolEmptyError):
        await line.lease()
    pool.add_static("a:80", name="a")
    with pytest.raises(NoneReadyError):
        await line.lease()
    assert calls == []


async def test_backends_that_all_fail_their_checks_are_not_waited_for() -> None:
    pool, line, calls = at_zero()
    join(pool, "a")
    probe(pool, "a", ok=False)
    with pytest.raises(AllUnhealthyError):
        await line.lease()
    assert calls == []


async def test_what_needs_a_lease_now_is_told_that_there_is_none() -> None:
    _, line, calls = at_zero()
    with pytest.raises(PoolEmptyError):
        line.lease_now()
    requests = Requests(line)
    await requests.come("1")
    with pytest.raises(PoolEmptyError):
        line.lease_now()
    assert calls == ["wake"]
    requests.tasks["1"].cancel()


async def test_the_first_who_waits_for_a_busy_backend_is_told_of_too() -> None:
    pool, line, calls = at_zero(limit=1)
    join(pool, "a")
    requests = Requests(line)
    await requests.come("1", "2", "3")
    assert (len(line), calls) == (2, ["wake"]), "not each who joins him"
    await requests.end("1", "2", "3")
    await requests.come("4")
    assert calls == ["wake"], "it need not wait"
    await requests.come("5")
    assert calls == ["wake", "wake"], "the line had gone"
    await requests.end("4", "5")


# ── the bounds ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("queue_s", "told", "awaited"),
    [
        (0.0, None, PATIENCE_S),
        (0.0, 0.0, PATIENCE_S),
        (PATIENCE_S, None, 1e-9),
        (0.0, PATIENCE_S, 1e-9),
    ],
    ids=["the queue's", "a shorter one that was told", "awaited", "awaited, though told"],
)
async def test_the_longer_wait_counts(queue_s: float, told: float | None, awaited: float) -> None:
    """The shorter one is over at once, so whoever is still there goes by the longer."""
    pool, line, _ = at_zero(queue=QueueConfig(max_wait=queue_s), awaited=awaited)
    waiting = asyncio.ensure_future(line.lease(max_wait=told))
    await settle()
    assert len(line) == 1
    join(pool, "a")
    (await waiting).release()


async def test_who_waited_in_vain_is_told_and_the_next_one_wakes_again() -> None:
    _, line, calls = at_zero(queue=QueueConfig(max_wait=0.0), awaited=0.01)
    for number in (1, 2):
        with pytest.raises(QueueTimeoutError, match=r"in 0\.01 s"):
            await line.lease()
        assert (len(line), calls) == (0, ["wake"] * number)


@pytest.mark.parametrize("length", [0, 2])
async def test_the_line_has_its_length(length: int) -> None:
    pool, line, calls = at_zero(queue=QueueConfig(length=length, max_wait=PATIENCE_S))
    requests = Requests(line)
    names = [str(number) for number in range(length)]
    await requests.come(*names)
    with pytest.raises(QueueFullError):
        await line.lease()
    assert calls == ["wake"] * min(1, length)
    join(pool, "a")
    await requests.end(*names)
    assert requests.served == names


async def test_clients_take_turns_as_ever() -> None:
    pool, line, _ = at_zero(limit=1)
    requests = Requests(line)
    await requests.come("g1", "g2", "g3", client=b"greedy")
    await requests.come("m1", client=b"modest")
    join(pool, "a")
    await requests.end("g1", "m1", "g2", "g3")
    assert requests.served == ["g1", "m1", "g2", "g3"]


async def test_a_waker_that_fails_leaves_nobody_in_line() -> None:
    _, line, _ = at_zero()

    def fail() -> None:
        raise LookupError

    line.on_wait = fail
    with pytest.raises(LookupError):
        await line.lease()
    assert len(line) == 0


# ── through the proxy ─────────────────────────────────────────────────────────────────────────────


def wakes(proxy: Proxied, *, within_s: float = PATIENCE_S) -> asyncio.Event:
    """From now on a request to the empty pool waits; the event is set when it does."""
    woken = asyncio.Event()
    proxy.site.line.awaited = lambda: within_s
    proxy.site.line.on_wait = woken.set
    return woken


async def within(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await event.wait()


def comes_up(proxy: Proxied, backend: FakeBackend) -> None:
    proxy.pool.add_static(backend.address)
    proxy.pool.observe(Report(backend.address, backend.address, ok=True, detail="200"))


@pytest.mark.parametrize("adaptive", [False, True])
async def test_no_request_to_a_service_at_zero_is_lost(adaptive: bool) -> None:
    """Adaptive concurrency would let nobody wait as long as a replica takes."""
    queue = QueueConfig(max_wait=0.0)
    service = {"adaptive": {"enabled": adaptive, "max_wait": 0.0}}
    async with FakeBackend() as fresh, proxied(queue=queue, service=service) as proxy:
        woken = wakes(proxy)
        clients = [await ask(proxy.port, f"/{number}") for number in range(3)]
        await within(woken)
        await until(lambda: len(proxy.site.line) == 3)
        assert proxy.pool.in_flight == 0
        comes_up(proxy, fresh)
        for client in clients:
            assert (await client.answer()).status == 200
            await client.close()
        assert len(fresh.seen) == 3
        await proxy.settled(3)
        assert proxy.counters.queue_wait.count == 3


async def test_a_retry_outlasts_the_last_backend() -> None:
    async def die(exchange: Exchange) -> None:
        proxy.pool.remove(dying.address)
        exchange.reset()

    async with FakeBackend() as fresh, FakeBackend(die) as dying, proxied(dying) as proxy:
        woken = wakes(proxy)
        client = await ask(proxy.port, "/")
        await within(woken)
        comes_up(proxy, fresh)
        assert (await client.answer()).status == 200
        await client.close()
        assert proxy.counters.retries == {"reset": 1}


async def test_a_client_that_hangs_up_leaves_the_line() -> None:
    async with FakeBackend() as fresh, proxied() as proxy:
        woken = wakes(proxy)
        client = await ask(proxy.port, "/")
        await within(woken)
        client.abort()
        await until(lambda: proxy.codes() == {499: 1})
        assert len(proxy.site.line) == 0
        comes_up(proxy, fresh)
        assert (await proxy.get()).status == 200
        assert len(fresh.seen) == 1
        await client.close()


@pytest.mark.parametrize(
    ("settings", "within_s", "status", "reason"),
    [
        ({"timeouts": {"whole": 0.05}}, PATIENCE_S, 504, "deadline"),
        ({"queue": QueueConfig(max_wait=0.0)}, 0.05, 503, "queue_timeout"),
        ({"queue": QueueConfig(length=0)}, PATIENCE_S, 503, "queue_full"),
    ],
)
async def test_its_wait_ends_at_every_bound_and_speaks_against_nobody(
    settings: dict[str, object], within_s: float, status: int, reason: str
) -> None:
    """The breaker would open at the first failure that counts."""
    breaker = {"enabled": True, "min_requests": 1, "failures": 0.01}
    async with (
        FakeBackend() as fresh,
        proxied(service={"breaker": breaker}, **settings) as proxy,  # type: ignore[arg-type]
    ):
        wakes(proxy, within_s=within_s)
        answer = await proxy.get()
        assert (answer.status, reason_of(answer.body)) == (status, reason)
        assert (int(answer.value("Retry-After") or 0) >= 1) == (status == 503)
        assert len(proxy.site.line) == 0
        assert proxy.counters.upstream_errors == {}
        comes_up(proxy, fresh)
        assert (await proxy.get()).status == 200


async def test_stopping_waits_for_nobody_longer_than_the_grace() -> None:
    async with proxied() as proxy:
        woken = wakes(proxy)
        client = await ask(proxy.port, "/waiting")
        await within(woken)
        stopped = await proxy.server.stop(0.05)
        assert stopped.cut == ("GET /waiting → no backend yet",)
        assert await client.ended()
        assert proxy.codes() == {503: 1}
        await client.close()


async def test_what_comes_up_while_stopping_still_serves() -> None:
    async with FakeBackend() as fresh, proxied() as proxy:
        woken = wakes(proxy)
        client = await ask(proxy.port, "/")
        await within(woken)
        stopping = asyncio.ensure_future(proxy.server.stop(PATIENCE_S))
        await until(lambda: proxy.server.proxy.stopping)
        comes_up(proxy, fresh)
        assert (await client.answer()).status == 200
        assert (await stopping).cut == ()
        await client.close()


async def test_one_that_waits_takes_no_connection_of_those_that_run() -> None:
    """`upstream_connections` bounds what is sent on."""
    gate = Gate()
    async with FakeBackend(gate) as fresh, proxied(upstream_connections=2) as proxy:
        wakes(proxy)
        clients = [await ask(proxy.port, "/") for _ in range(4)]
        await until(lambda: len(proxy.site.line) == 4)
        comes_up(proxy, fresh)
        gate.open(4)
        for client in clients:
            assert (await client.answer()).status == 200
            await client.close()


# ── is it ready? ──────────────────────────────────────────────────────────────────────────────────


async def test_a_site_takes_requests_where_they_are_served_or_may_wait() -> None:
    async with FakeBackend() as fresh, proxied() as proxy:
        site = proxy.site

        def takes_requests() -> bool:
            return site.takes_requests

        assert not takes_requests()
        wakes(proxy)
        assert takes_requests()
        comes_up(proxy, fresh)
        assert takes_requests()
        for _ in range(3):
            proxy.pool.observe(Report(fresh.address, fresh.address, ok=False))
        assert not takes_requests(), "it waits for none that is up and fails its checks"
        with pytest.raises(NoBackendError):
            await site.line.lease()


# ── whose only backend has just died ──────────────────────────────────────────────────────────────


def dying(*, awaited: float = PATIENCE_S) -> tuple[Pool, WaitingLine, Requests]:
    """A line before one backend, which broke off a request; nobody knows yet whether it is gone."""
    pool, line = make("a", limit=9)
    line.awaited = lambda: awaited
    pool.record_failure(backend(pool, "a"), UpstreamResetError("reset"))
    return pool, line, Requests(line)


def refuse(pool: Pool, asked_at: float = 100.0) -> None:
    """The probe's word, asked at that time of a clock that stands at 100."""
    pool.observe(Report("a", "a:80", ok=False, asked_at=asked_at, certain=True, silent=True))


async def test_a_request_that_failed_on_it_and_those_that_come_wait_for_another() -> None:
    pool, line, requests = dying()
    await requests.come("again", exclude=[backend(pool, "a")])
    assert len(line) == 1, "a probe will tell"
    refuse(pool)
    await requests.come("new")
    assert (requests.served, len(line)) == ([], 2)
    pool.apply(ScaleEvent(EventKind.LEAVE, "web", "a", Reason.CRASHED))
    join(pool, "b")
    await settle()
    assert requests.on == {"again": "b", "new": "b"}
    await requests.end("again", "new")
    assert (pool.in_flight, len(line)) == (0, 0)


async def test_where_it_is_there_after_all_the_request_may_ask_it_again_at_once() -> None:
    pool, line, requests = dying()
    await requests.come("again", exclude=[backend(pool, "a")])
    pool.observe(Report("a", "a:80", ok=True, asked_at=100.0))
    await settle()
    with pytest.raises(AllTriedError):
        await requests.tasks["again"]
    assert len(line) == 0


async def test_where_nobody_comes_soon_they_are_told_at_once() -> None:
    pool, line, _ = dying(awaited=0.0)
    with pytest.raises(AllTriedError):
        await line.lease(exclude=[backend(pool, "a")])
    refuse(pool)
    with pytest.raises(AllUnhealthyError):
        await line.lease()


async def test_one_that_has_been_refusing_for_long_is_not_waited_for() -> None:
    pool, line = make("a")
    line.awaited = lambda: PATIENCE_S
    refuse(pool, asked_at=100.0 - LOST_S - 1)
    with pytest.raises(AllUnhealthyError):
        await line.lease()


async def test_one_that_only_fails_its_checks_is_not_waited_for() -> None:
    """It may be busy, and comes back; or it hangs, and nobody is on his way."""
    pool, line = make("a")
    line.awaited = lambda: PATIENCE_S
    pool.observe(Report("a", "a:80", ok=False, asked_at=100.0, timed_out=True))
    with pytest.raises(AllUnhealthyError):
        await line.lease()
