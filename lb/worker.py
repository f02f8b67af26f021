"""A worker process: the proxy alone, on sockets and by pools that the first process gives it.

Owns the order in which it takes what it is told, and what it reports. No admin API, no machines, no
journal, no probes: those are the first process's. Where that is gone, it finishes what runs, and
ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import uvloop

from lb import config_file, counted, sockets
from lb.backend import Backend, Lifecycle
from lb.config import Config, ConfigError
from lb.counted import Count, Elsewhere
from lb.error_pages import ErrorPages
from lb.errors import LbError
from lb.follower import Follower
from lb.listener import ProxyServer
from lb.metrics import NOWHERE
from lb.pool_state import PoolState, known
from lb.request_metrics import RequestMetrics
from lb.routes import routes_of
from lb.share import Share
from lb.site import Site
from lb.tally import Tally
from lb.tasks import cancel, spawn
from lb.worker_link import Link, LinkClosedError, Message, pack

log = logging.getLogger(__name__)

REPORT_S: Final = 0.25
"""Time between two reports. One is due at once when somebody begins to wait in an empty line."""
_UNROUTED: Final = "0"


@dataclass(slots=True, eq=False)
class _Followed:
    """One service here, and what was reported of it."""

    serial: int
    pool: Follower
    site: Site
    told: Count = field(default_factory=dict)
    backends_told: dict[int, tuple[tuple[float, ...], Count]] = field(default_factory=dict)
    """By id: what tells whether anything changed, and the totals."""


class Worker:
    """Worker `number`, from 0, that is told what to do on `link`. `tally_file` is behind what all
    workers count together; -1: they do not."""

    def __init__(self, link: Link, home: Path, number: int, tally_file: int = -1) -> None:
        self._link = link
        self._home = home
        self._number = number
        self._tally_file = tally_file
        self._tally: Tally | None = None
        self._version = 0
        self._config = Config()
        self._secret = b""
        self._services: dict[str, _Followed] = {}
        self._sockets: dict[str, list[socket.socket]] = {}
        """Those that came and are not listened on yet."""
        self._unrouted = RequestMetrics(NOWHERE)
        self._unrouted_told: Count = {}
        self._server: ProxyServer | None = None
        self._urgent = asyncio.Event()
        self._doubted: dict[int, Backend] = {}
        self._ending: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until told to stop, or until nobody is there any more to tell anything."""
        reporting = spawn(self._report_regularly(), name="reports")
        try:
            while True:
                message, came = await self._link.receive()
                await self._take(message, came)
        except LinkClosedError:
            if self._ending is None:
                log.warning("the first process is gone: what runs may finish, then this one ends")
                self._ending = self._end(self._config.proxy.shutdown_grace)
            await asyncio.wait([self._ending])
        finally:
            await cancel(reporting)
            for held in self._sockets.values():
                sockets.close(held)

    async def _take(self, message: Message, came: list[socket.socket]) -> None:
        match message["kind"]:
            case "settings":
                await self._go_by(message, came)
            case "pool":
                self._follow(message)
            case "drop":
                self._drop(message["service"])
            case "stop" if self._ending is None:
                self._ending = self._end(message["grace_s"])
            case "hurry" if self._server is not None:
                self._server.hurry()

    # ── what it is told ──────────────────────────────────────────────────────────────────────

    async def _go_by(self, message: Mapping[str, Any], came: list[socket.socket]) -> None:
        """Another configuration; the first time, listen. Where that fails, `run` does."""
        for address, number in message["sockets"].items():
            self._sockets[address], came = came[:number], came[number:]
        logging.getLogger().setLevel(message["log_level"])
        # the first process has said of each backend what becomes of it, and where all listen
        quiet = max(message["log_level"], logging.WARNING)
        for name in ("lb.membership", "lb.listener"):
            logging.getLogger(name).setLevel(quiet)
        self._secret = bytes.fromhex(message["secret"])
        config = Config.model_validate_json(message["config"])
        share = Share(self._number, message["of"])
        if self._tally is None and self._tally_file >= 0:
            self._tally = Tally(self._tally_file, share.number, share.of)
        first = self._server is None
        try:
            await self._apply(config, share, message)
        except (ConfigError, LbError) as error:
            if first:
                raise
            # The first process could: it has said so, and goes by it.
            log.warning("worker %d keeps its configuration: %s", self._number + 1, error)
        self._version = message["version"]
        if first:
            # See `process`: what stands now stands to the end.
            gc.freeze()
            gc.enable()
            self._link.send(pack({"kind": "listening"}))
        self._urgent.set()

    async def _apply(self, config: Config, share: Share, message: Mapping[str, Any]) -> None:
        pages = await asyncio.to_thread(config_file.read_files, config)
        proxy = share.proxy(config.proxy)
        for name in config.service:
            if name not in self._services:
                self._begin(name, message["serials"][name], share, config, pages[name])
        for state in message["pools"]:
            self._follow(state)
        sites = {name: self._services[name].site for name in config.service}
        if self._server is None:
            self._server = ProxyServer(
                proxy,
                sites,
                routes_of(config),
                home=self._home,
                counters=self._unrouted,
                bind=lambda address: self._sockets.pop(address, []),
            )
            await self._server.start()
        else:
            await self._server.reconfigure(proxy, sites, routes_of(config))
            for name, part in config.service.items():
                self._services[name].site.configure(share.service(part), proxy, pages[name])
        self._config = config

    def _begin(
        self, name: str, serial: int, share: Share, config: Config, pages: ErrorPages
    ) -> None:
        part = share.service(config.service[name])
        pool = Follower(name, part, self._tally)
        counters = RequestMetrics(name)
        site = Site(name, part, config.proxy, pool, counters, secret=self._secret, pages=pages)
        site.line.awaited = lambda: pool.awaited_s
        site.line.on_wait = self._urgent.set
        pool.on_doubt = lambda backend: self._doubt(pool, backend)
        self._services[name] = _Followed(serial, pool, site)

    def _follow(self, message: Mapping[str, Any]) -> None:
        state = PoolState.from_message(message)
        found = self._services.get(state.service)
        if found is not None:
            found.pool.follow(state)
        self._version = max(self._version, state.version)
        if any(backend.lifecycle == Lifecycle.DRAINING for backend in state.backends):
            self._urgent.set()  # somebody waits to hear that nothing runs there

    def _drop(self, name: str) -> None:
        followed = self._services.pop(name, None)
        if followed is not None:
            if self._server is not None:
                self._server.cut(followed.site)
            followed.site.close()

    def _end(self, grace_s: float) -> asyncio.Task[None]:
        return spawn(self._finish(grace_s), name="stopping")

    async def _finish(self, grace_s: float) -> None:
        if self._server is not None:
            stopped = await self._server.stop(grace_s)
            if stopped.cut:
                log.warning("running requests that were cut: %d", len(stopped.cut))
        self._report()
        await self._link.flush()
        self._link.close()

    # ── what it tells ────────────────────────────────────────────────────────────────────────

    def _doubt(self, pool: Follower, backend: Backend) -> None:
        """Told in the next turn of the loop: a dead one is met by many requests at once."""
        number = pool.id_of(backend)
        if number is None:
            return
        if not self._doubted:
            asyncio.get_running_loop().call_soon(self._tell_doubts)
        self._doubted[number] = backend

    def _tell_doubts(self) -> None:
        doubted, self._doubted = self._doubted, {}
        told = {n: (b.doubted_at, b.connect_failures) for n, b in doubted.items()}
        self._link.send(pack({"kind": "doubt", "backends": told}))

    async def _report_regularly(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_S):
                    await self._urgent.wait()
            self._urgent.clear()
            now = time.monotonic()
            for followed in self._services.values():
                ends = followed.pool.reinstates_at
                if ends is not None and ends <= now:
                    followed.pool.tick(now)
            self._report()

    def _report(self) -> None:
        """Everything that changed since the last one, as totals."""
        if self._server is None:
            return
        services, backends = {}, {}
        totals = counted.of_requests(self._unrouted)
        totals["dropped"] = self._server.proxy.access_log.dropped
        services[_UNROUTED] = {
            "totals": counted.changed(self._unrouted_told, totals),
            "now": Elsewhere(connections=self._unrouted.connections).as_dict(),
        }
        self._unrouted_told = totals
        for followed in self._services.values():
            services[str(followed.serial)] = _of_service(followed)
            backends.update(_of_backends(followed))
        message = {"services": services, "backends": backends}
        self._link.send(pack({"kind": "report", "version": self._version, **message}))


def _of_service(followed: _Followed) -> Message:
    site = followed.site
    counters, line = site.counters, site.line
    totals = counted.of_requests(counters)
    for grounds, number in followed.pool.ejections.items():
        totals[f"ejections {grounds}"] = number
    told, followed.told = followed.told, totals
    now = Elsewhere(
        in_flight=counters.in_flight,
        tunnels=counters.tunnels,
        waiting=len(line),
        waiting_s=line.standing_s,
        broken=counters.breaker_open(),
        limit=counters.limit(),
    )
    return {"totals": counted.changed(told, totals), "now": now.as_dict()}


def _of_backends(followed: _Followed) -> Message:
    """Those of which there is news, by id. Of one that left, the last is told when nothing runs
    there any more."""
    found: Message = {}
    for number, backend in tuple(followed.pool.ids.items()):
        mark = (
            backend.in_flight, backend.requests_total, backend.failures_total, backend.answered_at
        )  # fmt: skip
        before, told = followed.backends_told.get(number, (None, {}))
        if mark != before:
            followed.pool.put(backend)
            totals = counted.of_backend(backend)
            followed.backends_told[number] = mark, totals
            found[str(number)] = {
                "totals": counted.changed(told, totals),
                "running": backend.in_flight,
                "answered_at": known(backend.answered_at),
            }
        if backend.lifecycle is Lifecycle.GONE and not backend.in_flight:
            followed.pool.forget(number)
            followed.backends_told.pop(number, None)
    return found


async def _serve(end: socket.socket, home: Path, number: int, tally_file: int) -> None:
    await Worker(Link(end), home, number, tally_file).run()


def main(arguments: list[str]) -> int:
    """`lb.worker FD HOME NUMBER TALLY`, as `worker_process` starts it."""
    from lb.commands.serve import log_to_stderr

    gc.disable()  # until it serves: all that is imported stays
    # They are for the first process, which tells this one what to do.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    log_to_stderr("info")
    end, home, number, tally = arguments
    try:
        uvloop.run(_serve(socket.socket(fileno=int(end)), Path(home), int(number), int(tally)))
    except (ConfigError, LbError) as error:
        log.critical("worker %d cannot serve: %s", int(number) + 1, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
