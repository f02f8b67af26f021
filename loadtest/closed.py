"""How much can it take? A closed loop: N connections, each asks again as soon as it is answered.

For calibration only: it waits for the server, so its latencies leave out what a user would have
waited for (that is what `engine.py` is for). Bounded in time, and by that in count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from loadtest.connect import resolve
from loadtest.connection import Exchange
from loadtest.mix import Request
from loadtest.plan import Plan
from loadtest.pool import ConnectionPool
from loadtest.stats import Tally
from loadtest.target import Settings

# After an error a connection pauses: a refused connect costs the server nothing, and without the
# pause the loop would do nothing else.
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Saturation:
    """`per_second` counts answers below status 400; times in seconds, without the warm-up."""

    seconds: float
    completed: int
    failed: int
    per_second: float
    mean_service_s: float
    p50_s: float
    p99_s: float


async def saturate(
    url: str,
    connections: int = 4,
    seconds: float = 5.0,
    *,
    warm_up: float = 0.0,
    headers: tuple[tuple[str, str], ...] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Saturation:
    """Keeps `connections` requests under way for `warm_up + seconds`. Raises InputError."""
    settings = Settings(url, Plan.constant(1, None), headers=headers)
    mix = settings.requests
    probe = _Probe(clock, mix.requests[0])
    pool = ConnectionPool(
        await resolve(mix.origins[0]),
        probe,
        clock=clock,
        connect_timeout=max(warm_up + seconds, 0.001),
    )
    probe.pool = pool
    try:
        for _ in range(connections):
            probe.ask()
        await asyncio.sleep(warm_up)
        probe.reset()
        await asyncio.sleep(seconds)
        return probe.result()
    finally:
        probe.over = True
        await pool.close()


class _Probe:
    """The pool's listener: counts, and asks again."""

    pool: ConnectionPool

    def __init__(self, clock: Callable[[], float], request: Request) -> None:
        self._clock = clock
        self._request = request
        self.over = False
        self.reset()

    def reset(self) -> None:
        """Counts from here."""
        self._since = self._clock()
        self._failed = 0
        self._service = Tally()

    def ask(self) -> None:
        """Puts one more request under way."""
        if not self.over:
            self.pool.send(Exchange(self._clock(), 0, self._request))

    def result(self) -> Saturation:
        """Up to now."""
        seconds = self._clock() - self._since
        service = self._service.summary()
        return Saturation(
            seconds=seconds,
            completed=service.count,
            failed=self._failed,
            per_second=service.count / seconds if seconds else 0.0,
            mean_service_s=service.mean,
            p50_s=service.p50,
            p99_s=service.p99,
        )

    def sent(self, exchange: Exchange) -> None:
        pass

    def answered(self, exchange: Exchange, status: int) -> None:
        if status < 400:
            self._service.record(self._clock() - exchange.written)
            self.ask()
        else:
            self._fail()

    def failed(self, exchange: Exchange, kind: str) -> None:
        self._fail()

    def _fail(self) -> None:
        if not self.over:
            self._failed += 1
            asyncio.get_running_loop().call_later(_PAUSE_S, self.ask)
