"""How many VMs may be started now, and for what reason: what `fleet` asks before it launches.

Owns the gate that failed launches close, and the count of those that only replace a lost one. It
must not start anything.
"""

from __future__ import annotations

from autoscale.backoff import LaunchGate
from autoscale.decision import Decision
from autoscale.model import Direction, Reason


class Launches:
    """What earlier launches, losses and decisions mean for the next launch. Mutable, and only
    `fleet` writes it."""

    def __init__(self) -> None:
        self.gate = LaunchGate()
        self._said = False
        self._to_replace = 0
        self._reason = Reason.BELOW_MIN

    def decided(self, decision: Decision, missing: int) -> None:
        """So many are missing for what was decided. A lost replica that nobody wants any more is
        not replaced."""
        if decision.direction is not Direction.NONE:
            up = decision.direction is Direction.UP
            self._reason = decision.reason if up else Reason.BELOW_MIN
        self._to_replace = max(0, min(self._to_replace, missing))

    def how_many(self, missing: int, room: int, booting: int, now: float) -> int:
        """So many of the `missing` may start now, with `room` left below the maximum."""
        if room <= 0 or not self.gate.allows(now):
            return 0
        if self.gate.failures:
            # after a failure one at a time, so that a broken image costs one VM a try, not many
            missing = 0 if booting else 1
        return min(missing, room)

    def next_reason(self) -> Reason:
        """Why the one that is started now is started. Those lost come first."""
        if self._to_replace > 0:
            self._to_replace -= 1
            return Reason.REPLACED
        return self._reason

    def lost(self) -> None:
        """One that served is gone, and nobody wanted that."""
        self._to_replace += 1

    def failed(self, now: float) -> None:
        self.gate = self.gate.failed(now)

    def succeeded(self) -> None:
        self.gate, self._said = self.gate.succeeded(), False

    def breaker_words(self, now: float) -> str | None:
        """To be said where the gate stops a launch: once each time that the breaker opens."""
        if self._said or not self.gate.is_open or self.gate.allows(now):
            return None
        self._said = True
        return (
            f"{self.gate.failures} launches in a row failed: no more for"
            f" {self.gate.not_before - now:.0f} s; see the events before this one"
        )
