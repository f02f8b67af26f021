"""Deadlines on a coarse wheel: many, moved on with every request, and seldom reached.

Moving one costs an assignment; the loop has one timer for all of them. A deadline is never early,
and late by a tick at most. Knows nothing of what waits.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from typing import Final, Protocol

TICK_S: Final = 0.05
"""A loop that has nothing else to do wakes up so often while there are deadlines, at 20 µs."""
FIRST_S: Final = 1.0
"""A deadline that is further off is first looked at after so long. Most connections are gone by
then; a slot for each tick of the next minutes, as large as the most that it ever held, would keep
10 KiB for each 0.05 s in which 500 connections came."""


class Wheel:
    """Those of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Deadline]] = {}
        """By tick; none is empty when it is put up."""
        self._ticks: list[int] = []
        """Those of the slots, as a heap."""
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0
        """The tick of the timer."""

    def now(self) -> float:
        return self._loop.time()

    def put(self, deadline: Deadline, tick: int) -> None:
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = set()
            heappush(self._ticks, tick)
            if self._timer is None or tick < self._armed:
                self._arm(tick)
        slot.add(deadline)

    def take(self, deadline: Deadline, tick: int) -> None:
        """Out of the slot, which stays until its time."""
        slot = self._slots.get(tick)
        if slot is not None:
            slot.discard(deadline)

    def close(self) -> None:
        """Whatever is still on it is never reached."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()
        self._ticks.clear()

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = tick
        self._timer = self._loop.call_at(tick * TICK_S, self._turn)

    def _turn(self) -> None:
        self._timer = None
        # at its own tick at least: a loop's clock of milliseconds may wake it a hair early
        tick = max(self._armed, int(self.now() / TICK_S))
        while self._ticks and self._ticks[0] <= tick:
            for deadline in self._slots.pop(heappop(self._ticks)):
                self._loop.call_soon(deadline.due)
        if self._ticks:
            self._arm(self._ticks[0])


class Waits(Protocol):
    def expired(self) -> None: ...


class Deadline:
    """Tells `owner` once the loop's clock has reached what was set last."""

    __slots__ = ("_at", "_owner", "_tick", "_wheel")

    def __init__(self, wheel: Wheel, owner: Waits) -> None:
        # not a bound method, of which each idle connection would keep one
        self._owner: Waits | None = owner
        self._wheel = wheel
        self._at: float | None = None
        self._tick: int | None = None
        """Where it is on the wheel, perhaps earlier than it has to be; None: nowhere."""

    def after(self, seconds: float) -> None:
        """In so many seconds from now; 0 is never."""
        if not seconds:
            self._at = None
            return
        now = self._wheel.now()
        self._at = now + seconds
        self._look(now + min(seconds, FIRST_S))

    def at(self, when: float) -> None:
        """Then, by the loop's clock."""
        self._at = when
        self._look(when)

    def _look(self, when: float) -> None:
        tick = int(when / TICK_S) + 1
        if self._tick is None:
            self._put(tick)
        elif tick < self._tick:
            self._wheel.take(self, self._tick)
            self._put(tick)

    def clear(self) -> None:
        self._at = None

    def close(self) -> None:
        """Never again; lets go of everything."""
        self._at = None
        self._owner = None
        if self._tick is not None:
            self._wheel.take(self, self._tick)
            self._tick = None

    def due(self) -> None:
        """The wheel has come to it."""
        self._tick = None
        at = self._at
        if at is None:
            return
        if at > self._wheel.now():
            self._put(int(at / TICK_S) + 1)
            return
        self._at = None
        if self._owner is not None:
            self._owner.expired()

    def _put(self, tick: int) -> None:
        self._tick = tick
        self._wheel.put(self, tick)
