"""Runs a load test: one pacing callback sends what is due, one loop keeps time.

Owns the run's clock and its end. When a request is due is the timeline's business, which
connection it takes the pool's, what became of it the ledger's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from loadtest.connect import Address, resolve_all
from loadtest.connection import Exchange
from loadtest.ledger import Ledger, by_count
from loadtest.mix import Rotation
from loadtest.plan import Plan
from loadtest.pool import ConnectionPool
from loadtest.result import Histograms, PhasePlan, PhaseResult, PlanResult, Result, Second
from loadtest.stats import merged
from loadtest.target import Settings
from loadtest.timeline import Cause, Timeline
from loadtest.timer import WakeUp

# Requests sent per wake-up before the loop reads answers again: about a millisecond's work.
_BATCH = 64
# Wake-ups closer together than this are joined: at 20,000/s four requests share the price of one
# round of the event loop, and none of them leaves more than 0.2 ms late for it.
_COALESCE_S = 0.0002
# How often timeouts are looked for.
_HOUSEKEEPING_S = 0.05
# After Ctrl-C: how long answers on their way may take.
_INTERRUPT_GRACE_S = 2.0

OnSecond = Callable[[Second], None]


async def run(
    settings: Settings,
    on_second: OnSecond | None = None,
    *,
    handle_signals: bool = False,
    lifeline: int | None = None,
) -> Result:
    """Runs the test and returns what it found; `on_second` gets each row as it is complete.

    With `settings.control` it listens there meanwhile. With `handle_signals` (main thread only)
    SIGINT and SIGTERM end it with the result so far, SIGUSR1 and SIGUSR2 step through the phases.
    It also ends when the file descriptor `lifeline` becomes readable.
    Raises InputError before the first request for a host that does not resolve.
    """
    addresses = await resolve_all(settings.requests)
    test = LoadTest(settings, addresses, on_second)
    async with AsyncExitStack() as stack:
        if settings.control is not None:
            from loadtest.control import serve  # aiohttp: half a second that most runs can save

            await stack.enter_async_context(serve(test, settings.control))
        if handle_signals:
            from loadtest.signals import handling

            stack.enter_context(handling(test))
        if lifeline is not None:
            loop = asyncio.get_running_loop()
            loop.add_reader(lifeline, test.abandon)
            stack.callback(loop.remove_reader, lifeline)
        return await test.run()


class LoadTest:
    """One run; the control socket and the signals steer it by its methods."""

    def __init__(
        self,
        settings: Settings,
        addresses: Sequence[Address],
        on_second: OnSecond | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.timeline = Timeline(settings.plan, settings.arrivals, random.Random(settings.seed))
        self.ledger = Ledger()
        self._on_second = on_second
        self._clock = clock
        self._rotation = Rotation(settings.requests)
        # One for each origin, as the requests number them.
        self._pools = [
            ConnectionPool(address, self, clock=self.now, connect_timeout=settings.timeout)
            for address in addresses
        ]
        self._on_way: dict[Exchange, None] = {}  # in the order of their intended times
        self._started = 0.0
        self._started_unix = 0.0
        self._stopped_by = "plan"
        self._gives_up_at: float | None = None
        self._wake_up: WakeUp | None = None
        self._stir = asyncio.Event()
        self._over = False
        self._end_shown = False

    def now(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    async def run(self) -> Result:
        """Once only."""
        self._started = self._clock()
        self._started_unix = time.time()
        cpu = time.process_time()
        self._wake_up = WakeUp(asyncio.get_running_loop(), self._pace)
        try:
            self._pace()
            await self._keep_time()
        finally:
            self._over = True
            self.timeline.finish(self.now())
            self._wake_up.close()
            duration = self.now()
            for exchange in self._on_way:  # whatever still comes is no longer counted
                exchange.done = True
            await asyncio.gather(*(pool.close() for pool in self._pools))
        if not self.ledger.blank(duration):
            self._end_row(duration)
        return self._result(duration, time.process_time() - cpu)

    # steering

    def shift(self, phase: str, cause: Cause) -> None:
        """Enters the phase now. Raises ShiftError."""
        self.timeline.shift(self._catch_up(), phase, cause)
        self._pace()

    def step(self, steps: int, cause: Cause) -> bool:
        """To the next phase (1) or the previous one (-1); False if there is none."""
        moved = self.timeline.step(self._catch_up(), steps, cause)
        self._pace()
        return moved

    def set_rate(self, rate: float, cause: Cause) -> None:
        """The current phase's rate from now on. Raises ShiftError."""
        self.timeline.set_rate(self._catch_up(), rate, cause)
        self._pace()

    def finish(self, reason: str = "finish") -> None:
        """Sends nothing more; answers on their way are waited for (`timeout` bounds that)."""
        if not self.timeline.finished:
            self._stopped_by = reason
            self.timeline.finish(self.now())
        self._stir.set()

    def interrupt(self) -> None:
        """Like finish, but waits 2 s at most; called again, not at all."""
        self._gives_up_at = self.now() + (_INTERRUPT_GRACE_S if self._gives_up_at is None else 0)
        self.finish("interrupt")

    def abandon(self) -> None:
        """Ends at once; may be called over and over."""
        self._gives_up_at = self.now()
        self.finish("abandoned")

    def status(self) -> dict[str, Any]:
        """What `GET /v1/status` answers; docs/loadtest.md has the fields."""
        now, timeline, totals = self.now(), self.timeline, self.ledger.totals()
        last = self.ledger.series[-1] if self.ledger.series else None
        ends = timeline.ends_at
        finite = not timeline.finished and ends < math.inf
        return {
            "pid": os.getpid(),
            "url": self.settings.url,
            "state": "done" if self._over else "draining" if timeline.finished else "running",
            "elapsed_s": round(now, 3),
            "phase": timeline.phase.name,
            "phase_remaining_s": round(max(ends - now, 0.0), 3) if finite else None,
            "phases": list(self.settings.plan.names),
            "rate": timeline.rate(now),
            "intended": totals.intended,
            "sent": totals.sent,
            "completed": totals.completed,
            "failed": totals.failed,
            "dropped": totals.dropped,
            "error_count": totals.errors,
            "errors": self.ledger.errors(),
            "in_flight": self.ledger.in_flight,
            "connections": {
                "active": sum(pool.active for pool in self._pools),
                "idle": sum(pool.idle for pool in self._pools),
            },
            "second": None if last is None else dataclasses.asdict(last),
            "p50_s": last.p50_s if last else None,
            "p99_s": last.p99_s if last else None,
            "send_lag_p99_s": self.ledger.lag.percentile(99),
            "shifts": [dataclasses.asdict(shift) for shift in timeline.shifts],
        }

    # the pool's listener

    def sent(self, exchange: Exchange) -> None:
        self.ledger.send(exchange.visit)

    def answered(self, exchange: Exchange, status: int) -> None:
        now = self.now()
        self.ledger.complete(
            exchange.visit, status, now - exchange.intended, now - exchange.written
        )
        self._off_way(exchange)

    def failed(self, exchange: Exchange, kind: str) -> None:
        self.ledger.fail(exchange.visit, kind, self.now() - exchange.intended)
        self._off_way(exchange)

    def _off_way(self, exchange: Exchange) -> None:
        del self._on_way[exchange]
        if self.timeline.finished and not self._on_way:
            self._stir.set()

    # pacing

    def _pace(self) -> None:
        """Sends what is due and asks to be woken for the next."""
        if self._over or self._wake_up is None:
            return
        timeline = self.timeline
        due = timeline.due(self.now(), _BATCH)
        for intended, visit in due:
            self._send(intended, visit)
        if timeline.finished:
            self._stir.set()
        elif len(due) == _BATCH:
            self._wake_up.arm(0)
        else:
            # An hour at most: a triggered phase of rate 0 has nothing to wake for.
            self._wake_up.arm(min(max(timeline.wakes_at - self.now(), _COALESCE_S), 3600))

    def _send(self, intended: float, visit: int) -> None:
        ledger = self.ledger
        request = self._rotation.next()  # also of one that is dropped: the others keep their turns
        if ledger.in_flight >= self.settings.max_in_flight:
            ledger.drop(visit, "max_in_flight")
            return
        ledger.intend(visit, self.now() - intended)
        exchange = Exchange(intended, visit, request)
        self._on_way[exchange] = None
        self._pools[request.origin].send(exchange)

    def _catch_up(self) -> float:
        """Sends all that is due and returns the moment up to which that holds."""
        now = self.now()
        while self.timeline.wakes_at <= now:
            for intended, visit in self.timeline.due(now, _BATCH):
                self._send(intended, visit)
        return now

    # keeping time

    async def _keep_time(self) -> None:
        """Ends rows, times requests out, and returns when the run is over."""
        row_ends_at = 1.0
        while True:
            now = self.now()
            if now >= row_ends_at:
                self._end_row(now)
                row_ends_at = math.floor(now) + 1.0
            self._time_out(now)
            if now >= self.settings.max_seconds:
                self.finish("max_duration")
            if self.timeline.finished and not self._on_way:
                return
            if self._gives_up_at is not None and now >= self._gives_up_at:
                return
            self._stir.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_HOUSEKEEPING_S, row_ends_at - now)):
                    await self._stir.wait()

    def _time_out(self, now: float) -> None:
        expired = []
        for exchange in self._on_way:
            if exchange.intended + self.settings.timeout > now:
                break
            expired.append(exchange)
        for exchange in expired:
            self._pools[exchange.request.origin].give_up(exchange)
            self.failed(exchange, "timeout")

    def _end_row(self, now: float) -> None:
        timeline = self.timeline
        # The row in which the plan ended still shows the rate it was sent at.
        ends_in_it = timeline.finished and not self._end_shown
        rate = timeline.last_rate if ends_in_it else timeline.rate(now)
        self._end_shown = timeline.finished
        row = self.ledger.end_second(now, timeline.phase.name, rate)
        if self._on_second is not None:
            self._on_second(row)

    # the end

    def _result(self, duration: float, cpu: float) -> Result:
        ledger, pools, settings = self.ledger, self._pools, self.settings
        latency = merged(page.latency for page in ledger.pages)
        service = merged(page.service for page in ledger.pages)
        doubts = ledger.doubts()
        return Result(
            url=settings.url,
            method=settings.requests.method,
            plan=_plan_result(settings),
            started_unix=self._started_unix,
            duration_s=round(duration, 6),
            stopped_by=self._stopped_by,
            counts=ledger.totals(),
            reconnects=sum(pool.reconnects for pool in pools),
            connections_opened=sum(pool.opened for pool in pools),
            bytes_received=sum(pool.bytes_received for pool in pools),
            cpu_s=round(cpu, 3),
            dropped=dict(ledger.dropped),
            errors=ledger.errors(),
            status={str(status): n for status, n in sorted(ledger.status.items())},
            latency_s=latency.summary(),
            service_s=service.summary(),
            send_lag_s=ledger.lag.summary(),
            trustworthy=not doubts,
            reasons=doubts,
            phases=self._phases(duration),
            shifts=list(self.timeline.shifts),
            series=list(ledger.series),
            histograms=Histograms(latency.encode(), service.encode(), ledger.lag.encode()),
        )

    def _phases(self, duration: float) -> list[PhaseResult]:
        found = []
        for number, visit in enumerate(self.timeline.visits):
            page = self.ledger.page(number)
            found.append(
                PhaseResult(
                    name=visit.phase.name,
                    start=visit.start,
                    end=duration if visit.end is None else visit.end,
                    counts=page.counts(),
                    errors=by_count([page.errors]),
                    latency_s=page.latency.summary(),
                    service_s=page.service.summary(),
                )
            )
        return found


def _plan_result(settings: Settings) -> PlanResult:
    plan: Plan = settings.plan
    return PlanResult(
        text=str(plan),
        arrivals=settings.arrivals,
        seed=settings.seed,
        max_in_flight=settings.max_in_flight,
        timeout_s=settings.timeout,
        phases=[
            PhasePlan(
                name=phase.name,
                rate=phase.profile.rate(0.0),
                end_rate=phase.profile.rate(phase.seconds or 0.0),
                duration_s=phase.seconds,
            )
            for phase in plan.phases
        ],
    )
