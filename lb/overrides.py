"""What operators told the planner of each service, kept over a restart in LBCTL_HOME.

Owns the form of one in the file: `mode`, `to` and `until` (Unix seconds). What an override means is
the planner's; whether a number is within bounds, the scaler's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from autoscale.rules import Mode, Override
from lb.by_service import ByService

LATEST_S: Final = 1e11
"""Unix seconds that still are a date."""


class Overrides(ByService[Override]):
    """What holds, or has run out and was not put away yet: whoever does so tells of it."""

    one = "override"

    def __init__(self, path: Path, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        super().__init__(path)

    def holds(self, value: Override) -> bool:
        return value.holds(self._wall_clock())

    def to_json(self, value: Override) -> object:
        return {"mode": value.mode.value, "to": value.to, "until": value.until}

    def from_json(self, value: Any) -> Override | None:
        return _override(value)


def _override(value: Any) -> Override | None:
    match value:
        case {"mode": "fixed", "to": int(to), "until": until} if type(to) is int and to >= 0:
            pass
        case {"mode": "hold" | "observe", "to": None as to, "until": until}:
            pass
        case _:
            return None
    if until is not None and not (type(until) in (int, float) and 0 <= until <= LATEST_S):
        return None
    return Override(Mode(value["mode"]), to, until)


def in_words(override: Override) -> str:
    """`3 replicas until 2026-01-31 12:00:00 UTC`, `hold`."""
    what = override.mode.value
    if override.mode is Mode.FIXED:
        what = f"{override.to} replica{'' if override.to == 1 else 's'}"
    if override.until is None:
        return what
    return f"{what} until {datetime.fromtimestamp(override.until, UTC):%Y-%m-%d %H:%M:%S} UTC"
