"""The admin API: routes, what they take and what they answer, and the server that carries them.

Renders what `Control` says and passes its verbs on; decides nothing about pool or fleet. Reading is
open to whoever reaches the address under one of its names, changing needs the token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final
from urllib.parse import quote

from aiohttp import web

from lb.address import cannot_listen, check_address, split_address
from lb.admin import access, console
from lb.admin.bodies import as_json, as_large_json, flag, number, read_body, read_json
from lb.admin.control import Control
from lb.admin.guard import SAFE_METHODS, HostRule, bearer_matches
from lb.admin.problems import Handler, ProblemError, as_problems, problem
from lb.admin.rollout_routes import RolloutRoutes
from lb.admin.scale_routes import ScaleRoutes
from lb.admin.series_routes import SeriesRoutes
from lb.admin.stream import HEARTBEAT_S, EventStreams
from lb.admin.vm_routes import VmRoutes
from lb.config import ConfigError
from lb.errors import LbError

BODY_BYTES: Final = 64 * 1024
CONFIG_BYTES: Final = 1024 * 1024
MAX_EVENTS: Final = 1000
"""On one page of `/events`."""


class AdminServer:
    """The API on one address. `hosts` are further names a request's Host may carry; with `home`,
    the address is noted there for lbctl."""

    def __init__(
        self,
        control: Control,
        listen: str,
        token: str,
        hosts: Sequence[str] = (),
        *,
        home: Path | None = None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._control = control
        self._listen = listen
        self._token = token
        self._hosts = tuple(hosts)
        self._home = home
        self._streams = EventStreams(heartbeat_s)
        self._runner: web.AppRunner | None = None
        self._rule = HostRule(*split_address(listen), self._hosts)

    @property
    def port(self) -> int:
        """As bound: the configured one may be 0."""
        return self._rule.port

    @property
    def url(self) -> str:
        host, _ = split_address(self._listen)
        # what stands for every address cannot be connected to on every system
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises ListenError where that is impossible, and leaves nothing behind then."""
        runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, shutdown_timeout=2.0
        )
        await runner.setup()
        host, port = split_address(self._listen)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise cannot_listen(self._listen, error, "admin.listen") from error
        self._runner = runner
        self._rule = HostRule(host, runner.addresses[0][1], self._hosts)
        if self._home is not None:
            # a folder that cannot be written costs lbctl a guess, never the service
            with contextlib.suppress(OSError):
                access.write_address(self._home, self.url)

    async def stop(self) -> None:
        """End the streams and stop listening. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        if self._home is not None:
            access.forget_address(self._home, self.url)
        self._streams.close()
        await runner.cleanup()

    # ── what every request passes ────────────────────────────────────────────────────────────

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[as_problems, self._guard], client_max_size=BODY_BYTES)
        app.on_response_prepare.append(_common_headers)
        api = "/api/v1"
        app.add_routes(
            [
                web.get(f"{api}/pool", self._pool),
                web.post(f"{api}/pool/{{service}}/backends", self._add),
                web.delete(f"{api}/pool/{{service}}/backends/{{name}}", self._remove),
                web.post(f"{api}/pool/{{service}}/backends/{{name}}/drain", self._drain),
                web.post(f"{api}/pool/{{service}}/backends/{{name}}/ready", self._ready),
                *VmRoutes(self._control).routes(api),
                web.get(f"{api}/hosts", self._all_hosts),
                *RolloutRoutes(self._control).routes(api),
                *ScaleRoutes(self._control).routes(api),
                *SeriesRoutes(self._control).routes(api),
                web.post(f"{api}/config", self._config),
                web.get(f"{api}/events", self._events),
                web.get(f"{api}/events/stream", self._stream),
                web.get(f"{api}/prometheus/targets", self._targets),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/", self._console),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        name = request.transport and request.transport.get_extra_info("sockname")
        host = request.headers.get("Host")
        if not self._rule.allows(host, name[0] if name else None):
            raise ProblemError(
                421, f"Host {host!r} is not a name of this server: add it to admin.hosts"
            )
        if request.method not in SAFE_METHODS:
            shown = request.headers.get("Authorization")
            if not bearer_matches(shown, self._token):
                challenge = 'Bearer realm="lbctl"'
                if shown is not None:
                    challenge += ', error="invalid_token"'
                raise ProblemError(
                    401,
                    "this changes something and needs Authorization: Bearer TOKEN;"
                    " the token is in the file `token` of LBCTL_HOME",
                    {"WWW-Authenticate": challenge},
                )
        return await handler(request)

    # ── the pool ─────────────────────────────────────────────────────────────────────────────

    async def _pool(self, _request: web.Request) -> web.Response:
        pool = self._control.pool()
        rows = [
            {"service": service, **view.as_dict()}
            for service, views in pool.items()
            for view in views
        ]
        return as_json({"services": list(pool), "backends": rows})

    async def _add(self, request: web.Request) -> web.Response:
        service = request.match_info["service"]
        body = await read_json(request)
        address = body.get("address") if isinstance(body, dict) else None
        if not isinstance(address, str):
            raise ProblemError(400, 'the body must be {"address": "host:port"}')
        try:
            check_address(address)
        except ValueError as error:
            raise ProblemError(400, str(error)) from error
        if extra := sorted(set(body) - {"address"}):
            raise ProblemError(400, f"unknown in the body: {', '.join(extra)}")
        name = self._control.add_backend(service, address)
        where = f"/api/v1/pool/{service}/backends/{quote(name, safe=':')}"
        return as_json({"service": service, "name": name}, 201, {"Location": where})

    async def _remove(self, request: web.Request) -> web.Response:
        self._control.remove(request.match_info["service"], request.match_info["name"])
        return web.Response(status=204)

    async def _drain(self, request: web.Request) -> web.Response:
        self._control.drain(request.match_info["service"], request.match_info["name"])
        return web.Response(status=204)

    async def _ready(self, request: web.Request) -> web.Response:
        self._control.ready(request.match_info["service"], request.match_info["name"])
        return web.Response(status=204)

    # ── hosts ────────────────────────────────────────────────────────────────────────────────

    async def _all_hosts(self, _request: web.Request) -> web.Response:
        return as_json({"hosts": [asdict(row) for row in await self._control.hosts()]})

    # ── the configuration ────────────────────────────────────────────────────────────────────

    async def _config(self, request: web.Request) -> web.Response:
        """Its text in the body; an empty body means the file that the process was started with."""
        try:
            text = (await read_body(request.clone(client_max_size=CONFIG_BYTES))).decode()
        except UnicodeDecodeError:
            raise ProblemError(400, "the body is not UTF-8") from None
        dry_run = flag(request, "dry_run")
        folder = request.query.get("folder")
        if folder is not None and not folder.startswith("/"):
            raise ProblemError(400, "folder must be an absolute path")
        try:
            found = await self._control.apply_config(
                text or None, None if folder is None else Path(folder), dry_run=dry_run
            )
        except ConfigError as error:
            raise ProblemError(422, str(error)) from error
        except LbError as error:
            raise ProblemError(409, str(error)) from error
        return as_json({"dry_run": dry_run, "changes": found.made, "needs_restart": found.waiting})

    # ── the journal ──────────────────────────────────────────────────────────────────────────

    async def _events(self, request: web.Request) -> web.Response:
        journal = self._control.journal
        since = number(request, "since", None, 0, 2**53)
        limit = number(request, "limit", 100, 1, MAX_EVENTS) or 100
        events = await journal.events(since, limit, request.query.get("service"))
        last_id = journal.last_id
        return await as_large_json(
            lambda: {"events": [event.as_dict() for event in events], "last_id": last_id}
        )

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        since = number(request, "since", None, 0, 2**53)
        last = request.headers.get("Last-Event-ID", "")
        if last.isascii() and last.isdecimal() and len(last) <= 16:
            since = int(last)  # a browser's own resumption goes before the address it first asked
        service = request.query.get("service")
        return await self._streams.serve(request, self._control.journal, since, service)

    # ── for Prometheus, for probes, for a browser ────────────────────────────────────────────

    async def _targets(self, _request: web.Request) -> web.Response:
        """Prometheus' HTTP service discovery: the VMs in the pool, whether their application has
        /metrics or not, which nobody told us."""
        return as_json(
            [
                {
                    "targets": [view.address],
                    "labels": {"service": service, "vm": view.vm, "host": view.host},
                }
                for service, views in self._control.pool().items()
                for view in views
                if view.vm is not None and view.lifecycle != "gone"
            ]
        )

    async def _metrics(self, _request: web.Request) -> web.Response:
        body, content_type = self._control.metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready, why = self._control.is_ready()
        return web.Response(text=f"{why or 'ready'}\n") if ready else problem(503, why)

    async def _console(self, _request: web.Request) -> web.Response:
        return await console.page(self._control)


async def _common_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "lbctl"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
