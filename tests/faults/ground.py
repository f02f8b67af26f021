"""The ground for faults: a proxy before a service that misbehaves and one that does not.

While a fault happens a bystander asks the good service without pause. `ground` checks at its end
what must hold after every fault: the bystander was answered, and nothing is left of the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lb.config import (
    HealthConfig,
    LimitsConfig,
    ListenConfig,
    ProxyConfig,
    QueueConfig,
    RouteConfig,
    ServiceConfig,
    TimeoutsConfig,
)
from lb.config_service import BackendConfig, OutlierConfig, RouteTimeouts
from lb.listener import ProxyServer
from lb.metrics import Metrics
from lb.pool import Pool, Report
from lb.request_metrics import RequestMetrics
from lb.routes import Routes
from lb.site import Site
from tests.fake_backend import FakeBackend
from tests.proxy_harness import PATIENCE_S, Client, until


@dataclass
class Bystander:
    """Asks for /, on a kept connection and on new ones in turn."""

    port: int
    served: int = 0
    stopping: bool = False

    async def run(self) -> None:
        async with Client(self.port) as kept:
            while not self.stopping:
                await self._ask(kept)
                async with Client(self.port) as fresh:
                    await self._ask(fresh)
                await asyncio.sleep(0.002)

    async def _ask(self, client: Client) -> None:
        await client.request("GET", "/")
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"ok"), answer
        self.served += 1


@dataclass
class Ground:
    server: ProxyServer
    good: Site
    bad: Site
    """Has the route /bad."""
    unrouted: RequestMetrics
    bystander: Bystander
    _before: set[asyncio.Task[Any]] = field(default_factory=set)
    _files: int = 0

    @property
    def port(self) -> int:
        return int(self.server.addresses[0].rpartition(":")[2])

    def client(self) -> Client:
        return Client(self.port)

    @property
    def codes(self) -> dict[int, int]:
        """Of requests to the bad service, and of those that came to no service."""
        codes: dict[int, int] = {}
        for counters in (self.bad.counters, self.unrouted):
            for (_, code), number in counters.requests.items():
                codes[code] = codes.get(code, 0) + number
        return codes

    def left(self) -> dict[str, object]:
        """What is left of requests that are over; empty where nothing is."""
        proxy = self.server.proxy
        found: dict[str, object] = {
            "running": proxy.running,
            "connections": proxy.connections,
            "tasks": asyncio.all_tasks() - self._before - of_fakes(),
            "files": max(0, files() - self._files),
        }
        for site in (self.good, self.bad):
            found[f"{site.name} leases"] = site.pool.in_flight
            found[f"{site.name} in flight"] = site.counters.in_flight
            found[f"{site.name} tunnels"] = site.counters.tunnels
            found[f"{site.name} waiting"] = len(site.line)
        return {name: value for name, value in found.items() if value}


def files() -> int:
    """Open files of this process, its sockets included."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def of_fakes() -> set[asyncio.Task[Any]]:
    """The scripted backends' own tasks end with what they read."""
    return {
        task
        for task in asyncio.all_tasks()
        if "FakeBackend" in getattr(task.get_coro(), "__qualname__", "")
    }


@contextlib.asynccontextmanager
async def ground(
    bad: FakeBackend | str,
    *,
    timeouts: dict[str, float] | None = None,
    impatience: dict[str, float] | None = None,
    limits: dict[str, int] | None = None,
    queue: QueueConfig | None = None,
    max_in_flight: int = 64,
    home: Path | None = None,
    **settings: Any,
) -> AsyncIterator[Ground]:
    """`bad` misbehaves. `timeouts` are the proxy's; `impatience` the bad route's own, so that a
    busy machine costs the bystander nothing. The rest of `settings` is ProxyConfig's."""
    address = bad if isinstance(bad, str) else bad.address
    settings.setdefault("listen", (ListenConfig(address="127.0.0.1:0"),))
    config = ProxyConfig(
        timeouts=TimeoutsConfig(**{"connect": PATIENCE_S, **(timeouts or {})}),
        limits=LimitsConfig(**(limits or {})),
        **settings,
    )
    async with FakeBackend() as backend:
        metrics = Metrics()
        sites = {
            "good": _site("good", backend.address, config, metrics),
            "bad": _site("bad", address, config, metrics, queue, max_in_flight),
        }
        routes = (
            RouteConfig(service="good"),
            RouteConfig(path="/bad", service="bad", timeouts=RouteTimeouts(**(impatience or {}))),
        )
        server = ProxyServer(
            config,
            sites,
            Routes(routes, "good"),
            counters=metrics.unrouted,
            home=home,
            clock=_clock,
        )
        before, tasks = files(), asyncio.all_tasks()
        await server.start()
        try:
            bystander = Bystander(int(server.addresses[0].rpartition(":")[2]))
            found = Ground(
                server, sites["good"], sites["bad"], metrics.unrouted, bystander, tasks, files()
            )
            asking = asyncio.create_task(bystander.run())
            try:
                await until(lambda: bystander.served or asking.done())
                yield found
                served = bystander.served
                await until(lambda: bystander.served > served or asking.done())
            finally:
                bystander.stopping = True
                await asking
            for site in sites.values():
                site.upstream.close()
            await _nothing_left(found)
        finally:
            await server.stop(PATIENCE_S)
        await until(lambda: not backend.open and files() <= before)


async def _nothing_left(ground: Ground) -> None:
    with contextlib.suppress(TimeoutError):
        await until(lambda: not ground.left())
    assert ground.left() == {}


def _site(
    name: str,
    address: str,
    config: ProxyConfig,
    metrics: Metrics,
    queue: QueueConfig | None = None,
    max_in_flight: int = 64,
) -> Site:
    # It is the faults that are looked at here, not what a balancer learns from them.
    service = ServiceConfig(
        backends=(BackendConfig(address=address),),
        queue=queue or QueueConfig(),
        health=HealthConfig(fall=100),
        outlier=OutlierConfig(enabled=False),
        max_in_flight=max_in_flight,
    )
    pool = Pool.from_config(name, service, _clock)
    pool.observe(Report(address, address, ok=True, detail="200"))
    return Site(name, service, config, pool, metrics.service(pool), secret=b"s" * 32)


def _clock() -> float:
    return asyncio.get_running_loop().time()
