"""The admin API's part about sizes: how many replicas, why, what was decided, and orders to that.

Reads orders strictly and renders rows; what an order means is `Control`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from lb.admin.bodies import as_json, as_large_json, number, read_json
from lb.admin.control import Control, ScaleOrder
from lb.admin.problems import ProblemError

MAX_DECISIONS: Final = 1000
"""On one page of `/decisions`."""
MODES: Final = ("fixed", "hold", "observe", "auto")
LONGEST_S: Final = 366 * 86400.0
FORM: Final = '{"mode": "fixed", "to": 3, "for_s": 600}'


class ScaleRoutes:
    """`/scale`, `/scale/SERVICE` and `/decisions`."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self, api: str) -> Iterable[web.RouteDef]:
        """Below the path `api`."""
        return (
            web.get(f"{api}/scale", self._scales),
            web.get(f"{api}/scale/{{service}}", self._scale),
            web.put(f"{api}/scale/{{service}}", self._set_scale),
            web.get(f"{api}/decisions", self._decisions),
        )

    async def _scales(self, _request: web.Request) -> web.Response:
        rows = [asdict(self._control.scale(service)) for service in self._control.pool()]
        return as_json({"services": rows})

    async def _scale(self, request: web.Request) -> web.Response:
        return as_json(asdict(self._control.scale(request.match_info["service"])))

    async def _set_scale(self, request: web.Request) -> web.Response:
        order = order_from(await read_json(request))
        return as_json(asdict(await self._control.set_scale(request.match_info["service"], order)))

    async def _decisions(self, request: web.Request) -> web.Response:
        kept = self._control.decisions
        since = number(request, "since", None, 0, 2**53)
        limit = number(request, "limit", 100, 1, MAX_DECISIONS) or 100
        entries = kept.page(since, limit, request.query.get("service"))
        last_id = kept.last_id
        return await as_large_json(
            lambda: {"decisions": [entry.as_dict() for entry in entries], "last_id": last_id}
        )


def order_from(body: Any) -> ScaleOrder:
    """What the body of a PUT orders. Raises ProblemError where it is none."""
    if not isinstance(body, dict) or body.get("mode") not in MODES:
        raise ProblemError(400, f"the body must be such as {FORM}; mode is {', '.join(MODES)}")
    if extra := sorted(set(body) - {"mode", "to", "for_s"}):
        raise ProblemError(400, f"unknown in the body: {', '.join(extra)}")
    mode, to, for_s = body["mode"], body.get("to"), body.get("for_s")
    if mode == "fixed":
        if type(to) is not int or to < 0:
            raise ProblemError(400, "mode fixed needs `to`, a whole number of replicas")
    elif to is not None:
        raise ProblemError(400, f"`to` goes with mode fixed, not with {mode}")
    if for_s is not None:
        if mode == "auto":
            raise ProblemError(400, "`for_s` does not go with mode auto, which takes an order back")
        if type(for_s) not in (int, float) or not (math.isfinite(for_s) and 0 < for_s <= LONGEST_S):
            raise ProblemError(400, "for_s must be a number of seconds, above 0 and up to a year")
    return ScaleOrder(mode, to, for_s)
