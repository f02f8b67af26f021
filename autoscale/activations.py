"""How long replicas took to come into service, by the way they came. Pure, and bounded.

Owns what a way is expected to take. It must not know which ways there are now: that is the fleet's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from autoscale.model import COLD_START_S, Path, Way

KEPT = 20
"""Of each way, the newest: enough for a 95th percentile that is not simply the slowest one, and few
enough that a faster image shows within a day."""

QUANTILE = 0.95
USUAL_S = {Path.STANDBY: 0.05, Path.SNAPSHOT: 1.5, Path.COLD: COLD_START_S}
"""What to expect of a way that nobody came yet."""


class Activations:
    """The newest times of each way. Mutable: `add` only."""

    def __init__(self) -> None:
        self._took: dict[Path, deque[float]] = {}

    def add(self, path: Path, seconds: float) -> None:
        """One replica came into service, so long after it was asked for."""
        self._took.setdefault(path, deque(maxlen=KEPT)).append(seconds)

    def expected_s(self, path: Path) -> float:
        """The 95th percentile, nearest rank; before one was measured, what is usual."""
        took = sorted(self._took.get(path, ()))
        return took[math.ceil(QUANTILE * len(took)) - 1] if took else USUAL_S[path]

    def ways(self, available: Mapping[Path, int | None]) -> tuple[Way, ...]:
        """The ways in which more can come now, the cheapest first. `available`: how many by each
        way, None for as many as are wanted; a way for none is no way."""
        return tuple(
            Way(path, self.expected_s(path), available[path])
            for path in Path
            if path in available and available[path] != 0
        )
