"""How many replicas a service wanted last, kept in LBCTL_HOME: how many of those that a successor
finds were there in another's place, only this number tells him.

Owns when it is written and read. What follows from it is the fleet's.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from lb.state_file import StateFile


class DesiredFile:
    """One service's, in `folder`. The file is read and written in a thread; what goes wrong there
    costs a warning."""

    def __init__(self, folder: Path, service: str) -> None:
        self._file = StateFile(folder / f"{service}.json", f"what {service} wanted")
        self._saving = asyncio.Lock()
        self._desired: int | None = None

    async def load(self) -> int | None:
        """None where nothing was kept that is understood."""
        value = await asyncio.to_thread(self._file.read)
        if value is None:
            return None
        if type(value) is not int or value < 0:
            self._file.complain("is no number of replicas and is ignored")
            return None
        return value

    def put(self, desired: int) -> bool:
        """So many from now on. Returns whether that is to be saved."""
        changed = desired != self._desired
        self._desired = desired
        return changed

    async def save(self) -> None:
        """Write what holds when it is this call's turn."""
        async with self._saving:
            await asyncio.to_thread(self._file.write, self._desired)
