"""The admin API's part about rollouts: where each stands, begin one, pause it, take it back.

Reads orders strictly and renders rows; what an order means is `Control`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from lb.admin.bodies import as_json, read_json
from lb.admin.control import Control, RolloutOrder
from lb.admin.problems import ProblemError

MOST_SURGE: Final = 100
FORM: Final = '{"image": "NAME", "max_surge": 1, "pause_at": 0.5}'
WORDS: Final = {"paused": "pause", "running": "resume", "rolling_back": "undo"}
"""The phase that a PATCH asks for, and what leads there."""


class RolloutRoutes:
    """`/rollouts` and `/rollouts/SERVICE`."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self, api: str) -> Iterable[web.RouteDef]:
        """Below the path `api`."""
        return (
            web.get(f"{api}/rollouts", self._rollouts),
            web.get(f"{api}/rollouts/{{service}}", self._rollout),
            web.put(f"{api}/rollouts/{{service}}", self._begin),
            web.patch(f"{api}/rollouts/{{service}}", self._change),
        )

    async def _rollouts(self, _request: web.Request) -> web.Response:
        return as_json({"rollouts": [asdict(row) for row in self._control.rollouts()]})

    async def _rollout(self, request: web.Request) -> web.Response:
        return as_json(asdict(self._control.rollout(request.match_info["service"])))

    async def _begin(self, request: web.Request) -> web.Response:
        return await self._order(request, beginning(await read_json(request)), 202)

    async def _change(self, request: web.Request) -> web.Response:
        return await self._order(request, change(await read_json(request)), 200)

    async def _order(self, request: web.Request, order: RolloutOrder, status: int) -> web.Response:
        row = await self._control.order_rollout(request.match_info["service"], order)
        return as_json(asdict(row), status)


def beginning(body: Any) -> RolloutOrder:
    """What the body of a PUT orders. Raises ProblemError where it is none."""
    if not isinstance(body, dict):
        raise ProblemError(400, f"the body must be such as {FORM}; each of them may be left out")
    if extra := sorted(set(body) - {"image", "max_surge", "pause_at"}):
        raise ProblemError(400, f"unknown in the body: {', '.join(extra)}")
    image, surge, pause_at = body.get("image"), body.get("max_surge", 1), body.get("pause_at")
    if image is not None and not (isinstance(image, str) and image):
        raise ProblemError(400, "image must be the name of one, see `lbctl image list`")
    if type(surge) is not int or not 1 <= surge <= MOST_SURGE:
        raise ProblemError(400, f"max_surge must be a whole number from 1 to {MOST_SURGE}")
    if pause_at is not None and not (type(pause_at) in (int, float) and 0 < pause_at < 1):
        raise ProblemError(400, "pause_at must be a share above 0 and below 1, such as 0.5")
    return RolloutOrder("start", image, surge, pause_at)


def change(body: Any) -> RolloutOrder:
    """What the body of a PATCH orders. Raises ProblemError where it is none."""
    phase = body.get("phase") if isinstance(body, dict) and set(body) == {"phase"} else None
    if phase not in WORDS:
        raise ProblemError(400, f'the body must be {{"phase": …}}, one of {", ".join(WORDS)}')
    return RolloutOrder(WORDS[phase])
