"""The peak-sensitive latency average of one backend. Pure: the time is an argument.

The estimate of Finagle's and Linkerd's P2C-PeakEWMA load balancers: a slower answer counts in full
at once, faster ones are believed little by little.
"""

from __future__ import annotations

from math import exp
from typing import Final

TAU_S: Final = 10.0
"""After so long an old figure has 1/e of its weight, 37 %; after 30 s 5 %. Finagle's default."""


class PeakLatency:
    """Seconds that an answer takes, by the worst of late."""

    __slots__ = ("_at", "value_s")

    def __init__(self) -> None:
        self.value_s: float | None = None
        """None before the first answer."""
        self._at = 0.0

    def record(self, seconds: float, now: float) -> None:
        """An answer took `seconds` and ended at `now`."""
        value = self.value_s
        if value is None or seconds >= value:
            self.value_s = seconds
        else:
            kept = exp((self._at - now) / TAU_S)
            self.value_s = value * kept + seconds * (1 - kept)
        self._at = now

    def decayed_s(self, now: float) -> float | None:
        """What is left of it while nothing was heard: so one that was slow gets its next chance."""
        value = self.value_s
        return None if value is None else value * exp((self._at - now) / TAU_S)
