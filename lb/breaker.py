"""Stops asking a service whose requests fail anyway, and finds out when to ask it again.

Owns three states and the table between them. Judges no request (whoever sent it says whether it
went well) and knows no backend. Pure: the time is an argument.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from lb.config_service import BreakerConfig
from lb.rolling import Rolling

_BUCKETS: Final = 10


class BreakerState(StrEnum):
    CLOSED = "closed"
    """Requests pass, and are counted."""
    OPEN = "open"
    """None passes."""
    HALF_OPEN = "half_open"
    """A few pass, to see how they fare."""


class _Event(StrEnum):
    TRIPPED = "tripped"
    WAITED = "waited"
    FAILED = "failed"
    RECOVERED = "recovered"


_NEXT: Final[dict[tuple[BreakerState, _Event], BreakerState]] = {
    (BreakerState.CLOSED, _Event.TRIPPED): BreakerState.OPEN,
    (BreakerState.OPEN, _Event.WAITED): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, _Event.FAILED): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, _Event.RECOVERED): BreakerState.CLOSED,
}


class Breaker:
    """Ask `admit` before a request is sent; then say `done`, or `forgotten`, once, with the time
    it was admitted at: what was admitted in an earlier state tells nothing of this one."""

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self.state = BreakerState.CLOSED
        self._since = float("-inf")
        """When this state began."""
        self._good = self._rolling()
        self._bad = self._rolling()
        self._trials: list[float] = []
        """When the trials that run were admitted, the oldest first. Half-open only."""
        self._passed = 0
        """Trials in a row that went well. Half-open only."""

    @property
    def config(self) -> BreakerConfig:
        return self._config

    @config.setter
    def config(self, config: BreakerConfig) -> None:
        """New rules. The counts are kept where they mean the same; switched off, it closes."""
        width_changed = config.window != self._config.window
        self._config = config
        if width_changed:
            self._good = self._rolling()
            self._bad = self._rolling()
        if not config.enabled:
            self.state = BreakerState.CLOSED
            self._good.clear()
            self._bad.clear()

    def admit(self, now: float) -> float | None:
        """None: the request may be sent. Else it may not, and how many seconds to stay away."""
        if not self._config.enabled or self.state is BreakerState.CLOSED:
            return None
        if self.state is BreakerState.OPEN:
            left_s = self._since + self._config.open - now
            if left_s > 0:
                return left_s
            self._move(_Event.WAITED, now)
        return self._admit_trial(now)

    def done(self, ok: bool, now: float, admitted_at: float) -> None:
        """A request ended; `ok`: by an answer that does not speak against the service."""
        if not self._config.enabled or admitted_at < self._since:
            return
        if self.state is BreakerState.CLOSED:
            self._count(ok, now)
        elif self.state is BreakerState.HALF_OPEN:
            self.forgotten(admitted_at)
            if not ok:
                self._move(_Event.FAILED, now)
                return
            self._passed += 1
            if self._passed >= self._config.trials:
                self._move(_Event.RECOVERED, now)

    def forgotten(self, admitted_at: float) -> None:
        """Nobody will know how it would have ended: its client left, or it never was sent."""
        if admitted_at in self._trials:
            self._trials.remove(admitted_at)

    def _admit_trial(self, now: float) -> float | None:
        # A trial that hangs keeps its place for as long as an open breaker would have waited, no
        # longer: however a request gets lost, `trials` more are sent every `open` seconds.
        trials = self._trials
        while trials and now - trials[0] >= self._config.open:
            del trials[0]
        if len(trials) < self._config.trials:
            trials.append(now)
            return None
        return trials[0] + self._config.open - now

    def _count(self, ok: bool, now: float) -> None:
        (self._good if ok else self._bad).add(now)
        bad = self._bad.total(now)
        requests = bad + self._good.total(now)
        if requests >= self._config.min_requests and bad >= self._config.failures * requests:
            self._move(_Event.TRIPPED, now)

    def _move(self, event: _Event, now: float) -> None:
        self.state = _NEXT[self.state, event]
        self._since = now
        self._trials.clear()
        self._passed = 0
        self._good.clear()
        self._bad.clear()

    def _rolling(self) -> Rolling:
        return Rolling(self._config.window / _BUCKETS, _BUCKETS)

    def __repr__(self) -> str:
        return f"<Breaker {self.state}, {len(self._trials)} trials>"
