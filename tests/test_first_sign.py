"""A backend that is dead leaves at the first sign that a second one confirms, and its requests do
not wait for a timeout; one that is only busy stays.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from autoscale.model import EventKind, Reason, ScaleEvent
from lb.change import Change
from lb.config import HealthConfig
from lb.errors import (
    BodyCutError,
    ConnectFailedError,
    ConnectTimeoutError,
    FirstByteTimeoutError,
    RequestError,
    StaleConnectionError,
    UpstreamResetError,
)
from lb.health import Prober
from lb.pool import Pool, Report
from lb.probe import SILENT, certain
from tests.fake_backend import OK, Exchange, FakeBackend, Script, hang
from tests.pools import Clock, available, backend, event, join, make
from tests.proxy_harness import Proxied, proxied, reason_of, until

NEVER_ASKED = HealthConfig(interval=3600.0, interval_down=3600.0, fall=100)
"""Only what asks for a probe gets one, and `fall` never comes."""


def look(pool: Pool, name: str, said: str, asked_at: float | None = None) -> None:
    """A probe's report, as the prober makes it."""
    ok = said == "200"
    pool.observe(
        Report(
            name,
            backend(pool, name).address,
            ok,
            said,
            pool.clock() if asked_at is None else asked_at,
            timed_out=said == "timeout",
            certain=certain(ok, said),
            silent=said in SILENT,
        )
    )


def fail(pool: Pool, name: str, error: RequestError) -> None:
    others = [one for one in pool if one.name != name]
    with pool.lease(exclude=others) as lease:
        lease.failed(error)


def of_two(static: bool = False, fall: int = 100) -> tuple[Pool, list[str]]:
    """A pool of two that are ready, and who is asked for at once."""
    pool, doubted = make(fall=fall, clock=Clock()), list[str]()
    if static:
        for name in ("a", "b"):
            pool.add_static(f"{name}:80", name=name)
            look(pool, name, "200")
    else:
        join(pool, "a", "b")
    pool.on_doubt = lambda one: doubted.append(one.name)
    return pool, doubted


# ── signs ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    "error",
    [ConnectFailedError, UpstreamResetError, StaleConnectionError, BodyCutError],
    ids=lambda kind: str(kind.reason),
)
@pytest.mark.parametrize("said", ["refused", "reset", "503", "wrong body"])
def test_a_request_and_a_probe_that_agree_take_it_out(
    error: type[RequestError], said: str, static: bool
) -> None:
    pool, doubted = of_two(static)
    fail(pool, "a", error(""))
    assert (available(pool), doubted) == (["a", "b"], ["a"])
    look(pool, "a", said)
    assert available(pool) == ["b"]


@pytest.mark.parametrize("said", ["503", "refused", "reset", "wrong body"])
def test_a_vm_that_says_no_is_asked_again_at_once_and_believed(said: str) -> None:
    pool, doubted = of_two()
    look(pool, "a", said)
    assert (available(pool), doubted) == (["a", "b"], ["a"])
    look(pool, "a", said)
    assert available(pool) == ["b"]
    assert doubted == ["a"]


def test_a_no_that_a_yes_follows_was_none() -> None:
    pool, doubted = of_two()
    for _ in range(5):
        look(pool, "a", "503")
        look(pool, "a", "200")
    assert available(pool) == ["a", "b"]
    assert doubted == ["a"] * 5


def test_a_static_backend_that_only_says_no_has_until_fall() -> None:
    pool, doubted = of_two(static=True, fall=3)
    for _ in range(2):
        look(pool, "a", "503")
    assert (available(pool), doubted) == (["a", "b"], [])
    look(pool, "a", "503")
    assert available(pool) == ["b"]


@pytest.mark.parametrize("said", ["timeout", "unreachable", "tls", "bad answer"])
def test_what_may_pass_has_until_fall(said: str) -> None:
    pool, _ = of_two(fall=4)
    fail(pool, "a", ConnectFailedError("refused"))
    for _ in range(3):
        look(pool, "a", said)
    assert available(pool) == ["a", "b"]
    look(pool, "a", said)
    assert available(pool) == ["b"]


@pytest.mark.parametrize("error", [ConnectTimeoutError, FirstByteTimeoutError])
def test_being_late_is_no_sign(error: type[RequestError]) -> None:
    pool, doubted = of_two()
    fail(pool, "a", error(""))
    assert doubted == []
    look(pool, "a", "refused")
    assert available(pool) == ["a", "b"]


@pytest.mark.parametrize("how", ["an answer", "a probe"])
def test_who_is_heard_well_is_doubted_no_more(how: str) -> None:
    pool, _ = of_two(static=True)
    fail(pool, "a", ConnectFailedError("refused"))
    if how == "a probe":
        look(pool, "a", "200")
    else:
        with pool.lease(exclude=[backend(pool, "b")]) as lease:
            lease.answered(0.01, pool.clock())
    look(pool, "a", "refused")
    assert available(pool) == ["a", "b"]


def test_a_yes_to_an_older_question_ends_no_doubt() -> None:
    clock = Clock()
    pool, doubted = make(fall=100, clock=clock), list[str]()
    join(pool, "a", "b")
    pool.on_doubt = lambda one: doubted.append(one.name)
    asked_at, clock.now = clock.now, clock.now + 0.01
    fail(pool, "a", ConnectFailedError("refused"))
    look(pool, "a", "200", asked_at)
    assert doubted == ["a", "a"], "it is asked anew"
    look(pool, "a", "refused")
    assert available(pool) == ["b"]


def test_one_that_is_out_is_not_asked_for_again() -> None:
    pool, doubted = of_two()
    look(pool, "a", "503")
    look(pool, "a", "503")
    look(pool, "a", "503")
    assert doubted == ["a"]
    join(pool, "a")
    look(pool, "a", "200")
    look(pool, "a", "503")
    assert available(pool) == ["a", "b"], "what was before it came back does not count"


# ── what it means for what runs there ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "dead"), [("refused", True), ("reset", True), ("timeout", True), ("503", False)]
)
def test_whoever_answers_is_not_dead(said: str, dead: bool) -> None:
    """One that says that it is not ready may well finish what it has begun."""
    pool, told = make(fall=2), list[Change]()
    join(pool, "a")
    pool.subscribe(told.append)
    look(pool, "a", said)
    look(pool, "a", said)
    assert [(change.after, change.dead) for change in told] == [("unhealthy", dead)]


def test_as_many_refusals_as_fall_are_a_death() -> None:
    pool, told = make(fall=2), list[Change]()
    join(pool, "a")
    pool.subscribe(told.append)
    for _ in range(2):
        fail(pool, "a", ConnectFailedError("refused"))
    assert [(change.after, change.dead) for change in told] == [("unhealthy", True)]


@pytest.mark.parametrize(
    ("reason", "dead"),
    [
        (Reason.CRASHED, True),
        (Reason.UNHEALTHY, True),
        (Reason.DRAINED, False),
        (Reason.DRAIN_TIMEOUT, False),
        (Reason.RESERVED, False),
    ],
)
def test_only_who_died_leaves_dead(reason: Reason, dead: bool) -> None:
    pool, told = make(), list[Change]()
    join(pool, "a")
    pool.subscribe(told.append)
    pool.apply(event(EventKind.LEAVE, "a", reason=reason))
    assert [(change.after, change.dead) for change in told] == [("gone", dead)]


# ── over sockets ─────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def replicas(
    *scripts: Script, health: HealthConfig = NEVER_ASKED, **settings: Any
) -> AsyncIterator[tuple[Proxied, list[FakeBackend]]]:
    """A proxy before VMs `vm-0`, `vm-1` … that run these scripts, probed for real."""
    async with contextlib.AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(FakeBackend(script)) for script in scripts]
        proxy = await stack.enter_async_context(
            proxied(health=health, policy="round_robin", **settings)
        )
        prober = Prober(proxy.pool)
        for number, fake in enumerate(fakes):
            proxy.pool.apply(
                ScaleEvent(
                    EventKind.JOIN,
                    "web",
                    f"vm-{number}",
                    Reason.BELOW_MIN,
                    fake.address,
                    ready=True,
                )
            )
        await prober.start()
        try:
            await until(lambda: all(one.probe for one in proxy.pool))
            yield proxy, fakes
        finally:
            await prober.stop()


def leave(proxy: Proxied, name: str, reason: Reason) -> None:
    proxy.pool.apply(ScaleEvent(EventKind.LEAVE, "web", name, reason))


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


async def test_a_killed_one_is_out_after_one_request_that_is_answered_elsewhere() -> None:
    async with replicas(ok, ok) as (proxy, (first, _)):
        await first.stop()
        assert (await proxy.get()).status == 200
        await until(lambda: available(proxy.pool) == ["vm-1"])
        assert proxy.counters.retries["connect_failed"] == 1


async def test_a_forwarded_port_that_resets_is_as_good_as_closed() -> None:
    """QEMU accepts for a guest whose application is gone."""
    gone = False

    async def guest(exchange: Exchange) -> None:
        if gone:
            exchange.reset()
        else:
            await exchange.answer()

    health = NEVER_ASKED.model_copy(update={"path": "/guest"})
    async with replicas(guest, ok, health=health) as (proxy, (first, second)):
        await until(lambda: first.seen and second.seen)
        gone = True
        for _ in range(2):
            assert (await proxy.get()).status == 200
        await until(lambda: available(proxy.pool) == ["vm-1"])
        assert backend(proxy.pool, "vm-0").probe == "reset"


async def test_one_that_says_sick_is_out_by_the_second_word() -> None:
    health = HealthConfig(interval=0.05, interval_down=3600.0, fall=100)
    async with replicas(ok, ok, health=health) as (proxy, (first, _)):
        first.ready = 503
        await until(lambda: available(proxy.pool) == ["vm-1"])


@pytest.mark.parametrize("kind", ["a kept connection", "a new one"])
async def test_requests_on_one_that_hangs_go_elsewhere_once_it_is_given_up(kind: str) -> None:
    hung = False

    async def guest(exchange: Exchange) -> None:
        await (hang(exchange) if hung else exchange.answer())

    async with replicas(guest, ok) as (proxy, (first, _)):
        if kind == "a kept connection":
            assert [(await proxy.get()).status for _ in range(2)] == [200, 200]
        hung, seen = True, len(first.seen)
        waiting = [asyncio.ensure_future(proxy.get()) for _ in range(2)]
        await until(lambda: len(first.seen) == seen + 1)
        for _ in range(100):
            look(proxy.pool, "vm-0", "timeout")
        assert [(await one).status for one in waiting] == [200, 200]
        assert available(proxy.pool) == ["vm-1"]


async def test_what_must_not_be_done_twice_waits_on_a_hung_one() -> None:
    go = asyncio.Event()

    async def guest(exchange: Exchange) -> None:
        await go.wait()
        await exchange.answer(b"late")

    async with replicas(guest, ok) as (proxy, (first, _)):
        waiting = asyncio.ensure_future(proxy.get(method="POST"))
        await until(lambda: first.seen)
        for _ in range(100):
            look(proxy.pool, "vm-0", "timeout")
        await until(lambda: available(proxy.pool) == ["vm-1"])
        go.set()
        answer = await waiting
        assert (answer.status, answer.body) == (200, b"late")


async def test_an_answer_that_has_begun_on_a_hung_one_may_yet_end() -> None:
    go = asyncio.Event()

    async def guest(exchange: Exchange) -> None:
        await exchange.send(OK[:-1])
        await go.wait()
        await exchange.send(OK[-1:])

    async with replicas(guest, ok) as (proxy, (first, _)), proxy.client() as client:
        await client.request("GET", "/")
        await until(lambda: first.seen)
        head = await client.reader.readuntil(b"\r\n\r\no")
        assert head.startswith(b"HTTP/1.1 200")
        for _ in range(100):
            look(proxy.pool, "vm-0", "timeout")
        await until(lambda: available(proxy.pool) == ["vm-1"])
        go.set()
        assert await client.reader.readexactly(1) == b"k"
        await proxy.settled(1)


async def test_nothing_is_taken_from_the_last_one() -> None:
    """A busy guest that nobody can stand in for may yet answer."""
    go = asyncio.Event()

    async def guest(exchange: Exchange) -> None:
        await go.wait()
        await exchange.answer(b"late")

    async with replicas(guest) as (proxy, (only,)):
        waiting = asyncio.ensure_future(proxy.get())
        await until(lambda: only.seen)
        for _ in range(100):
            look(proxy.pool, "vm-0", "timeout")
        await until(lambda: not available(proxy.pool))
        go.set()
        assert (await waiting).body == b"late"


async def test_who_drains_finishes() -> None:
    go = asyncio.Event()

    async def guest(exchange: Exchange) -> None:
        await go.wait()
        await exchange.answer(b"finished")

    async with replicas(guest, ok) as (proxy, (first, _)):
        waiting = asyncio.ensure_future(proxy.get())
        await until(lambda: first.seen)
        leave(proxy, "vm-0", Reason.DRAINED)
        go.set()
        assert (await waiting).body == b"finished"


async def test_of_a_crashed_one_nobody_waits_for_anything() -> None:
    """Its network may swallow what it is sent: no reset, no refusal."""

    async def guest(exchange: Exchange) -> None:
        if exchange.path == b"/begun":
            await exchange.send(OK.replace(b"Length: 2", b"Length: 9"))
        await hang(exchange)

    async with (
        replicas(guest, ok) as (proxy, (first, _)),
        proxy.client() as begun,
        proxy.client() as posted,
    ):
        await begun.request("GET", "/begun")
        assert (await begun.reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        await proxy.get()
        await posted.request("POST", "/")
        await until(lambda: len(first.seen) == 2)
        await proxy.get()
        plain = asyncio.ensure_future(proxy.get())
        await until(lambda: len(first.seen) == 3)
        leave(proxy, "vm-0", Reason.CRASHED)
        assert (await plain).status == 200
        answer = await posted.answer("POST")
        assert (answer.status, reason_of(answer.body)) == (502, "reset")
        with pytest.raises(ConnectionError):  # cut, for the rest will never come
            await begun.reader.read()
