"""Asks backends whether they are ready, and reports; the pool judges.

One task per pool keeps the times; each question is a task of its own, on a connection of its own,
so that a backend which does not answer delays nobody. A connection that is accepted and then reset
is a no like any other: QEMU's forwarded port accepts long before the guest behind it listens.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from typing import Final

import aiohttp
from yarl import URL

from lb.backend import Backend
from lb.pool import Pool, Report
from lb.tasks import cancel, spawn

TIMEOUT: Final = "timeout"
_FIELDS = {"User-Agent": "lbctl-probe"}


class Prober:
    """Active health checks of one pool, by the pool's own `health` settings."""

    def __init__(self, pool: Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._due: dict[Backend, float] = {}
        self._asking: dict[Backend, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._unsubscribe: Callable[[], None] | None = None

    async def start(self) -> None:
        """Begin asking; every backend is asked at once."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._pool.health.timeout),
            auto_decompress=False,
        )
        # A backend that joins, or turns unhealthy, is asked sooner than the last plan said.
        self._unsubscribe = self._pool.subscribe(lambda change: self._wake.set())
        self._task = spawn(self._run(), name=f"probes of {self._pool.service}")

    async def stop(self) -> None:
        """Ask no more; questions under way are dropped and report nothing."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await cancel(self._task, *self._asking.values())
        self._task = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            wait_s = self._ask_due(self._clock())
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _ask_due(self, now: float) -> float:
        """Start every question that is due; returns the seconds until the next one is."""
        health = self._pool.health
        due: dict[Backend, float] = {}
        for backend in self._pool:
            if not backend.probed:
                continue
            pause = health.interval if backend.available else health.interval_down
            # Never later than one pause from now: the pause may have shrunk since it was planned.
            at = min(self._due.get(backend, now), now + pause)
            if at <= now:
                at = now + pause
                if backend not in self._asking:
                    self._asking[backend] = spawn(
                        self._ask(backend), name=f"probe of {backend.name}"
                    )
            due[backend] = at
        self._due = due
        return min(due.values(), default=now + health.interval) - now

    async def _ask(self, backend: Backend) -> None:
        asked_at = self._pool.clock()
        try:
            ok, detail = await self._question(backend.address)
        finally:
            self._asking.pop(backend, None)
        self._pool.observe(
            Report(backend.name, backend.address, ok, detail, asked_at, detail == TIMEOUT)
        )

    async def _question(self, address: str) -> tuple[bool, str]:
        if self._session is None:
            return False, "stopped"
        url = URL(f"http://{address}{self._pool.health.path}", encoded=True)
        try:
            response = await self._session.get(url, headers=_FIELDS, allow_redirects=False)
            # The head is the answer; a body may be a page, or endless.
            response.close()
        except TimeoutError:
            return False, TIMEOUT
        except (aiohttp.ClientError, OSError) as error:
            return False, _word(error)
        return 200 <= response.status < 300, str(response.status)


def _word(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return "refused"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "unreachable"
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return "reset"
    return "bad answer"
