"""The line under whatever happens: no place is lost, none is given twice, nobody is forgotten."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lb.backend import Backend
from lb.config import QueueConfig
from lb.errors import (
    NoBackendError,
)
from lb.pool import Lease
from lb.waiting import WaitingLine
from tests.proxy_harness import PATIENCE_S
from tests.waiters import (
    LIMIT,
    NAMES,
    CountingPool,
    join,
    probe,
)


class Visitor:
    """One request of the machine below."""

    def __init__(self, exclude: list[Backend], client: bytes) -> None:
        self.exclude = exclude
        self.client = client
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
        self.held: int | None = None
        self.fair = True
        self.mixed = False
        self.visitors: list[Visitor] = []
        self.arrived: list[Visitor] = []
        for name in NAMES[:2]:
            join(self.pool, name)

    async def _visit(self, visitor: Visitor) -> None:
        self.arrived.append(visitor)
        try:
            visitor.lease = await self.line.lease(exclude=visitor.exclude, client=visitor.client)
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

    @rule(
        exclude=st.sets(st.sampled_from(NAMES), max_size=2),
        number=st.integers(1, 3),
        client=st.sampled_from([b"x", b"y", b"z"]),
    )
    def arrive(self, exclude: set[str], number: int, client: bytes) -> None:
        for _ in range(number):
            visitor = Visitor([b for b in self.pool if b.name in exclude], client)
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

    @rule(limit=st.sampled_from([None, 1, 3]))
    def hold(self, limit: int | None) -> None:
        self.held = limit
        self.line.limit = None if limit is None else lambda: limit
        self.line.serve()

    @rule(seconds=st.sampled_from([0.0, PATIENCE_S]))
    def promise(self, seconds: float) -> None:
        self.line.awaited = lambda: seconds

    @rule(fair=st.booleans(), length=st.sampled_from([0, 2, 5]))
    def reload(self, fair: bool, length: int) -> None:
        self.line.config = QueueConfig(length=length, fair=fair, max_wait=PATIENCE_S)
        # its order is a mixture of both from here on
        self.mixed = self.mixed or fair != self.fair
        self.fair = fair

    @rule()
    def notice(self) -> None:
        self.pool.notices = [self.pool.on_room]

    @rule(number=st.integers(1, 3))
    def turn(self, number: int) -> None:
        self._turns(number)

    @rule()
    def nobody_waits_while_there_is_room(self) -> None:
        self._settle()
        waiting = [v for v in self.visitors if v.lease is None]
        assert len(self.line) == len(waiting)
        if self.held is not None and self.pool.in_flight >= self.held:
            return
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
        # those that avoid a backend go before the others, where they can go at all
        plain = [v for v in self.arrived if v.lease is not None and not v.exclude]
        for client in (b"x", b"y", b"z"):
            turns = [turn[v.lease] for v in plain if v.client == client and v.lease is not None]
            assert turns == sorted(turns) or self.mixed

    def teardown(self) -> None:
        self.line.limit = None
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
