"""Runs a load test in one process: one pacing callback sends what is due, one loop keeps time.

Owns the run's clock and its end. When a request is due is the timeline's business, which
connection it takes the pool's, what became of it the ledger's. Several processes are `crew.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from loadtest.connect import Address, resolve_all
from loadtest.connection import Exchange
from loadtest.core_wait import core_wait_s
from loadtest.ledger import Ledger
from loadtest.mix import Rotation
from loadtest.outcome import Ended, result_of
from loadtest.pool import ConnectionPool
from loadtest.result import Result, Second
from loadtest.stats import merged
from loadtest.status import Figures, status_of
from loadtest.target import Settings
from loadtest.timeline import ALL, Cause, Share, Timeline
from loadtest.timer import WakeUp

if TYPE_CHECKING:
    from loadtest.crew import Crew

# Requests sent per wake-up before the loop reads answers again: about a millisecond's work.
_BATCH = 64
# Wake-ups closer together than this are joined: at 20,000/s four requests share the price of one
# round of the event loop, and none of them leaves more than 0.2 ms late for it.
COALESCE_S = 0.0002
# Later than this the tester is behind: ten times what joining wake-ups explains.
_LATE_S = 0.002
# How often timeouts are looked for.
_HOUSEKEEPING_S = 0.05
# After Ctrl-C: how long answers on their way may take.
_INTERRUPT_GRACE_S = 2.0

OnSecond = Callable[[Second], None]
Order = Callable[[float], None]


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
    test: LoadTest | Crew
    if settings.workers > 1:
        from loadtest.crew import Crew  # multiprocessing, which one worker does not need

        test = Crew(settings, addresses, on_second)
    else:
        test = LoadTest(settings, addresses, on_second)
    async with AsyncExitStack() as stack:
        if settings.control is not None:
            from loadtest.control import serve  # aiohttp: half a second that most runs can save

            await stack.enter_async_context(serve(test, settings.control))
        if settings.metrics is not None:
            from loadtest.metrics import serve_metrics

            await stack.enter_async_context(serve_metrics(test, *settings.metrics))
        if handle_signals:
            from loadtest.signals import handling

            stack.enter_context(handling(test))
        if lifeline is not None:
            loop = asyncio.get_running_loop()

            def abandoned() -> None:
                loop.remove_reader(lifeline)  # it stays readable: once is enough
                test.abandon()

            loop.add_reader(lifeline, abandoned)
            stack.callback(loop.remove_reader, lifeline)
        return await test.run()


class LoadTest:
    """One run; the control socket and the signals steer it by its methods."""

    POOL = ConnectionPool
    """What it sends by."""

    def __init__(
        self,
        settings: Settings,
        addresses: Address | Sequence[Address],
        on_second: OnSecond | None = None,
        *,
        share: Share = ALL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`addresses` as `settings.requests` numbers its origins; one alone for a single origin."""
        self.settings = settings
        self.share = share
        rng = random.Random(settings.seed)
        self.timeline = Timeline(settings.plan, settings.arrivals, rng, share)
        self.ledger = Ledger()
        self._on_second = on_second
        self._clock = clock
        self._rotation = Rotation(settings.requests, share)
        # What several workers may have under way is divided among them, to the last request.
        self._most = (settings.max_in_flight + share.of - 1 - share.index) // share.of
        # One for each origin, as the requests number them.
        self._pools = [
            self.POOL(
                address,
                self,
                clock=self.now,
                connect_timeout=settings.timeout,
                late=lambda: self._late_s > _LATE_S,
            )
            for address in ([addresses] if isinstance(addresses, Address) else addresses)
        ]
        self._pool = self._pools[0]
        self._on_way: dict[Exchange, None] = {}  # in the order of their intended times
        self._late_s = 0.0  # how late the last wake-up was for its first request
        self._started = 0.0
        self._started_unix = 0.0
        self._stopped_by = "plan"
        self._gives_up_at: float | None = None
        self._wake_up: WakeUp | None = None
        self._orders: list[tuple[float, Order]] = []  # in the order of their times
        self._stir = asyncio.Event()
        self._over = False
        self._end_shown = False

    def now(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    async def run(self, start_at: tuple[float, float] | None = None) -> Result:
        """Once only. `start_at`: the start on this machine's monotonic clock, and in Unix time."""
        self._started, self._started_unix = start_at or (self._clock(), time.time())
        cpu, waited = time.process_time(), core_wait_s()
        self._wake_up = WakeUp(asyncio.get_running_loop(), self._pace)
        try:
            self._pace()
            await self._keep_time()
        finally:
            self._over = True
            self.timeline.finish(self.now())
            self._wake_up.close()
            duration = self.now()
            cpu, wait = time.process_time() - cpu, core_wait_s()
            for exchange in self._on_way:  # whatever still comes is no longer counted
                exchange.done = True
            await asyncio.gather(*(pool.close() for pool in self._pools))
        if not self.ledger.blank(duration):
            self._end_row(duration)
        end = Ended(
            started_unix=self._started_unix,
            duration=duration,
            cpu=cpu,
            by=self._stopped_by,
            core_wait=None if wait is None or waited is None else wait - waited,
        )
        end.reconnects = sum(pool.reconnects for pool in self._pools)
        end.connections_opened = sum(pool.opened for pool in self._pools)
        end.bytes_received = sum(pool.bytes_received for pool in self._pools)
        return result_of(self.settings, self.ledger, self.timeline, end)

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

    def at(self, t: float, order: Order) -> None:
        """Carries out `order(t)` once all that is due by `t` is sent; several workers do so at the
        same `t`, so that together they shift as one."""
        self._orders.append((t, order))
        self._orders.sort(key=lambda pair: pair[0])
        self._pace()

    def finish(self, reason: str = "finish", at: float | None = None) -> None:
        """Sends nothing more; answers on their way are waited for (`timeout` bounds that)."""
        if not self.timeline.finished:
            self._stopped_by = reason
            self.timeline.finish(self.now() if at is None else at)
        self._stir.set()

    def interrupt(self) -> None:
        """Like finish, but waits 2 s at most; called again, not at all."""
        self._gives_up_at = self.now() + (_INTERRUPT_GRACE_S if self._gives_up_at is None else 0)
        self.finish("interrupt")

    def abandon(self) -> None:
        """Ends at once."""
        self._gives_up_at = self.now()
        self.finish("abandoned")

    @property
    def connections(self) -> tuple[int, int]:
        """How many carry a request, how many are free."""
        active = sum(pool.active for pool in self._pools)
        return active, sum(pool.idle for pool in self._pools)

    def figures(self) -> Figures:
        """Everything counted so far."""
        ledger = self.ledger
        active, idle = self.connections
        return Figures(
            counts=ledger.totals(),
            in_flight=ledger.in_flight,
            errors=ledger.errors(),
            dropped=dict(ledger.dropped),
            rate=self.timeline.rate(self.now()),
            latency=merged(page.latency for page in ledger.pages),
            lag=ledger.lag,
            active=active,
            idle=idle,
        )

    def status(self) -> dict[str, Any]:
        """What `GET /v1/status` answers; docs/loadtest.md has the fields."""
        last = self.ledger.series[-1] if self.ledger.series else None
        return status_of(
            self.settings, self.timeline, self.figures(), last, self.now(), over=self._over
        )

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
        now = self.now()
        due = timeline.due(min(now, self._orders[0][0]) if self._orders else now, _BATCH)
        self._late_s = now - due[0][0] if due else 0.0
        for intended, visit in due:
            self._send(intended, visit)
        if len(due) < _BATCH and self._orders and self._orders[0][0] <= now:
            t, order = self._orders.pop(0)
            # Told too late for its moment: at the next one that is possible.
            order(max(t, timeline.since))
            self._wake_up.arm(0)
        elif timeline.finished:
            self._stir.set()
        elif len(due) == _BATCH:
            self._wake_up.arm(0)
        else:
            # An hour at most: a triggered phase of rate 0 has nothing to wake for.
            wakes_at = timeline.wakes_at
            if self._orders:
                wakes_at = min(wakes_at, self._orders[0][0])
            self._wake_up.arm(min(max(wakes_at - self.now(), COALESCE_S), 3600))

    def _send(self, intended: float, visit: int) -> None:
        ledger = self.ledger
        request = self._rotation.next()  # also of one that is dropped: the others keep their turns
        if ledger.in_flight >= self._most:
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
        row = self.ledger.end_second(now, timeline.phase.name, rate / self.share.of)
        if self._on_second is not None:
            self._on_second(row)
