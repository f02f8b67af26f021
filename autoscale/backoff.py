"""When something may be tried again after it failed: a launch, a connection. Pure and frozen.

Owns the exponential waits, and the breaker that stops launching altogether. Without it a fleet that
cannot boot starts machines for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
BREAKER_AFTER = 5
"""Failures in a row that open the breaker."""
PROBE_AFTER_S = 60.0
"""An open breaker lets one launch through after this long; its success closes the breaker. Long
enough to cost little, short enough that whoever mended the cause need not be told to wait."""

FIRST_RECONNECT_S = 2.0
LONGEST_RECONNECT_S = 30.0
"""A daemon that restarts is back within seconds; one that is away for long is asked twice a minute,
which costs it nothing and whoever mended it half a minute at most."""


@dataclass(frozen=True, slots=True)
class LaunchGate:
    """Failures in a row, the instant before which nothing is launched, and what the last said."""

    failures: int = 0
    not_before: float = 0.0
    why: str = ""

    @property
    def is_open(self) -> bool:
        """The breaker: open means launching has stopped."""
        return self.failures >= BREAKER_AFTER

    def allows(self, now: float) -> bool:
        return now >= self.not_before

    def failed(self, now: float, why: str = "") -> LaunchGate:
        """After one more failure: waits 1, 2, 4, 8 s, then the breaker's 60 s."""
        failures = self.failures + 1
        if failures >= BREAKER_AFTER:
            return LaunchGate(failures, now + PROBE_AFTER_S, why)
        wait_s = min(FIRST_WAIT_S * 2 ** (failures - 1), LONGEST_WAIT_S)
        return LaunchGate(failures, now + wait_s, why)

    def succeeded(self) -> LaunchGate:
        return LaunchGate()


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Connections that could not be opened, in a row, and when the next may be tried."""

    failures: int = 0
    not_before: float = 0.0

    def allows(self, now: float) -> bool:
        return now >= self.not_before

    def failed(self, now: float, jitter: float) -> Reconnect:
        """After one more failure: 2, 4, 8, 16, then 30 s, less up to half of it by `jitter`
        (0 … 1), so that those who lost one daemon do not all come back to it at once. The first
        wait is whole."""
        wait_s = min(FIRST_RECONNECT_S * 2.0 ** min(self.failures, 10), LONGEST_RECONNECT_S)
        less = wait_s * jitter / 2 if self.failures else 0.0
        return Reconnect(self.failures + 1, now + wait_s - less)
