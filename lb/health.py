"""Asks backends whether they are ready, and reports; the pool judges.

One task per pool keeps the times; each question (`probe`) is a task of its own, on a connection of
its own, so that a backend which does not answer delays nobody. A connection that is accepted and
then reset is a no like any other: QEMU's forwarded port accepts long before the guest behind it
listens.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable
from typing import Final

from lb.backend import Backend
from lb.config_service import HealthConfig
from lb.pool import Pool, Report
from lb.probe import SILENT, TIMEOUT, Manner, certain, probe
from lb.slate import Rng
from lb.tasks import cancel, spawn

AGAIN_S: Final = 0.02
"""Least time between two questions to one backend. One that may be dead is asked again after it."""

FIRST_S: Final = 0.25
"""Who joins and is known to be ready is asked so much later: a guest that has just woken would
answer this question before the request that waits for it, in 10 to 20 ms where it is emulated."""


class Prober:
    """Active health checks of one pool, by the pool's own `health` settings; and the wake-up call
    for its ejections.

    `tls` makes the questions https, `server_name` is what is asked for and verified there instead
    of the address, `greeting` goes first on each connection (a PROXY header). `rng` spreads the
    times. A new `manner` may be set at any time.
    """

    def __init__(
        self,
        pool: Pool,
        clock: Callable[[], float] = time.monotonic,
        rng: Rng | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str = "",
        greeting: bytes = b"",
    ) -> None:
        self.manner = Manner(tls, server_name, greeting)
        self._pool = pool
        self._clock = clock
        self._rng: Rng = rng if rng is not None else random.Random()
        self._due: dict[Backend, float] = {}
        self._asked: dict[Backend, float] = {}
        self._asking: dict[Backend, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    async def start(self) -> None:
        """Begin asking; every backend that is not known to be ready is asked at once."""
        # A backend that joins, or turns unhealthy, is asked sooner than the last plan said; and so
        # may all be by new settings.
        self._unsubscribe = self._pool.subscribe(lambda change: self._wake.set())
        self._pool.on_configured = self._wake.set
        self._pool.on_doubt = self._doubt
        self._task = spawn(self._run(), name=f"probes of {self._pool.service}")

    async def stop(self) -> None:
        """Ask no more; questions under way are dropped and report nothing."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
            self._pool.on_doubt = lambda _backend: None
        await cancel(self._task, *self._asking.values())
        self._task = None

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            wait_s = min(self._ask_due(self._clock()), self._reinstate_due())
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _doubt(self, backend: Backend) -> None:
        """Ask it at once. One that is being asked is not: the pool looks at its answer first."""
        if backend not in self._asking:
            self._due[backend] = self._asked.get(backend, 0.0) + AGAIN_S
            self._wake.set()

    def _reinstate_due(self) -> float:
        """End the ejections whose time has come; returns the seconds until the next one's has."""
        now = self._pool.clock()
        if (at := self._pool.reinstates_at) is not None and at <= now:
            self._pool.tick(now)
            at = self._pool.reinstates_at
        return float("inf") if at is None else at - now

    def _ask_due(self, now: float) -> float:
        """Start every question that is due; returns the seconds until the next one is."""
        health = self._pool.health
        due: dict[Backend, float] = {}
        for backend in self._pool:
            if not backend.probed:
                continue
            well = backend.passes
            # Never later than one pause from now: the pause may have shrunk since it was planned.
            first = now + FIRST_S if well else now
            at = min(self._due.get(backend, first), now + pause_s(health, well, 1.0))
            if at <= now:
                at = now + pause_s(health, well, self._rng.random())
                if backend not in self._asking:
                    self._asked[backend] = now
                    self._asking[backend] = spawn(
                        self._ask(backend), name=f"probe of {backend.name}"
                    )
            due[backend] = at
        self._due = due
        self._asked = {backend: self._asked[backend] for backend in due if backend in self._asked}
        return min(due.values(), default=now + health.interval) - now

    async def _ask(self, backend: Backend) -> None:
        asked_at = self._pool.clock()
        try:
            ok, detail = await probe(backend.address, self._pool.health, self.manner)
        finally:
            self._asking.pop(backend, None)
        self._pool.observe(
            Report(
                backend.name,
                backend.address,
                ok,
                detail,
                asked_at,
                timed_out=detail == TIMEOUT,
                certain=certain(ok, detail),
                silent=detail in SILENT,
            )
        )


def pause_s(health: HealthConfig, well: bool, dice: float) -> float:
    """Seconds between two questions to one backend; `dice` from 0 to 1 spreads them evenly over
    the interval ± its jitter."""
    interval = health.interval if well else health.interval_down
    return interval * (1 + health.jitter * (2 * dice - 1))
