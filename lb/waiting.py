"""Where requests wait for a backend: while all are busy, or until one comes up; clients take turns.

Owns the line and its bounds. Who gets a backend, and which, is the pool's: a freed place is
reserved for the first in line before anybody else can ask. It must not know HTTP.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from lb.backend import Backend
from lb.config import QueueConfig
from lb.errors import (
    AllDoubtedError,
    AllLostError,
    AllTriedError,
    AtCapacityError,
    NoBackendError,
    NoneReadyError,
    PoolEmptyError,
    QueueFullError,
    QueueTimeoutError,
)
from lb.pool import Lease, Pool
from lb.turns import Turns


@dataclass(slots=True, eq=False)
class _Waiter:
    client: bytes
    exclude: frozenset[Backend]
    key: bytes | None
    prefer: str | None
    place: asyncio.Future[Lease]


class WaitingLine:
    """One service's line. `len(line)` requests wait in it.

    `config` may be replaced at any time; those who wait already keep the wait they were promised.
    `limit`, where set, says how many requests may run at once on the whole service; from there on
    they wait, though backends have room.
    """

    def __init__(self, pool: Pool, config: QueueConfig) -> None:
        self.config = config
        self.limit: Callable[[], int] | None = None
        self.awaited: Callable[[], float] = lambda: 0.0
        """For how many seconds a request may wait although no backend is ready, because one is on
        its way or will be asked for; 0: no backend, no waiting."""
        self.on_wait: Callable[[], None] = lambda: None
        """Called when somebody begins to wait: for the first one, not for each that joins him."""
        self._pool = pool
        self._turns: Turns[_Waiter] = Turns()
        # Those who failed on a backend and avoid it, together by whom they avoid: where the first
        # of such a group finds nobody, none of it does. They had their turn, so they go first.
        self._again: dict[frozenset[Backend], OrderedDict[_Waiter, None]] = {}
        self._number_again = 0
        self._formed_at = 0.0
        self._serving = False
        self._news = False
        pool.on_room = self.serve

    def __len__(self) -> int:
        return len(self._turns) + self._number_again

    @property
    def standing_s(self) -> float:
        """For how many seconds somebody has been waiting, whoever it was; 0 while nobody does."""
        return self._pool.clock() - self._formed_at if len(self) else 0.0

    async def lease(
        self,
        *,
        client: bytes = b"",
        key: bytes | None = None,
        prefer: str | None = None,
        exclude: Collection[Backend] = (),
        max_wait: float | None = None,
    ) -> Lease:
        """A lease at once, or as soon as it is this one's turn.

        `client` is whose turn it takes; the rest is the pool's. `max_wait` in seconds: instead of
        the configured one; whoever waits for a backend to come up may do so for `awaited()` at
        least. Raises a NoBackendError: at once where waiting is no use, AllTriedError also where
        the last one worth waiting for left meanwhile, QueueFullError where the line is too long, or
        has become so for a client with many in it, QueueTimeoutError after the longest wait.
        """
        coming_s = 0.0
        try:
            return self.lease_now(key=key, prefer=prefer, exclude=exclude)
        except AtCapacityError:
            pass
        except (PoolEmptyError, NoneReadyError, AllLostError, AllDoubtedError):
            coming_s = self.awaited()
            if coming_s <= 0:
                raise
        if max_wait is None:
            max_wait = self.config.max_wait
        max_wait = max(max_wait, coming_s)
        waiter = self._join(client, frozenset(exclude), key, prefer)
        try:
            if len(self) == 1:
                self.on_wait()
            async with asyncio.timeout(max_wait):
                return await waiter.place
        except BaseException as error:
            self._give_back(waiter)
            if isinstance(error, TimeoutError):
                raise QueueTimeoutError(f"no backend was free in {max_wait:.3g} s") from None
            raise
        finally:
            self._leave(waiter)

    def lease_now(
        self,
        *,
        key: bytes | None = None,
        prefer: str | None = None,
        exclude: Collection[Backend] = (),
    ) -> Lease:
        """A lease that nobody has to wait for, else a NoBackendError: AtCapacityError where it is
        worth waiting in the line."""
        self._admit()
        return self._pool.lease(exclude=exclude, key=key, prefer=prefer)

    def reserve_now(self, now: float, key: bytes | None, prefer: str | None) -> Backend:
        """The same without a lease: see `Pool.reserve`."""
        if self.limit is not None:
            self._admit()
        return self._pool.reserve(now, (), key, prefer)

    def _admit(self) -> None:
        # Whoever waits already was offered every place there is: what is free now, nobody before
        # this one may use (they avoid the backend they failed on). Only a limit may have grown
        # since, and nobody was told.
        if self.limit is not None:
            self.serve()
            if self._at_limit():
                raise AtCapacityError(f"{self.limit()} requests are as many as the service carries")

    def _at_limit(self) -> bool:
        pool = self._pool
        if self.limit is None or pool.in_flight < self.limit():
            return False
        # Where there is no backend, that is the answer, not the limit.
        return pool.offers

    # ── in and out ───────────────────────────────────────────────────────────────────────────

    def _join(
        self, client: bytes, exclude: frozenset[Backend], key: bytes | None, prefer: str | None
    ) -> _Waiter:
        if not self.config.fair:
            client = b""
        if len(self) >= self.config.length:
            self._make_room(client)
        if not len(self):
            self._formed_at = self._pool.clock()
        place: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(client, exclude, key, prefer, place)
        if exclude:
            self._again.setdefault(exclude, OrderedDict())[waiter] = None
            self._number_again += 1
        else:
            self._turns.add(client, waiter)
        return waiter

    def _make_room(self, client: bytes) -> None:
        """For one of this client's, at the cost of who has most of the line. Raises QueueFullError
        where nobody has so much more that it would be fairer."""
        displaced = self._turns.displace(client) if self.config.length else None
        if displaced is None:
            raise QueueFullError(f"{len(self)} requests wait already")
        if not displaced.place.done():
            displaced.place.set_exception(
                QueueFullError("the line is full, and most who wait in it are this client's")
            )

    def _leave(self, waiter: _Waiter) -> None:
        """It waits no more; nothing happens where that is known."""
        if not waiter.exclude:
            self._turns.remove(waiter.client, waiter)
            return
        group = self._again.get(waiter.exclude)
        if group is not None and waiter in group:
            del group[waiter]
            self._number_again -= 1
            if not group:
                del self._again[waiter.exclude]

    @staticmethod
    def _give_back(waiter: _Waiter) -> None:
        """A place that came in the same instant as the end of the waiting."""
        place = waiter.place
        if place.done() and not place.cancelled() and place.exception() is None:
            place.result().release()

    # ── serving ──────────────────────────────────────────────────────────────────────────────

    def serve(self) -> None:
        """Give places to those whose turn it is. The pool calls it after each release and flip,
        also of a flip that it only noticed when asked for a lease here."""
        if not self._number_again and not self._turns.number:
            return
        self._news = True
        if self._serving:
            return
        self._serving = True
        try:
            while self._news:
                self._news = False
                self._serve_all()
        finally:
            self._serving = False

    def _serve_all(self) -> None:
        for group in tuple(self._again.values()):
            self._serve_group(group)
        turns = self._turns
        while turns:
            client, waiter = turns.first()
            if not waiter.place.done():
                try:
                    lease = self._lease_for(waiter)
                except NoBackendError:
                    # Full again, or nobody is there or well just now: they wait for a flip.
                    return
                waiter.place.set_result(lease)
                turns.rotate()
            turns.remove(client, waiter)

    def _serve_group(self, group: OrderedDict[_Waiter, None]) -> None:
        while group:
            waiter = next(iter(group))
            if not waiter.place.done():
                try:
                    waiter.place.set_result(self._lease_for(waiter))
                except AllTriedError as error:
                    if isinstance(error, AllDoubtedError) and self.awaited() > 0:
                        return  # a probe will tell
                    # Only those it failed on are left: it may ask one of them again, and need not
                    # wait.
                    waiter.place.set_exception(error)
                except NoBackendError:
                    return
            self._leave(waiter)

    def _lease_for(self, waiter: _Waiter) -> Lease:
        if self._at_limit():
            raise AtCapacityError("the service carries no more just now")
        return self._pool.lease(exclude=waiter.exclude, key=waiter.key, prefer=waiter.prefer)
