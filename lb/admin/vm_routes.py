"""The admin API's part about virtual machines: the rows, one more of a service, one less.

Reads requests strictly and renders rows; whether a machine may come or go is `Control`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from lb.admin.bodies import as_json, read_json
from lb.admin.control import Control, UnknownNameError
from lb.admin.problems import ProblemError


class VmRoutes:
    """`/vms` and `/vms/NAME`."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self, api: str) -> Iterable[web.RouteDef]:
        """Below the path `api`."""
        return (
            web.get(f"{api}/vms", self._vms),
            web.post(f"{api}/vms", self._spawn),
            web.get(f"{api}/vms/{{name}}", self._vm),
            web.patch(f"{api}/vms/{{name}}", self._protect),
            web.delete(f"{api}/vms/{{name}}", self._retire),
        )

    async def _vms(self, _request: web.Request) -> web.Response:
        return as_json({"vms": [asdict(row) for row in await self._control.vms()]})

    async def _vm(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        for row in await self._control.vms():
            if row.name == name:
                return as_json(asdict(row))
        raise UnknownNameError(f"no VM {name}")

    async def _spawn(self, request: web.Request) -> web.Response:
        """Accepted: which one comes, by which way and on which host, the next tick finds."""
        service = service_from(await read_json(request))
        return as_json(asdict(await self._control.spawn_vm(service)), 202)

    async def _retire(self, request: web.Request) -> web.Response:
        await self._control.retire_vm(request.match_info["name"])
        return web.Response(status=202)

    async def _protect(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        protected = body.get("protected") if isinstance(body, dict) else None
        if not isinstance(protected, bool) or set(body) != {"protected"}:
            raise ProblemError(400, 'the body must be {"protected": true} or false')
        await self._control.protect_vm(request.match_info["name"], protected=protected)
        return web.Response(status=202)


def service_from(body: Any) -> str:
    """What the body of a POST names. Raises ProblemError where it is none."""
    service = body.get("service") if isinstance(body, dict) else None
    if not isinstance(service, str):
        raise ProblemError(400, 'the body must be {"service": "web"}')
    if extra := sorted(set(body) - {"service"}):
        raise ProblemError(400, f"unknown in the body: {', '.join(extra)}")
    return service
