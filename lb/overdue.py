"""When does the fast lane give an exchange up? One look at all of them every tenth of a second.

A timer for each request would cost more than the rest of the lane. Whatever takes long is handed to
a journey, which has timeouts of its own. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

TICK_S: Final = 0.1
LONGEST_S: Final = 0.5
"""Whoever waits so long for an answer does not mind the 0.1 ms of CPU that a handing over takes."""
TOGETHER_S: Final = 0.1
"""The rest of an answer that has begun is waited for so long, as in the other lane."""


class Exchanging(Protocol):
    began: float
    """By the loop's clock, as is the next."""
    heard_at: float
    """When a part of the answer came; 0 before that."""

    def hand_over(self) -> None: ...


class Overdue:
    """`begin` and `end` an exchange; in between it may be handed over."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.running: dict[Exchanging, None] = {}
        """In the order they began."""
        self._partial: dict[Exchanging, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, one: Exchanging) -> None:
        self.running[one] = None
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def heard(self, one: Exchanging) -> None:
        """A part of its answer."""
        self._partial[one] = None

    def end(self, one: Exchanging) -> None:
        del self.running[one]
        if self._partial:
            self._partial.pop(one, None)

    def close(self) -> None:
        """None runs any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if not self.running:
            return
        # first of all: a fault with one exchange must not be the end of the looking
        self._timer = self._loop.call_later(TICK_S, self._tick)
        now = self._loop.time()
        late = {one: None for one in self._partial if one.heard_at <= now - TOGETHER_S}
        for one in self.running:
            if one.began > now - LONGEST_S:
                break
            late[one] = None
        for one in late:
            one.hand_over()
