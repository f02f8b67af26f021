"""What every service looked like, second by second: asked once a second, kept, handed out again.

Owns the task that asks and the one thread at a time that writes `series_file`. What is asked is
`sampling`'s. Never stands in traffic's way: a full disk or a broken file costs history, which is
said once in the log, and a disk that takes long costs the seconds that it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from lb.series_file import MAX_BYTES, Point, Row, SeriesFile, read_series, read_subjects
from lb.tasks import spawn

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
LATE_S: Final = 0.02
"""So far into a second it is told. uvloop's timers count in whole milliseconds and end some early:
aimed at a second's beginning, one told the second before twice and left its own out."""


def until_next(wall_s: float) -> float:
    """Seconds to wait so that each second is told once."""
    return EVERY_S - wall_s % EVERY_S + LATE_S


class Series:
    """`sample` says how everything is now; it is called on the loop and must be quick."""

    def __init__(
        self,
        path: Path,
        sample: Callable[[], Sequence[Row]],
        wall_clock: Callable[[], float] = time.time,
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._path = path
        self._sample = sample
        self._wall_clock = wall_clock
        self._file = SeriesFile(path, max_bytes=max_bytes)
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self.lost = 0
        """Seconds that are not in the file and never will be."""

    def start(self) -> None:
        self._task = spawn(self._run(), name="series")

    async def stop(self) -> None:
        """Finish the second that is being written, close the file. Idempotent."""
        self._ending.set()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait([task])

    async def read(
        self, service: str, vm: str, names: Sequence[str] | None, start: int, end: int, step: int
    ) -> dict[str, list[Point]]:
        """See `read_series`; nothing where the file cannot be read."""
        try:
            return await asyncio.to_thread(
                read_series, self._path, service, vm, names, start, end, step
            )
        except (sqlite3.Error, OSError) as error:
            log.debug("the series %s cannot be read: %s", self._path, error)
            return {}

    async def vms(self, service: str, start: int, end: int) -> list[str]:
        """Those of which something is known; none where the file cannot be read."""
        try:
            return await asyncio.to_thread(read_subjects, self._path, service, start, end)
        except (sqlite3.Error, OSError) as error:
            log.debug("the series %s cannot be read: %s", self._path, error)
            return []

    async def _run(self) -> None:
        while not self._ending.is_set():
            await self.record(self._wall_clock())
            rest_s = until_next(self._wall_clock())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._ending.wait()
        await asyncio.to_thread(self._file.close)

    async def record(self, now: float) -> None:
        """Ask and keep it as the second `now` is in. Never raises."""
        try:
            rows = self._sample()
            await asyncio.to_thread(self._file.append, int(now), rows)
        except (sqlite3.Error, OSError, ValueError) as error:
            self.lost += 1
            if not self._failing:
                self._failing = True
                log.warning("the series %s lose seconds: %s (traffic goes on)", self._path, error)
        else:
            if self._failing:
                self._failing = False
                log.warning("the series are written again; lost so far: %d s", self.lost)
