"""One service as the process runs it: its site, its prober, its machines; how it comes and goes.

Owns the order in which a service starts, changes, leaves and ends. Which services there are is
`service`'s to say, and who is sent to one is the routes'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from autoscale.model import Demand
from lb.balance import Policies, policy_named
from lb.config import ProxyConfig, ServiceConfig
from lb.error_pages import ErrorPages
from lb.health import Prober
from lb.pool import Pool
from lb.probe import Manner
from lb.request_metrics import RequestMetrics
from lb.scaler import Scaler
from lb.share import WHOLE, Share
from lb.site import Site, manner_of
from lb.tasks import cancel, spawn

WARM_S: Final = 5.0
"""How long a new configuration waits for backends that are to replace all there are. Longer than
the first check of whoever is well takes; whoever is not must not hold up the rest for ever."""

LOOK_S: Final = 0.05
"""How often a service that leaves is asked whether its last request has ended."""

MakeScaler = Callable[[Pool, ServiceConfig, Callable[[], Demand], Callable[[], Manner]], Scaler]


class Served:
    """`share` is this process's part of the limits; its machines go by the whole. Raises TlsError
    where a file that the configuration names cannot be used."""

    def __init__(
        self,
        name: str,
        config: ServiceConfig,
        proxy: ProxyConfig,
        counters: Callable[[Pool], RequestMetrics],
        pages: ErrorPages,
        secret: bytes,
        make_scaler: MakeScaler,
        share: Share = WHOLE,
        policies: Policies = policy_named,
    ) -> None:
        self.name = name
        self._config = config
        self._share = share
        config = share.service(config)
        manner = manner_of(config)
        self.pool = pool = Pool.from_config(name, config, policies=policies)
        self.site = Site(name, config, proxy, pool, counters(pool), secret=secret, pages=pages)
        self.prober = Prober(pool)
        self.prober.manner = manner
        self._scaler: Scaler | None = None
        self._make_scaler = make_scaler
        self._leaving: asyncio.Task[None] | None = None
        self._tried: list[str] = []

    def __repr__(self) -> str:
        word = ", leaving" if self.leaving else ""
        return f"<Served {self.name}: {len(self.pool)} backends{word}>"

    @property
    def leaving(self) -> bool:
        """It is in the configuration no more; what runs on it ends."""
        return self._leaving is not None

    @property
    def scaler(self) -> Scaler | None:
        """Its machines', None where it has none, and none that retire."""
        return self._scaler if self._scaler is not None and self._scaler.running else None

    # ── coming, changing ─────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        await self.prober.start()

    def scale(self, opening: asyncio.Task[None]) -> None:
        """Let its machines be what the configuration says: start, go on, or retire them."""
        config, scaler = self._config, self.scaler
        if config.vm is None:
            if scaler is not None:
                scaler.retire()
        elif scaler is not None:
            scaler.configure(config)
            scaler.keep()
        else:
            self._scaler = scaler = self._make_scaler(
                self.pool, config, self.site.demand, lambda: self.prober.manner
            )
            self.site.line.awaited = scaler.awaited
            self.site.line.on_wait = scaler.controller.hurry
            scaler.start(opening)

    async def prepare(self, config: ServiceConfig) -> None:
        """Before `configure`: where nobody would be left who serves, let the new backends join
        beside the old ones, and wait for the first that is well, WARM_S at most."""
        kept = {backend.address for backend in config.backends}
        old = {backend.address for backend in self.site.config.backends} - kept
        pool, changed = self.pool, asyncio.Event()

        def covered() -> bool:
            return any(backend.name not in old for backend in pool.available)

        if covered():
            return
        self._tried = [b.address for b in config.backends if b.address not in pool]
        for backend in config.backends:
            pool.add_static(backend.address, weight=backend.weight)
        starting = any(b.name in kept and b.probed and not b.probe for b in pool)
        unsubscribe = pool.subscribe(lambda _change: changed.set())
        try:
            async with asyncio.timeout(WARM_S):
                while starting and not covered():
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            pass
        finally:
            unsubscribe()

    def revert(self) -> None:
        """The new configuration could not be put in force: who joined for it leaves."""
        for name in self._tried:
            if name in self.pool:
                self.pool.remove(name)
        self._tried = []

    def configure(self, config: ServiceConfig, proxy: ProxyConfig, pages: ErrorPages) -> None:
        """Go on with these settings; what was learned stays. Raises TlsError, and then nothing has
        changed."""
        manner = manner_of(config)
        self.site.configure(self._share.service(config), proxy, pages)
        self._config = config
        self.prober.manner = manner
        self._tried = []

    # ── leaving ──────────────────────────────────────────────────────────────────────────────

    def leave(self, grace_s: float, gone: Callable[[], None]) -> None:
        """Nobody is sent here any more. What runs may finish for `grace_s` seconds, then the
        backends go and the VMs retire; `gone` is called once nothing is left."""
        self._leaving = spawn(self._leave(grace_s, gone), name=f"leaving of {self.name}")

    async def come_back(self) -> None:
        """It is in the configuration again: stop leaving."""
        leaving, self._leaving = self._leaving, None
        await cancel(leaving)

    async def _leave(self, grace_s: float, gone: Callable[[], None]) -> None:
        # Those who wait in line need the backends as much as those who run on them.
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_s
        # asked now and again: telling it would cost every request of every service
        counters = self.site.counters
        while counters.in_flight + counters.elsewhere.in_flight and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        for backend in self.pool:
            if backend.vm is None:
                self.pool.remove(backend.name)
        if (scaler := self.scaler) is not None:
            scaler.retire()
            await scaler.over()
        gone()

    async def close(self) -> None:
        """Ask no backend any more, and keep no connection. Its machines were stopped before."""
        await self.prober.stop()
        self.site.close()

    async def stop_scaling(self, *, retire_vms: bool) -> None:
        await self.come_back()
        if self.scaler is not None:
            await self.scaler.stop(retire_vms=retire_vms)
