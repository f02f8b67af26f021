"""The line before busy backends: whose turn it is, when it ends, and that no place is ever lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from autoscale.model import EventKind, Reason, ScaleEvent
from lb.backend import Backend
from lb.balance import policy_named
from lb.config import HealthConfig, QueueConfig
from lb.errors import (
    AllTriedError,
    AllUnhealthyError,
    AtCapacityError,
    NoBackendError,
    PoolEmptyError,
    QueueFullError,
    QueueTimeoutError,
)
from lb.pool import Lease, Pool, Report
from lb.waiting import WaitingLine
from tests.proxy_harness import PATIENCE_S

PATIENT = QueueConfig(max_wait=PATIENCE_S)


def make(*names: str, limit: int = 1, queue: QueueConfig = PATIENT) -> tuple[Pool, WaitingLine]:
    """A pool of ready backends that take `limit` requests each, and the line before them."""
    pool = Pool(
        "web",
        policy_named("least_requests"),
        HealthConfig(fall=1),
        clock=lambda: 100.0,
        rng=random.Random(1),
        max_in_flight=limit,
    )
    for name in names:
        join(pool, name)
    return pool, WaitingLine(pool, queue)


def join(pool: Pool, name: str) -> None:
    pool.apply(ScaleEvent(EventKind.JOIN, "web", name, Reason.CPU_OVERLOAD, address=f"{name}:80"))
    probe(pool, name)


def probe(pool: Pool, name: str, ok: bool = True) -> None:
    pool.observe(Report(name, f"{name}:80", ok))


def backend(pool: Pool, name: str) -> Backend:
    found = pool.get(name)
    assert found is not None
    return found


async def settle() -> None:
    """Long enough for everything that can run to run; nothing here waits for the outside."""
    for _ in range(10):
        await asyncio.sleep(0)


class Requests:
    """Requests that hold what they get until they are told to end; `served` in order of turn."""

    def __init__(self, line: WaitingLine) -> None:
        self._line = line
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.served: list[str] = []
        self.on: dict[str, str] = {}

    async def come(self, *names: str, exclude: Collection[Backend] = ()) -> None:
        for name in names:
            self.start(name, exclude=exclude)
        await settle()

    def start(self, name: str, exclude: Collection[Backend] = ()) -> asyncio.Task[None]:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = task = asyncio.ensure_future(self._run(name, exclude))
        return task

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            await self.tasks[name]
        await settle()

    async def _run(self, name: str, exclude: Collection[Backend]) -> None:
        with await self._line.lease(exclude=exclude) as lease:
            self.served.append(name)
            self.on[name] = lease.backend.name
            await self._ends[name].wait()


async def both_busy(pool: Pool, requests: Requests) -> None:
    """Request 1 runs on backend a, request 2 on backend b."""
    await requests.come("1", exclude=[backend(pool, "b")])
    await requests.come("2", exclude=[backend(pool, "a")])
    assert requests.on == {"1": "a", "2": "b"}


# ── whose turn ────────────────────────────────────────────────────────────────────────────────────


async def test_while_there_is_room_nobody_waits() -> None:
    pool, line = make("a", "b", limit=2)
    held = [await line.lease() for _ in range(4)]
    assert len(line) == 0
    assert [b.in_flight for b in pool] == [2, 2]
    for lease in held:
        lease.release()
    assert pool.in_flight == 0


async def test_first_come_first_served() -> None:
    pool, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2", "3", "4")
    assert (requests.served, len(line)) == (["1"], 3)
    await requests.end("1")
    assert (requests.served, len(line)) == (["1", "2"], 2)
    await requests.come("5")
    await requests.end("2", "3", "4", "5")
    assert requests.served == ["1", "2", "3", "4", "5"]
    assert pool.in_flight == 0


async def test_a_freed_place_is_the_first_in_lines_before_anybody_else_can_ask() -> None:
    pool, line = make("a")
    held = await line.lease()
    requests = Requests(line)
    await requests.come("first")
    held.release()
    assert len(line) == 0, "it has its place, though it did not run yet"
    assert pool.in_flight == 1
    with pytest.raises(AtCapacityError):
        pool.lease()
    await requests.come("newcomer")
    assert requests.served == ["first"]
    await requests.end("first", "newcomer")
    assert pool.in_flight == 0


async def test_a_backend_that_joins_serves_those_who_wait() -> None:
    pool, line = make("a", limit=2)
    requests = Requests(line)
    await requests.come(*"123456")
    join(pool, "b")
    await settle()
    assert [requests.on[n] for n in "1234"] == ["a", "a", "b", "b"]
    assert (requests.served, len(line)) == (list("1234"), 2)
    await requests.end(*"123456")
    assert pool.in_flight == 0


async def test_one_that_avoids_the_freed_backend_does_not_hold_up_those_behind_it() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    await requests.come("picky", exclude=[backend(pool, "a")])
    await requests.come("plain", "last")
    await requests.end("1")
    assert requests.served == ["1", "2", "plain"]
    await requests.end("2")
    assert requests.on["picky"] == "b", "and it keeps its turn for the other"
    await requests.end("plain", "picky", "last")
    assert pool.in_flight == 0


async def test_a_newcomer_takes_the_room_that_the_one_in_line_avoids() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    await requests.come("picky", exclude=[backend(pool, "a")])
    await requests.end("1")
    assert backend(pool, "a").in_flight == 0
    await requests.come("newcomer")
    assert requests.on["newcomer"] == "a"
    await requests.end("newcomer", "2", "picky")
    assert pool.in_flight == 0


async def test_one_that_avoids_all_that_are_left_is_told_so() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    await requests.come("picky", exclude=[backend(pool, "a")])
    probe(pool, "b", ok=False)
    await settle()
    with pytest.raises(AllTriedError):
        await requests.tasks["picky"]
    await requests.end("1", "2")
    assert (pool.in_flight, len(line)) == (0, 0)


async def test_cancelled_in_the_instant_it_is_told_so_leaves_nothing() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    await requests.come("picky", exclude=[backend(pool, "a")])
    probe(pool, "b", ok=False)
    requests.tasks["picky"].cancel()
    await asyncio.wait([requests.tasks["picky"]])
    assert requests.tasks["picky"].cancelled()
    await requests.end("1", "2")
    assert (pool.in_flight, len(line)) == (0, 0)


# ── where waiting is no use, or not for now ───────────────────────────────────────────────────────


async def test_an_empty_pool_is_an_answer_and_nothing_to_wait_for() -> None:
    _, line = make()
    with pytest.raises(PoolEmptyError):
        await line.lease()


async def test_a_flip_to_unhealthy_leaves_them_waiting_for_the_flip_back() -> None:
    pool, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2")
    probe(pool, "a", ok=False)
    await requests.end("1")
    assert (requests.served, len(line), pool.in_flight) == (["1"], 1, 0)
    with pytest.raises(AllUnhealthyError):
        await line.lease()
    probe(pool, "a")
    await settle()
    assert requests.served == ["1", "2"]
    await requests.end("2")
    assert pool.in_flight == 0


async def test_they_outlast_the_replacement_of_every_backend() -> None:
    pool, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2")
    pool.remove("a")
    await requests.end("1")
    assert len(line) == 1
    join(pool, "b")
    await settle()
    assert requests.on["2"] == "b"
    await requests.end("2")
    assert pool.in_flight == 0


async def test_a_draining_backends_freed_place_is_nobodys() -> None:
    pool, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2")
    pool.drain("a")
    await requests.end("1")
    assert (len(line), pool.in_flight) == (1, 0)
    pool.ready("a")
    probe(pool, "a")
    await settle()
    assert requests.served == ["1", "2"]
    await requests.end("2")


# ── its bounds ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("length", [0, 1, 3])
async def test_a_full_line_turns_away(length: int) -> None:
    pool, line = make("a", queue=QueueConfig(length=length, max_wait=PATIENCE_S))
    requests = Requests(line)
    names = [str(number) for number in range(length + 1)]
    await requests.come(*names)
    for _ in range(2):
        with pytest.raises(QueueFullError, match=f"{length} requests wait"):
            await line.lease()
    await requests.end(names[0])
    if length:
        assert len(line) == length - 1
        await requests.come("late")
        assert len(line) == length
        await requests.end(*names[1:], "late")
    assert (pool.in_flight, len(line)) == (0, 0)


@pytest.mark.parametrize("max_wait", [0.0, 0.02])
async def test_the_longest_wait_ends_it(max_wait: float) -> None:
    pool, line = make("a", queue=QueueConfig(max_wait=max_wait))
    with await line.lease():
        with pytest.raises(QueueTimeoutError, match=f"no backend was free in {max_wait:g} s"):
            await line.lease()
        assert len(line) == 0
    with await line.lease():
        assert pool.in_flight == 1
    assert pool.in_flight == 0


async def test_a_place_that_comes_in_the_instant_of_the_timeout_is_used_or_given_back() -> None:
    pool, line = make("a", queue=QueueConfig(max_wait=0.02))
    held = await line.lease()
    waiting = asyncio.ensure_future(line.lease())
    await settle()
    time.sleep(0.05)  # noqa: ASYNC251 - so that the release and the timeout meet in one iteration
    held.release()
    try:
        lease = await waiting
    except QueueTimeoutError:
        pass
    else:
        lease.release()
    assert (pool.in_flight, len(line)) == (0, 0)


# ── clients that give up ──────────────────────────────────────────────────────────────────────────

Stage = Callable[["asyncio.Task[None]", Lease], Coroutine[Any, Any, None]]


async def before_it_ran(task: asyncio.Task[None], held: Lease) -> None:
    task.cancel()
    await settle()
    held.release()


async def while_it_waits(task: asyncio.Task[None], held: Lease) -> None:
    await settle()
    task.cancel()
    await settle()
    held.release()


async def just_before_its_place_came(task: asyncio.Task[None], held: Lease) -> None:
    await settle()
    task.cancel()
    held.release()


async def just_after_its_place_came(task: asyncio.Task[None], held: Lease) -> None:
    await settle()
    held.release()
    task.cancel()


async def while_it_is_served(task: asyncio.Task[None], held: Lease) -> None:
    await settle()
    held.release()
    await settle()
    task.cancel()


@pytest.mark.parametrize(
    "stage",
    [
        before_it_ran,
        while_it_waits,
        just_before_its_place_came,
        just_after_its_place_came,
        while_it_is_served,
    ],
)
async def test_given_up_at_any_stage_it_leaves_its_place_to_the_next(stage: Stage) -> None:
    pool, line = make("a")
    held = await line.lease()
    requests = Requests(line)
    leaving = requests.start("leaving")
    requests.start("next")
    await stage(leaving, held)
    await settle()
    assert leaving.cancelled()
    assert requests.served[-1] == "next"
    assert (pool.in_flight, len(line)) == (1, 0)
    await requests.end("next")
    assert pool.in_flight == 0


async def test_from_the_middle_of_the_line_it_leaves_the_order_as_it_was() -> None:
    _, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2", "3", "4")
    requests.tasks["3"].cancel()
    await settle()
    assert len(line) == 2
    await requests.end("1", "2", "4")
    assert requests.served == ["1", "2", "4"]


# ── whatever happens ──────────────────────────────────────────────────────────────────────────────

NAMES = ("a", "b", "c")
LIMIT = 2


class CountingPool(Pool):
    """Keeps every lease it gave, and counts those that came back."""

    def __init__(self) -> None:
        super().__init__(
            "web",
            policy_named("least_requests"),
            HealthConfig(fall=1),
            clock=lambda: 100.0,
            rng=random.Random(1),
            max_in_flight=LIMIT,
        )
        self.given: list[Lease] = []
        self.came_back = 0

    def lease(self, *, exclude: Collection[Backend] = (), key: str | None = None) -> Lease:
        lease = super().lease(exclude=exclude, key=key)
        self.given.append(lease)
        return lease

    def _released(self, backend: Backend) -> None:
        self.came_back += 1
        super()._released(backend)


class Visitor:
    """One request of the machine below."""

    def __init__(self, exclude: list[Backend]) -> None:
        self.exclude = exclude
        self.end = asyncio.Event()
        self.lease: Lease | None = None
        self.task: asyncio.Task[None] | None = None


class WaitingMachine(RuleBasedStateMachine):
    """Arrivals, ends, cancellations and flips, with few or no turns of the loop between them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.pool = CountingPool()
        self.line = WaitingLine(self.pool, QueueConfig(length=5, max_wait=PATIENCE_S))
        self.visitors: list[Visitor] = []
        self.arrived: list[Visitor] = []
        for name in NAMES[:2]:
            join(self.pool, name)

    async def _visit(self, visitor: Visitor) -> None:
        self.arrived.append(visitor)
        try:
            visitor.lease = await self.line.lease(exclude=visitor.exclude)
        except NoBackendError:
            return
        with visitor.lease:
            await visitor.end.wait()

    def _turns(self, number: int) -> None:
        for _ in range(number):
            self.loop.run_until_complete(asyncio.sleep(0))

    def _settle(self) -> None:
        self._turns(12)
        self.visitors = [v for v in self.visitors if v.task is not None and not v.task.done()]

    @rule(exclude=st.sets(st.sampled_from(NAMES), max_size=2), number=st.integers(1, 3))
    def arrive(self, exclude: set[str], number: int) -> None:
        for _ in range(number):
            visitor = Visitor([b for b in self.pool if b.name in exclude])
            visitor.task = self.loop.create_task(self._visit(visitor))
            self.visitors.append(visitor)

    @rule(number=st.integers(0, 50))
    def end(self, number: int) -> None:
        running = [v for v in self.visitors if v.lease is not None and not v.end.is_set()]
        if running:
            running[number % len(running)].end.set()

    @precondition(lambda self: self.visitors)
    @rule(number=st.integers(0, 50))
    def cancel(self, number: int) -> None:
        task = self.visitors[number % len(self.visitors)].task
        assert task is not None
        task.cancel()

    @rule(name=st.sampled_from(NAMES), ok=st.booleans())
    def flip(self, name: str, ok: bool) -> None:
        probe(self.pool, name, ok)

    @rule(name=st.sampled_from(NAMES), act=st.sampled_from(["join", "drain", "remove"]))
    def move(self, name: str, act: str) -> None:
        if act == "join":
            join(self.pool, name)
        elif name in self.pool:
            getattr(self.pool, act)(name)

    @rule(number=st.integers(1, 3))
    def turn(self, number: int) -> None:
        self._turns(number)

    @rule()
    def nobody_waits_while_there_is_room(self) -> None:
        self._settle()
        waiting = [v for v in self.visitors if v.lease is None]
        assert len(self.line) == len(waiting)
        for visitor in waiting:
            open_to_it = [b for b in self.pool.available if b not in visitor.exclude]
            assert all(b.in_flight == LIMIT for b in open_to_it)

    @invariant()
    def no_backend_has_more_than_it_may(self) -> None:
        known = [*self.pool, *{lease.backend for lease in self.pool.given}]
        assert all(0 <= b.in_flight <= LIMIT for b in known)

    @invariant()
    def every_lease_is_running_or_came_back_once(self) -> None:
        assert len(self.pool.given) - self.pool.came_back == self.pool.in_flight

    @invariant()
    def places_are_given_in_order_of_coming(self) -> None:
        turn = {lease: number for number, lease in enumerate(self.pool.given)}
        # one that avoids a backend may be overtaken, and may overtake nobody but by that
        plain = [v.lease for v in self.arrived if v.lease is not None and not v.exclude]
        turns = [turn[lease] for lease in plain]
        assert turns == sorted(turns)

    def teardown(self) -> None:
        for visitor in self.visitors:
            visitor.end.set()
        self._settle()
        for name in NAMES:
            if name in self.pool:
                self.pool.remove(name)
            join(self.pool, name)
        while self.visitors:
            # whoever still waits is served now, unless the line lost it
            before = len(self.visitors)
            self._settle()
            assert len(self.visitors) < before or not before
        assert (len(self.line), self.pool.in_flight) == (0, 0)
        assert self.pool.came_back == len(self.pool.given)
        self.loop.close()


TestWaitingMachine = WaitingMachine.TestCase
TestWaitingMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
