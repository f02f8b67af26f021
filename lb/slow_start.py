"""How much of its weight a backend that has just come back may have yet. Pure."""

from __future__ import annotations

from typing import Final

BEGIN: Final = 0.1
"""A tenth at once: enough requests to warm caches by, too few to fill its queue."""

STEPS: Final = 100
"""Shares are looked at so often during a slow start. Finer would change nothing one could see."""


def warmth(now: float, since: float, duration_s: float) -> float:
    """The part of its weight, 0.1 … 1: it grows evenly with time.

    `since` is when it became available, `now` the same clock.
    """
    passed_s = now - since
    if passed_s >= duration_s:
        return 1.0
    return BEGIN + (1 - BEGIN) * passed_s / duration_s
