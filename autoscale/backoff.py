"""When a launch may be tried again after launches failed. Pure and frozen.

Owns the exponential wait and the breaker that stops launching altogether. Without it a fleet that
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


@dataclass(frozen=True, slots=True)
class LaunchGate:
    """Failures in a row, and the instant before which nothing is launched."""

    failures: int = 0
    not_before: float = 0.0

    @property
    def is_open(self) -> bool:
        """The breaker: open means launching has stopped."""
        return self.failures >= BREAKER_AFTER

    def allows(self, now: float) -> bool:
        return now >= self.not_before

    def failed(self, now: float) -> LaunchGate:
        """After one more failure: waits 1, 2, 4, 8 s, then the breaker's 60 s."""
        failures = self.failures + 1
        if failures >= BREAKER_AFTER:
            return LaunchGate(failures, now + PROBE_AFTER_S)
        return LaunchGate(failures, now + min(FIRST_WAIT_S * 2 ** (failures - 1), LONGEST_WAIT_S))

    def succeeded(self) -> LaunchGate:
        return LaunchGate()
