"""The admin API's part about figures over time: `/series`.

Reads the question strictly, chooses the step where none is asked for, renders. What figures there
are is `sampling`'s, how long they are kept `series_file`'s.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from typing import Final

from aiohttp import web

from lb.admin.bodies import as_large_json, number
from lb.admin.control import Control
from lb.admin.problems import ProblemError
from lb.series_file import MINUTE, SECONDS_S

MOST_STEPS: Final = 4000
"""In one answer: an hour of seconds, or almost three days of minutes."""
MOST_POINTS: Final = 40_000
"""The same, of all figures together: some 1.8 MB. A step that is ours to choose makes at most
30,000 of a service's twenty figures."""
CHOSEN_STEPS: Final = 1500
"""Not more where the step is ours to choose: as many as a plot has pixels."""
SPAN_S: Final = 600
"""Up to `to`, where `from` is not said."""
LATEST: Final = 10**11
NAME: Final = re.compile(r"[a-z0-9_]{1,64}")


class SeriesRoutes:
    def __init__(self, control: Control, wall_clock: Callable[[], float] = time.time) -> None:
        self._control = control
        self._wall_clock = wall_clock

    def routes(self, api: str) -> Iterable[web.RouteDef]:
        """Below the path `api`."""
        return (web.get(f"{api}/series", self._series),)

    async def _series(self, request: web.Request) -> web.Response:
        series = self._control.series
        service = request.query.get("service", "")
        if service not in self._control.pool():
            raise ProblemError(400, f"service must be one of: {', '.join(self._control.pool())}")
        vm = request.query.get("vm", "")
        names = request.query.getall("name", None)
        for name in names or ():
            if not NAME.fullmatch(name):
                raise ProblemError(400, f"{name!r} is no series: leave name away to see them all")
        now = int(self._wall_clock())
        end = number(request, "to", now + 1, 0, LATEST) or 0
        start = number(request, "from", max(0, end - SPAN_S), 0, LATEST) or 0
        if start >= end:
            raise ProblemError(400, "from must be before to, both in Unix seconds")
        step = number(request, "step", chosen_step(start, end, now), 1, 86400) or 1
        if step > MINUTE and step % MINUTE:
            raise ProblemError(400, "step must be less than 60 seconds, or whole minutes of them")
        if (end - start) / step > MOST_STEPS:
            raise ProblemError(
                400, f"more than {MOST_STEPS} steps: ask for a larger step or less time"
            )
        found = await series.read(service, vm, names, start, end, step)
        if (points := sum(map(len, found.values()))) > MOST_POINTS:
            raise ProblemError(
                422,
                f"{points} points of {len(found)} figures, at most {MOST_POINTS}: choose figures"
                " with name, a larger step or less time",
            )
        vms = [] if vm else await series.vms(service, start, end)
        answer = {
            "service": service,
            "vm": vm or None,
            "vms": vms,
            "from": start,
            "to": end,
            "step": step,
            "columns": ["at", "mean", "min", "max"],
            "series": found,
        }
        return await as_large_json(lambda: answer)


def chosen_step(start: int, end: int, now: int) -> int:
    """Seconds where they are still kept and not too many, else as many minutes as it takes."""
    span = end - start
    if start >= now - SECONDS_S:
        return max(1, min(MINUTE - 1, math.ceil(span / CHOSEN_STEPS)))
    return MINUTE * max(1, math.ceil(span / MINUTE / CHOSEN_STEPS))
