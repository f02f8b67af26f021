"""One timer that is moved on far more often than it fires: a connection's, not a request's.

Moving it costs an assignment; the loop's timer is armed again only when an earlier one went off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `expired` once the loop's clock reaches what was last set."""

    __slots__ = ("_at", "_expired", "_loop", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def after(self, seconds: float) -> None:
        """In so many seconds from now; 0 is never."""
        if not seconds:
            self._at = None
            return
        self.at(self._loop.time() + seconds)

    def at(self, when: float) -> None:
        """Then, by the loop's clock."""
        self._at = when
        if self._timer is None or when < self._timer_at:
            self._arm(when)

    def clear(self) -> None:
        self._at = None

    def close(self) -> None:
        """Never again; lets go of the timer."""
        self._at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._at > self._loop.time():
            self._arm(self._at)
            return
        self._at = None
        self._expired()
