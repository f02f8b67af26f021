"""What a service's forecast has learned, kept in LBCTL_HOME: a season is a day, a process is not.

Owns when it is written and read. What it holds is the forecast's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from autoscale.forecast import Forecast
from lb.state_file import StateFile

SAVE_S: Final = 300.0
"""A slot of a day's profile is as long: a kill costs one at most."""


class ForecastFile:
    """One service's, in `folder`. The file is read and written in a thread; what goes wrong there
    costs a warning."""

    def __init__(self, folder: Path, service: str) -> None:
        self._file = StateFile(folder / f"{service}.json", f"the forecast of {service}")

    async def load(self, season_s: float) -> Forecast | None:
        """None where there is none of such a season."""
        value = await asyncio.to_thread(self._file.read)
        if value is None:
            return None
        found = Forecast.from_dict(value)
        if found is None:
            self._file.complain("is not understood and is ignored")
        elif found.season_s != season_s:
            return None  # the configuration has another one now
        return found

    async def save(self, forecast: Forecast | None) -> None:
        """Nothing learned is nothing to write."""
        if forecast is not None:
            await asyncio.to_thread(self._file.write, forecast.as_dict())

    async def save_regularly(
        self, forecast: Callable[[], Forecast | None], every_s: float = SAVE_S
    ) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.save(forecast())
