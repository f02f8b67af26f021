"""Where requests wait while every backend has as many as it may: first come, first served.

Owns the line and its bounds. Who gets a backend, and which, is the pool's: a freed place is
reserved for the first in line before anybody else can ask. It must not know HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from lb.backend import Backend
from lb.config import QueueConfig
from lb.errors import (
    AllTriedError,
    AtCapacityError,
    NoBackendError,
    QueueFullError,
    QueueTimeoutError,
)
from lb.pool import Lease, Pool


@dataclass(slots=True, eq=False)
class _Waiter:
    exclude: Collection[Backend]
    place: asyncio.Future[Lease]


class WaitingLine:
    """One service's line. `len(line)` requests wait in it."""

    def __init__(self, pool: Pool, config: QueueConfig) -> None:
        self._pool = pool
        self._config = config
        # In order of coming; a dict, because one that hangs up leaves from the middle.
        self._waiters: dict[_Waiter, None] = {}
        pool.on_room = self._serve

    def __len__(self) -> int:
        return len(self._waiters)

    async def lease(self, *, exclude: Collection[Backend] = ()) -> Lease:
        """A lease at once, or as soon as it is this one's turn.

        Raises a NoBackendError: at once where waiting for a release is no use, AllTriedError also
        where the last one worth waiting for left meanwhile, QueueFullError where the line is too
        long, QueueTimeoutError after the longest wait.
        """
        # Whoever waits already was offered every place there is: what is free now, nobody before
        # this one may use (they avoid the backend they failed on).
        try:
            return self._pool.lease(exclude=exclude)
        except AtCapacityError:
            pass
        if len(self._waiters) >= self._config.length:
            raise QueueFullError(f"{len(self._waiters)} requests wait already")
        waiter = _Waiter(exclude, asyncio.get_running_loop().create_future())
        self._waiters[waiter] = None
        try:
            async with asyncio.timeout(self._config.max_wait):
                return await waiter.place
        except BaseException as error:
            self._give_back(waiter)
            if isinstance(error, TimeoutError):
                raise QueueTimeoutError(
                    f"no backend was free in {self._config.max_wait:g} s"
                ) from None
            raise
        finally:
            self._waiters.pop(waiter, None)

    @staticmethod
    def _give_back(waiter: _Waiter) -> None:
        """A place that came in the same instant as the end of the waiting."""
        place = waiter.place
        if place.done() and not place.cancelled() and place.exception() is None:
            place.result().release()

    def _serve(self) -> None:
        served = []
        for waiter in self._waiters:
            if waiter.place.done():
                continue
            try:
                lease = self._pool.lease(exclude=waiter.exclude)
            except AllTriedError as error:
                # Only those it failed on are left: it may ask one of them again, and need not wait.
                waiter.place.set_exception(error)
                served.append(waiter)
                continue
            except NoBackendError:
                # Full again, or nobody is well just now: it goes on waiting for a flip. One that
                # avoids the backend it failed on must not hold up those behind it.
                if waiter.exclude:
                    continue
                break
            waiter.place.set_result(lease)
            served.append(waiter)
        for waiter in served:
            del self._waiters[waiter]
