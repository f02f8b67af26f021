"""What operators told the planner of each service, kept over a restart in LBCTL_HOME.

Owns the file's form: a JSON object by service of `mode`, `to` and `until` (Unix seconds). What an
override means is the planner's; whether a number is within bounds, the scaler's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from autoscale.rules import Mode, Override
from lb.state_file import StateFile

LATEST_S: Final = 1e11
"""Unix seconds that still are a date."""


class Overrides:
    """By service. Reads the file at once; of what cannot be understood it warns once."""

    def __init__(self, path: Path, wall_clock: Callable[[], float] = time.time) -> None:
        self._file = StateFile(path, "overrides")
        self._wall_clock = wall_clock
        self._saving = asyncio.Lock()
        self._held = self._read()

    def of(self, service: str) -> Override | None:
        """What holds, or has run out and was not put away yet: whoever does so tells of it."""
        return self._held.get(service)

    def put(self, service: str, override: Override | None) -> None:
        """From now on; None takes it back. `save` remembers it."""
        if override is None:
            self._held.pop(service, None)
        else:
            self._held[service] = override

    async def save(self) -> None:
        """Write what holds when it is this call's turn. A failure costs a warning."""
        async with self._saving:
            now = self._wall_clock()
            values = {name: _as_dict(o) for name, o in self._held.items() if o.holds(now)}
            await asyncio.to_thread(self._file.write, values)

    def _read(self) -> dict[str, Override]:
        values = self._file.read()
        if values is None:
            return {}
        if not isinstance(values, dict):
            self._file.complain("is no JSON object and is ignored")
            return {}
        found = {}
        for service, value in values.items():
            override = _override(value)
            if override is None:
                self._file.complain(f"{service!r} is no override and is ignored")
            else:
                found[service] = override
        return found


def _as_dict(override: Override) -> dict[str, Any]:
    return {"mode": override.mode.value, "to": override.to, "until": override.until}


def _override(value: Any) -> Override | None:
    """What `_as_dict` made, else None."""
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
